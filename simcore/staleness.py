"""Staleness: how many updates passed between reading a weight and applying the gradient to it.

The gap of a gradient is v_a - v_f: the version that its update found, less the version that its
forward pass read. Plain backpropagation has gap 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simcore.trace import Trace
from simcore.window import steady_window

__all__ = [
    "GAP_COLUMNS",
    "GapSummary",
    "gap_summaries",
    "gap_table",
    "gaps",
    "lost_updates",
    "steady_gap_summaries",
    "tie_sensitive",
]

GAP_COLUMNS = ("time", "batch", "version_forward", "version_applied", "gap")


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


def gaps(trace: Trace) -> NDArray[np.int64]:
    """The gap of every row of `trace.gradients`, shape (gradients,), in updates."""
    found: NDArray[np.int64] = (
        trace.gradients["version_applied"] - trace.gradients["version_forward"]
    )
    return found


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
    """A summary for each block, 1 next to the data first.

    It is over all updates, or over those in the window: later than its first tick, and not later
    than its second.
    """
    blocks, values = trace.gradients["block"], gaps(trace)
    if window is not None:
        time = trace.gradients["time"]
        inside = (time > window[0]) & (time <= window[1])
        blocks, values = blocks[inside], values[inside]
    order = np.argsort(blocks, kind="stable")
    bounds = np.searchsorted(blocks[order], np.arange(1, trace.header.blocks + 2))
    parts = np.split(values[order], bounds)[1:-1]
    return tuple(_summary(block, part) for block, part in enumerate(parts, 1))


def steady_gap_summaries(trace: Trace) -> tuple[GapSummary, ...] | None:
    """As `gap_summaries`, over the steady window (see `simcore.window`); None if it is empty."""
    window = steady_window(trace)
    return None if window is None else gap_summaries(trace, window)


def _summary(block: int, values: NDArray[np.int64]) -> GapSummary:
    if not len(values):
        return GapSummary(block, None, None, None, {})
    found, counts = np.unique(values, return_counts=True)
    histogram = dict(zip(found.tolist(), counts.tolist(), strict=True))
    # Division of Python's integers is correctly rounded, so equal ratios give equal means.
    mean = int(values.sum()) / len(values)
    return GapSummary(block, mean, int(found[0]), int(found[-1]), histogram)


def lost_updates(trace: Trace) -> tuple[int, ...]:
    """For each block, how many updates of others its updates have overwritten; 0 for `write=add`.

    An update that assigns overwrites those between the version that its weights stem from and the
    version that it finds. One update may be overwritten more than once, and counts each time.
    """
    rows = trace.gradients
    _, first = np.unique(rows[["block", "version_applied"]], return_index=True)
    rows = rows[first]  # all gradients of an update have the same base
    lost = np.zeros(trace.header.blocks + 1, np.int64)
    np.add.at(lost, rows["block"], rows["version_applied"] - rows["version_base"])
    return tuple(lost[1:].tolist())


def tie_sensitive(trace: Trace) -> bool:
    """Whether gaps may depend on the order of things that happen at the same tick.

    True if a worker read a block's weights at the very tick at which another worker raised their
    version, or if two workers raised a block's version at the same tick. The warning is on the safe
    side: the order may be forced by other things than the clock. What it does not look at are
    messages that several workers send at the same tick; they may change which worker gets which
    batch, and so the gaps of single batches.
    """
    updates, reads = trace.of_kind("update"), _reads(trace)
    if not len(updates):
        return False
    block = np.concatenate([updates["block"], reads[0]])
    tick = np.concatenate([updates["end"], reads[1]])
    worker = np.concatenate([updates["worker"], reads[2]])
    raises = np.arange(len(block)) < len(updates)
    order = np.lexsort((worker, tick, block))
    block, tick, worker, raises = block[order], tick[order], worker[order], raises[order]
    new = np.append(True, (np.diff(block) != 0) | (np.diff(tick) != 0))
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(block)) - 1
    raised = np.logical_or.reduceat(raises, first)
    return bool((raised & (worker[first] != worker[last])).any())


def _reads(trace: Trace) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Block, tick and worker of every moment at which a worker looks at the weights of a block."""
    options, blocks = trace.header.options, trace.header.blocks
    forward, backward = trace.of_kind("forward"), trace.of_kind("backward")
    if options.get("weights") == "stash":
        backward = backward[:0]
    block = [forward["block"], backward["block"]]
    tick = [forward["start"], backward["start"]]
    worker = [forward["worker"], backward["worker"]]
    if (options.get("write"), options.get("refresh")) == ("assign", "pass"):
        passes = backward[backward["block"] == blocks]  # renews the worker's copy of all blocks
        block.append(np.tile(np.arange(1, blocks + 1), len(passes)))
        tick.append(np.repeat(passes["start"], blocks))
        worker.append(np.repeat(passes["worker"], blocks))
    return np.concatenate(block), np.concatenate(tick), np.concatenate(worker)
