"""Allocator tuning: freed tensors are reused instead of being mapped anew."""

import ctypes
import resource
import subprocess
import sys

import pytest

from executor.allocator import tune_allocator

# Above 64 MiB: by default glibc adapts to smaller blocks after some steps, and arenas of threads
# can hold them.
PAGES = 18_000_000 * 4 // resource.getpagesize()
STEPS = 8
COUNT_FAULTS = f"""
import resource, sys, threading, torch
from executor.allocator import tune_allocator
if sys.argv[1] == "tuned":
    assert tune_allocator()
torch.set_num_threads(1)
def faults(steps):
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    for _ in range(steps):
        torch.ones(18_000_000)
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before
def count():
    faults(16)  # until the heap has its final size
    print(faults({STEPS}))
count()
thread = threading.Thread(target=count)
thread.start()
thread.join()
"""


def faults(how):
    command = [sys.executable, "-c", COUNT_FAULTS, how]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [int(line) for line in out.split()]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="needs glibc")
def test_freed_tensors_cause_no_page_faults():
    # In the main thread and in another one: by default each page of each tensor, tuned none.
    default, tuned = faults("default"), faults("tuned")
    assert min(default) >= STEPS * PAGES * 0.9
    assert max(tuned) <= STEPS * PAGES * 0.1


def test_without_glibc_it_says_so(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not tune_allocator()
