"""Long runs, exactly: what a schedule comes to in 10^9 batches, from a few periods of it.

A schedule without random times comes, as a rule, to a regime in which everything repeats, some
ticks later and some batches on. Then a longer run is a shorter one with more periods in the middle,
and all that is counted grows by the same for each: in Python's integers, without rounding.

* `simulated`: the run itself.
* `periodic`: two simulations, a period apart, are the same row by row but for one period, at
  whose beginning and end the run is in the same state (see `simcore.nesting`).
* `max-plus`: a schedule whose order of events is fixed, without a short period. The makespan is
  that of powers of its matrix; gaps do not depend on times; what is held at most is not known.
* `estimated`: neither. The makespan grows by the mean of the second half of the longest simulation.
  So is called, too, what is found in one of the first ways of a user's schedule, whose programs may
  count to constants of their own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from math import lcm
from typing import Final, Literal

from simcore.bodies import MOST_EVENTS, Recorded, least_batches, repeatings, unit_of
from simcore.cluster import Cluster
from simcore.durations import Variations
from simcore.engines import Engine, simulate_timed
from simcore.errors import InputError
from simcore.estimate import estimate
from simcore.event_lanes import NotStaticError
from simcore.long_counts import Counted, Histograms, counted, difference, summaries
from simcore.memory import Peak
from simcore.nesting import likely_period, nesting, recurs
from simcore.powers import end_after
from simcore.schedule import Schedule
from simcore.schedules import find, rebuild
from simcore.staleness import GapSummary
from simcore.timing import Timing
from simcore.trace import Trace
from simcore.workload import Workload

__all__ = ["How", "LongRun", "long_run"]

_MOST_NEEDED: Final = 4_000_000  # operations, a GiB

How = Literal["simulated", "periodic", "max-plus", "estimated"]


@dataclass(frozen=True, slots=True)
class LongRun:
    """What a run of so many mini-batches comes to; None is what is not known.

    `how` it was found, and in words, `ground`; `proved` says whether all that is given is exact.
    `period` is in mini-batches, and `steady_gaps` and `batch_s`, the seconds of one of them, are
    those of a period. `busy_s` and `peaks` are of each worker, `peaks` as `simcore.memory.Peak`
    without their ticks; the rest is of each block. `engine` is what simulated.
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
    engine: str = "simpy"


def long_run(
    schedule: Schedule,
    blocks: Workload,
    cluster: Cluster | None = None,
    batches: int | None = None,
    *,
    engine: Engine = "compiled",
    most_events: int = MOST_EVENTS,
    estimates: bool = True,
    progress: Callable[[str], None] | None = None,
) -> LongRun:
    """What a schedule would come to with so many mini-batches, by default its own.

    It must have been built by its name, for it is built again with fewer batches; block k costs
    what layer k of `blocks` does. No more than about `most_events` operations are simulated at
    once, or what very many workers need. `progress` is told what is done.

    Raises `InputError` if batches cannot be left out: for faults of workers, or, without
    `estimates`, where nothing was seen to repeat; other errors as `simcore.engine.simulate`.

    >>> from simcore.schedules import build
    >>> found = long_run(build("fdg", modules=3), Workload.even(3, 3), batches=10**9)
    >>> found.how, found.makespan_s, found.period, found.gaps[0].histogram
    ('periodic', Fraction(3000000006, 1), 1, {0: 1, 1: 1, 2: 1, 3: 999999997})
    """
    cluster = cluster or Cluster.private()
    wanted = int(str(schedule.options.get("batches", 0))) if batches is None else batches
    runs = _Runs(schedule, blocks, cluster, wanted, engine, progress or (lambda _: None))
    if cluster.faults:
        rule = "happen once, so that no run repeats itself"
        raise InputError("faults", len(cluster.faults), rule, "leave out pauses and losses")
    found = replace(_found(runs, most_events, estimates), engine=runs.ran)
    if found.how in ("simulated", "estimated") or find(schedule.name).is_ours:
        return found
    if not estimates:
        rule = "may count to numbers of its own, above the batches that are simulated"
        raise InputError("schedule", schedule.name, rule, "allow estimates, or simulate it")
    ground = (
        "exact unless the program, which is not one of gradlag's own, does "
        f"something else after so many batches as were not simulated: {found.ground}"
    )
    return replace(found, how="estimated", ground=ground, proved=False, period=None)


