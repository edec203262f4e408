"""What all benchmarks share: networks, pairing, and phases that others disturbed.

What is compared is measured in turn, A B A B, in one run. A phase in which other programs took more
than a few percent of the machine is dropped and repeated; a ratio is the median of the rounds'.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, Final

from torch import nn

from executor.data import generated
from executor.hygiene import CpuWatch
from executor.models import make_model
from executor.network import layers_of
from executor.run import Runtime, run
from executor.training import DataSource, Training, optimizer
from simcore.errors import InputError
from simcore.metrics import makespan_s
from simcore.partition import partition
from simcore.schedule import Schedule
from simcore.schedules import build
from simcore.workload import Workload

__all__ = [
    "DISTURBED",
    "Case",
    "Phase",
    "Rounds",
    "Scale",
    "Task",
    "paired",
    "run_phase",
    "watched",
]

DISTURBED: Final = 0.05  # the share of the machine that others may take in a phase
FEATURES, CLASSES, SAMPLES = 64, 10, 4096


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured: rounds, seconds of a phase, repeats of a disturbed one; and on what.

    `told` is given a line about each phase.
    """

    rounds: int = 3
    phase_s: float = 2.0
    repeats: int = 2
    device: str = "cpu"
    tiny: bool = False
    told: Callable[[str], None] = lambda line: None

    def batches(self, batch_s: float) -> int:
        """The mini-batches of a phase, where one takes so long."""
        return 6 if self.tiny else min(4000, max(12, round(self.phase_s / batch_s)))


@dataclass(frozen=True, slots=True)
class Task:
    """A network on generated data, learned by plain SGD."""

    model: str
    batch_size: int
    device: str = "cpu"

    @property
    def label(self) -> str:
        """As tables name it."""
        return f"{self.model}, batch {self.batch_size}"

    def source(self) -> DataSource:
        """Mini-batches that are all of the same size."""
        if SAMPLES % self.batch_size:
            rule = f"must divide the {SAMPLES} samples"
            raise InputError("batch size", self.batch_size, rule, "use a power of 2")
        # A fifth of what is generated is for testing.
        return DataSource(generated(SAMPLES * 5 // 4, FEATURES, CLASSES), self.batch_size, seed=0)

    def network(self) -> nn.Sequential:
        """The network, on the CPU."""
        return make_model(self.model, self.source().data, seed=0)

    def bounds(self, blocks: int) -> tuple[int, ...]:
        """The layers at which so many blocks of as many layers begin."""
        return partition(Workload.even(len(layers_of(self.network()))), blocks).bounds

    def training(self, name: str, batches: int, threads: int = 1, **options: Any) -> Training:
        """The training by a schedule."""
        make_schedule: Callable[[], Schedule] = partial(build, name, batches=batches, **options)
        return Training(
            make_schedule,
            self.network(),
            self.bounds(make_schedule().blocks),
            self.source(),
            optimizer("sgd", 1e-3),
            threads=threads,
            devices=(self.device,),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Phase:
    """One measurement: seconds per mini-batch, what others took meanwhile, and what else is known.

    `other_share` is the share of all cores, 0 to 1, None where it is not known.
    """

    batch_s: float
    other_share: float | None
    detail: Any = None


Case = Callable[[], Phase]


@dataclass(frozen=True, slots=True, eq=False)
class Rounds:
    """Phases by case, one of each round. `dropped` ones were repeated, `disturbed` ones kept."""

    phases: Mapping[str, Sequence[Phase]]
    dropped: int = 0
    disturbed: int = 0

    def batch_s(self, name: str) -> float:
        """Median seconds per mini-batch."""
        return median(phase.batch_s for phase in self.phases[name])

    def ratio(self, above: str, below: str) -> float:
        """Median over the rounds of one time over the other, dimensionless."""
        return median(self.ratios(above, below))

    def ratios(self, above: str, below: str) -> list[float]:
        """The ratio of each round."""
        pairs = zip(self.phases[above], self.phases[below], strict=True)
        return [one.batch_s / other.batch_s for one, other in pairs]

    def details(self, name: str) -> list[Any]:
        """What else is known of each phase."""
        return [phase.detail for phase in self.phases[name]]


def paired(cases: Mapping[str, Case], scale: Scale) -> Rounds:
    """Measure all cases in turn, round after round.

    A disturbed phase is repeated up to `scale.repeats` times; then the least disturbed one counts.
    """
    phases: dict[str, list[Phase]] = {name: [] for name in cases}
    dropped = disturbed = 0
    for number in range(scale.rounds):
        for name, case in cases.items():
            tried = [case()]
            while _is_disturbed(tried[-1]) and len(tried) <= scale.repeats:
                tried.append(case())
            best = min(tried, key=lambda phase: phase.other_share or 0.0)
            dropped += len(tried) - 1
            disturbed += _is_disturbed(best)
            phases[name].append(best)
            share = "?" if best.other_share is None else f"{best.other_share:.1%}"
            again = f", {len(tried) - 1} dropped" if len(tried) > 1 else ""
            scale.told(
                f"round {number + 1}: {name}: {1000 * best.batch_s:.3f} ms, others {share}{again}"
            )
    return Rounds(phases, dropped, disturbed)


def _is_disturbed(phase: Phase) -> bool:
    return (phase.other_share or 0.0) > DISTURBED


def run_phase(task: Task, runtime: Runtime, name: str, batches: int, **options: Any) -> Phase:
    """Train by a schedule in a runtime; the trace is the phase's detail.

    The time is that of the whole run, start-up and drain included, without the start of processes.
    """
    result = run(task.training(name, batches, **options), runtime)
    if result.failure is not None:
        raise RuntimeError(f"{name}: {result.failure}")
    share = result.trace.header.about.get("other_cpu_share")
    return Phase(makespan_s(result.trace) / batches, share, result.trace)


def watched(measure: Callable[[], tuple[float, Any]], pids: Sequence[int]) -> Phase:
    """A phase that this process and those of `pids` measure: (seconds per mini-batch, detail)."""
    watch = CpuWatch([os.getpid(), *pids])
    batch_s, detail = measure()
    return Phase(batch_s, watch.other_share(), detail)
