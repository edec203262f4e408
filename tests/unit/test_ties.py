from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, event, given, settings

from simcore.cluster import Cluster, Device, Link
from simcore.coincidences import coincides, is_static
from simcore.engine import simulate
from simcore.schedule import Schedule
from simcore.schedules import SCHEDULES, build
from simcore.staleness import gap_summaries
from simcore.testing import Simulation, schedules, simulations
from simcore.ticks import Number
from simcore.ties import Ties, examine_ties, repeated, tie_values
from simcore.trace import KIND, Header, Recorder, Trace
from simcore.workload import Workload

READ, BACKWARD, RAISE = KIND["forward"], KIND["backward"], KIND["update"]
SEND, RECEIVE = KIND["send"], KIND["receive"]
THREADS = build("async-lu", layers=2, batches=9)  # two workers have one block, one channel two
PRIVATE = Cluster.private()


def run(
    name: str, *, beta: Number = 2, update_s: Number = 0, **options: Any
) -> tuple[Trace, Schedule, Workload]:
    schedule = build(name, **options)
    workload = Workload.even(schedule.blocks, schedule.blocks, beta, update_s)
    return simulate(schedule, workload), schedule, workload


def made(*spans: tuple[int, int, int, int, int]) -> Trace:
    """A trace of two blocks from (start, end, worker, kind, block), the workers busy before, until
    tick 1, and afterwards, one longer than the other."""
    recorder = Recorder()
    for worker in range(3):
        recorder.span(0, 1, worker, 0, KIND["load"], 0, 0, -1)
        recorder.span(20, 21 + worker, worker, 99, KIND["load"], 0, 0, -1)
    for index, (start, end, worker, kind, block) in enumerate(spans, 1):
        recorder.span(start, end, worker, index, kind, block, 0, 0)
    return recorder.trace(Header("real", "made", {}, 2, 9, ("a", "b", "c"), (), Fraction(1)))


# Coincidences


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(5, 6, 0, READ, 1), (3, 5, 1, RAISE, 1)], True),
        ([(5, 6, 0, READ, 2), (3, 5, 1, RAISE, 1)], False),  # another block
        ([(5, 6, 1, READ, 1), (3, 5, 1, RAISE, 1)], False),  # the same worker
        ([(4, 5, 0, READ, 1), (3, 5, 1, RAISE, 1)], False),  # reads at its start
        ([(6, 7, 0, READ, 1), (3, 5, 1, RAISE, 1)], False),
        ([(5, 6, 0, BACKWARD, 1), (3, 5, 1, RAISE, 1)], False),  # no gap counts from there
        ([(3, 5, 0, RAISE, 1), (4, 5, 1, RAISE, 1)], True),
        ([(3, 5, 0, RAISE, 1), (4, 5, 1, RAISE, 2)], False),
        ([(3, 5, 0, RAISE, 1), (5, 5, 0, RAISE, 1)], False),
        ([(5, 6, 0, READ, 1), (5, 6, 1, READ, 1)], False),
        ([(5, 6, 0, READ, 1), (5, 6, 1, READ, 1), (8, 9, 1, RAISE, 1)], False),
        ([(5, 6, 0, READ, 1), (5, 6, 1, READ, 1), (4, 5, 1, RAISE, 1)], True),
        ([(5, 5, 0, SEND, 1), (3, 5, 1, SEND, 1)], True),  # depart on one channel
        ([(5, 5, 0, SEND, 1), (4, 5, 1, SEND, 0)], False),
        ([(5, 5, 0, SEND, 1), (5, 6, 1, SEND, 1)], True),  # wanted a slot at the same tick
        ([(9, 9, 0, RECEIVE, 1), (7, 7, 1, RECEIVE, 1)], True),  # both had waited since 1
        ([(9, 9, 0, RECEIVE, 1), (7, 7, 1, RECEIVE, 0)], False),
        ([(1, 3, 0, READ, 1), (9, 9, 0, RECEIVE, 1), (7, 7, 1, RECEIVE, 1)], False),
    ],
)
def test_coincidences(spans: list[tuple[int, int, int, int, int]], expected: bool) -> None:
    assert coincides(made(*spans), THREADS, PRIVATE) is expected


def test_no_duration_moves_what_workers_want_first() -> None:
    spans = (9, 9, 0, RECEIVE, 1), (7, 7, 1, RECEIVE, 1)
    recorder = Recorder()
    for start, end, worker, kind, block in spans:
        recorder.span(start, end, worker, 0, kind, block, 0, 0)
    trace = recorder.trace(Header("real", "made", {}, 2, 9, ("a", "b"), (), Fraction(1)))
    assert not coincides(trace, THREADS, PRIVATE)


def test_departures_meet_on_a_wire_that_channels_share() -> None:
    trace = made((5, 5, 0, SEND, 0), (3, 5, 1, SEND, 1))
    assert not coincides(trace, THREADS, PRIVATE)
    shared = replace(PRIVATE, link=Link(wire="bus"))
    assert coincides(trace, THREADS, shared)


def test_an_empty_trace_has_no_coincidence() -> None:
    trace = Recorder().trace(Header("real", "made", {}, 2, 9, ("a",), (), Fraction(1)))
    assert not coincides(trace, THREADS, PRIVATE)


@pytest.mark.parametrize("name", ["bp", "fdg", "adl"])
def test_pipelines_are_static(name: str) -> None:
    assert is_static(build(name))