def _found(runs: "_Runs", most_events: int, estimates: bool) -> LongRun:
    if runs.events(runs.wanted) <= most_events // 4:
        return runs.simulated()
    least = runs.events(least_batches(runs.schedule))
    if 5 * least > most_events:  # long pipelines need more to fill up at all
        most_events = max(most_events, min(10 * least, _MOST_NEEDED))
    found = _periodic(runs, most_events)
    if found is not None:
        return found
    try:
        return _powers(runs, most_events)
    except NotStaticError as error:
        if not estimates:
            raise
        return _estimated(runs, most_events, f"{error.what} {error.value} {error.rule}")


class _Runs:
    """Simulations of a schedule with other numbers of batches, in the ticks of the long run."""

    def __init__(
        self,
        schedule: Schedule,
        blocks: Workload,
        cluster: Cluster,
        wanted: int,
        engine: Engine,
        progress: Callable[[str], None],
    ) -> None:
        self.schedule, self.blocks, self.cluster = schedule, blocks, cluster
        self.wanted, self.progress = wanted, progress
        self.recorded = Recorded(schedule, blocks, cluster, wanted)
        self.costs = self.recorded.costs
        self.traces: dict[int, Trace] = {}
        self.engine = engine
        self.ran: str = engine

    def events(self, batches: int) -> int:
        """Operations of a run of so many batches, about."""
        options = {**self.schedule.options, "batches": batches}
        return estimate(self.schedule.name, options).operations

    def trace(self, batches: int) -> Trace:
        """The simulation of so many batches."""
        if batches not in self.traces:
            self.progress(f"simulating {batches} batches")
            schedule = rebuild(self.schedule, batches=batches)
            timing = Timing(schedule, self.costs, self.cluster, Variations(), 0)
            trace = simulate_timed(schedule, self.costs, self.cluster, timing, engine=self.engine)
            self.traces[batches] = trace
            self.ran = trace.header.about["engine"]
        return self.traces[batches]

    def counted(self, batches: int) -> Counted:
        """What the simulation of so many batches comes to."""
        return counted(self.trace(batches), rebuild(self.schedule, batches=batches), self.blocks)

    def simulated(self) -> LongRun:
        """The run itself."""
        return self.found("simulated", "the whole run was simulated", self.counted(self.wanted))

    def found(
        self,
        how: How,
        ground: str,
        come_to: Counted,
        *,
        period: int | None = None,
        period_ticks: int = 0,
        period_gaps: Histograms | None = None,
    ) -> LongRun:
        """What was counted, in seconds."""
        tick_s = self.costs.tick.seconds
        return LongRun(
            self.wanted,
            how,
            ground,
            come_to.ticks * tick_s,
            True,
            None if period is None else period_ticks * tick_s / period,
            period,
            tuple(ticks * tick_s for ticks in come_to.busy),
            come_to.updates,
            summaries(come_to.histograms),
            None if period_gaps is None else summaries(period_gaps),
            come_to.lost,
            come_to.in_flight,
            come_to.peaks,
        )


def _periodic(runs: _Runs, most_events: int) -> LongRun | None:
    """The shorter of two simulations and so many periods more, if a period shows in them."""
    schedule, wanted, unit = runs.schedule, runs.wanted, unit_of(runs.schedule)
    for least in _sizes(runs, most_events):
        batches = least + (wanted - least) % unit
        passes = likely_period(runs.trace(batches))
        if passes is not None:
            period = lcm(unit * schedule.micro_batches, passes) // schedule.micro_batches
            batches = least + (wanted - least) % period
            if batches + period >= wanted:
                return runs.simulated()
            if runs.events(batches + period) > most_events:
                return None
            longer = runs.trace(batches + period)
            found = nesting(runs.trace(batches), longer)
            if found is not None and recurs(longer, found):
                return _repeated(runs, batches, period)
    return None


