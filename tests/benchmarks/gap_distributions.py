"""Are the gaps of thread schedules distributed as the simulator says?"""

from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean
from typing import Any, Final

import numpy as np

from executor.calibrate import Calibration, between, calibrate
from executor.machine import describe_machine
from simcore.durations import Variations, empirical
from simcore.engine import simulate
from simcore.schedules import build
from simcore.staleness import gap_summaries
from simcore.trace import KIND, Trace
from tests.benchmarks.command import main
from tests.benchmarks.harness import Phase, Scale, Task, paired, run_phase
from tests.benchmarks.plain import Plain
from tests.benchmarks.results import Cell, Phases, Result, Target

__all__ = ["distance", "measure"]

QUESTION: Final = (
    "How far is the distribution of gaps in real runs of thread schedules from the simulator's, "
    "as the total variation between the two joint distributions of block and gap?"
)
TASK: Final = Task("mlp:4x512", 128)
WAITING: Final = Task("tests.benchmarks.waiting:network", 16)
UPDATES: Final = 5000
LAYERS: Final = 4
MOST_DISTANCE: Final = 0.05
ROUNDS: Final = 60  # mini-batches of each phase of a calibration
PILOT: Final = 0.2  # the part of a run whose durations say how much durations vary
SAMPLES: Final = 400
_TRIED: Final = 20  # mini-batches that show how long one takes
_PASSES: Final = ("forward", "backward")
_COMPUTED: Final = (*_PASSES, "update")


