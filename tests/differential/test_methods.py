"""Every registered schedule either really runs as it is simulated, or is refused in one line."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from faulty_layers import network, training

from executor.processes import obstacle, run_processes
from executor.replay import run_replay
from executor.run import RUNTIMES, run
from executor.support import refuse_unsupported
from executor.threads import run_threads
from executor.training import RunResult, Training
from simcore.engine import simulate
from simcore.errors import InputError, RunError
from simcore.invariants import check_trace, operations_of
from simcore.ops import (
    Backward,
    Channel,
    Evaluate,
    Forward,
    Item,
    Program,
    Receive,
    Update,
    Worker,
)
from simcore.schedule import Schedule
from simcore.schedules import SCHEDULES, build
from simcore.trace import Trace
from simcore.validate import validate
from simcore.workload import Workload

BATCHES = 8
Case = tuple[str, dict[str, Any]]


def cases() -> list[Case]:
    """Each schedule with two modules and, if it splits mini-batches, without doing so."""
    found: list[Case] = []
    for name, entry in SCHEDULES.items():
        asked = {"modules": 2} if "modules" in entry.defaults else {}
        whole = {**asked, "micro_batches": 1}
        found += [(name, asked)] + ([(name, whole)] if "micro_batches" in entry.defaults else [])
    return found


def runs(case: Case) -> bool:
    try:
        refuse_unsupported(build(case[0], batches=4, **case[1]))
    except InputError:
        return False
    return True


RUNNING = [case for case in cases() if runs(case)]
KNOWN = {"bp", "bp-mp", "fdg", "adl", "async-lu", "async-bu", "hogwild", "pipedream", "async-1f1b"}


def training_of(case: Case, batches: int = BATCHES) -> Training:
    name, options = case
    blocks = build(name, batches=batches, **options).blocks
    return training(name, (*range(blocks), 4), network(4), batches=batches, **options)


def shown(case: Case) -> str:
    return f"{case[0]}-whole" if "micro_batches" in case[1] else case[0]


def versions(trace: Trace) -> dict[tuple[int, int], tuple[int, ...]]:
    columns = ("version_forward", "version_backward", "version_applied")
    return {
        (int(row["block"]), int(row["batch"])): tuple(int(row[column]) for column in columns)
        for row in trace.gradients
    }


def test_what_can_run_does() -> None:
    names = {name for name, _ in RUNNING}
    assert names >= KNOWN & SCHEDULES.keys()
    assert not names & {"ddp", "dfa", "fgd", "dgl", "zb-h1", "lapsgd"}


@pytest.mark.parametrize("case", RUNNING, ids=shown)
def test_threads_and_replay_do_what_is_simulated(case: Case) -> None:
    asked = training_of(case)
    schedule = asked.make_schedule()
    simulated = simulate(schedule, Workload.even(schedule.blocks, 1, 2, 1))
    threaded = run_threads(asked)
    compare(schedule, threaded, simulated)
    replayed = run_replay(asked, simulated)
    assert operations_of(replayed.trace) == operations_of(simulated)
    assert versions(replayed.trace) == versions(simulated)


def compare(schedule: Schedule, result: RunResult, simulated: Trace) -> None:
    """Where timing decides nothing, versions are those of the simulation; else all is accounted."""
    check_trace(schedule, result.trace)
    assert result.failure is None
    assert [batch for batch, _, _ in result.losses] == [*range(BATCHES)]
    assert all(torch.tensor(loss).isfinite() for _, loss, _ in result.losses)
    if validate(schedule, orders=0).conclusive:
        assert operations_of(result.trace) == operations_of(simulated)
        owners = [block for worker in schedule.workers for block in worker.blocks]
        if len(owners) == len(set(owners)):
            assert versions(result.trace) == versions(simulated)


# Others are in test_processes; processes take long to start.
IN_PROCESSES = [case for case in RUNNING if case[0] not in ("bp", "fdg", "adl", "gpipe", "1f1b")]


@pytest.mark.parametrize("case", IN_PROCESSES, ids=shown)
def test_processes_do_too_or_say_why_not(case: Case) -> None:
    asked = training_of(case)
    schedule = asked.make_schedule()
    if reason := obstacle(schedule):
        with pytest.raises(InputError, match="cannot run in processes") as caught:
            run_processes(asked)
        assert reason in str(caught.value)
        return
    compare(schedule, run_processes(asked), simulate(schedule, Workload.even(schedule.blocks)))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("ddp", {}, "replicas"),
        ("gpipe", {"micro_batches": 2}, "micro-batches"),
        ("fdg", {"recompute": True}, "Play"),
        ("adl", {"loaders": 1}, "Load"),
        ("dfa", {}, "do not come down through the weights"),
    ],
)
def test_what_is_only_simulated_is_refused_before_anything_starts(
    name: str, options: dict[str, Any], reason: str, runtime: Any
) -> None:
    asked = training(name, (0, 2, 4), network(4), modules=2, batches=4, **options)
    schedule = asked.make_schedule()
    trace = simulate(schedule, Workload.even(schedule.blocks))
    with pytest.raises(InputError, match="is simulated only so far") as caught:
        run(asked, runtime, trace=trace)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def late() -> Schedule:
    """Evaluates its last batch only, far behind what is looked at before the start."""
    data = Channel("data", (Item("activation", 0),), source=True)

    def program() -> Program:
        for _ in range(299):
            batch = yield Receive(data)
            yield Forward(1, batch)
            yield Backward(1, batch)
            yield Update(1)
        yield Evaluate(1, (yield Receive(data)))

    return Schedule(1, 300, (Worker("worker", program, (1,), (), (data,)),), name="late")


def test_what_turns_out_late_ends_the_run() -> None:

    asked = replace(training("bp", (0, 4), network(4), modules=1), make_schedule=late)
    with pytest.raises(RunError, match=r"Evaluate\(1, 299\) is simulated only so far"):
        run_threads(asked)
