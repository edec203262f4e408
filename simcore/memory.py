"""Memory of each worker over time and at its peak, read from a trace.

What is counted, and in which category, is said in `simcore.holdings`. At one tick, what ends is let
go first, then what begins is taken.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simcore.holdings import CATEGORIES, has_sizes, holdings_of
from simcore.levels import changes
from simcore.passes import NEVER
from simcore.schedule import Schedule
from simcore.trace import Trace
from simcore.workload import Workload

__all__ = ["Memory", "Peak", "memory_of", "memory_over_time", "peak_memory"]


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """What a worker holds over time: `held[i]` bytes from tick `ticks[i]` to the next.

    `held` has shape (ticks, categories), in the order of `simcore.holdings.CATEGORIES`.
    """

    ticks: NDArray[np.int64]
    held: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Peak:
    """The most bytes that a worker holds at once, the first tick of it, and what they are."""

    tick: int
    bytes: int
    categories: Mapping[str, int]


def memory_of(
    trace: Trace, schedule: Schedule, workload: Workload
) -> tuple[NDArray[np.void], tuple[Peak, ...]] | None:
    """All holdings of a run and the peak of each worker; None if the workload gives no sizes.

    `workload` has a layer for each block.
    """
    if not has_sizes(workload):
        return None
    holdings = holdings_of(trace, schedule, workload)
    return holdings, peak_memory(holdings, trace)


def memory_over_time(holdings: NDArray[np.void], worker: int) -> Memory:
    """What one worker holds from each tick on at which something changes for good."""
    own = holdings[holdings["worker"] == worker]
    ended = own[own["end"] != NEVER]
    ticks, at = np.unique(np.concatenate([own["start"], ended["end"]]), return_inverse=True)
    change = np.zeros((len(ticks), len(CATEGORIES)), np.int64)
    category = np.concatenate([own["category"], ended["category"]])
    np.add.at(change, (at, category), np.concatenate([own["bytes"], -ended["bytes"]]))
    held = np.cumsum(change, axis=0)
    lasting = np.append(True, (change[1:] != 0).any(axis=1))[: len(ticks)]
    return Memory(ticks[lasting], held[lasting])


def peak_memory(holdings: NDArray[np.void], trace: Trace) -> tuple[Peak, ...]:
    """The peak of each worker of a trace, from its holdings."""
    worker, size = holdings["worker"], holdings["bytes"]
    order = changes(worker, holdings["start"], holdings["end"])
    signed = np.concatenate([size, -size])[order]
    held = np.cumsum(signed)
    which = order % max(1, len(holdings))
    bounds = np.searchsorted(worker[which], np.arange(len(trace.header.workers) + 1))
    peaks = []
    for first, behind in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        if first == behind:
            peaks.append(Peak(trace.start, 0, dict.fromkeys(CATEGORIES, 0)))
            continue
        top = first + int(held[first:behind].argmax())
        parts = np.zeros(len(CATEGORIES), np.int64)
        np.add.at(parts, holdings["category"][which[first : top + 1]], signed[first : top + 1])
        tick = int(holdings["start"][which[top]])
        categories = dict(zip(CATEGORIES, parts.tolist(), strict=True))
        peaks.append(Peak(tick, int(held[top]), categories))
    return tuple(peaks)
