"""Programs that go on for ever are stopped, in simulated time and without."""

from collections.abc import Callable

import pytest

from simcore.engine import simulate
from simcore.errors import IllegalOperationError
from simcore.ops import (
    Arrive,
    Backward,
    Channel,
    Forward,
    Group,
    Item,
    Join,
    Merge,
    Program,
    Receive,
    Send,
    Snapshot,
    Update,
    Worker,
)
from simcore.schedule import Schedule
from simcore.validate import validate
from simcore.workload import Workload

DATA = Channel("data", (Item("activation", 0),), source=True)
LOOP, PING, PONG = (Channel(name, ()) for name in ("loop", "ping", "pong"))
GROUP = Group("group", (1,))


def learn() -> Program:
    while (batch := (yield Receive(DATA))) is not None:
        yield Forward(1, batch)
        yield Backward(1, batch)
        yield Update(1)


def asks_a_closed_channel() -> Program:
    yield from learn()
    while (yield Receive(DATA)) is None:
        pass


def talks_to_itself() -> Program:
    yield from learn()
    while True:
        yield Send(LOOP, 0)
        yield Receive(LOOP)


def arrives() -> Program:
    yield from learn()
    while True:
        yield Arrive(GROUP)


def averages() -> Program:
    yield from learn()
    while True:
        yield Snapshot(1)
        yield Join(GROUP, 1)
        yield Merge(1)


def calls() -> Program:
    yield from learn()
    while True:
        yield Send(PING, 0)
        yield Receive(PONG)


def answers() -> Program:
    while (batch := (yield Receive(PING))) is not None:
        yield Send(PONG, batch)


@pytest.mark.parametrize(
    "program", [asks_a_closed_channel, talks_to_itself, arrives, averages, calls]
)
def test_what_never_ends_is_stopped(program: Callable[[], Program]) -> None:
    ends = {"sends": (LOOP, PING), "receives": (DATA, LOOP, PONG), "joins": (GROUP,)}
    worker = Worker("loops", program, (1,), **ends)  # type: ignore[arg-type]
    other = Worker("answers", answers, (), (PONG,), (PING,))
    schedule = Schedule(blocks=1, batches=2, workers=(worker, other))
    message = r"^loops goes on for ever: \d+ operations without a computation, and now "
    with pytest.raises(IllegalOperationError, match=message):
        validate(schedule)
    with pytest.raises(IllegalOperationError, match=message):
        simulate(schedule, Workload.even(1))


def test_who_only_passes_on_is_left_alone() -> None:
    """As many messages without a computation as there are batches."""
    batches = 3000
    passed = Channel("passed", DATA.carries)

    def passes() -> Program:
        while (batch := (yield Receive(DATA))) is not None:
            yield Send(passed, batch)

    def learns() -> Program:
        while (batch := (yield Receive(passed))) is not None:
            yield Forward(1, batch)
            yield Backward(1, batch)
            yield Update(1)

    workers = (
        Worker("passes", passes, (), (passed,), (DATA,)),
        Worker("learns", learns, (1,), (), (passed,)),
    )
    schedule = Schedule(blocks=1, batches=batches, workers=workers)
    assert validate(schedule).conclusive
    assert len(simulate(schedule, Workload.even(1)).gradients) == batches
