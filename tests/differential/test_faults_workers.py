"""Exceptions, kills, hangs and NaN in any worker, at any time, in every runtime: done for real.

Each ends the run soon, with the worker's name, where it was, and what was done until then. All
combinations run where they are fast; in processes those that cover every pair of fault and place
and of fault and phase, and all of them with HYPOTHESIS_PROFILE=nightly.
"""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from faulty_layers import (
    LAST_BATCH,
    MODULES,
    RELEASE,
    Brittle,
    Faulty,
    failing_at_its_end,
    faulty_training,
    run_in,
)
from test_processes import _alive, _children

from executor.failure import GRACE_S, WorkerError
from executor.processes import run_processes
from executor.supervision import left_behind
from executor.training import RunResult

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
SCRIPT = Path(__file__).parent / "faulty_layers.py"
TIMEOUT_S = {"threads": 1.0, "replay": 1.0, "processes": 2.0}
MARGIN_S = 15.0  # for a machine with other things to do; what hangs does so for ever

FAULTS = ["raise", "kill", "hang", "nan"]
PLACES = [1, 2, 3]
# Warming up and the very first pass, the middle, and the backward pass of the last batch.
PHASES = {"start-up": (1, False), "steady": (LAST_BATCH // 2, False), "drain": (LAST_BATCH, True)}

Case = tuple[str, str, int, str]
FAST: list[Case] = [
    case
    for case in product(["threads", "replay"], FAULTS, PLACES, PHASES)
    if case[1] != "kill"  # of the whole process: see below
]
SLOW: list[Case] = [
    ("processes", fault, place, phase)
    for (f, fault), (p, place), (t, phase) in product(
        enumerate(FAULTS), enumerate(PLACES), enumerate(PHASES)
    )
    if NIGHTLY or (p == f % 3 and t == 2 * f % 3)
]


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """No process, no file in shared memory, no thread that could not be released."""
    files = set(os.listdir("/dev/shm"))
    yield
    RELEASE.set()
    deadline = time.monotonic() + 60
    # Tests beside this one have files there for a moment.
    while left_behind() or not set(os.listdir("/dev/shm")) <= files:
        assert time.monotonic() < deadline, (left_behind(), os.listdir("/dev/shm"))
        time.sleep(0.01)
    RELEASE.clear()
    assert not multiprocessing.active_children()
    gc.collect()
    assert "memfd:gradlag" not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize(("runtime", "fault", "place", "phase"), [*FAST, *SLOW])
def test_a_fault_ends_the_run_with_the_name_of_its_worker(
    runtime: str, fault: str, place: int, phase: str, tmp_path: Path
) -> None:
    at, backward = PHASES[phase]
    layer = Faulty(fault, at, backward=backward, note=tmp_path / "note")
    timeout_s = TIMEOUT_S[runtime] if fault == "hang" else None
    asked = replace(faulty_training(layer, place), timeout_s=timeout_s)
    with pytest.raises(WorkerError) as caught:
        run_in(runtime, asked)
    took_s = time.monotonic() - float((tmp_path / "note").read_text())
    assert took_s < (timeout_s or 0) + GRACE_S + MARGIN_S
    error = caught.value
    assert error.worker == f"module {place}"
    if fault == "raise":
        assert error.reason == "ValueError('fault on purpose')"
        assert 'raise ValueError("fault on purpose")' in error.traceback
    elif fault == "kill":
        assert error.reason == "its process was killed by SIGKILL"
    elif fault == "hang":
        what = "a pass to warm up" if phase == "start-up" else "one operation"
        assert error.reason == f"hangs: {what} has not ended after {timeout_s:g} s"
        assert "in strike" in error.traceback
        assert "faulty_layers.py" in error.traceback
    else:
        assert "check_item" in error.traceback or "checked" in error.traceback or backward
        assert "of batch" in error.reason
        assert (
            error.reason.endswith(
                " is not finite: training diverged; use a smaller learning "
                "rate, or check_finite=False if the layers mean it"
            )
            or place == MODULES
        )
    # A process that is killed has told what it did until shortly before.
    check_partial(error, place, phase, fault, all_told=runtime != "processes" or not timeout_s)
    if runtime != "processes" and fault == "hang":
        name = "replay" if runtime == "replay" else error.worker
        assert left_behind() == [name]
        assert any(f"left behind in this process: ['{name}']" in note for note in error.__notes__)
    else:
        assert not left_behind()
    del caught, error


def check_partial(
    error: WorkerError, place: int, phase: str, fault: str, *, all_told: bool
) -> None:
    partial_result = error.partial
    assert isinstance(partial_result, RunResult)
    assert partial_result.state is None
    assert partial_result.failure == str(error)
    spans = partial_result.trace.spans
    if phase == "start-up" and fault != "nan":
        assert len(spans) == 0
    elif phase != "start-up" and fault != "kill" and all_told:
        own = partial_result.trace.of_kind("backward" if phase == "drain" else "forward")
        done = LAST_BATCH - 1 if phase == "drain" else LAST_BATCH // 2 - 1
        # The backward pass of the first module gives nothing to others: its update is what fails.
        done += phase == "drain" and fault == "nan" and place == 1
        assert int((own["block"] == place).sum()) == done


@pytest.mark.parametrize(
    ("runtime", "fault", "place"),
    [*product(["threads", "processes"], ["raise", "hang"], PLACES)]
    if NIGHTLY
    else [("threads", "raise", 1), ("threads", "hang", 2), ("processes", "hang", 3)],
)
def test_a_fault_after_the_last_operation(runtime: str, fault: str, place: int) -> None:
    layer = Faulty("none", 1)
    asked = faulty_training(layer, place, batches=4)
    make = partial(failing_at_its_end, asked.make_schedule, place, fault)
    timeout_s = TIMEOUT_S[runtime] if fault == "hang" else None
    with pytest.raises(WorkerError) as caught:
        run_in(runtime, replace(asked, make_schedule=make, timeout_s=timeout_s))
    assert caught.value.worker == f"module {place}"
    assert "in strike" in caught.value.traceback
    partial_result = caught.value.partial
    assert isinstance(partial_result, RunResult)
    assert len(partial_result.trace.of_kind("update")) > 0


@pytest.mark.parametrize(
    ("runtime", "fault"),
    [*product(["threads", "processes"], ["raise", "hang", "nan"]), ("processes", "kill")]
    if NIGHTLY
    else [("threads", "raise"), ("threads", "hang"), ("processes", "kill")],
)
def test_a_fault_while_others_wait_in_a_group(runtime: str, fault: str, tmp_path: Path) -> None:
    layer = Faulty(fault, 12, note=tmp_path / "note")  # in one of the replicas
    asked = faulty_training(layer, 1, "ddp", batches=60, replicas=3)
    with pytest.raises(WorkerError) as caught:
        run_in(runtime, replace(asked, timeout_s=TIMEOUT_S[runtime]))
    assert "hangs: one operation" in caught.value.reason or fault != "hang"


@pytest.mark.parametrize("fault", ["raise", "kill", "hang"] if NIGHTLY else ["kill"])
def test_a_fault_while_a_process_reads_what_it_is_to_do(fault: str) -> None:
    """Before it has begun: a hang is found after a minute, as it might be importing."""
    asked = faulty_training(Faulty("none", 1), 1)
    with pytest.raises(WorkerError) as caught:
        run_processes(replace(asked, loss=Brittle(fault), timeout_s=2.0))
    assert caught.value.worker.startswith("module ")
    assert (
        caught.value.reason
        == {
            "raise": "ValueError('fault on purpose')",
            "kill": "its process was killed by SIGKILL",
            "hang": "hangs: starting has not ended after 60 s",
        }[fault]
    )


def test_a_process_that_is_stopped_is_named_though_it_cannot_say_where_it_is() -> None:
    asked = faulty_training(Faulty("stop", 12), 2)
    with pytest.raises(WorkerError) as caught:
        run_processes(replace(asked, timeout_s=2.0))
    assert str(caught.value) == "module 2: hangs: one operation has not ended after 2 s"
    assert caught.value.traceback == ""


@pytest.mark.parametrize("runtime", ["threads", "replay", *(["processes"] if NIGHTLY else [])])
def test_a_loop_of_python_that_never_ends_is_a_hang_too(runtime: str) -> None:
    asked = faulty_training(Faulty("spin", 12), 2)
    with pytest.raises(WorkerError) as caught:
        run_in(runtime, replace(asked, timeout_s=TIMEOUT_S[runtime]))
    assert caught.value.worker == "module 2"
    assert "in strike" in caught.value.traceback


def test_the_others_that_wait_are_not_taken_for_hanging() -> None:
    """A slow worker, slower than the timeout in all, but not in one operation."""
    asked = faulty_training(Faulty("slow", 9), 2, batches=20)
    result = run_in("threads", replace(asked, timeout_s=1.0))
    assert result.failure is None
    assert result.trace.seconds(result.trace.end) > 1.0


KILLS = (
    [*product(["threads", "replay"], PLACES, [1, 12])]
    if NIGHTLY
    else [
        ("threads", 2, 12),
        ("replay", 3, 1),
    ]
)


@pytest.mark.parametrize(("runtime", "place", "at"), KILLS)
def test_a_kill_of_workers_in_one_process_leaves_nothing(runtime: str, place: int, at: int) -> None:
    command = [sys.executable, str(SCRIPT), runtime, "kill", str(place), str(at)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def test_a_worker_that_hangs_ends_with_its_killed_parent() -> None:
    command = [sys.executable, str(SCRIPT), "processes", "hang", "2", "1"]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "started\n"
    deadline = time.monotonic() + 60
    children: set[int] = set()
    while not any(_asleep_in_training(pid) for pid in children):
        assert time.monotonic() < deadline
        children |= set(_children(parent.pid))
        time.sleep(0.05)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    while any(_alive(pid) for pid in children):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)


def _asleep_in_training(pid: int) -> bool:
    """Whether a child holds its lifeline: it maps the pulses, beyond its imports."""
    try:
        return "memfd:gradlag-pulses" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False
