"""What a schedule does in figures, without a trace where that is possible.

Makespan, load, gaps and batches in flight are counted while the programs run, in memory that does
not grow with the number of batches. That is the slim variant of the compiled engine, for schedules
whose workers only exchange messages. All others leave a trace, by the compiled engine or by SimPy,
and the same figures are read from it.

>>> from simcore.schedules import build
>>> found = figures(build("fdg", modules=3, batches=1000), Workload.even(3))
>>> found.makespan_s, found.gaps[0].max, found.peak_in_flight
(1002.0, 3, (4, 2, 1))
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from simcore import metrics
from simcore.cluster import Cluster
from simcore.costs import Costs
from simcore.durations import Variations, chosen
from simcore.engines import Engine, lowered, simulate_timed, why_not_compiled
from simcore.garbage import uncollected
from simcore.holdings import has_sizes
from simcore.memory import memory_of
from simcore.schedule import Schedule
from simcore.staleness import GapSummary, gap_summaries
from simcore.timing import Timing
from simcore.trace import Trace
from simcore.workload import Workload

if TYPE_CHECKING:
    from simcore.lowering import Lowering

__all__ = ["SLIM", "Figures", "figures", "figures_of"]

SLIM: Final = "slim"


@dataclass(frozen=True, slots=True)
class Figures:
    """What a schedule did.

    * `makespan_s`, `busy_s` (by worker) and `utilization`: as in `simcore.metrics`.
    * `operations`: the rows that a trace has; `updates`: those of all blocks and replicas.
    * `gaps`: for each block, as `simcore.staleness.gap_summaries`.
    * `peak_in_flight`: for each block, as `simcore.metrics.peak_in_flight`.
    * `peak_bytes`: the most bytes that each worker holds, as `simcore.memory.peak_memory`; None if
      they were not asked for or the workload gives no sizes.
    * `engine`: what ran: `slim`, `compiled` or `simpy`. `instead_of` says why it was not the one
      before it.
    """

    makespan_s: float
    busy_s: tuple[float, ...]
    utilization: float
    operations: int
    updates: int
    gaps: tuple[GapSummary, ...]
    peak_in_flight: tuple[int, ...]
    peak_bytes: tuple[int, ...] | None
    engine: str
    instead_of: str = ""


def figures(
    schedule: Schedule,
    blocks: Workload,
    cluster: Cluster | None = None,
    *,
    engine: Engine = "compiled",
    jitter: float = 0.0,
    variation: Variations | None = None,
    seed: int = 0,
    memory: bool = False,
    told: Callable[[str], None] | None = None,
    lowering: "Lowering | None" = None,
) -> Figures:
    """Simulate as `simcore.engines.simulate` and keep the figures only.

    With `memory`, which needs a trace, they include the most bytes that each worker holds. `told`
    is given a line where SimPy has to run instead of a compiled engine. Who asks about a schedule
    many times may give its `lowering` (`simcore.engines.lowered`), which takes most of the time.

    Raises what `simcore.engine.simulate` raises.
    """
    cluster = cluster or Cluster.private()
    variations = chosen(jitter, variation)
    costs = Costs.of(schedule, blocks, cluster, variations.random)
    timing = Timing(schedule, costs, cluster, variations, seed)
    memory = memory and has_sizes(blocks)
    reason = ""
    if engine == "compiled":
        with uncollected():
            lowering = lowering or lowered(schedule)
            found = (
                "memory is read from a trace"
                if memory
                else _slim(schedule, costs, cluster, timing, lowering)
            )
        if isinstance(found, Figures):
            return found
        reason = found
    about: dict[str, Any] = {"engine": engine, "jitter": jitter}
    trace = simulate_timed(
        schedule,
        costs,
        cluster,
        timing,
        engine=engine,
        seed=seed,
        about=about,
        told=told,
        lowering=lowering,
    )
    instead_of = f"slim: {reason}" if reason else ""
    return figures_of(trace, schedule, blocks if memory else None, instead_of)


def figures_of(
    trace: Trace, schedule: Schedule, blocks: Workload | None = None, instead_of: str = ""
) -> Figures:
    """The figures that a trace of the schedule shows; those of memory if given its workload."""
    about = trace.header.about
    found = blocks and memory_of(trace, schedule, blocks)
    return Figures(
        metrics.makespan_s(trace),
        metrics.busy_s(trace),
        metrics.utilization(trace),
        len(trace.spans),
        len(trace.of_kind("update")),
        gap_summaries(trace),
        metrics.peak_in_flight(trace),
        tuple(peak.bytes for peak in found[1]) if found else None,
        str(about.get("engine", trace.header.origin)),
        str(about.get("instead_of", instead_of)),
    )


def _slim(
    schedule: Schedule,
    costs: Costs,
    cluster: Cluster,
    timing: Timing,
    lowering: "Lowering | None",
) -> Figures | str:
    """The figures that the slim variant counts, or the reason why it does not."""
    if lowering is None:
        return why_not_compiled() or "programs do more than can be proved to repeat itself"

    # Imported here, for they are large.
    from simcore.compiled_slim_run import count
    from simcore.lowering import Unliftable

    try:
        found = count(schedule, costs, cluster, timing, lowering)
    except Unliftable as error:
        return f"{error}"
    tick_s = costs.tick.seconds
    ticks = len(found.busy) * found.end
    peaks = np.zeros(schedule.blocks + 1, np.int64)
    np.maximum.at(peaks, found.blocks, found.peaks)
    of_blocks: list[list[NDArray[np.int64]]] = [[] for _ in range(schedule.blocks + 1)]
    for block, counts in zip(found.blocks.tolist(), found.gaps, strict=True):
        of_blocks[block].append(counts)
    return Figures(
        float(found.end * tick_s),
        tuple(float(each * tick_s) for each in found.busy.tolist()),
        sum(found.busy.tolist()) / ticks if ticks else 0.0,
        found.operations,
        int(found.updates.sum()),
        tuple(_summary(block, parts) for block, parts in enumerate(of_blocks[1:], 1)),
        tuple(peaks[1:].tolist()),
        None,
        SLIM,
    )


class _Histogram(Mapping[int, int]):
    """How often each number from 0 on was counted, without those that never were."""

    __slots__ = ("_counts",)

    def __init__(self, counts: NDArray[np.int64]) -> None:
        self._counts = counts

    def __getitem__(self, number: int) -> int:
        found = int(self._counts[number]) if 0 <= number < len(self._counts) else 0
        if not found:
            raise KeyError(number)
        return found

    def __iter__(self) -> Iterator[int]:
        return iter(np.flatnonzero(self._counts).tolist())

    def __len__(self) -> int:
        return int(np.count_nonzero(self._counts))

    def __repr__(self) -> str:
        return repr(dict(self))


def _summary(block: int, parts: list[NDArray[np.int64]]) -> GapSummary:
    """The gaps of a block from how many gradients of each replica had which."""
    counts = np.zeros(max((len(part) for part in parts), default=0), np.int64)
    for part in parts:
        counts[: len(part)] += part
    if not len(counts):
        return GapSummary(block, None, None, None, {})
    found = np.flatnonzero(counts)
    # Division of Python's integers is correctly rounded, so equal ratios give equal means.
    mean = int((counts * np.arange(len(counts))).sum()) / int(counts.sum())
    return GapSummary(block, mean, int(found[0]), int(found[-1]), _Histogram(counts))
