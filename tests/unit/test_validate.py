from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simcore.errors import IllegalOperationError
from simcore.ops import (
    Backward,
    Channel,
    Forward,
    Item,
    Program,
    Receive,
    Select,
    Send,
    Update,
    Worker,
)
from simcore.schedule import Schedule
from simcore.schedules import build
from simcore.testing import schedules
from simcore.validate import validate


def test_a_verdict_says_what_each_worker_does() -> None:
    schedule = build("fdg", modules=2, batches=1)
    assert [c.name for c in schedule.channels] == [
        "data",
        "gradients[1]",
        "activations[2]",
        "gradients[2]",
    ]
    verdict = validate(schedule)
    assert verdict.operations == (
        (
            ("receive", 0, 0),
            ("forward", 1, 0),
            ("send", 2, 0),
            ("receive", 1, 0),
            ("backward", 1, 0),
            ("update", 1, -1),
        ),
        (
            ("receive", 2, 0),
            ("forward", 2, 0),
            ("send", 3, 0),
            ("receive", 3, 0),
            ("backward", 2, 0),
            ("update", 2, -1),
            ("send", 1, 0),
        ),
    )
    assert verdict.most_messages == (0, 1, 1, 1)
    assert verdict.conclusive


@pytest.mark.parametrize(
    ("name", "options", "conclusive"),
    [
        ("bp", {}, True),
        ("fdg", {}, True),
        ("adl", {}, True),
        ("async-lu", {"backward_threads": 1}, True),
        ("async-lu", {}, False),  # two receivers of losses
        ("async-bu", {"forward_threads": 2, "backward_threads": 1}, False),  # two senders
    ],
)
def test_a_verdict_says_whether_it_holds_for_all_timings(
    name: str, options: dict[str, Any], conclusive: bool
) -> None:
    assert validate(build(name, batches=5, **options)).conclusive is conclusive


def test_a_select_leaves_it_open() -> None:
    data = Channel("data", (Item("activation", 0),), source=True)

    def worker() -> Program:
        while (answer := (yield Select((data,)))) is not None:
            batch = answer[1]
            yield Forward(1, batch)
            yield Backward(1, batch)
            yield Update(1)

    schedule = Schedule("own", {}, 1, 2, (Worker("worker", worker, (1,), (), (data,)),))
    verdict = validate(schedule)
    assert not verdict.conclusive
    assert [kind for kind, _, _ in verdict.operations[0]][:2] == ["receive", "forward"]


@pytest.mark.parametrize("name", ["fdg", "adl"])
def test_a_conclusive_verdict_is_the_same_in_every_order(name: str) -> None:
    schedule = build(name, modules=3, batches=7)
    found = {validate(schedule, order).operations for order in permutations(range(3))}
    assert len(found) == 1


@given(schedules(), st.randoms(use_true_random=False))
def test_every_schedule_is_legal_in_any_order(schedule: Schedule, random: Any) -> None:
    order = list(range(len(schedule.workers)))
    first = validate(schedule)
    random.shuffle(order)
    second = validate(schedule, order)
    if first.conclusive:
        assert first.operations == second.operations
    for verdict in (first, second):
        done = sorted(op for worker in verdict.operations for op in worker)
        assert done == sorted(op for worker in first.operations for op in worker)


@pytest.mark.parametrize("capacity", [1, 2, 3, None])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_most_messages_stay_within_the_capacity(
    capacity: int | None, order: tuple[int, ...]
) -> None:
    schedule = build("async-lu", layers=2, batches=8, queue_capacity=capacity)
    verdict = validate(schedule, order)
    by_name = dict(zip((c.name for c in schedule.channels), verdict.most_messages, strict=True))
    # A worker goes on until it has to wait, so the forward thread fills the queue.
    assert by_name == {"data": 0, "losses": capacity or 8}


def test_a_message_that_nobody_receives_is_illegal() -> None:
    data = Channel("data", (Item("activation", 0),), source=True)
    notes = Channel("notes", ())

    def talks() -> Program:
        yield Receive(data)
        yield Forward(1, 0)
        yield Backward(1, 0)
        yield Update(1)
        yield Send(notes, 0)

    def listens() -> Program:
        yield from ()

    schedule = Schedule(
        "loose",
        {},
        blocks=1,
        batches=1,
        workers=(
            Worker("talks", talks, (1,), (notes,), (data,)),
            Worker("listens", listens, (), (), (notes,)),
        ),
    )
    with pytest.raises(IllegalOperationError, match=r"notes still holds messages .* batches 0"):
        validate(schedule)
