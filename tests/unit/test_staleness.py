from fractions import Fraction
from typing import Any

from simcore.engine import simulate
from simcore.ledger import Applied, Update
from simcore.schedules import SCHEDULES, build
from simcore.staleness import (
    GAP_COLUMNS,
    PHASES,
    Delay,
    GapSummary,
    gap_summaries,
    gap_table,
    gaps,
    gaps_by_phase,
    lost_updates,
    steady_gap_summaries,
    time_staleness,
)
from simcore.trace import KIND, Header, Recorder, Trace
from simcore.window import steady_window
from simcore.workload import Layer, Workload
from tests.properties.odd_schedules import ODD_SCHEDULES

READ, BACKWARD, RAISE = KIND["forward"], KIND["backward"], KIND["update"]


def run(name: str, blocks: int = 2, **options: Any) -> Trace:
    options[SCHEDULES[name].blocks_option] = blocks
    return simulate(build(name, **options), Workload.even(blocks, blocks, 2))


def made(*spans: tuple[int, int, int, int, int], **options: object) -> Trace:
    """A trace of two blocks from (start, end, worker, kind, block)."""
    recorder = Recorder()
    for index, (start, end, worker, kind, block) in enumerate(spans):
        recorder.span(start, end, worker, index, kind, block, 0, 0)
    return recorder.trace(
        Header("real", "made", options, 2, 9, ("a", "b", "c"), (), Fraction(1, 10**9))
    )


def test_the_gap_is_the_version_found_less_the_version_read() -> None:
    trace = run("fdg", 2, batches=4)
    rows = gap_table(trace, 1)
    assert rows.dtype.names == GAP_COLUMNS
    assert rows[["batch", "version_forward", "version_applied", "gap"]].tolist() == [
        (0, 0, 0, 0),
        (1, 0, 1, 1),
        (2, 1, 2, 1),
        (3, 2, 3, 1),
    ]
    assert gaps(trace).sum() == 3
    assert gap_table(trace, 2)["gap"].tolist() == [0] * 4


def test_a_summary_of_all_updates() -> None:
    first, second = gap_summaries(run("fdg", 2, batches=4))
    assert first == GapSummary(1, 0.75, 0, 1, {0: 1, 1: 3})
    assert second == GapSummary(2, 0.0, 0, 0, {0: 4})


def test_a_summary_of_the_steady_window() -> None:
    trace = run("adl", 3, batches=40, accumulation=4)
    summaries = steady_gap_summaries(trace)
    assert summaries is not None
    assert [summary.mean for summary in summaries] == [1.0, 0.5, 0.0]
    assert summaries == gap_summaries(trace, steady_window(trace))
    # Whole windows of accumulation only: two gradients of gap 1 in each.
    assert summaries[1].histogram[0] == summaries[1].histogram[1]
    assert summaries[0].histogram.keys() == {1}


def test_no_steady_summary_without_a_window_or_with_growth() -> None:
    assert steady_gap_summaries(run("fdg", 3, batches=4)) is None
    assert steady_gap_summaries(run("async-lu", 2, batches=99, backward_threads=1)) is None


def test_a_block_without_gradients() -> None:
    assert gap_summaries(made()) == tuple(GapSummary(k, None, None, None, {}) for k in (1, 2))


def test_the_phases_of_a_run() -> None:
    # Of 20 batches, both modules update with 3 to 17 in the steady window (see test_summary).
    phases = gaps_by_phase(run("fdg", 2, batches=20))
    assert phases is not None
    assert list(phases) == list(PHASES)
    first, second = zip(*phases.values(), strict=True)
    assert [summary.histogram for summary in first] == [{0: 1, 1: 2}, {1: 15}, {1: 2}]
    assert [summary.histogram for summary in second] == [{0: 3}, {0: 15}, {0: 2}]
    assert gaps_by_phase(run("fdg", 3, batches=4)) is None


def test_merges_of_replicas_are_no_updates() -> None:
    # Batches take 3 s. Merges, of 1 s after a snapshot of 1 s, land at 2 and 4 s in both replicas:
    # during each of the first two of four batches.
    layers = (Layer("", Fraction(1), Fraction(2), merge_s=Fraction(1)),)
    trace = simulate(ODD_SCHEDULES["averaged"](8), Workload("", layers))
    assert trace.of_kind("merge")["version"].tolist() == [0, 0, 2, 2]
    rows = trace.gradients
    assert sorted((rows["version_applied"] - rows["version_forward"]).tolist()) == [0] * 4 + [1] * 4
    assert set(gaps(trace).tolist()) == {0}
    assert gap_summaries(trace) == (GapSummary(1, 0.0, 0, 0, {0: 8}),)


# Seconds


def test_seconds_from_a_gradient_to_its_update() -> None:
    # One layer of 1 and 2 s, with an update of 1 s for two batches: the first gradient waits for
    # the second, and both for the end of the update.
    workload = Workload.even(1, 1, 2, 1)
    trace = simulate(build("adl", modules=1, batches=4, accumulation=2), workload)
    assert time_staleness(trace) == (Delay(1, (4 + 1) / 2, 1.0, 4.0),)
    assert time_staleness(trace, (0, trace.start)) == (Delay(1, None, None, None),)


def test_seconds_from_the_half_that_made_the_gradient() -> None:
    # The second half of a backward pass, a tick before its update.
    layers = (Layer("", Fraction(1), Fraction(2), Fraction(1)),) * 2
    trace = simulate(ODD_SCHEDULES["split"](4), Workload("", layers))
    assert [delay.max_s for delay in time_staleness(trace)] == [1.0, 1.0]


# Lost updates


def test_updates_that_add_lose_nothing() -> None:
    assert lost_updates(run("async-lu", 2, batches=10)) == (0, 0)
    assert lost_updates(run("adl", 2, batches=10, accumulation=3)) == (0, 0)


def test_updates_that_assign_lose_what_came_since_their_copy() -> None:
    # Layer 1 takes 2 ticks backward, and batches are 2 ticks apart: at the tick at which a pass
    # copies layer 1, the update of the batch before has landed; nothing is lost.
    assert lost_updates(run("async-lu", 2, batches=10, write="assign")) == (0, 0)
    # Copied when the pass starts, 4 ticks before its update of layer 1: each update but the first
    # overwrites the one of the batch before; layer 2 is updated after 2 ticks, and loses none.
    trace = run("async-lu", 2, batches=10, write="assign", refresh="pass")
    assert lost_updates(trace) == (9, 0)


def test_an_update_with_several_gradients_loses_once() -> None:
    recorder = Recorder()
    gradients = (Applied(2, 0, 0, 0, 0), Applied(2, 1, 0, 0, 0))
    recorder.update(5, 0, Update(version=7, base=4, gradients=gradients))
    header = Header("real", "made", {}, 2, 9, ("a",), (), Fraction(1))
    assert lost_updates(recorder.trace(header)) == (0, 3)
