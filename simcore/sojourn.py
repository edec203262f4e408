"""The sojourn law: staleness from two times, that of a batch in a block and that between updates.

The *sojourn* S of a gradient is the time from when its forward pass read the block's weights (its
replay, where that reads them again) to when its own update landed. The *cycle* c is the time from
one landing on the block to the next. Landings that are c apart leave

    gap = ceil(S / c) - 1,

for any number of gradients per update and any S: an update at the very tick of the read is seen,
hence the ceiling. If M gradients make an update and were read c / M after each other, the mean of
their gaps is (ceil(S M / c) - 1) / M with the S of the last of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simcore.cluster import Cluster
from simcore.engine import simulate
from simcore.passes import cells, cells_of, passes_of
from simcore.schedule import Schedule
from simcore.schedules import rebuild
from simcore.staleness import gaps
from simcore.trace import Trace
from simcore.window import mean_interval, steady_window
from simcore.workload import Workload

__all__ = ["Sojourn", "critical_path_s", "sojourn_law", "sojourn_ticks", "sojourn_values"]


@dataclass(frozen=True, slots=True)
class Sojourn:
    """The sojourn law in one block of one replica, over the steady window.

    * `sojourn_s`, `gap`: means over the window's gradients. `cycle_s`: mean time between landings.
    * `gap_by_law`: mean of ceil(S / c) - 1, S that of each gradient. It equals `gap` where `exact`:
      the landings are equally far apart, forward passes read the newest weights, and none that
      takes no time reads at the tick of a landing.
    * `floor_s`: S of the critical path, from forward pass to landing when nothing waits. `floor`:
      the gap with it, what the way through the network and the pace c cost at least where the
      landings are equally far apart. `excess` is gap - floor.
    """

    replica: int
    block: int
    sojourn_s: Fraction
    cycle_s: Fraction
    gap: Fraction
    gap_by_law: Fraction
    exact: bool
    floor_s: Fraction
    floor: int
    excess: Fraction


def sojourn_law(
    trace: Trace, schedule: Schedule, blocks: Workload, cluster: Cluster | None = None
) -> tuple[Sojourn, ...] | None:
    """The sojourn law of each block of each replica, of what its schedule did on this cluster.

    None if the trace has no steady window (see `simcore.window`). A block with fewer than two
    updates in it is left out. Simulates one batch alone, for the critical path.
    """
    window = steady_window(trace)
    if window is None:
        return None
    reads = _reads(trace, schedule)
    rows, sojourns, found = trace.gradients, _since(trace, reads), gaps(trace)
    cell = cells_of(trace, rows["worker"], rows["block"])
    inside = (rows["time"] > window[0]) & (rows["time"] <= window[1])
    floors = critical_path_s(schedule, blocks, cluster)
    laws = []
    for number in range(cells(trace.header)):
        replica, index = divmod(number, trace.header.blocks)
        chosen = (cell == number) & inside
        cycle = mean_interval(_landings(rows[chosen]))
        if cycle is None:
            continue
        gap, floor_s = _mean(found[chosen]), floors[index]
        floor = _gap(floor_s / trace.header.tick_s, cycle)
        laws.append(
            Sojourn(
                replica,
                index + 1,
                _mean(sojourns[chosen]) * trace.header.tick_s,
                cycle * trace.header.tick_s,
                gap,
                _mean_gap(sojourns[chosen], cycle),
                _is_exact(trace, schedule, cell == number, chosen, sojourns, reads),
                floor_s,
                floor,
                gap - floor,
            )
        )
    return tuple(laws)


def sojourn_ticks(trace: Trace, schedule: Schedule) -> NDArray[np.int64]:
    """The sojourn of every row of `trace.gradients`, shape (gradients,), in ticks."""
    return _since(trace, _reads(trace, schedule))


def _since(trace: Trace, reads: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ticks from these passes to when the gradients that came of them landed."""
    rows = trace.gradients
    start = np.zeros((trace.header.blocks + 1, trace.header.batches), np.int64)
    start[trace.spans["block"][reads], trace.spans["batch"][reads]] = trace.spans["start"][reads]
    ticks: NDArray[np.int64] = rows["time"] - start[rows["block"], rows["batch"]]
    return ticks


