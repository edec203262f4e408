"""Staleness: how many updates passed between reading a weight and applying the gradient to it.

The gap of a gradient is v_a - v_f: the version that its update found, less the version that its
forward pass read (the replay, where one read the weights again), both of its own replica. Versions
that averaging replicas made are not updates and do not count. Plain backpropagation has gap 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simcore.passes import cells_of, merges_before, rows_of
from simcore.trace import Trace
from simcore.window import steady_window

__all__ = [
    "GAP_COLUMNS",
    "PHASES",
    "Delay",
    "GapSummary",
    "gap_summaries",
    "gap_table",
    "gaps",
    "gaps_by_phase",
    "lost_updates",
    "steady_gap_summaries",
    "time_staleness",
]

GAP_COLUMNS = ("time", "batch", "version_forward", "version_applied", "gap")
PHASES: Final = ("start_up", "steady", "drain")


@dataclass(frozen=True, slots=True)
class GapSummary:
    """Gaps of one block, in updates. `histogram` says how many gradients had each gap.

    `mean`, `min` and `max` are None for a block without gradients.
    """

    block: int
    mean: float | None
    min: int | None
    max: int | None
    histogram: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Delay:
    """How long the gradients of one block waited for their updates, in seconds; None without."""

    block: int
    mean_s: float | None
    min_s: float | None
    max_s: float | None


def gaps(trace: Trace) -> NDArray[np.int64]:
    """The gap of every row of `trace.gradients`, shape (gradients,), in updates."""
    rows = trace.gradients
    read, found = rows["version_forward"], rows["version_applied"]
    cell = cells_of(trace, rows["worker"], rows["block"])
    merged = merges_before(trace, cell, found) - merges_before(trace, cell, read)
    gap: NDArray[np.int64] = found - read - merged
    return gap


def gap_table(trace: Trace, block: int) -> NDArray[np.void]:
    """The gradients of one block, in the order of application, with the columns `GAP_COLUMNS`.

    `time` is the tick of the update; the other columns count batches and updates.
    """
    chosen = trace.gradients["block"] == block
    rows = trace.gradients[chosen]
    found = np.empty(len(rows), dtype=[(name, np.int64) for name in GAP_COLUMNS])
    for name in GAP_COLUMNS[:-1]:
        found[name] = rows[name]
    found["gap"] = gaps(trace)[chosen]
    return found


def gap_summaries(trace: Trace, window: tuple[int, int] | None = None) -> tuple[GapSummary, ...]:
    """A summary for each block, 1 next to the data first, over all replicas.

    It is over all updates, or over those in the window: later than its first tick, and not later
    than its second.
    """
    return tuple(_summary(*part) for part in enumerate(_by_block(trace, gaps(trace), window), 1))


def steady_gap_summaries(trace: Trace) -> tuple[GapSummary, ...] | None:
    """As `gap_summaries`, over the steady window (see `simcore.window`); None if it is empty."""
    window = steady_window(trace)
    return None if window is None else gap_summaries(trace, window)


def gaps_by_phase(trace: Trace) -> Mapping[str, tuple[GapSummary, ...]] | None:
    """As `gap_summaries`, before, in and after the steady window; None if there is none.

    The keys are `PHASES`; every update is in one of them.
    """
    window = steady_window(trace)
    if window is None:
        return None
    after, until = window
    windows = (trace.start - 1, after), window, (until, max(until, trace.end))
    return {phase: gap_summaries(trace, part) for phase, part in zip(PHASES, windows, strict=True)}


def time_staleness(trace: Trace, window: tuple[int, int] | None = None) -> tuple[Delay, ...]:
    """For each block, the time from the end of the pass that completed a gradient to its update.

    Over all updates, or over those in the window, as `gap_summaries`.
    """
    spans, rows, batches = trace.spans, trace.gradients, trace.header.batches
    ends = rows_of(trace, "backward", "backward_weight", "project")
    available = np.zeros(trace.header.blocks * batches, np.int64)
    available[(spans["block"][ends] - 1) * batches + spans["batch"][ends]] = spans["end"][ends]
    waited = rows["time"] - available[(rows["block"] - 1) * batches + rows["batch"]]
    return tuple(
        _delay(block, part, trace.header.tick_s)
        for block, part in enumerate(_by_block(trace, waited, window), 1)
    )


def _by_block(
    trace: Trace, values: NDArray[np.int64], window: tuple[int, int] | None
) -> list[NDArray[np.int64]]:
    """One value for each gradient, split by block; those of gradients in the window if given."""
    blocks = trace.gradients["block"]
    if window is not None:
        time = trace.gradients["time"]
        inside = (time > window[0]) & (time <= window[1])
        blocks, values = blocks[inside], values[inside]
    order = np.argsort(blocks, kind="stable")
    bounds = np.searchsorted(blocks[order], np.arange(1, trace.header.blocks + 2))
    return np.split(values[order], bounds)[1:-1]


def _summary(block: int, values: NDArray[np.int64]) -> GapSummary:
    if not len(values):
        return GapSummary(block, None, None, None, {})
    found, counts = np.unique(values, return_counts=True)
    histogram = dict(zip(found.tolist(), counts.tolist(), strict=True))
    # Division of Python's integers is correctly rounded, so equal ratios give equal means.
    mean = int(values.sum()) / len(values)
    return GapSummary(block, mean, int(found[0]), int(found[-1]), histogram)


def _delay(block: int, ticks: NDArray[np.int64], tick_s: Fraction) -> Delay:
    if not len(ticks):
        return Delay(block, None, None, None)
    mean = Fraction(int(ticks.sum()), len(ticks))
    seconds = (float(each * tick_s) for each in (mean, int(ticks.min()), int(ticks.max())))
    return Delay(block, *seconds)


def lost_updates(trace: Trace) -> tuple[int, ...]:
    """For each block, how many updates of others its updates have overwritten; 0 for `write=add`.

    An update that assigns overwrites those between the version that its weights stem from and the
    version that it finds. One update may be overwritten more than once, and counts each time.
    """
    rows = trace.gradients[trace.gradients["version_applied"] > trace.gradients["version_base"]]
    cell = cells_of(trace, rows["worker"], rows["block"])
    versions = int(rows["version_applied"].max(initial=0)) + 1
    # All gradients of an update have the same base.
    _, first = np.unique(cell * versions + rows["version_applied"], return_index=True)
    rows = rows[first]
    lost = np.zeros(trace.header.blocks + 1, np.int64)
    np.add.at(lost, rows["block"], rows["version_applied"] - rows["version_base"])
    return tuple(lost[1:].tolist())
