"""Three ratios: our 1F1B over PyTorch's, FDG over our 1F1B, and each over backpropagation."""

from contextlib import ExitStack
from statistics import median
from typing import Any, Final

import torch

from executor.calibrate import Calibration, calibrate
from executor.machine import describe_machine
from executor.run import Runtime
from simcore.engine import simulate
from simcore.errors import InputError
from simcore.metrics import makespan_s
from simcore.schedules import build
from tests.benchmarks.command import main
from tests.benchmarks.harness import Case, Phase, Rounds, Scale, Task, paired, run_phase
from tests.benchmarks.plain import Plain
from tests.benchmarks.results import Cell, Phases, Result, Target
from tests.benchmarks.torch_pipeline import TorchPipeline

__all__ = ["measure"]

QUESTION: Final = (
    "On the same split, mini-batches and cores, all with the allocator tuned: how fast is our 1F1B "
    "beside that of torch.distributed.pipelining, how fast is FDG beside our 1F1B, as measured and "
    "as simulated, and how fast is each beside backpropagation by plain PyTorch on one thread and "
    "on all cores?"
)
MODULES: Final = 2
_TRIED: Final = 6  # mini-batches that show how long one takes
TASKS: Final = (
    (Task("mlp:8x1024", 512), 8),
    (Task("mlp:8x512", 256), 8),
)
TINY: Final = ((Task("mlp:2x8", 16), 2),)


def measure(scale: Scale) -> Result:
    """The ratios of all networks."""
    if scale.device != "cpu" and (gpus := torch.cuda.device_count()) < MODULES:
        rule = f"must be {MODULES}, one for each process of PyTorch's pipeline"
        raise InputError("GPUs", gpus, rule, "use --device cpu")
    rows: list[dict[str, Cell]] = []
    targets: list[Target] = []
    phases = Phases()
    for task, parts in TINY if scale.tiny else TASKS:
        task = Task(task.model, task.batch_size, scale.device)
        rounds, batches = _rounds(task, parts, scale)
        phases += Phases.of(rounds)
        simulated = [
            _simulated_s("1f1b", batches, parts, one) / _simulated_s("fdg", batches, parts, other)
            for one, other in zip(
                rounds.details("calibrated 1f1b"), rounds.details("calibrated fdg"), strict=True
            )
        ]
        ideal = [_ideal_ratio(batches, parts, *each) for each in _profiles(rounds)]
        ours = rounds.ratio("torch", "1f1b")
        fdg = rounds.ratio("1f1b", "fdg")
        rows += _rows(task, parts, rounds)
        label = f"{task.label}, {parts} micro-batches"
        targets += [
            Target(f"{label}: our 1F1B over PyTorch's", 1.1, ours),
            Target(
                f"{label}: FDG over our 1F1B, {fdg:.3f}, as a share of the simulated "
                f"{median(simulated):.3f} with calibrated costs",
                0.95,
                fdg / median(simulated),
            ),
            Target(
                f"{label}: the same as a share of the ideal {median(ideal):.3f} without overheads",
                0.95,
                fdg / median(ideal),
            ),
        ]
    return Result("one_f_one_b", QUESTION, rows, phases, targets, _NOTES)


_NOTES: Final = (
    "FDG passes whole mini-batches and waits for none of them, so its gaps are not 0; 1F1B with "
    "flush has a gap of 0. A time is the median of the rounds, a ratio the median of their ratios.",
)


def _rounds(task: Task, parts: int, scale: Scale) -> tuple[Rounds, int]:
    cores = int(describe_machine()["cores"])
    bounds = task.bounds(MODULES)
    # No figure counts in a trial, and threads start at once.
    runtime: Runtime = "threads" if scale.tiny else "processes"
    scale.told(f"{task.label}:")
    with ExitStack() as stack:
        plain = stack.enter_context(Plain(task))
        torchs = stack.enter_context(TorchPipeline(task, MODULES, parts))
        batches = scale.batches(plain.backpropagation(_TRIED).batch_s)
        short = 3 if scale.tiny else max(6, batches // 4)
        cases: dict[str, Case] = {
            "profile of whole mini-batches": lambda: plain.profile(short, bounds),
            "profile of parts": lambda: plain.profile(short, bounds, parts),
            "one thread": lambda: plain.backpropagation(batches),
            "all cores": lambda: plain.backpropagation(batches, cores),
            "torch": lambda: torchs.train(batches),
            "1f1b": lambda: _ours(task, runtime, "1f1b", batches, parts),
            "fdg": lambda: _ours(task, runtime, "fdg", batches, parts),
            "calibrated 1f1b": lambda: _calibrated(task, runtime, "1f1b", short, parts),
            "calibrated fdg": lambda: _calibrated(task, runtime, "fdg", short, parts),
        }
        return paired(cases, scale), batches


def _options(name: str, parts: int) -> dict[str, Any]:
    return {"modules": MODULES, **({"micro_batches": parts} if name == "1f1b" else {})}


def _ours(task: Task, runtime: Runtime, name: str, batches: int, parts: int) -> Phase:
    return run_phase(task, runtime, name, batches, **_options(name, parts))


def _calibrated(task: Task, runtime: Runtime, name: str, rounds: int, parts: int) -> Phase:
    training = task.training(name, rounds, **_options(name, parts))
    found = calibrate(training, runtime, rounds)
    return Phase(0.0, found.other_cpu_share, found)


def _simulated_s(name: str, batches: int, parts: int, found: Calibration) -> float:
    schedule = build(name, batches=batches, **_options(name, parts))
    return makespan_s(simulate(schedule, found.blocks, found.cluster))


def _profiles(rounds: Rounds) -> list[tuple[Any, Any]]:
    parts, whole = "profile of parts", "profile of whole mini-batches"
    return list(zip(rounds.details(parts), rounds.details(whole), strict=True))


def _ideal_ratio(batches: int, parts: int, in_parts: Any, whole: Any) -> float:
    one = build("1f1b", batches=batches, **_options("1f1b", parts))
    other = build("fdg", batches=batches, **_options("fdg", parts))
    return makespan_s(simulate(one, in_parts)) / makespan_s(simulate(other, whole))


_LABELS: Final = {
    "one thread": "BP, plain PyTorch, one thread",
    "all cores": "BP, plain PyTorch, all cores",
    "torch": "1F1B, torch.distributed.pipelining",
    "1f1b": "1F1B, ours",
    "fdg": "FDG, ours",
}


def _rows(task: Task, parts: int, rounds: Rounds) -> list[dict[str, Cell]]:
    return [
        {
            "network": f"{task.label}, {parts} micro-batches",
            "method": label,
            "mini-batch, ms": 1000 * rounds.batch_s(name),
            "over one thread": rounds.ratio("one thread", name),
            "over all cores": rounds.ratio("all cores", name),
        }
        for name, label in _LABELS.items()
    ]


if __name__ == "__main__":
    main(measure)
