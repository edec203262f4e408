"""Rings: what is sent arrives unchanged and in order, and every wait ends."""

import os
import pickle
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from executor.ring import Ring, Stop, Stopped, message_bytes, select
from simcore.errors import InputError, RunError

CHILDREN = Path(__file__).with_name("ring_children.py")


def start(scenario):
    return subprocess.Popen(
        [sys.executable, CHILDREN, scenario],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )


def test_many_senders_and_receivers():
    run = start("many_to_many")
    out, err = run.communicate(timeout=100)
    assert (run.returncode, out, err) == (0, "done\n", "")


def test_killed_child():
    run = start("killed_child")
    out, err = run.communicate(timeout=100)  # to the end of the pipes, that is of all processes
    assert run.returncode == 1
    assert out == "stopped: the run was stopped\n" * 2
    assert err.splitlines()[-1] == "ValueError: the receiver ended with -9"
    assert "resource_tracker" not in err


def test_killed_parent():
    run = start("killed_parent")
    assert run.stdout.readline() == "waiting\n"
    run.kill()
    out, err = run.communicate(timeout=100)
    assert out == "stopped: the parent process has died\n" * 2
    assert err == ""


DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16,
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128,
    torch.float8_e4m3fn,
]  # fmt: skip


def test_tensors_of_any_dtype_shape_and_strides_arrive_and_own_their_memory():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 4, 5, generator=generator)
    complex_base = torch.complex(base, base.flip(0))
    tensors = [base.mul(3).to(dtype) for dtype in DTYPES]
    tensors += [torch.tensor(7), torch.zeros(0), torch.zeros(3, 0, 2, dtype=torch.int16)]
    tensors += [base.transpose(0, 2), base[::2, 1:3], base[:1].expand(9, 4, 5), base[3]]
    tensors += [torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)]
    tensors += [complex_base.conj(), complex_base.conj().imag]  # lazily conjugated and negated
    tensors += [torch.ones(3, requires_grad=True), torch.nn.Parameter(base) * 2]
    ring = Ring.create("kinds", 2, message_bytes(tensors), Stop())
    ring.send(-5, tensors)
    batch, received, _ = ring.receive()
    assert batch == -5
    for _ in range(2):  # both slots are overwritten
        ring.send(0, [torch.full((ring.slot_bytes - 128,), 255, dtype=torch.uint8)])
        ring.receive()
    for sent, got in zip(tensors, received, strict=True):
        assert (got.dtype, got.shape) == (sent.dtype, sent.shape)
        assert not got.requires_grad
        assert got.is_contiguous()
        assert torch.equal(got, sent.detach())


def test_instants_part_waiting_from_copying():
    ring = Ring.create("instants", 1, 4096, Stop())
    before = time.monotonic_ns()
    first_ns = ring.send(0, [torch.zeros(3)])
    timer = threading.Timer(0.2, ring.receive)
    timer.start()
    waiting = time.monotonic_ns()
    second_ns = ring.send(1, [torch.zeros(3)])
    timer.join()
    assert before <= first_ns <= waiting
    assert second_ns >= waiting + 0.1e9
    assert second_ns <= ring.receive().granted_ns <= time.monotonic_ns()


def test_a_message_that_exceeds_the_slot_is_refused_and_the_ring_goes_on():
    ring = Ring.create("small", 1, 1000, Stop())
    with pytest.raises(RunError, match=r"'small': batch 3 needs 1088 bytes, a slot has 1000; "):
        ring.send(3, [torch.zeros(256)])
    with pytest.raises(RuntimeError):  # after the only slot was granted
        ring.send(4, [torch.eye(3).to_sparse()])
    ring.send(5, [torch.zeros(200)])
    assert ring.receive().batch == 5


def test_select_takes_the_first_in_listed_order_until_all_are_closed():
    stop = Stop()
    rings = [Ring.create(name, 4, 256, stop) for name in "abc"]
    for batch, ring in enumerate(reversed(rings)):
        ring.send(batch, [])
    rings[2].send(3, [])
    rings[0].close()
    served = [select(rings) for _ in range(3)]
    assert [(index, message.batch) for index, message in served] == [(0, 2), (1, 1), (2, 0)]
    rings[1].close()
    rings[2].close()
    assert select(rings)[1].batch == 3
    assert select(rings) is None
    assert select(rings) is None
    with pytest.raises(RunError, match="'a': batch 9 is sent after close"):
        rings[0].send(9, [])


def test_a_stop_ends_waits_under_way_and_to_come():
    stop = Stop()
    empty, full = (Ring.create(name, 1, 256, stop) for name in ("empty", "full"))
    full.send(0, [])
    ends = []

    def wait(action):
        with pytest.raises(Stopped, match="the run was stopped"):
            action()
        ends.append(action)

    actions = [empty.receive, lambda: full.send(1, []), lambda: select([empty])]
    threads = [threading.Thread(target=wait, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    assert not ends
    stop.set()
    for thread in threads:
        thread.join(10)
    assert len(ends) == 3
    with pytest.raises(Stopped):
        full.receive()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 64), "slots of ring 'bad' is 0: must be between 1 and 131071; "),
        ((1, 0), "slot_bytes of ring 'bad' is 0: must be between 1 and "),
        ((1000, 2**40), "size in bytes of ring 'bad' is 1099511627776000: .* are available"),
    ],
)
def test_sizes_that_cannot_be_are_refused_at_creation(sizes, message):
    with pytest.raises(InputError, match=message):
        Ring.create("bad", *sizes, Stop())


def test_memory_and_descriptors_that_the_system_refuses():
    def create():
        return Ring.create("refused", 4, 2**20, Stop())

    for limit, low, message in (
        (resource.RLIMIT_FSIZE, 2**20, "is 4194304: .*File too large"),
        (resource.RLIMIT_NOFILE, len(os.listdir("/proc/self/fd")) + 3, "Too many open files"),
    ):
        soft, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (low, hard))
        try:
            with pytest.raises(InputError, match=message):
                create()
        finally:
            resource.setrlimit(limit, (soft, hard))
    assert create().receive


def test_most_slots_can_be_filled_and_a_ring_leaves_nothing_behind():
    descriptors = len(os.listdir("/proc/self/fd"))
    stop = Stop()
    ring = Ring.create("long", 20000, 64, stop)
    for batch in range(60000):  # numbers of slots lie across pages of the pipes
        ring.send(batch, [])
        if batch >= 19999:
            assert ring.receive().batch == batch - 19999
    with pytest.raises(RuntimeError, match="only be shared between processes through inheritance"):
        pickle.dumps(ring)
    del ring, stop
    assert len(os.listdir("/proc/self/fd")) == descriptors
