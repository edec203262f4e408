from fractions import Fraction
from typing import Any

import pytest

from simcore.engine import simulate
from simcore.ledger import Applied, Update
from simcore.schedules import SCHEDULES, build
from simcore.staleness import (
    GAP_COLUMNS,
    GapSummary,
    gap_summaries,
    gap_table,
    gaps,
    lost_updates,
    steady_gap_summaries,
    tie_sensitive,
)
from simcore.trace import KIND, Header, Recorder, Trace
from simcore.window import steady_window
from simcore.workload import Workload

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


# Ties


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(5, 6, 0, READ, 1), (3, 5, 1, RAISE, 1)], True),
        ([(5, 6, 0, READ, 2), (3, 5, 1, RAISE, 1)], False),  # another block
        ([(5, 6, 1, READ, 1), (3, 5, 1, RAISE, 1)], False),  # the same worker
        ([(4, 5, 0, READ, 1), (3, 5, 1, RAISE, 1)], False),  # reads at its start
        ([(6, 7, 0, READ, 1), (3, 5, 1, RAISE, 1)], False),
        ([(3, 5, 0, RAISE, 1), (4, 5, 1, RAISE, 1)], True),
        ([(3, 5, 0, RAISE, 1), (4, 5, 1, RAISE, 2)], False),
        ([(3, 5, 0, RAISE, 1), (5, 5, 0, RAISE, 1)], False),
        ([(5, 6, 0, READ, 1), (5, 6, 1, READ, 1)], False),
        ([(5, 6, 0, READ, 1), (5, 6, 1, READ, 1), (8, 9, 1, RAISE, 1)], False),
        ([(5, 6, 0, READ, 1), (5, 6, 1, READ, 1), (4, 5, 1, RAISE, 1)], True),
        ([], False),
    ],
)
def test_ties_between_workers(spans: list[tuple[int, int, int, int, int]], expected: bool) -> None:
    assert tie_sensitive(made(*spans)) is expected


def test_a_backward_pass_reads_unless_it_uses_the_stash() -> None:
    spans = (5, 6, 0, BACKWARD, 1), (3, 5, 1, RAISE, 1)
    assert tie_sensitive(made(*spans, weights="mixed"))
    assert not tie_sensitive(made(*spans, weights="stash"))


def test_a_pass_that_renews_all_copies_reads_all_blocks() -> None:
    spans = (5, 6, 0, BACKWARD, 2), (3, 5, 1, RAISE, 1)
    assert tie_sensitive(made(*spans, write="assign", refresh="pass"))
    assert not tie_sensitive(made(*spans, write="assign", refresh="layer"))
    assert not tie_sensitive(made(*spans, write="add", refresh="pass"))


def test_ties_of_schedules() -> None:
    assert not tie_sensitive(run("bp", 2, batches=9))
    assert not tie_sensitive(run("fdg", 3, batches=9))
    assert tie_sensitive(run("async-lu", 2, batches=9))  # beta = 2 is a whole number
    uneven = simulate(
        build("async-lu", layers=2, batches=9), Workload.even(2, "1.0001", "1.9003", "0.017")
    )
    assert not tie_sensitive(uneven)
