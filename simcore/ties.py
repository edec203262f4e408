"""Ties: gaps that hang on the order of things which happen at the same tick.

Integer ratios of times make ties all the time, and then one gap is reported where the slightest
change of a duration would give another. First the trace is searched for coincidences that could
matter; without one, no such change can reorder anything. Otherwise the run is repeated in ticks so
fine that one of them stays infinitesimal over the whole run, each time with other durations moved
by one tick, and the gaps are compared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from simcore.cluster import Cluster
from simcore.coincidences import coincides, few_batches, is_static
from simcore.costs import Costs, Delays
from simcore.durations import Variations
from simcore.engines import engine_of, lowered, simulate_timed
from simcore.ops import Load, Merge, Pass, Snapshot, Update
from simcore.randomness import uniform
from simcore.schedule import Schedule
from simcore.schedules import rebuild
from simcore.staleness import GapSummary, gap_summaries, gaps
from simcore.ticks import TICKS_LIMIT, Tick
from simcore.timing import Timing
from simcore.trace import Trace
from simcore.workload import Workload

__all__ = ["GapRange", "Ties", "examine_ties", "repeated", "tie_values"]

_T = TypeVar("_T")

# How many operations are repeated in all; the first few changes, which are those of all blocks, are
# tried whatever they cost.
_OPERATIONS: Final = 30_000
_LEAST_CHANGES: Final = 8
_SHAKES: Final = 4
# Ticks that one tick more in each operation may add up to, over their number: slow devices and
# stragglers stretch it.
_STRETCH: Final = 64


@dataclass(frozen=True, slots=True)
class GapRange:
    """Between what values the gaps of a block moved: those of its mean, and all."""

    block: int
    mean: tuple[float, float]
    gap: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Ties:
    """Whether moving durations by one tick changes a gap.

    `ranges` are over the first `batches` batches and all `changes` of durations that were tried,
    `skipped` further ones were not; without ties they are those of the run itself. None: durations
    are random, or so long that finer ticks do not fit, and nothing was examined.
    """

    sensitive: bool | None
    ranges: tuple[GapRange, ...] | None
    batches: int = 0
    changes: int = 0
    skipped: int = 0


def examine_ties(
    trace: Trace, schedule: Schedule, blocks: Workload, cluster: Cluster | None = None
) -> Ties:
    """Whether the gaps of a simulated run hang on ties, and how far they then move.

    Changes that are tried: all computations of one kind, each channel and each average of replicas
    a tick longer or shorter; single computations at random; computations of one kind in one block.
    """
    about = trace.header.about
    if about.get("jitter") or about.get("variation"):
        return Ties(None, None)
    cluster = cluster or Cluster.private()
    doubtful = not is_static(schedule) and (_rounds(cluster) or coincides(trace, schedule, cluster))
    if doubtful or cluster.faults:
        return repeated(trace, schedule, blocks, cluster)
    return Ties(False, _ranges([gap_summaries(trace)]))


def _rounds(cluster: Cluster) -> bool:
    """Whether speeds are shared: then ends are rounded to ticks, and may miss a coincidence."""
    links = cluster.link, *cluster.links.values()
    return cluster.placement != "private" or any(link.transfers == "shared" for link in links)


def tie_values(ties: Ties) -> dict[str, Any]:
    """Ties as JSON values: `tie_sensitive`, `tie_range` and `tie_examined`."""
    ranges = ties.ranges and [
        {"block": each.block, "mean": list(each.mean), "min": each.gap[0], "max": each.gap[1]}
        for each in ties.ranges
    ]
    examined = {"batches": ties.batches, "changes": ties.changes, "skipped": ties.skipped}
    return {
        "tie_sensitive": ties.sensitive,
        "tie_range": ranges,
        "tie_examined": examined if ties.changes else None,
    }


class _Shaken(Timing):
    """With a seed `shake`, computations take a tick more, or less, or what they should, at random.

    With 0 they take what they should.
    """

    shake = 0

    def ticks(self, worker: int, operation: Pass | Update | Snapshot | Merge | Load) -> int:
        """The duration of the worker's next computation."""
        ticks = super().ticks(worker, operation)
        if not self.shake:
            return ticks
        return max(0, ticks + int(3 * uniform(self.shake, worker, self.counts[worker])) - 1)


