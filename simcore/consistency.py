"""Consistency: whether a batch meets weights of one age on its way up, and again on its way down.

Versions of different blocks cannot be compared where blocks are updated at different rates. So the
age of the weights that a pass reads is counted in *batches seen*: how many gradients the block's
updates had applied to them, in its own replica. With one update for each batch that is v_f itself.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from simcore.passes import NEVER, Passes, cells, cells_of, merges_before, passes_of
from simcore.trace import Trace

__all__ = ["Spread", "batches_seen", "drift", "fresh_fractions", "inconsistency"]

Window = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean, least and most of something that is counted."""

    mean: float
    min: int
    max: int

    @classmethod
    def of(cls, values: NDArray[np.int64]) -> "Spread | None":
        """Of at least one value; None of none."""
        if not len(values):
            return None
        return cls(int(values.sum()) / len(values), int(values.min()), int(values.max()))


def batches_seen(trace: Trace, passes: Passes) -> NDArray[np.int64]:
    """How many gradients the weights contain that the first of each of these passes reads."""
    rows, read = trace.gradients, passes.first
    cell = cells_of(trace, trace.spans["worker"][read], passes.block)
    version = trace.spans["version"][read]
    most = int(max(version.max(initial=0), rows["version_applied"].max(initial=0)))
    applied = np.zeros((cells(trace.header), most + 2), np.int64)
    to = cells_of(trace, rows["worker"], rows["block"])
    np.add.at(applied, (to, rows["version_applied"] + 1), 1)
    seen: NDArray[np.int64] = np.cumsum(applied, axis=1)[cell, version]
    return seen


def inconsistency(trace: Trace, window: Window | None = None) -> Spread | None:
    """How far apart in age the weights of the blocks are that a batch meets on its way up.

    For each batch: the most batches seen of any block, less the least. Blocks that are never
    updated have no age. Over all batches, or over those that pass all blocks in the window: later
    than its first tick, and not later than its second.
    """
    passes = passes_of(trace)
    ages = np.isin(passes.block, trace.gradients["block"])
    seen, batch = batches_seen(trace, passes)[ages], passes.batch[ages]
    most, least = (np.full(trace.header.batches, bound) for bound in (-1, NEVER))
    np.maximum.at(most, batch, seen)
    np.minimum.at(least, batch, seen)
    counted = most >= 0
    if window is not None:
        counted[passes.batch[~_inside(trace, passes, window)]] = False
    return Spread.of(most[counted] - least[counted])


def drift(trace: Trace, window: Window | None = None) -> Spread | None:
    """How many updates a block's weights are newer in the backward pass of a batch than in its
    first forward pass, v_b - v_f: 0 where old weights are stashed.

    Over all gradients, or over those that are applied in the window.
    """
    rows = trace.gradients
    cell = cells_of(trace, rows["worker"], rows["block"])
    down, up = rows["version_backward"], rows["version_first"]
    newer = down - up - merges_before(trace, cell, down) + merges_before(trace, cell, up)
    if window is not None:
        newer = newer[(rows["time"] > window[0]) & (rows["time"] <= window[1])]
    return Spread.of(newer)


def fresh_fractions(trace: Trace, window: Window | None = None) -> tuple[Fraction | None, ...]:
    """For each block, the share of batches that meet the update of the batch before it.

    That is the one before it in the same replica, if it had a gradient of the block. The mean over
    the blocks is the share of layers whose weights a forward pass already sees updated by the
    previous batch (Async BP, section 3.2). Over all batches, or over the passes that start in the
    window; None for a block without any.
    """
    rows, batches, passes = trace.gradients, trace.header.batches, passes_of(trace)
    applied = np.full(trace.header.blocks * batches, -1)
    applied[(rows["block"] - 1) * batches + rows["batch"]] = rows["version_applied"]
    cell = cells_of(trace, trace.spans["worker"][passes.first], passes.block)
    order = np.lexsort((passes.batch, cell))
    earlier = np.append(-1, order[:-1])
    earlier[np.append(True, np.diff(cell[order]) != 0)[: len(order)]] = -1
    before = np.empty_like(order)
    before[order] = earlier[: len(order)]
    found = applied[(passes.block[before] - 1) * batches + passes.batch[before]]
    judged = (before >= 0) & (found >= 0)
    if window is not None:
        judged &= _inside(trace, passes, window)
    fresh = judged & (trace.spans["version"][passes.first] > found)
    counts = (
        np.bincount(passes.block[those], minlength=trace.header.blocks + 1)[1:].tolist()
        for those in (fresh, judged)
    )
    return tuple(Fraction(new, all_) if all_ else None for new, all_ in zip(*counts, strict=True))


def _inside(trace: Trace, passes: Passes, window: Window) -> NDArray[np.bool_]:
    read = trace.spans["start"][passes.first]
    inside: NDArray[np.bool_] = (read > window[0]) & (read <= window[1])
    return inside
