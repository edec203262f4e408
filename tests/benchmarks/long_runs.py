"""How long does the answer for very many mini-batches take, and is it that of the full run?"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

from simcore.bodies import MOST_EVENTS
from simcore.engines import simulate
from simcore.estimate import estimate
from simcore.schedule import Schedule
from simcore.schedules import build
from simcore.staleness import gap_summaries
from simcore.steady import LongRun, long_run
from simcore.trace import Trace
from simcore.workload import Layer, Workload
from tests.benchmarks.command import main
from tests.benchmarks.harness import Case, Phase, Scale, paired, watched
from tests.benchmarks.results import Cell, Phases, Result, Target

__all__ = ["Question", "measure"]

QUESTION: Final = (
    "How long does the exact answer for N mini-batches take, makespan, busy times and gaps, from "
    "the schedule on, beside the full simulation where that can be run?"
)
_MOST_SIMULATED: Final = 600_000  # operations of a full simulation
_WANTED_S: Final = 0.5
_FAR: Final = 10**9


@dataclass(frozen=True, slots=True)
class Question:
    """A schedule, its workers, and mini-batches; `millionths` is by how much modules differ."""

    name: str
    workers: int
    batches: int = _FAR
    options: Mapping[str, Any] = field(default_factory=dict)
    millionths: bool = False

    @property
    def label(self) -> str:
        """The schedule with its options, as tables name it."""
        options = (f"{name.replace('_', ' ')} {value}" for name, value in self.options.items())
        return ", ".join([self.name, *options])

    def schedule(self, batches: int) -> Schedule:
        """The schedule with so many mini-batches."""
        size: dict[str, Any] = {"modules": self.workers}
        if self.name == "async-lu":  # a forward thread, the others backward
            size = {"layers": 4, "backward_threads": self.workers - 1}
        return build(self.name, batches=batches, **size, **self.options)

    def blocks(self, count: int) -> Workload:
        """What the blocks cost: times that differ in a few simple ratios, or hardly at all."""
        layers = []
        for k in range(count):
            if self.millionths:
                forward, backward = (1 - Fraction(7 * k % 11 + 1, 10**6), Fraction(2))
            else:
                forward, backward = Fraction(5 + 7 * k % 11, 7), Fraction(9 + 5 * k % 13, 7)
            layers.append(Layer(f"block {k + 1}", forward, backward, Fraction(1, 7)))
        return Workload("uneven", tuple(layers))


_MICRO: Final = {"micro_batches": 8}
LONG: Final = (
    *(Question("fdg", 8, 10**power) for power in (3, 4, 5, 7, 9)),
    *(Question("fdg", workers) for workers in (4, 16, 32, 64)),
    *(Question("adl", workers, options={"accumulation": 4}) for workers in (4, 64)),
    *(Question("1f1b", workers, options=_MICRO) for workers in (4, 64)),
    Question("1f1b", 64),  # and as many micro-batches
    *(Question("gpipe", workers, options=_MICRO) for workers in (4, 64)),
    *(Question("async-lu", 3, 10**power, {"queue_capacity": 1}) for power in (3, 9)),
    *(Question("pipedream", workers, millionths=True) for workers in (4, 64)),
    *(Question("async-lu", 3, 10**power) for power in (3, 9)),
)
TINY: Final = (Question("fdg", 2, 100), Question("async-lu", 3, 10**6, {"queue_capacity": 1}))


def measure(scale: Scale) -> Result:
    """The times of all questions, and whether answers are the same."""
    rows: list[dict[str, Cell]] = []
    targets: list[Target] = []
    phases = Phases()
    for question in TINY if scale.tiny else LONG:
        row, counted = _row(question, scale)
        rows.append(row)
        phases += counted
        if question.workers == 64:
            seconds = row["long run, s"]
            assert isinstance(seconds, float)
            claim = f"10^9 mini-batches, 64 workers, {question.label} ({row['how']}), seconds"
            targets.append(Target(claim, _WANTED_S, seconds, at_least=False))
    compared = [row["same"] == "yes" for row in rows if row["same"] is not None]
    claim = "long runs that are equal to the full simulation, of those that were compared"
    targets.append(Target(claim, 1.0, sum(compared) / len(compared)))
    return Result("long_runs", QUESTION, rows, phases, targets, _NOTES)


_NOTES: Final = (
    "Times of modules have a few simple ratios; or they differ by parts per million, so that a "
    "period does not come within any number of batches that can be simulated (max-plus). An "
    f"answer is compared, and the full simulation timed, up to {_MOST_SIMULATED} operations: "
    "makespan and the histogram of gaps of every block, equal to the last digit. Usually so short "
    "a run is simulated; here the long run had to do with less.",
)


def _row(question: Question, scale: Scale) -> tuple[dict[str, Cell], Phases]:
    scale.told(f"{question.label}, {question.workers} workers, {question.batches} mini-batches:")
    few = question.schedule(10)
    blocks = question.blocks(few.blocks)
    operations = estimate(question.name, {**few.options, "batches": question.batches}).operations
    simulates = operations <= _MOST_SIMULATED
    most = operations if simulates else MOST_EVENTS
    cases: dict[str, Case] = {
        "long run": lambda: _timed(
            lambda: long_run(few, blocks, batches=question.batches, most_events=most)
        )
    }
    if simulates:
        cases["full"] = lambda: _timed(
            lambda: simulate(question.schedule(question.batches), blocks)
        )
    cases["long run"]()  # loads what is loaded once
    rounds = paired(cases, scale)
    found = rounds.details("long run")[0]
    return {
        "schedule": question.label,
        "modules differ by": "millionths" if question.millionths else "up to 3x",
        "workers": question.workers,
        "mini-batches": f"{question.batches:.0e}",
        "how": found.how,
        "long run, s": rounds.batch_s("long run"),
        "full simulation, s": rounds.batch_s("full") if simulates else None,
        "full over long": rounds.ratio("full", "long run") if simulates else None,
        "same": _same(found, rounds.details("full")[0]) if simulates else None,
    }, Phases.of(rounds)


def _timed(answer: Any) -> Phase:
    def run() -> tuple[float, Any]:
        began = time.perf_counter()
        found = answer()
        return time.perf_counter() - began, found

    return watched(run, ())


def _same(found: LongRun, trace: Trace) -> str:
    makespan_s = (trace.end - trace.start) * trace.header.tick_s
    same = found.makespan_s == makespan_s and found.gaps == gap_summaries(trace)
    return "yes" if same else "no"


if __name__ == "__main__":
    main(measure)
