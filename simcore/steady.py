"""Long runs, exactly: what a schedule comes to in 10^9 batches, from a few periods of it.

A schedule without random times comes, as a rule, to a regime in which everything repeats, some
ticks later and some batches on. Then a longer run is a shorter one with more periods in the middle,
and all that is counted grows by the same for each: in Python's integers, without rounding.

* `simulated`: the run itself.
* `periodic`: of a static schedule, the period is proved (see `simcore.regime`); of one that chooses
  by the times, three simulations, each a period longer, nest row by row (see `simcore.nesting`).
* `max-plus`: a static schedule without a short period. The makespan is that of powers of its
  matrix; gaps do not depend on times; what is held at most is not known.
* `estimated`: neither. The makespan grows by the mean of the second half of the longest simulation.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import Final, Literal

from simcore.bodies import MOST_EVENTS, Recorded, Repeating, least_batches, repeatings, unit_of
from simcore.cluster import Cluster
from simcore.coincidences import is_static
from simcore.costs import Costs
from simcore.durations import Variations
from simcore.engine import simulate_timed
from simcore.errors import InputError
from simcore.estimate import estimate
from simcore.memory import Peak, memory_of
from simcore.metrics import peak_in_flight
from simcore.nesting import nesting, period_in_batches
from simcore.precedence import NotStaticError
from simcore.regime import Regime, end_after, periodic_regime
from simcore.schedule import Schedule
from simcore.schedules import rebuild
from simcore.staleness import GapSummary, gap_summaries, lost_updates
from simcore.timing import Timing
from simcore.trace import Trace
from simcore.workload import Workload

__all__ = ["How", "LongRun", "long_run"]

How = Literal["simulated", "periodic", "max-plus", "estimated"]

_TRIES: Final = 4  # longer and longer simulations, until one shows what it must


@dataclass(frozen=True, slots=True)
class LongRun:
    """What a run of so many mini-batches comes to; None is what is not known.

    `how` it was found, and in words, `ground`; `proved` says whether that is a proof. `period` is
    in mini-batches, and `steady_gaps` and `batch_s`, the seconds of one of them, are those of a
    period. `busy_s` and `peaks` are of each worker, `peaks` as `simcore.memory.Peak` without their
    ticks; the rest is of each block.
    """

    batches: int
    how: How
    ground: str
    makespan_s: Fraction
    proved: bool = False
    batch_s: Fraction | None = None
    period: int | None = None
    busy_s: tuple[Fraction, ...] | None = None
    updates: int | None = None
    gaps: tuple[GapSummary, ...] | None = None
    steady_gaps: tuple[GapSummary, ...] | None = None
    lost_updates: tuple[int, ...] | None = None
    peak_in_flight: tuple[int, ...] | None = None
    peaks: tuple[Peak, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Counted:
    """What a trace comes to: what grows with each period, and what must not."""

    ticks: int
    busy: tuple[int, ...]
    updates: int
    histograms: tuple[Mapping[int, int], ...]
    lost: tuple[int, ...]
    in_flight: tuple[int, ...]
    peaks: tuple[Peak, ...] | None


def long_run(
    schedule: Schedule,
    blocks: Workload,
    cluster: Cluster | None = None,
    batches: int | None = None,
    *,
    most_events: int = MOST_EVENTS,
    estimates: bool = True,
    progress: Callable[[str], None] | None = None,
) -> LongRun:
    """What a schedule would come to with so many mini-batches, by default its own.

    It must have been built by its name, for it is built again with fewer batches; block k costs
    what layer k of `blocks` does. No more than about `most_events` operations are simulated at
    once. `progress` is told what is done.

    Raises `InputError` if batches cannot be left out: for faults of workers, or, without
    `estimates`, where nothing was seen to repeat; other errors as `simcore.engine.simulate`.

    >>> from simcore.schedules import build
    >>> found = long_run(build("fdg", modules=3), Workload.even(3, 3), batches=10**9)
    >>> found.how, found.makespan_s, found.period, found.gaps[0].histogram
    ('periodic', Fraction(3000000002, 1), 1, {0: 1, 1: 1, 2: 1, 3: 999999997})
    """
    cluster = cluster or Cluster.private()
    wanted = int(str(schedule.options.get("batches", 0))) if batches is None else batches
    runs = _Runs(schedule, blocks, cluster, wanted, progress or (lambda _: None))
    if cluster.faults:
        rule = "happen once, so that no run repeats itself"
        raise InputError("faults", len(cluster.faults), rule, "leave out pauses and losses")
    if runs.events(wanted) <= most_events // 4:
        return runs.simulated()
    last: Repeating | None = None
    try:
        for repeating in repeatings(runs.recorded, wanted, most_events):
            regime = periodic_regime(repeating)
            if regime is not None:
                return _proved(runs, repeating, regime)
            last = repeating
    except NotStaticError as error:
        found = _observed(runs, most_events)
        if found is not None:
            return found
        if not estimates:
            raise
        return _estimated(runs, most_events, f"{error}")
    assert last is not None
    return _powers(runs, last) if wanted > last.batches else runs.simulated()


class _Runs:
    """Simulations of a schedule with other numbers of batches, in the ticks of the long run."""

    def __init__(
        self,
        schedule: Schedule,
        blocks: Workload,
        cluster: Cluster,
        wanted: int,
        progress: Callable[[str], None],
    ) -> None:
        self.schedule, self.blocks, self.cluster = schedule, blocks, cluster
        self.wanted, self.progress = wanted, progress
        self.recorded = Recorded(schedule, blocks, cluster, wanted)
        self.tick_s = self.costs.tick.seconds
        self.traces: dict[int, Trace] = {}

    @property
    def costs(self) -> Costs:
        return self.recorded.costs

    def events(self, batches: int) -> int:
        """Operations of a run of so many batches, about."""
        return estimate(
            self.schedule.name, {**self.schedule.options, "batches": batches}
        ).operations

    def trace(self, batches: int) -> Trace:
        """The simulation of so many batches."""
        if batches not in self.traces:
            self.progress(f"simulating {batches} batches")
            schedule = rebuild(self.schedule, batches=batches)
            timing = Timing(schedule, self.costs, self.cluster, Variations(), 0)
            self.traces[batches] = simulate_timed(schedule, self.costs, self.cluster, timing)
        return self.traces[batches]

    def counted(self, batches: int) -> _Counted:
        """What the simulation of so many batches comes to."""
        trace = self.trace(batches)
        busy = [0] * len(trace.header.workers)
        lasted = (trace.spans["end"] - trace.spans["start"]).tolist()
        for worker, ticks in zip(trace.spans["worker"].tolist(), lasted, strict=True):
            busy[worker] += ticks
        schedule = rebuild(self.schedule, batches=batches)
        memory = memory_of(trace, schedule, self.blocks)
        return _Counted(
            trace.end - trace.start,
            tuple(busy),
            len(trace.of_kind("update")),
            tuple(summary.histogram for summary in gap_summaries(trace)),
            lost_updates(trace),
            peak_in_flight(trace),
            None if memory is None else tuple(Peak(0, p.bytes, p.categories) for p in memory[1]),
        )

    def simulated(self) -> LongRun:
        """The run itself."""
        found = self.counted(self.wanted)
        return self.extended(
            "simulated", "the whole run was simulated", found, found, None, 0, True
        )

    def extended(
        self,
        how: How,
        ground: str,
        short: _Counted,
        longer: _Counted,
        period: int | None,
        times: int,
        proved: bool = False,
    ) -> LongRun:
        """The short run and so many times what the longer one has more, in `period` batches."""
        pairs = zip(short.histograms, longer.histograms, strict=True)
        differences = [_minus(more, few) for few, more in pairs]
        gaps = [
            Counter({gap: few[gap] + times * more[gap] for gap in {**few, **more}})
            for few, more in zip(map(Counter, short.histograms), differences, strict=True)
        ]
        ticks = longer.ticks - short.ticks
        return LongRun(
            self.wanted,
            how,
            ground,
            (short.ticks + times * ticks) * self.tick_s,
            proved,
            None if period is None else ticks * self.tick_s / period,
            period,
            tuple((a + times * (b - a)) * self.tick_s for a, b in _both(short.busy, longer.busy)),
            short.updates + times * (longer.updates - short.updates),
            _summaries(gaps),
            None if period is None else _summaries(differences),
            tuple(a + times * (b - a) for a, b in _both(short.lost, longer.lost)),
            short.in_flight,
            short.peaks,
        )


def _every(period: int) -> str:
    return "with every batch" if period == 1 else f"every {period} batches"


def _both(few: tuple[int, ...], more: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    return zip(few, more, strict=True)


def _minus(more: Mapping[int, int], few: Mapping[int, int]) -> Counter[int]:
    found = Counter(more)
    found.subtract(few)
    return found


def _summaries(histograms: list[Counter[int]]) -> tuple[GapSummary, ...]:
    found = []
    for block, counts in enumerate(histograms, 1):
        kept = {gap: counts[gap] for gap in sorted(counts) if counts[gap]}
        if not kept:
            found.append(GapSummary(block, None, None, None, {}))
            continue
        mean = sum(gap * count for gap, count in kept.items()) / sum(kept.values())
        found.append(GapSummary(block, mean, min(kept), max(kept), kept))
    return tuple(found)


def _proved(runs: _Runs, repeating: Repeating, regime: Regime) -> LongRun:
    """A static schedule whose regime is proved: two simulations, one period apart."""
    wanted, period = runs.wanted, regime.period * repeating.period
    batches = repeating.batches + (regime.needed - repeating.iterations) * repeating.period
    least = max(batches, least_batches(runs.schedule))
    batches = least + (wanted - least) % period
    for _ in range(_TRIES):
        if batches + period >= wanted:
            return runs.simulated()
        short, longer = runs.trace(batches), runs.trace(batches + period)
        found = nesting(short, longer)
        if found is not None and found.ticks == regime.ticks:
            few, more = runs.counted(batches), runs.counted(batches + period)
            if (few.in_flight, few.peaks) == (more.in_flight, more.peaks):
                ground = (
                    f"everything repeats {_every(period)}: proved, for the order of events is "
                    "fixed, and their times recur"
                )
                times = (wanted - batches) // period
                return runs.extended("periodic", ground, few, more, period, times, True)
        batches += -(-batches // period) * period
    raise AssertionError("what is proved to repeat must be seen to do so")


def _observed(runs: _Runs, most_events: int) -> LongRun | None:
    """A schedule that chooses: three simulations, one period apart each, if they nest."""
    schedule, wanted = runs.schedule, runs.wanted
    unit, least = unit_of(schedule), 3 * least_batches(schedule)
    while runs.events(least) <= most_events // 4 and least < wanted:
        batches = least + (wanted - least) % unit
        passes = period_in_batches(runs.trace(batches))
        if passes is not None:
            period = lcm(unit * schedule.micro_batches, passes) // schedule.micro_batches
            batches = least + (wanted - least) % period
            if runs.events(batches + 2 * period) > most_events:
                return None
            if batches + 2 * period >= wanted:
                return runs.simulated()
            found = _nested(runs, batches, period)
            if found is not None:
                return found
        least *= 2
    return None


def _nested(runs: _Runs, batches: int, period: int) -> LongRun | None:
    sizes = [batches + times * period for times in range(3)]
    traces = [runs.trace(size) for size in sizes]
    one, two = nesting(traces[0], traces[1]), nesting(traces[1], traces[2])
    if one is None or one != two:
        return None
    counted = [runs.counted(size) for size in sizes]
    if len({str((each.in_flight, each.peaks)) for each in counted}) > 1:
        return None
    ground = (
        f"everything repeats {_every(period)}: simulations of {sizes[0]}, {sizes[1]} and "
        f"{sizes[2]} batches are the same, row by row, but for one period and two"
    )
    times = (runs.wanted - batches) // period
    return runs.extended("periodic", ground, counted[0], counted[1], period, times)


def _powers(runs: _Runs, repeating: Repeating) -> LongRun:
    """A static schedule without a short period: makespan by powers, gaps by its programs."""
    wanted, period = runs.wanted, repeating.period
    runs.progress("raising the matrix of the schedule to a power")
    end = end_after(repeating, (wanted - repeating.batches) // period)
    assert end is not None, "the longest recording holds all that its end comes after"
    least = least_batches(runs.schedule)
    batches = least + (wanted - least) % period
    few, more, most = (runs.counted(batches + times * period) for times in range(3))
    times = (wanted - batches) // period
    ground = (
        "the makespan is that of powers of the schedule's max-plus matrix, for no short period was "
        "found; gaps are those of its programs, whatever the times; peaks are not known"
    )
    found = runs.extended("max-plus", ground, few, more, period, times)
    grows = [_minus(b, a) for a, b in zip(few.histograms, more.histograms, strict=True)]
    again = [_minus(b, a) for a, b in zip(more.histograms, most.histograms, strict=True)]
    gaps = found.gaps if is_static(runs.schedule) and grows == again else None
    return LongRun(
        wanted,
        "max-plus",
        ground,
        end * runs.tick_s,
        proved=True,
        busy_s=found.busy_s,
        updates=found.updates,
        gaps=gaps,
        steady_gaps=found.steady_gaps if gaps else None,
        lost_updates=found.lost_updates if gaps else None,
    )


def _estimated(runs: _Runs, most_events: int, reason: str) -> LongRun:
    """The makespan, if the second half of the longest simulation goes on like that."""
    batches = least_batches(runs.schedule)
    if runs.events(2 * batches) > most_events:
        rule = f"must be at most {most_events} for the {2 * batches} batches that an estimate needs"
        raise InputError("operations", runs.events(2 * batches), rule, "give fewer modules")
    while runs.events(4 * batches) <= most_events // 4:
        batches *= 2
    short, longer = runs.trace(batches), runs.trace(2 * batches)
    first, second = short.end - short.start, longer.end - longer.start
    ticks = second + Fraction(second - first, batches) * (runs.wanted - 2 * batches)
    ground = (
        f"an estimate: nothing was seen to repeat exactly in {2 * batches} batches, the second "
        f"half of which is taken for the rest; and the order of events is not fixed ({reason})"
    )
    return LongRun(runs.wanted, "estimated", ground, ticks * runs.tick_s)
