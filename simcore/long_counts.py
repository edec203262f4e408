"""What a run comes to in whole numbers, so that it can grow by a period however often."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from simcore.memory import Peak, memory_of
from simcore.metrics import peak_in_flight
from simcore.schedule import Schedule
from simcore.staleness import GapSummary, gap_summaries, lost_updates
from simcore.trace import Trace
from simcore.workload import Workload

__all__ = ["Counted", "Histograms", "counted", "difference", "summaries"]

Histograms = tuple[Mapping[int, int], ...]


@dataclass(frozen=True, slots=True)
class Counted:
    """What a run comes to. `ticks`, `busy` of each worker, `updates`, `histograms` of the gaps of
    each block and `lost` updates of each grow; `in_flight` of each block and `peaks` of each
    worker, None without sizes, are the most at once.
    """

    ticks: int
    busy: tuple[int, ...]
    updates: int
    histograms: Histograms
    lost: tuple[int, ...]
    in_flight: tuple[int, ...]
    peaks: tuple[Peak, ...] | None

    def grown(self, longer: "Counted", times: int) -> "Counted":
        """So many times what a longer run has more, added to this one; the peaks stay."""
        pairs = zip(self.histograms, difference(longer, self), strict=True)
        return replace(
            self,
            ticks=self.ticks + times * (longer.ticks - self.ticks),
            busy=_grown(self.busy, longer.busy, times),
            updates=self.updates + times * (longer.updates - self.updates),
            histograms=tuple(
                {gap: few.get(gap, 0) + times * more.get(gap, 0) for gap in {**few, **more}}
                for few, more in pairs
            ),
            lost=_grown(self.lost, longer.lost, times),
        )


def _grown(few: tuple[int, ...], more: tuple[int, ...], times: int) -> tuple[int, ...]:
    return tuple(a + times * (b - a) for a, b in zip(few, more, strict=True))


def difference(longer: Counted, short: Counted) -> Histograms:
    """The gaps that the longer run has more, of each block."""
    found = []
    for more, few in zip(longer.histograms, short.histograms, strict=True):
        counts = Counter(more)
        counts.subtract(few)
        found.append(counts)
    return tuple(found)


def counted(trace: Trace, schedule: Schedule, blocks: Workload) -> Counted:
    """What a simulation of the schedule comes to; `blocks` has a layer for each block."""
    spans = trace.spans
    busy = np.zeros(len(trace.header.workers), np.int64)
    np.add.at(busy, spans["worker"], spans["end"] - spans["start"])
    memory = memory_of(trace, schedule, blocks)
    return Counted(
        trace.end - trace.start,
        tuple(busy.tolist()),
        len(trace.of_kind("update")),
        tuple(summary.histogram for summary in gap_summaries(trace)),
        lost_updates(trace),
        peak_in_flight(trace),
        None if memory is None else tuple(Peak(0, p.bytes, p.categories) for p in memory[1]),
    )


def summaries(histograms: Histograms) -> tuple[GapSummary, ...]:
    """Histograms of gaps as `simcore.staleness.gap_summaries` has them."""
    found = []
    for block, counts in enumerate(histograms, 1):
        kept = {gap: counts[gap] for gap in sorted(counts) if counts[gap]}
        if not kept:
            found.append(GapSummary(block, None, None, None, {}))
            continue
        mean = sum(gap * count for gap, count in kept.items()) / sum(kept.values())
        found.append(GapSummary(block, mean, min(kept), max(kept), kept))
    return tuple(found)
