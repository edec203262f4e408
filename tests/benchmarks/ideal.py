"""How much of the simulator's ideal throughput does a real run reach, and where is the rest?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any, Final

from executor.machine import describe_machine
from executor.run import Runtime
from simcore.engine import simulate
from simcore.metrics import makespan_s
from simcore.schedules import build
from simcore.trace import Trace
from simcore.workload import Workload
from tests.benchmarks.command import main
from tests.benchmarks.harness import Case, Phase, Rounds, Scale, Task, paired, run_phase
from tests.benchmarks.itemised import Items, itemised, mean_items
from tests.benchmarks.plain import Plain
from tests.benchmarks.results import Cell, Phases, Result, Target

__all__ = ["Run", "Shares", "measure", "shares"]

QUESTION: Final = (
    "What share of the ideal throughput do two workers on two cores reach? Ideal is the simulation "
    "of the same mini-batches, start-up and drain included, with the times that plain PyTorch "
    "takes for each operation on one thread, and without any overhead. Where is the rest?"
)
_PARTS: Final = 8
_TRIED: Final = 12  # mini-batches that show how long one takes


@dataclass(frozen=True, slots=True)
class Run:
    """A schedule with its options, in a runtime; and by what one worker does the same."""

    name: str
    options: Mapping[str, Any] = field(default_factory=lambda: {"modules": 2})
    runtime: Runtime = "processes"

    @property
    def parts(self) -> int:
        """The parts in which a mini-batch passes."""
        found: int = self.options.get("micro_batches", 1)
        return found

    @property
    def label(self) -> str:
        """As tables name it."""
        parts = f", {self.parts} micro-batches" if self.parts > 1 else ""
        return f"{self.name}{parts}, {self.runtime}"

    @property
    def label_alone(self) -> str:
        """The run of one worker; several runs may have the same."""
        name, _ = self.alone()
        return f"{name} with one worker, {self.parts} parts, {self.runtime}"

    def alone(self) -> tuple[str, dict[str, Any]]:
        """The schedule of one worker with the same operations."""
        if self.parts > 1:
            return "1f1b", {"modules": 1, "micro_batches": self.parts}
        return "bp", {"modules": 2}


CASES: Final = (
    (Task("mlp:4x2048", 64), (Run("fdg"),)),
    (Task("mlp:8x1024", 64), (Run("fdg"), Run("fdg", runtime="threads"))),
    (Task("mlp:8x512", 64), (Run("fdg"), Run("adl"))),
    (Task("mlp:8x512", 512), (Run("fdg"), Run("adl"))),
    (Task("mlp:8x1024", 512), (Run("1f1b", {"modules": 2, "micro_batches": _PARTS}),)),
)
TINY: Final = ((Task("mlp:2x8", 16), (Run("fdg", runtime="threads"),)),)


@dataclass(frozen=True, slots=True, eq=False)
class Shares:
    """What was found of one run: medians of seconds per mini-batch, and where they went.

    `shortest_s` is the shortest mean forward or backward operation, `update_s` the shortest update.
    `busy_ideal_s` and `busy_share` are of times that were profiled while the other core computed.
    """

    measured_s: float
    ideal_s: float
    share: float
    busy_ideal_s: float
    busy_share: float
    one_thread_s: float
    all_cores_s: float
    shortest_s: float
    update_s: float
    items: Items


def measure(scale: Scale) -> Result:
    """The shares of all cases."""
    rows: list[dict[str, Cell]] = []
    targets: list[Target] = []
    phases = Phases()
    for task, runs in TINY if scale.tiny else CASES:
        found, counted = shares(Task(task.model, task.batch_size, scale.device), runs, scale)
        phases += counted
        for run, each in zip(runs, found, strict=True):
            rows.append({"network": task.label, "schedule": run.label, **_row(each)})
            wanted = 0.95 if each.shortest_s >= 0.005 else 0.85
            if each.shortest_s >= 0.001:
                length = "5 ms" if wanted == 0.95 else "1 ms"
                claim = f"{task.label}, {run.label}, operations above {length}"
                targets.append(Target(f"{claim}, one core busy", wanted, each.share))
                targets.append(Target(f"{claim}, both cores busy", wanted, each.busy_share))
    return Result("ideal", QUESTION, rows, phases, targets, _NOTES)


_NOTES: Final = (
    "Cores share caches and memory: the same plain PyTorch is slower while another process does "
    "the same on the other core. So there are two ideals, of times profiled with one core busy and "
    "with both. What lies between them, no runtime can reach on this machine.",
    "The shortest operation is the shorter of the mean forward and backward pass of a block and "
    "part of a mini-batch; updates may be shorter. Items are shares of the measured time, means "
    "over workers: the work at its profiled times, what the ideal run waits too (bubble), the "
    "runtime within operations, contention (longer passes), longer updates (contention, and copies "
    "of weights that old graphs still need), messages, Python between operations, waiting. An item "
    "may be below 0: half of the weights fit a cache better than all.",
)


def shares(task: Task, runs: Sequence[Run], scale: Scale) -> tuple[list[Shares], Phases]:
    """Measure runs of a network beside plain backpropagation and the operations one by one."""
    cores = int(describe_machine()["cores"])
    bounds, parts = task.bounds(2), sorted({run.parts for run in runs})
    scale.told(f"{task.label}:")
    with Plain(task) as plain, Plain(task) as other:
        batches = scale.batches(plain.backpropagation(_TRIED).batch_s)
        cases: dict[str, Case] = {}
        for number in parts:
            cases[f"profile {number}"] = _profile(plain, batches, bounds, number)
            cases[f"busy profile {number}"] = _profile(plain, batches, bounds, number, other)
        cases["one thread"] = lambda: plain.backpropagation(batches)
        cases["all cores"] = lambda: plain.backpropagation(batches, cores)
        for run in runs:
            cases[run.label_alone] = _run(task, run, batches, alone=True)
            cases[run.label] = _run(task, run, batches)
        rounds = paired(cases, scale)
    return [_shares(run, rounds, batches) for run in runs], Phases.of(rounds)


def _profile(
    plain: Plain, batches: int, bounds: tuple[int, ...], parts: int, beside: Plain | None = None
) -> Case:
    return lambda: plain.profile(batches, bounds, parts, beside)


def _run(task: Task, run: Run, batches: int, alone: bool = False) -> Case:
    name, options = run.alone() if alone else (run.name, run.options)

    def phase() -> Phase:
        return run_phase(task, run.runtime, name, batches, **options)

    return phase


def _shares(run: Run, rounds: Rounds, batches: int) -> Shares:
    profiles: list[Workload] = rounds.details(f"profile {run.parts}")
    schedule = build(run.name, batches=batches, **run.options)
    ideals = [simulate(schedule, profile) for profile in profiles]
    ideal_s = [makespan_s(ideal) / batches for ideal in ideals]
    busy: list[Workload] = rounds.details(f"busy profile {run.parts}")
    busy_ideal_s = [makespan_s(simulate(schedule, profile)) / batches for profile in busy]
    measured_s = [phase.batch_s for phase in rounds.phases[run.label]]
    traces: list[Trace] = rounds.details(run.label)
    alone: list[Trace] = rounds.details(run.label_alone)
    layers = [layer for profile in profiles for layer in profile.layers]
    blocks = range(schedule.blocks)
    return Shares(
        median(measured_s),
        median(ideal_s),
        median(ideal / real for ideal, real in zip(ideal_s, measured_s, strict=True)),
        median(busy_ideal_s),
        median(ideal / real for ideal, real in zip(busy_ideal_s, measured_s, strict=True)),
        rounds.batch_s("one thread"),
        rounds.batch_s("all cores"),
        min(
            fmean(float(getattr(layer, kind)) for layer in layers[block :: schedule.blocks])
            for block in blocks
            for kind in ("forward_s", "backward_s")
        )
        / run.parts,
        min(float(layer.update_s) for layer in layers),
        mean_items([itemised(*three) for three in zip(traces, alone, ideals, strict=True)]),
    )


def _row(found: Shares) -> dict[str, Cell]:
    items = found.items
    return {
        "shortest operation, ms": 1000 * found.shortest_s,
        "shortest update, ms": 1000 * found.update_s,
        "BP one thread, ms": 1000 * found.one_thread_s,
        "BP all cores, ms": 1000 * found.all_cores_s,
        "measured, ms": 1000 * found.measured_s,
        "ideal, ms": 1000 * found.ideal_s,
        "share of ideal": found.share,
        "ideal with both cores busy, ms": 1000 * found.busy_ideal_s,
        "share of that": found.busy_share,
        **{
            f"{name}, %": 100 * items.share(part)
            for part, name in (
                ("computing", "work"),
                ("bubble", "bubble"),
                ("within", "in operations"),
                ("contention", "contention"),
                ("updates", "updates"),
                ("messages", "messages"),
                ("python", "Python"),
                ("waiting", "waiting"),
            )
        },
    }


if __name__ == "__main__":
    main(measure)