def _sizes(runs: _Runs, most_events: int) -> Iterator[int]:
    """Numbers of batches to look for a period in, each twice the one before."""
    unit, least = unit_of(runs.schedule), least_batches(runs.schedule)

    def fits(batches: int) -> bool:
        return runs.events(batches + unit) <= most_events and batches < runs.wanted

    # A pipeline that is not flushed has to fill up, and then to be seen doing the same for as long
    # as a batch passes through it.
    while runs.schedule.micro_batches == 1 and least < 4 * least_batches(runs.schedule):
        if not fits(2 * least):
            break
        least *= 2
    while fits(least):
        yield least
        least *= 2


def _repeated(runs: _Runs, batches: int, period: int) -> LongRun:
    few, more = runs.counted(batches), runs.counted(batches + period)
    every = "with every batch" if period == 1 else f"every {period} batches"
    ground = (
        f"everything repeats {every}: the simulation of {batches + period} batches is that of "
        f"{batches}, row by row, with one period put in, and the state before the period recurs "
        "behind it"
    )
    return runs.found(
        "periodic",
        ground,
        few.grown(more, (runs.wanted - batches) // period),
        period=period,
        period_ticks=more.ticks - few.ticks,
        period_gaps=difference(more, few),
    )


def _powers(runs: _Runs, most_events: int) -> LongRun:
    """A static schedule without a short period: makespan by powers, gaps by its programs."""
    wanted = runs.wanted
    for repeating in repeatings(runs.recorded, wanted, most_events):
        runs.progress("raising the matrix of the schedule to a power")
        if repeating.batches >= wanted:
            return runs.simulated()
        try:
            end = end_after(repeating, (wanted - repeating.batches) // repeating.period)
        except OverflowError:
            rule = "let workers run apart by more than 2**59 ticks"
            raise NotStaticError("mini-batches", wanted, rule, "give fewer") from None
        if end is not None:
            break
    else:
        rule = f"must be more than {most_events} to see all that the end of a run comes after"
        raise NotStaticError("recorded events", most_events, rule, "simulate this schedule")
    period, least = repeating.period, least_batches(runs.schedule)
    batches = least + (wanted - least) % period
    few, more, most = (runs.counted(batches + times * period) for times in range(3))
    come_to = few.grown(more, (wanted - batches) // period)
    # What a worker does is fixed, and so are gaps where nobody else computes with its weights.
    known = _has_one_worker_for_each(runs.schedule)
    known = known and difference(more, few) == difference(most, more)
    tick_s = runs.costs.tick.seconds
    return LongRun(
        wanted,
        "max-plus",
        "the makespan is that of powers of the schedule's max-plus matrix, for no short period was "
        "found; gaps are those of its programs, whatever the times; peaks are not known",
        end * tick_s,
        proved=True,
        busy_s=tuple(ticks * tick_s for ticks in come_to.busy),
        updates=come_to.updates,
        gaps=summaries(come_to.histograms) if known else None,
        steady_gaps=summaries(difference(more, few)) if known else None,
        lost_updates=come_to.lost if known else None,
    )


def _has_one_worker_for_each(schedule: Schedule) -> bool:
    """Whether the weights of each block, in each replica, are those of one worker."""
    owned = [(worker.replica, block) for worker in schedule.workers for block in worker.blocks]
    return len(set(owned)) == len(owned)


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
        f"nothing was seen to repeat exactly in {2 * batches} batches, the second half of which is "
        f"taken for the rest; and more is not known, for {reason}"
    )
    return LongRun(runs.wanted, "estimated", ground, ticks * runs.costs.tick.seconds)