def critical_path_s(
    schedule: Schedule, blocks: Workload, cluster: Cluster | None = None
) -> tuple[Fraction, ...]:
    """For each block, the shortest sojourn in seconds when a single mini-batch is there.

    Then nothing waits, except what the program itself puts in between. Each replica has one, and no
    worker stands still.
    """
    single = rebuild(schedule, batches=schedule.options.get("replicas", 1))
    steady = cluster and replace(cluster, pauses=(), losses=())
    trace = simulate(single, blocks, steady)
    sojourns, block = sojourn_ticks(trace, single), trace.gradients["block"]
    return tuple(
        int(sojourns[block == number].min()) * trace.header.tick_s
        for number in range(1, schedule.blocks + 1)
    )


def sojourn_values(laws: Sequence[Sojourn] | None) -> list[dict[str, Any]] | None:
    """The laws as JSON values: times in seconds, gaps in updates; one entry for each.

    `replica` counts from 0, `block` from 1.
    """
    if laws is None:
        return None
    return [
        {
            "replica": law.replica,
            "block": law.block,
            "sojourn_s": float(law.sojourn_s),
            "cycle_s": float(law.cycle_s),
            "gap": float(law.gap),
            "gap_by_law": float(law.gap_by_law),
            "exact": law.exact,
            "floor_s": float(law.floor_s),
            "floor": law.floor,
            "excess": float(law.excess),
        }
        for law in laws
    ]


def _landings(rows: NDArray[np.void]) -> NDArray[np.int64]:
    """When the updates of these gradients, all of one cell, landed; ascending."""
    _, first = np.unique(rows["version_applied"], return_index=True)
    landings: NDArray[np.int64] = rows["time"][first]
    return landings


def _reads(trace: Trace, schedule: Schedule) -> NDArray[np.int64]:
    """The rows of the passes that read what a gap counts from, one for each block and batch."""
    passes = passes_of(trace)
    if schedule.weights.policy == "stash":
        return passes.first
    return np.where(passes.maker < 0, passes.first, passes.maker)


def _is_exact(
    trace: Trace,
    schedule: Schedule,
    of_cell: NDArray[np.bool_],
    chosen: NDArray[np.bool_],
    sojourns: NDArray[np.int64],
    reads: NDArray[np.int64],
) -> bool:
    """Whether the law must hold: equal intervals between all landings since the earliest read."""
    rows, spans = trace.gradients, trace.spans
    since = int((rows["time"] - sojourns)[chosen].min())
    until = int(rows["time"][chosen].max())
    landings = _landings(rows[of_cell])
    landings = landings[(landings > since) & (landings <= until)]
    intervals = np.unique(np.diff(landings))
    # From the earliest read on: the first landing after it comes within one interval.
    even = len(intervals) == 1 and landings[0] - since <= intervals[0]
    instant = reads[spans["start"][reads] == spans["end"][reads]]
    at_once = np.isin(spans["start"][instant], rows["time"][of_cell]).any()
    return bool(even and not at_once and not schedule.weights.buffer)


def _gap(sojourn: Fraction, cycle: Fraction) -> int:
    return max(0, ceil(sojourn / cycle) - 1)


def _mean_gap(sojourns: NDArray[np.int64], cycle: Fraction) -> Fraction:
    different, counts = np.unique(sojourns, return_counts=True)
    each = zip(different.tolist(), counts.tolist(), strict=True)
    total = sum(_gap(Fraction(ticks), cycle) * count for ticks, count in each)
    return Fraction(total, len(sojourns))


def _mean(values: NDArray[np.int64] | Sequence[int]) -> Fraction:
    return Fraction(int(sum(values)), len(values))
