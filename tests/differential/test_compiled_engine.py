"""The compiled engine against the reference, span by span and gradient by gradient."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import zip_longest
from time import perf_counter
from typing import Any, ClassVar, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simcore import engines
from simcore.cluster import Cluster, Device, Link
from simcore.durations import read_variations
from simcore.errors import GradlagError
from simcore.ops import (
    Backward,
    Channel,
    Forward,
    Group,
    Item,
    Join,
    Merge,
    Program,
    Receive,
    Select,
    Snapshot,
    Update,
    Worker,
)
from simcore.schedule import Schedule
from simcore.schedules import SCHEDULES, build
from simcore.steps import steps
from simcore.testing import Simulation, schedules, simulations
from simcore.trace import Trace
from simcore.workload import Workload
from tests.differential.random_programs import random_schedules

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="there is no numba"
)


# What random clusters and programs have that the compiled engine leaves to the reference.
LEFT = (
    "transfers share a wire",
    "a batch passes forward twice",
    "arrives for a round before",
    "choices of its programs never repeat",
)
# Counts the batches that it has taken, so that its state is never the same again.
GROWING = {"async-1f1b"}


def ran(simulation: Simulation, engine: engines.Engine) -> Trace | GradlagError:
    try:
        return engines.simulate(
            simulation.schedule,
            simulation.blocks,
            simulation.cluster,
            engine=engine,
            variation=simulation.variation,
            seed=simulation.seed,
        )
    except GradlagError as error:
        return error


def assert_alike(simulation: Simulation, *, falls_back: tuple[str, ...] = LEFT) -> None:
    """Both leave the same trace, or tell the same error; `falls_back` are reasons that may be."""
    expected, found = ran(simulation, "simpy"), ran(simulation, "compiled")
    if isinstance(expected, GradlagError):
        assert (type(found), str(found)) == (type(expected), str(expected))
        return
    assert isinstance(found, Trace)
    about = dict(found.header.about)
    reason = about.pop("instead_of", "")
    if reason:
        assert any(each in reason for each in falls_back), reason
        return
    assert about == {**expected.header.about, "engine": "compiled"}
    for one, other in zip_longest(found.spans.tolist(), expected.spans.tolist()):
        assert one == other
    for one, other in zip_longest(found.gradients.tolist(), expected.gradients.tolist()):
        assert one == other


@pytest.mark.parametrize("name", SCHEDULES)
@given(st.data())
def test_every_schedule(name: str, data: st.DataObject) -> None:
    assert_alike(data.draw(simulations(schedules(name))))


@given(simulations(losses=True))
def test_losses(simulation: Simulation) -> None:
    assert_alike(simulation)


@given(simulations(random_schedules()))
def test_random_programs(simulation: Simulation) -> None:
    assert_alike(simulation)


@given(simulations(schedules("fdg", "adl", "async-lu", "gpipe", "lapsgd", most_batches=60)))
def test_loops_of_many_rounds(simulation: Simulation) -> None:
    assert_alike(simulation)


# Every schedule, without chance and without what falls back, must really be compiled.
@pytest.mark.parametrize("name", [name for name in SCHEDULES if name not in GROWING])
def test_every_schedule_is_compiled(name: str) -> None:
    schedule = build(name, batches=30)
    cluster = Cluster((Device("device", cores=2),), "shared", Link(Fraction(1, 3)))
    simulation = Simulation(schedule, Workload.even(schedule.blocks, 3, 5, 1), cluster)
    assert_alike(simulation)
    trace = ran(simulation, "compiled")
    assert isinstance(trace, Trace)
    assert trace.header.about["engine"] == "compiled"


# Rows, messages on their way, random numbers: more of each than there is room for at first.
@pytest.mark.parametrize("name", ["async-lu", "fdg", "lapsgd"])
def test_tables_grow(name: str) -> None:
    schedule = build(name, batches=400)
    cluster = Cluster((Device("device"),), "private", Link(Fraction(1000)))
    random = read_variations("lognormal:0.3,update=exponential")
    blocks = Workload.even(schedule.blocks, 3, 50, 1)
    simulation = Simulation(schedule, blocks, cluster, random, seed=5)
    assert_alike(simulation, falls_back=())


# Programs that do not know in which round of a counted loop they will get which answer.


def choosing(x: Channel, y: Channel, group: Group, rounds: int, _: int) -> Program:
    for step in steps(rounds):
        channel, batch = yield Select((x, y))
        yield from full(batch)
        if (channel == y) != (step < 5 or step % 4 == 0):
            yield Join(group)


def listening(x: Channel, y: Channel, group: Group, rounds: int, more: int) -> Program:
    for step in steps(rounds + more):
        batch = yield Receive(x if step % 2 == 0 else y)
        if batch is not None:
            yield from full(batch)
        if batch is None or step == 3:
            yield Join(group)


def averaging(x: Channel, y: Channel, group: Group, rounds: int, every: int) -> Program:
    for step in steps(rounds):
        if step % (every + 1) == 0 and step < rounds // 2:
            yield Snapshot(1)
            if (yield Join(group, 1)):
                yield Merge(1)
        elif (yield Join(group, 1)):
            yield Merge(1)
        elif step % 3 == 1:
            yield Join(group)
    yield from choosing(x, y, group, rounds, 0)


def full(batch: int) -> Program:
    yield Forward(1, batch)
    yield Backward(1, batch)
    yield Update(1)


@pytest.mark.parametrize("program", [choosing, listening, averaging])
@given(st.integers(1, 40), st.integers(0, 4))
def test_answers_within_counted_loops(program: Any, rounds: int, more: int) -> None:
    items = (Item("activation", 0),)
    x, y = (Channel(f"data {n}", items, source=True, first=n, stride=2) for n in range(2))
    group = Group("alone", (1,))
    run = partial(program, x, y, group, rounds, more)
    worker = Worker("worker", run, (1,), (), (x, y), (group,))
    schedule = Schedule(blocks=1, batches=rounds, workers=(worker,))
    cluster = Cluster((Device("device"),), "private")
    simulation = Simulation(schedule, Workload.even(1, 3, 5, 1), cluster)
    assert_alike(simulation, falls_back=("cannot be lifted", "never repeat"))


# What answers otherwise than a number would, or hides what it does: each once went wrong.


def helper() -> None:
    """Keeps a list."""


LOG: list[int] = []
vars(helper)["log"] = LOG


@dataclass(frozen=True)
class Policy:
    log: ClassVar[list[int]] = []

    def due(self) -> bool:
        self.log.append(1)
        return len(self.log) % 7 == 0


def swallowed(step: Any) -> bool:
    try:
        return bool(step % 2.5 < 1)
    except ValueError:
        return False


def matched(step: Any) -> bool:
    match step:
        case int():
            return True
    return False


def counted_on_a_function(step: Any) -> bool:
    log: Any = helper.log  # type: ignore[attr-defined]
    log.append(step)
    return len(log) % 7 == 0


AWKWARD: dict[str, Callable[[Any, int], Any]] = {
    "above a float": lambda step, rounds: step > rounds / 4,
    "up to a float": lambda step, rounds: step <= 2.5,
    "above a fraction": lambda step, rounds: step >= Fraction(rounds, 3),
    "negative modulus": lambda step, rounds: step % -7 == -1,
    "no steps": lambda step, rounds: steps(0),
    "within steps": lambda step, rounds: 3 in steps(rounds),
    "swallowed": lambda step, rounds: swallowed(step),
    "matched": lambda step, rounds: matched(step),
    "attribute of a function": lambda step, rounds: counted_on_a_function(step),
    "class of a user": lambda step, rounds: Policy().due(),
    "clock": lambda step, rounds: perf_counter() < 0,
}


def awkward(channel: Channel, rounds: int, asks: Callable[[Any, int], Any]) -> Program:
    for step in steps(rounds):
        batch = yield Receive(channel)
        yield Forward(1, batch)
        yield Backward(1, batch)
        if asks(step, rounds) or step + 1 == rounds:
            yield Update(1)


@pytest.mark.parametrize("awkwardly", AWKWARD)
def test_what_symbols_cannot_see(awkwardly: str) -> None:
    data = Channel("data", (Item("activation", 0),), source=True)
    run = partial(awkward, data, 100, AWKWARD[awkwardly])
    schedule = Schedule(1, 100, (Worker("worker", run, (1,), (), (data,)),))
    found = {}
    for engine in ("compiled", "simpy"):
        LOG.clear()
        Policy.log.clear()
        asked = cast("engines.Engine", engine)
        found[engine] = engines.simulate(schedule, Workload.even(1), engine=asked)
    assert found["compiled"].spans.tolist() == found["simpy"].spans.tolist()
    if awkwardly in ("swallowed", "matched", "clock"):
        assert found["compiled"].header.about["engine"] == "simpy"
