"""Rounds of groups, by hand: who waits for whom, from when to when, and what is averaged.

Workers spend whole seconds by evaluating batches of a network of one block that takes 1 s; what
they contribute is a snapshot of its weights, each of a replica of its own. A round of two members
over a link of a byte per second takes as many seconds as the block has bytes.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import pytest

from simcore.cluster import Cluster, Link
from simcore.engine import simulate
from simcore.errors import DeadlockError, IllegalOperationError
from simcore.ops import (
    Arrive,
    Channel,
    Evaluate,
    Group,
    Item,
    Join,
    Merge,
    Program,
    Receive,
    Snapshot,
    Worker,
)
from simcore.schedule import Schedule
from simcore.trace import Trace
from simcore.validate import validate
from simcore.workload import Layer, Workload

LAYER = Layer("", Fraction(1), Fraction(1), parameter_bytes=3)
MEAN, OTHER = Group("mean", (1, 2)), Group("other", (1, 2))

Wait = Callable[[int], Program]


def of(*programs: Callable[[Wait], Program], groups: tuple[Group, ...] = (MEAN,)) -> Schedule:
    """A schedule of these programs; each is given a way to let seconds pass."""
    workers = []
    for number, program in enumerate(programs):
        data = Channel(f"data {number}", (Item("activation", 1),), source=True)
        wait = partial(seconds, data)
        workers.append(
            Worker(f"{number}", partial(program, wait), (1, 2), (), (data,), groups, number)
        )
    return Schedule(2, 20, tuple(workers), name="own")


def seconds(data: Channel, count: int) -> Program:
    for _ in range(count):
        batch = yield Receive(data)
        yield Evaluate(2, batch)


def run(schedule: Schedule, bytes_per_s: int | None = 1) -> Trace:
    link = Link(bytes_per_s=None if bytes_per_s is None else Fraction(bytes_per_s))
    cluster = Cluster.private()
    cluster = Cluster(cluster.devices, cluster.placement, link)
    trace = simulate(schedule, Workload("", (LAYER, LAYER)), cluster)
    validate(schedule, every_batch=False)
    return trace


def joins(trace: Trace, kind: str = "join") -> list[tuple[int, int, Fraction, Fraction]]:
    """Worker, block, start and end in seconds of each join, in the order of the workers."""
    rows = trace.of_kind(kind)
    times = [(row["start"] * trace.header.tick_s, row["end"] * trace.header.tick_s) for row in rows]
    found = zip(rows["worker"].tolist(), rows["batch"].tolist(), times, strict=True)
    return sorted((worker, block, start, end) for worker, block, (start, end) in found)


def average(first: int, wait: Wait, block: int = 1, then: int = 0) -> Program:
    """After so many seconds, average a snapshot."""
    yield from wait(first)
    yield Snapshot(block)
    yield Join(MEAN, block)
    yield Merge(block)
    yield from wait(then)


def test_a_round_begins_with_the_last_arrival_and_all_go_on_together() -> None:
    trace = run(of(partial(average, 0), partial(average, 5), partial(average, 2)))
    # Of three members: 2 x 2/3 of 3 bytes.
    assert joins(trace) == [(worker, 1, 5, 9) for worker in range(3)]
    assert trace.of_kind("merge")["version"].tolist() == [0, 0, 0]


def test_what_takes_no_time_is_over_in_its_instant() -> None:
    trace = run(of(partial(average, 0), partial(average, 5)), bytes_per_s=None)
    assert joins(trace) == [(0, 1, 5, 5), (1, 1, 5, 5)]


def test_a_barrier_takes_no_time_whatever_the_link() -> None:
    def meets(after: int, wait: Wait) -> Program:
        yield from wait(after)
        assert (yield Join(MEAN)) is False
        yield from wait(1)

    trace = run(of(partial(meets, 3), partial(meets, 1)))
    assert joins(trace) == [(0, 0, 3, 3), (1, 0, 3, 3)]
    assert trace.end * trace.header.tick_s == 4


def arriving(first: int, between: int, wait: Wait) -> Program:
    yield from wait(first)
    yield Snapshot(1)
    yield Arrive(MEAN, 1)
    yield from wait(between)
    assert (yield Join(MEAN, 1)) is True
    yield Merge(1)


@pytest.mark.parametrize(
    ("first", "between", "expected"),
    [
        (0, 1, (4, 7)),  # joins long before the round begins
        (0, 6, (6, 7)),  # while it lasts
        (0, 7, (7, 7)),  # when it ends
        (0, 9, (9, 9)),  # late
        (6, 1, (7, 9)),  # starts it
        (6, 5, (11, 11)),
    ],
)
def test_whoever_arrives_goes_on_until_it_joins(
    first: int, between: int, expected: tuple[int, int]
) -> None:
    trace = run(of(partial(arriving, first, between), partial(average, 4)))
    assert joins(trace)[0] == (0, 1, *expected)
    begins = max(first, 4)
    assert joins(trace)[1] == (1, 1, begins, begins + 3)
    assert joins(trace, "arrive") == [(0, 1, first, first)]


def test_rounds_of_one_group_follow_each_other_on_its_link() -> None:
    def both(first: int, wait: Wait) -> Program:
        yield from wait(first)
        for block in (2, 1):
            yield Snapshot(block)
            yield Arrive(MEAN, block)
        for block in (1, 2):
            yield Join(MEAN, block)
            yield Merge(block)

    trace = run(of(partial(both, 0), partial(both, 2)))
    assert joins(trace) == [(w, *each) for w in (0, 1) for each in ((1, 5, 8), (2, 8, 8))]


def test_rounds_of_two_groups_overlap() -> None:
    def both(first: int, wait: Wait) -> Program:
        yield from wait(first)
        for group, block in ((MEAN, 2), (OTHER, 1)):
            yield Snapshot(block)
            yield Arrive(group, block)
        for group, block in ((OTHER, 1), (MEAN, 2)):
            yield Join(group, block)
            yield Merge(block)

    trace = run(of(partial(both, 0), partial(both, 2), groups=(MEAN, OTHER)))
    assert joins(trace) == [(w, *each) for w in (0, 1) for each in ((1, 2, 5), (2, 5, 5))]


def test_the_nth_arrivals_make_the_nth_round() -> None:
    """One member arrives for three rounds before the other comes to the first."""

    def ahead(wait: Wait) -> Program:
        for _ in range(3):
            yield Arrive(MEAN, 1)
        answers = []
        for _ in range(3):
            answers.append((yield Join(MEAN, 1)))
        assert answers == [True, False, True]

    def behind(wait: Wait) -> Program:
        yield from average(4, wait)
        yield from wait(1)
        assert (yield Join(MEAN, 1)) is False
        yield from average(2, wait)

    trace = run(of(ahead, behind))
    # The second round, to which nobody contributes, takes no time.
    both = [(1, 4, 7), (1, 8, 8), (1, 10, 13)]
    assert joins(trace) == [(worker, *each) for worker in (0, 1) for each in both]


def test_a_round_without_time_waits_for_the_phase_before_it() -> None:
    def first(wait: Wait) -> Program:
        yield Snapshot(1)
        yield Arrive(MEAN, 1)
        yield from wait(1)
        yield Join(MEAN)
        yield Join(MEAN, 1)
        yield Merge(1)

    assert joins(run(of(first, first)))[:2] == [(0, 0, 3, 3), (0, 1, 3, 3)]


def test_whoever_ends_is_not_waited_for() -> None:
    def leaves(wait: Wait) -> Program:
        yield from wait(6)

    trace = run(of(partial(average, 1), leaves))
    # The ring is that of two members all the same.
    assert joins(trace) == [(0, 1, 6, 9)]


def test_what_a_member_has_contributed_counts_when_it_has_ended() -> None:
    def contributes(wait: Wait) -> Program:
        yield Snapshot(1)
        yield Arrive(MEAN, 1)
        yield from wait(1)
        yield Join(MEAN, 1)
        yield Merge(1)

    def listens(wait: Wait) -> Program:
        yield from wait(9)
        assert (yield Join(MEAN, 1)) is True
        assert (yield Join(MEAN, 1)) is False

    def third(wait: Wait) -> Program:
        yield Arrive(MEAN, 1)
        yield from ()

    trace = run(of(contributes, listens, third))
    assert joins(trace)[1:] == [(1, 1, 9, 13), (1, 1, 13, 13)]


def test_a_member_that_never_arrives_is_named_by_who_waits() -> None:
    done = Channel("done", ())

    def waits_for_more(wait: Wait) -> Program:
        yield Join(MEAN)
        yield Receive(done)

    def joins_twice(wait: Wait) -> Program:
        yield Join(MEAN)
        yield Snapshot(2)
        yield Join(MEAN, 2)

    schedule = of(waits_for_more, joins_twice)
    one, other = schedule.workers
    own = Worker(one.name, one.program, one.blocks, (), (*one.receives, done), (MEAN,))
    sends = Worker(other.name, other.program, (2,), (done,), other.receives, (MEAN,), 1)
    schedule = Schedule(2, 20, (own, sends), name="own")
    for interpreter in (lambda: run(schedule), lambda: validate(schedule)):
        with pytest.raises(DeadlockError, match="deadlock in own: 0, 1 wait for") as caught:
            interpreter()
        lines = str(caught.value).splitlines()[-2:]
        assert re.search(r"^0 .*Join mean:0 .*waits at Receive\(done\)$", lines[0])
        assert re.search(r"^1 .*S2 .*waits at Join\(mean, 2\)$", lines[1])


def test_a_snapshot_is_merged_after_a_round_only() -> None:
    def hasty(wait: Wait) -> Program:
        yield Snapshot(1)
        yield Arrive(MEAN, 1)
        yield Merge(1)

    for interpreter in (run, validate):
        with pytest.raises(IllegalOperationError, match=r"Merge\(1\): no round has averaged"):
            interpreter(of(hasty, partial(average, 0)))
