"""CPU hygiene: what other programs took is seen, what the watched ones took is not counted."""

import builtins
import os
import subprocess
import sys
import time

import pytest

from executor.hygiene import CpuWatch

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="needs Linux's /proc")

# A tenth of a core-second is left to the granularity of ticks and to a busy machine.
BURN_S, SLACK_S = 0.6, 0.15
BURN = f"""
import time
input()
start = time.process_time()
while time.process_time() < start + {BURN_S}: pass
print("burnt", flush=True)
input()
"""


def burnt(pids_of):
    """Seconds of CPU time seen as others' by each watch, while a child burns `BURN_S`."""
    child = subprocess.Popen(
        [sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    time.sleep(0.1)
    start = time.monotonic()
    watches = [CpuWatch(pids) for pids in pids_of(child.pid)]
    child.stdin.write("\n")
    child.stdin.flush()
    child.stdout.readline()
    shares = [watch.other_share() for watch in watches]
    core_s = (time.monotonic() - start) * os.cpu_count()
    child.communicate("\n")
    return [share * core_s for share in shares]


def test_a_burning_child_is_other_unless_its_pid_is_given():
    vanished = subprocess.Popen([sys.executable, "-c", ""])
    vanished.wait()
    default, own, given = burnt(lambda pid: (None, [os.getpid()], [os.getpid(), pid, vanished.pid]))
    # The machine may be busy with still others, which all three see alike.
    assert default == pytest.approx(own, abs=SLACK_S)
    assert default - given == pytest.approx(BURN_S, abs=SLACK_S)


def test_own_threads_are_not_other():
    watch, start, used = CpuWatch(), time.monotonic(), time.process_time()
    everything = CpuWatch([])
    while time.process_time() < used + BURN_S:
        pass
    core_s = (time.monotonic() - start) * os.cpu_count()
    seen_s = (everything.other_share() - watch.other_share()) * core_s
    assert seen_s == pytest.approx(BURN_S, abs=SLACK_S)


def test_a_process_that_ends_while_it_is_watched_is_no_error():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True)
    watch = CpuWatch([os.getpid(), child.pid])
    child.communicate("\n")
    assert 0 <= watch.other_share() <= 1


def test_none_without_proc(monkeypatch):
    def refuse(*args, **kwargs):
        raise FileNotFoundError

    monkeypatch.setattr(builtins, "open", refuse)
    assert CpuWatch().other_share() is None
