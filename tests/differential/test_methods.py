"""Every registered schedule really runs as it is simulated, in every runtime that it may run in."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from faulty_layers import network, training

from executor.obstacles import obstacle
from executor.processes import run_processes
from executor.replay import run_replay
from executor.threads import run_threads
from executor.training import RunResult, Training
from simcore.engine import simulate
from simcore.errors import InputError
from simcore.invariants import check_trace, operations_of
from simcore.schedule import Schedule
from simcore.schedules import SCHEDULES, build
from simcore.trace import Trace
from simcore.validate import validate
from simcore.workload import Workload

BATCHES = 8
Case = tuple[str, dict[str, Any]]
AROUND: list[dict[str, Any]] = [
    {"recompute": True},
    {"replicas": 3},
    {"loaders": 2},
    {"micro_batches": 4},
    {"tangents": 2, "directions": "rademacher", "keep": "seed", "alpha": 0.5},
    {"write": "assign"},
    {"lockstep": True},
]


def small(name: str) -> dict[str, Any]:
    """Two modules, where a schedule has modules."""
    entry = SCHEDULES[name]
    found = {"modules": 2} if "modules" in entry.defaults else {}
    return found | ({"time_steps": 2} if "time_steps" in entry.defaults else {})


PLAIN: list[Case] = [(name, small(name)) for name in SCHEDULES]
VARIANTS: list[Case] = []
for name, asked in PLAIN:
    for around in AROUND:
        try:
            build(name, batches=BATCHES, **asked, **around)
        except InputError:
            continue
        VARIANTS.append((name, {**asked, **around}))


def training_of(case: Case, batches: int = BATCHES) -> Training:
    name, options = case
    blocks = build(name, batches=batches, **options).blocks
    # Each of two time steps sees half of the four features.
    model = network(4, inputs=2 if "time_steps" in options else 4)
    return training(name, (*range(blocks), 4), model, batches=batches, **options)


def shown(case: Case) -> str:
    return "-".join([case[0], *(name for name in case[1] if name != "modules")])


def versions(trace: Trace) -> dict[tuple[int, int], tuple[int, ...]]:
    columns = ("version_forward", "version_backward", "version_applied")
    return {
        (int(row["block"]), int(row["batch"])): tuple(int(row[column]) for column in columns)
        for row in trace.gradients
    }


@pytest.mark.parametrize("case", [*PLAIN, *VARIANTS], ids=shown)
def test_threads_and_replay_do_what_is_simulated(case: Case) -> None:
    asked = training_of(case)
    schedule = asked.make_schedule()
    simulated = simulate(schedule, Workload.even(schedule.blocks, 1, 2, 1))
    threaded = run_threads(asked)
    compare(schedule, threaded, simulated)
    replayed = run_replay(asked, simulated)
    assert operations_of(replayed.trace) == operations_of(simulated)
    assert versions(replayed.trace) == versions(simulated)
    if validate(schedule, orders=0).conclusive and not shares_weights(schedule):
        same_state(threaded, replayed)


def shares_weights(schedule: Schedule) -> bool:
    owners = [(w.replica, block) for w in schedule.workers for block in w.blocks]
    return len(owners) > len(set(owners))


def compare(schedule: Schedule, result: RunResult, simulated: Trace) -> None:
    """Where timing decides nothing, versions are those of the simulation; else all is accounted."""
    check_trace(schedule, result.trace)
    assert result.failure is None
    assert [batch for batch, _, _ in result.losses] == [*range(BATCHES)]
    assert all(torch.tensor(loss).isfinite() for _, loss, _ in result.losses)
    if validate(schedule, orders=0).conclusive:
        assert operations_of(result.trace) == operations_of(simulated)
        if not shares_weights(schedule):
            assert versions(result.trace) == versions(simulated)


# Each process takes seconds to start. So these have one replica, and by day only those run that do
# something of their own with messages, groups or weights; the others are like one of them.
NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
BY_DAY = (
    *("interleaved-1f1b", "async-1f1b", "async-lu", "hogwild", "lppsgd"),
    *("asyncfgd", "dfa"),
)
IN_PROCESSES = [
    (name, {**asked, "replicas": 1} if name in ("lapsgd", "lppsgd") else asked)
    for name, asked in PLAIN
    if NIGHTLY or name in BY_DAY
]


@pytest.mark.parametrize("case", IN_PROCESSES, ids=shown)
def test_processes_do_too_or_say_why_not(case: Case) -> None:
    asked = training_of(case)
    schedule = asked.make_schedule()
    if reason := obstacle(schedule):
        with pytest.raises(InputError, match="cannot run in processes") as caught:
            run_processes(asked)
        assert reason in str(caught.value)
        return
    simulated = simulate(schedule, Workload.even(schedule.blocks))
    result, replayed = run_processes(asked), run_replay(asked, simulated)
    compare(schedule, result, simulated)
    if validate(schedule, orders=0).conclusive:
        same_state(result, replayed)


def same_state(one: RunResult, other: RunResult) -> None:
    assert one.state is not None
    assert other.state is not None
    assert one.state.keys() == other.state.keys()
    assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)
