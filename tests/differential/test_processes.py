"""Processes against threads and the simulator; and what happens when they are hurt."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from faulty_layers import Faulty, network, training

from executor.failure import WorkerError
from executor.processes import run_processes
from executor.replay import run_replay
from executor.threads import run_threads
from executor.training import RunResult
from simcore.engine import simulate
from simcore.errors import InputError
from simcore.invariants import operations_of
from simcore.staleness import gaps
from simcore.workload import Workload


def gap_of_every_batch(trace: Any) -> dict[tuple[int, int], int]:
    rows = trace.gradients
    return {
        (int(row["block"]), int(row["batch"])): int(gap)
        for row, gap in zip(rows, gaps(trace), strict=True)
    }


@pytest.mark.parametrize(
    ("name", "options", "bounds"),
    [
        ("bp", {"modules": 2}, (0, 2, 4)),
        ("fdg", {"modules": 3, "shrink": 0.5}, (0, 1, 2, 4)),
        ("adl", {"modules": 2, "accumulation": 3, "order": "update-first"}, (0, 2, 4)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_processes_do_what_threads_replay_and_the_simulator_do(
    name: str, options: dict[str, Any], bounds: tuple[int, ...]
) -> None:
    asked = training(name, bounds, network(4), batches=17, **options)
    schedule = asked.make_schedule()
    simulated = simulate(schedule, Workload.even(schedule.blocks, 1, 2, 1))
    told: list[int] = []
    runs = [run_processes(asked, told.append), run_threads(asked), run_replay(asked, simulated)]
    states = [run.state or {} for run in runs]
    assert sum(told) == 17 * schedule.blocks
    for run, state in zip(runs, states, strict=True):
        assert operations_of(run.trace) == operations_of(simulated)
        assert gap_of_every_batch(run.trace) == gap_of_every_batch(simulated)
        assert [batch for batch, _, _ in run.losses] == list(range(17))
        assert state.keys() == asked.model.state_dict().keys()
        assert all(torch.equal(state[key], states[0][key]) for key in state)
    assert runs[0].trace.header.about["runtime"] == "processes"
    assert not multiprocessing.active_children()


# Other faults are in test_faults_workers.
def test_a_worker_that_exits_ends_the_run_with_its_name() -> None:
    model = network(4, Faulty("exit", at=40))
    asked = training("fdg", (0, 2, 4), model, modules=2, batches=10**4)
    with pytest.raises(WorkerError) as caught:
        run_processes(asked)
    says = "module 1: its process exited with status 3"
    assert str(caught.value) == says
    assert isinstance(caught.value.partial, RunResult)
    partial = caught.value.partial
    assert partial.state is None
    assert partial.failure == says
    # The other worker tells all that it did.
    assert (partial.trace.spans["worker"] == 1).any()
    assert not multiprocessing.active_children()


def test_the_workers_of_a_killed_parent_end() -> None:
    script = Path(__file__).parent / "faulty_layers.py"
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "started\n"
    children: set[int] = set()
    while not children:
        children = {pid for pid in _children(parent.pid) if _busy(pid)}
        time.sleep(0.1)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 60
    while any(_alive(pid) for pid in children):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.1)


def test_what_cannot_run_in_processes_is_refused_in_one_line() -> None:
    asked = training("async-lu", (0, 1, 2, 3, 4), network(4), layers=4, batches=3)
    with pytest.raises(InputError, match=r"losses hands over autograd graphs; use .* threads"):
        run_processes(asked)

    class Local(nn.Linear):
        pass

    model = nn.Sequential(Local(4, 3))
    with pytest.raises(InputError, match="must be picklable"):
        run_processes(training("bp", (0, 1), model, modules=1, batches=3))
    assert not multiprocessing.active_children()


def _children(parent: int) -> list[int]:
    path = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def _busy(pid: int) -> bool:
    """Whether it is a worker that has begun to train: the parent's tracker is not."""
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
