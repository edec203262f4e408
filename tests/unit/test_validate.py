from collections.abc import Callable
from functools import partial
from itertools import permutations
from random import Random
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
    Play,
    Program,
    Receive,
    Replay,
    Select,
    Send,
    Update,
    Worker,
)
from simcore.schedule import Schedule
from simcore.schedules import build
from simcore.testing import schedules
from simcore.validate import operations_used, validate


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
            ("send", 1, 0),
            ("update", 2, -1),
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

    schedule = Schedule(1, 2, (Worker("worker", worker, (1,), (), (data,)),), name="own")
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
    if schedule.name == "lppsgd":  # the times decide which process trains which part
        return
    if schedule.name == "lppsgd":  # where times decide who trains a part on which batch
        return
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
        name="loose",
        blocks=1,
        batches=1,
        workers=(
            Worker("talks", talks, (1,), (notes,), (data,)),
            Worker("listens", listens, (), (), (notes,)),
        ),
    )
    line = r"notes still holds what nobody received: batches 0\n"
    with pytest.raises(IllegalOperationError, match=line) as caught:
        validate(schedule)
    assert [row.split()[0] for row in caught.value.grid.splitlines()] == ["talks", "listens"]


def trained(*programs: Callable[[Channel], Program], batches: int = 4) -> Schedule:
    """Workers of one block that share a source."""
    data = Channel("data", (Item("activation", 0),), source=True)
    workers = tuple(
        Worker(f"worker {number}", partial(program, data), (1,), (), (data,))
        for number, program in enumerate(programs)
    )
    return Schedule(1, batches, workers, name="own")


def trains(data: Channel) -> Program:
    while (batch := (yield Receive(data))) is not None:
        yield from passes(batch)


def passes(batch: int) -> Program:
    yield Forward(1, batch)
    yield Backward(1, batch)
    yield Update(1)


def test_batches_left_in_a_source_are_illegal() -> None:
    def first_two(data: Channel) -> Program:
        for _ in range(2):
            yield from passes((yield Receive(data)))

    line = r"data still holds what nobody received: batches 2, 3\n"
    with pytest.raises(IllegalOperationError, match=line):
        validate(trained(first_two))
    assert len(validate(trained(first_two), every_batch=False).operations[0]) == 8


def test_a_broken_rule_shows_what_every_worker_did() -> None:
    def wrong(data: Channel) -> Program:
        batch = yield Receive(data)
        yield Forward(1, batch)
        yield Update(1)

    with pytest.raises(IllegalOperationError) as caught:
        validate(trained(wrong, trains, batches=2))
    assert str(caught.value).splitlines()[0] == (
        "worker 0 may not do Update(1): no gradient of this block has been computed since"
    )
    assert [row.split("  ") for row in caught.value.grid.splitlines()] == [
        ["worker 0", "Receive data:0", "F1:0", "may not do Update(1)"],
        ["worker 1", "goes on"],
    ]


def test_random_orders_are_tried_where_timing_decides() -> None:
    shared = trained(trains, trains, batches=20)
    verdict = validate(shared)
    assert (verdict.conclusive, verdict.orders, verdict.differing) == (False, 9, (0, 1))
    # In the first order one worker does it all.
    assert [len(done) for done in verdict.operations] == [80, 0]
    assert validate(shared, generator=Random(1), orders=3).orders == 4
    assert validate(shared, [1, 0]).orders == 1
    alone = validate(trained(trains))
    assert (alone.conclusive, alone.orders, alone.differing) == (True, 1, ())


def test_a_mistake_that_only_another_order_shows_is_found() -> None:
    """Worker 1 forgets the update of the second batch that it gets."""

    def forgets(data: Channel) -> Program:
        count = 0
        while (batch := (yield Receive(data))) is not None:
            yield Forward(1, batch)
            yield Backward(1, batch)
            count += 1
            if count != 2:
                yield Update(1)

    schedule = trained(trains, forgets, batches=2)
    assert validate(schedule, [0, 1]).operations[1] == ()
    with pytest.raises(IllegalOperationError, match="worker 1 ended with unapplied gradients"):
        validate(schedule, orders=50)


def test_the_same_generator_tries_the_same_orders() -> None:
    schedule = build("async-lu", layers=2, batches=6, backward_threads=3)
    found = [validate(schedule, generator=Random(7), orders=2) for _ in range(2)]
    assert found[0] == found[1]
    assert found[0].differing


def test_rounds_leave_a_verdict_conclusive() -> None:
    verdict = validate(build("ddp", modules=2, batches=5, replicas=2))
    assert verdict.conclusive
    assert verdict.orders == 1


def test_the_first_operations_say_what_a_schedule_uses() -> None:
    used = operations_used(build("fdg", modules=2, batches=50, recompute=True), most=8)
    assert used == {Receive, Play, Send, Replay, Backward, Update}
    # After so many it stops, wherever it is: nothing has gone backward in this one.
    assert Backward not in operations_used(build("async-lu", batches=5), most=2)