def test_threads_that_share_weights_are_not_static() -> None:
    # Every channel has one sender and one receiver, and yet gaps depend on times.
    assert not is_static(build("async-lu", forward_threads=1, backward_threads=1))


def test_a_worker_that_came_too_late_leaves_no_row() -> None:
    # Loading takes no time: the first loader takes both batches at the beginning; were it to take
    # any, the second would have its turn.
    trace, schedule, workload = run(
        "async-lu", layers=1, batches=2, backward_threads=1, loaders=2, beta=1, update_s=1
    )
    assert set(trace.spans["worker"]) == {0, 1, 2}
    assert coincides(trace, schedule, PRIVATE)
    assert examine_ties(trace, schedule, workload).changes > 0


# Repetitions


def test_static_schedules_have_the_gaps_that_they_have() -> None:
    trace, schedule, workload = run("fdg", modules=3, batches=9)
    ties = examine_ties(trace, schedule, workload)
    assert ties.sensitive is False
    assert ties.changes == 0
    assert ties.ranges is not None
    for found, summary in zip(ties.ranges, gap_summaries(trace), strict=True):
        assert found.mean == (summary.mean, summary.mean)
        assert found.gap == (summary.min, summary.max)


def test_whole_ratios_make_ties() -> None:
    # Layer 1 of 4 reads at the tick at which the update of the batch two before lands: gap 2, and 3
    # as soon as a backward pass takes longer. The other layers have (beta (L-l+1) - (l-1)) / L of
    # 5/4, 1/2 and -1/4, which are not whole.
    trace, schedule, workload = run("async-lu", layers=4, batches=30)
    ties = examine_ties(trace, schedule, workload)
    assert ties.sensitive is True
    assert (ties.batches, ties.skipped) == (30, 0)
    assert ties.ranges is not None
    assert [each.gap for each in ties.ranges] == [(0, 3), (0, 2), (0, 1), (0, 0)]
    capped = [sum(min(batch, gap) for batch in range(30)) / 30 for gap in (2, 3, 2, 1, 0)]
    assert ties.ranges[0].mean == tuple(capped[:2])
    assert [each.mean for each in ties.ranges[1:]] == [(mean, mean) for mean in capped[2:]]


def test_other_ratios_make_none() -> None:
    trace, schedule, workload = run("async-lu", beta="1.9003", update_s="0.0017", batches=9)
    ties = examine_ties(trace, schedule, workload)
    assert ties.sensitive is False
    assert ties.changes == 0


def test_ties_whose_order_is_forced_move_nothing() -> None:
    # A full queue: the forward thread goes on at the very tick of the update that made room for it,
    # and never before.
    trace, schedule, workload = run(
        "async-lu", backward_threads=1, queue_capacity=1, layers=2, batches=12
    )
    assert coincides(trace, schedule, PRIVATE)
    ties = examine_ties(trace, schedule, workload)
    assert ties.sensitive is False
    assert ties.changes > 10


def test_threads_in_step_swap_their_batches() -> None:
    # Two forward threads come to the data at the same ticks: the batches that they hand over land
    # together, one after the other or the other after the one.
    trace, schedule, workload = run(
        "async-lu", forward_threads=2, backward_threads=6, beta="2.5", batches=12
    )
    assert examine_ties(trace, schedule, workload).sensitive


def test_shared_devices_are_always_repeated() -> None:
    # Ends are rounded up to ticks there, so that a coincidence need not be seen.
    schedule = build("async-lu", layers=2, batches=6)
    workload = Workload.even(2, 1, "1.9")
    shared = Cluster.shared(Device("cpu", cores=2))
    ties = examine_ties(simulate(schedule, workload, shared), schedule, workload, shared)
    assert ties.changes > 0


def test_random_durations_are_not_examined() -> None:
    schedule, workload = build("async-lu", batches=6), Workload.even(4)
    trace = simulate(schedule, workload, jitter=0.2)
    assert examine_ties(trace, schedule, workload) == Ties(None, None)


def test_few_batches_of_long_runs_are_repeated() -> None:
    trace, schedule, workload = run("async-lu", layers=12, batches=60)
    ties = examine_ties(trace, schedule, workload)
    assert ties.batches == 40
    assert ties.changes >= 8
    assert ties.skipped > 0


@settings(max_examples=25)
@given(simulations(schedules(most_batches=6), placed=False, random=False))
def test_without_coincidence_no_change_moves_a_gap(simulation: Simulation) -> None:
    schedule, cluster = simulation.schedule, simulation.cluster
    assume(cluster.link.transfers == "serial" and not cluster.faults)
    trace = simulation.run()
    free_of_ties = is_static(schedule) or not coincides(trace, schedule, cluster)
    ties = repeated(trace, schedule, simulation.blocks, cluster)
    event(f"free of ties: {free_of_ties}, sensitive: {ties.sensitive}")
    if free_of_ties:
        assert not ties.sensitive


@pytest.mark.parametrize("name", SCHEDULES)
def test_values_are_those_of_json(name: str) -> None:
    schedule = build(name, batches=8)
    workload = Workload.even(schedule.blocks, schedule.blocks)
    values = tie_values(examine_ties(simulate(schedule, workload), schedule, workload))
    assert set(values) == {"tie_sensitive", "tie_range", "tie_examined"}
    assert isinstance(values["tie_sensitive"], bool)
    for block in values["tie_range"]:
        assert block["min"] <= block["mean"][0] <= block["mean"][1] <= block["max"]
        assert values["tie_sensitive"] or block["mean"][0] == block["mean"][1]