def repeated(trace: Trace, schedule: Schedule, blocks: Workload, cluster: Cluster) -> Ties:
    """Examine a run without random durations by repeating it with durations that were moved."""
    few = few_batches(schedule)
    fewer = rebuild(schedule, batches=few)
    parts = _STRETCH * len(trace.spans)
    if trace.end * parts >= TICKS_LIMIT:
        return Ties(None, None)
    costs = _finer(Costs.of(schedule, blocks, cluster), parts)

    seed = trace.header.seed
    lowering = lowered(fewer) if engine_of(trace) == "compiled" else None

    def run(change: _Change) -> Trace:
        costs = change.costs
        if not change.shake and lowering is not None:
            timing = Timing(fewer, costs, cluster, Variations(), seed)
            return simulate_timed(fewer, costs, cluster, timing, seed=seed, lowering=lowering)
        shaken = _Shaken(fewer, costs, cluster, Variations(), seed)
        shaken.shake = change.shake
        return simulate_timed(fewer, costs, cluster, shaken, engine="simpy", seed=seed)

    plain = run(_Change(costs))
    kinds = [kind for kind in costs.compute if len(trace.of_kind(kind))]
    changes = list(_changes(costs, kinds, _links(fewer)))
    most = max(_LEAST_CHANGES, _OPERATIONS // len(plain.spans))
    runs = [plain, *map(run, changes[:most])]
    sensitive = any(not np.array_equal(_sorted_gaps(plain), _sorted_gaps(each)) for each in runs)
    ranges = _ranges([gap_summaries(each) for each in runs])
    return Ties(sensitive, ranges, few, len(runs) - 1, len(changes[most:]))


def _links(schedule: Schedule) -> list[int]:
    """The numbers of the channels that have a link."""
    return [
        number
        for number, channel in enumerate(schedule.channels)
        if not channel.source and not schedule.is_local(channel)
    ]


def _finer(costs: Costs, parts: int) -> Costs:
    """The same durations in ticks of which so many make one of the old."""
    return Costs(
        Tick(costs.tick.seconds / parts),
        {kind: tuple(ticks * parts for ticks in each) for kind, each in costs.compute.items()},
        tuple(Delays(*(ticks * parts for ticks in astuple(each))) for each in costs.delays),
        tuple({block: ticks * parts for block, ticks in each.items()} for each in costs.rounds),
    )


@dataclass(frozen=True, slots=True)
class _Change:
    """Durations that were moved; `shake` is the seed of random moves, 0 for none."""

    costs: Costs
    shake: int = 0


def _changes(costs: Costs, kinds: Sequence[str], links: Sequence[int]) -> Iterator[_Change]:
    """What is tried, most telling first."""
    every = range(max(len(costs.compute[kind]) for kind in kinds))
    for kind in kinds:
        yield from _moved_computations(costs, kind, every)
    for shake in range(1, _SHAKES + 1):
        yield _Change(costs, shake)
    for number in links:
        yield from _moved_messages(costs, number)
    for number, rounds in enumerate(costs.rounds):
        for step in (1, -1):
            moved = {block: ticks + step if ticks else 0 for block, ticks in rounds.items()}
            yield _Change(replace(costs, rounds=_with(costs.rounds, number, moved)))
    for kind in kinds:
        for block in range(1, len(costs.compute[kind])):
            yield from _moved_computations(costs, kind, [block])


def _moved_computations(costs: Costs, kind: str, blocks: Sequence[int]) -> Iterator[_Change]:
    """Computations of a kind and of these blocks a tick longer, and shorter if they take any."""
    for step in (1, -1):
        ticks = tuple(
            max(0, each + step) if block in blocks else each
            for block, each in enumerate(costs.compute[kind])
        )
        if ticks != costs.compute[kind]:
            yield _Change(replace(costs, compute={**costs.compute, kind: ticks}))


def _moved_messages(costs: Costs, number: int) -> Iterator[_Change]:
    """Each part of what a channel's messages cost a tick longer or shorter, if it costs any."""
    delays = costs.delays[number]
    for part in fields(delays):
        ticks: int = getattr(delays, part.name)
        for step in (1, -1):
            if ticks or (part.name, step) == ("latency", 1):
                moved = replace(delays, **{part.name: ticks + step})
                yield _Change(replace(costs, delays=_with(costs.delays, number, moved)))


def _with(values: tuple[_T, ...], number: int, value: _T) -> tuple[_T, ...]:
    return (*values[:number], value, *values[number + 1 :])


def _sorted_gaps(trace: Trace) -> NDArray[np.int64]:
    rows = trace.gradients
    return gaps(trace)[np.lexsort((rows["batch"], rows["block"]))]


def _ranges(runs: Sequence[Sequence[GapSummary]]) -> tuple[GapRange, ...]:
    ranges = []
    for of_block in zip(*runs, strict=True):
        known = [each for each in of_block if each.mean is not None]
        means = [each.mean for each in known if each.mean is not None]
        every = [gap for each in known for gap in each.histogram]
        if known:
            ranges.append(
                GapRange(of_block[0].block, (min(means), max(means)), (min(every), max(every)))
            )
    return tuple(ranges)
