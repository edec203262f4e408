"""From which length of operations on is a pipeline of two workers no slower than one thread?"""

from statistics import fmean
from typing import Any, Final

from executor.machine import describe_machine
from executor.run import Runtime
from tests.benchmarks.command import main
from tests.benchmarks.harness import Case, Phase, Scale, Task, paired, run_phase
from tests.benchmarks.plain import Plain
from tests.benchmarks.results import Cell, Phases, Result, Target

__all__ = ["measure"]

QUESTION: Final = (
    "From which length of operations on is FDG with two modules, in processes and in threads, no "
    "slower than backpropagation by plain PyTorch on one thread?"
)
MODELS: Final = ("mlp:8x64", "mlp:8x128", "mlp:8x256", "mlp:8x512")
RUNTIMES: Final[tuple[Runtime, ...]] = ("processes", "threads")
LONG_S: Final = 0.0002
_TRIED: Final = 20  # mini-batches that show how long one takes


def measure(scale: Scale) -> Result:
    """The speedups of all lengths."""
    rows: list[dict[str, Cell]] = []
    targets: list[Target] = []
    phases = Phases()
    for model in ("mlp:2x8",) if scale.tiny else MODELS:
        task = Task(model, 16 if scale.tiny else 64, scale.device)
        row, counted = _row(task, scale)
        rows.append(row)
        phases += counted
        shortest = row["shortest operation, ms"]
        speedup = row["processes over one thread"]
        assert isinstance(shortest, float)
        assert isinstance(speedup, float)
        if shortest >= 1000 * LONG_S:
            claim = f"{task.label}: FDG over one thread, operations of {shortest:.2g} ms and more"
            targets.append(Target(claim, 1.0, speedup))
    return Result("small_operations", QUESTION, rows, phases, targets, _NOTES)


_NOTES: Final = (
    "The shortest operation is the shorter of the mean forward and backward pass of a block of the "
    "profile; updates may be shorter.",
)


def _row(task: Task, scale: Scale) -> tuple[dict[str, Cell], Phases]:
    bounds, cores = task.bounds(2), int(describe_machine()["cores"])
    scale.told(f"{task.label}:")
    with Plain(task) as plain:
        batches = scale.batches(plain.backpropagation(_TRIED).batch_s)
        cases: dict[str, Case] = {
            "profile": lambda: plain.profile(batches, bounds),
            "one thread": lambda: plain.backpropagation(batches),
            "all cores": lambda: plain.backpropagation(batches, cores),
        }
        for runtime in RUNTIMES:
            # No figure counts in a trial, and threads start at once.
            cases[runtime] = _fdg(task, "threads" if scale.tiny else runtime, batches)
        rounds = paired(cases, scale)
    layers = [layer for profile in rounds.details("profile") for layer in profile.layers]
    means = {
        (block, kind): fmean(float(getattr(layer, f"{kind}_s")) for layer in layers[block::2])
        for block in range(2)
        for kind in ("forward", "backward", "update")
    }
    return {
        "network": task.label,
        "shortest operation, ms": 1000
        * min(s for (_, kind), s in means.items() if kind != "update"),
        "shortest update, ms": 1000 * min(s for (_, kind), s in means.items() if kind == "update"),
        "BP one thread, ms": 1000 * rounds.batch_s("one thread"),
        "BP all cores, ms": 1000 * rounds.batch_s("all cores"),
        **{f"{each}, ms": 1000 * rounds.batch_s(each) for each in RUNTIMES},
        **{f"{each} over one thread": rounds.ratio("one thread", each) for each in RUNTIMES},
        **{f"{each} over all cores": rounds.ratio("all cores", each) for each in RUNTIMES},
    }, Phases.of(rounds)


def _fdg(task: Task, runtime: Runtime, batches: int) -> Any:
    def phase() -> Phase:
        return run_phase(task, runtime, "fdg", batches, modules=2)

    return phase


if __name__ == "__main__":
    main(measure)