def _asynchronous(name: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Without a bound the queue of losses grows where forward threads outrun the others."""
    return [
        (name, f"{f}:{b}", {"forward_threads": f, "backward_threads": b, "queue_capacity": 1})
        for f, b in ((1, 1), (1, 2), (2, 2))
    ]


CASES: Final = (
    *_asynchronous("async-lu"),
    *_asynchronous("async-bu"),
    *(("hogwild", str(processes), {"processes": processes}) for processes in (2, 3, 4)),
)


@dataclass(frozen=True, slots=True, eq=False)
class _Measured:
    """A calibration before, one after, a pilot run and the run."""

    before: Calibration
    pilot: Trace
    run: Trace
    after: Calibration


def measure(scale: Scale) -> Result:
    """The distances of all schedules and numbers of threads."""
    tiny = scale.tiny
    rows: list[dict[str, Cell]] = []
    targets: list[Target] = []
    phases = Phases()
    batches = 20 if tiny else -(-UPDATES // LAYERS)
    for layers, task in (("compute", Task("mlp:4x8", 16) if tiny else TASK), ("wait", WAITING)):
        task = Task(task.model, task.batch_size, scale.device)
        baselines, counted = _baselines(task, scale)
        phases += counted
        for name, threads, options in CASES[:1] if tiny else CASES:
            scale.told(f"{name} {threads}, layers {layers}:")
            found, counted = _measured(task, name, options, batches, scale)
            phases += counted
            row = _row(name, threads, found, options, batches)
            rows.append({"layers": layers, **row, **baselines})
            distances = [row["with pilot's variation"], row["with mean times"]]
            closest = min(each for each in distances if isinstance(each, float))
            claim = f"{name} {threads}, layers that {layers}"
            targets.append(Target(claim, MOST_DISTANCE, closest, at_least=False))
    return Result("gap_distributions", QUESTION, rows, phases, targets, _NOTES)


_NOTES: Final = (
    "Predicted with the mean times and speeds of calibrations before and after the run, once as "
    "they are, and once varied as the durations of a shorter pilot run before; the closer "
    "prediction is held against the target. Layers that wait sleep for most of their time, so that "
    "threads do not compete: it is then the schedule alone that makes the gaps. Where more threads "
    "compute than there are cores, the operating system switches between them as it likes.",
)


def _baselines(task: Task, scale: Scale) -> tuple[dict[str, Cell], Phases]:
    cores = int(describe_machine()["cores"])
    with Plain(task) as plain:
        batches = scale.batches(plain.backpropagation(_TRIED).batch_s)
        rounds = paired(
            {
                "one thread": lambda: plain.backpropagation(batches),
                "all cores": lambda: plain.backpropagation(batches, cores),
            },
            scale,
        )
    return {
        "BP one thread, ms": 1000 * rounds.batch_s("one thread"),
        "BP all cores, ms": 1000 * rounds.batch_s("all cores"),
    }, Phases.of(rounds)


def _measured(
    task: Task, name: str, options: dict[str, Any], batches: int, scale: Scale
) -> tuple[_Measured, Phases]:
    pilot = max(8, round(PILOT * batches))
    options = {"layers": LAYERS, **options}

    def calibrated() -> Phase:
        rounds = 3 if scale.tiny else ROUNDS
        found = calibrate(task.training(name, rounds, **options), "threads", rounds)
        return Phase(0.0, found.other_cpu_share, found)

    once = Scale(1, scale.phase_s, scale.repeats, scale.device, scale.tiny, scale.told)
    rounds = paired(
        {
            "before": calibrated,
            "pilot": lambda: run_phase(task, "threads", name, pilot, **options),
            "run": lambda: run_phase(task, "threads", name, batches, **options),
            "after": calibrated,
        },
        once,
    )
    [before], [first] = rounds.details("before"), rounds.details("pilot")
    [run], [after] = rounds.details("run"), rounds.details("after")
    return _Measured(before, first, run, after), Phases.of(rounds)


def _row(
    name: str, threads: str, found: _Measured, options: dict[str, Any], batches: int
) -> dict[str, Cell]:
    costs = between(found.before, found.after)
    schedule = build(name, layers=LAYERS, batches=batches, **options)
    plain = simulate(schedule, costs.blocks, costs.cluster)
    varied = simulate(schedule, costs.blocks, costs.cluster, variation=_variations(found.pilot))
    seconds = found.run.seconds(found.run.end) / batches
    durations = found.run.seconds(found.run.spans["end"] - found.run.spans["start"])
    shortest = min(durations[found.run.spans["kind"] == KIND[each]].mean() for each in _PASSES)
    return {
        "schedule": name,
        "threads": threads,
        "updates": len(found.run.gradients),
        "with mean times": distance(plain, found.run),
        "with pilot's variation": distance(varied, found.run),
        "mean gap predicted": _mean_gap(varied),
        "mean gap measured": _mean_gap(found.run),
        "mini-batch predicted, ms": 1000 * plain.seconds(plain.end) / batches,
        "mini-batch measured, ms": 1000 * seconds,
        "shortest pass, ms": float(1000 * shortest),
    }


def _variations(pilot: Trace) -> Variations:
    """How durations of each kind vary about the mean of their block."""
    kinds = {}
    for kind in _COMPUTED:
        rows = pilot.of_kind(kind)
        lengths = (rows["end"] - rows["start"]).astype(float)
        for block in np.unique(rows["block"]):
            chosen = rows["block"] == block
            lengths[chosen] /= lengths[chosen].mean()
        shares = (np.arange(SAMPLES) + 0.5) / SAMPLES
        samples = [
            Fraction(round(10_000 * float(value)), 10_000) for value in np.quantile(lengths, shares)
        ]
        kinds[kind] = empirical(samples, "samples:pilot")
    return Variations(None, kinds)


def distance(one: Trace, other: Trace) -> float:
    """The total variation between two traces' distributions of (block, gap), 0 to 1."""
    first, second = _shares(one), _shares(other)
    either = first.keys() | second.keys()
    return sum(abs(first.get(key, 0.0) - second.get(key, 0.0)) for key in either) / 2


def _shares(trace: Trace) -> dict[tuple[int, int], float]:
    return {
        (each.block, gap): count / len(trace.gradients)
        for each in gap_summaries(trace)
        for gap, count in each.histogram.items()
    }


def _mean_gap(trace: Trace) -> float:
    return fmean(each.mean for each in gap_summaries(trace) if each.mean is not None)


if __name__ == "__main__":
    main(measure)
