"""How long sweeps of many configurations and Monte-Carlo studies of many replicas take."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, Final

from analysis.sweeps.answer import answered
from analysis.sweeps.question import Configuration, Question, Setting, Sweep, configurations
from analysis.sweeps.store import Store
from analysis.sweeps.work import sweep
from executor.hygiene import CpuWatch
from simcore.monte_carlo import monte_carlo
from simcore.schedules import build
from simcore.simulator import ENGINE, simulate
from simcore.workload import Workload
from tests.benchmarks.command import main
from tests.benchmarks.harness import Case, Phase, Rounds, Scale, paired
from tests.benchmarks.results import Cell, Phases, Result, Target

__all__ = ["grid", "measure", "spread"]

QUESTION: Final = (
    "How long does a study take, with the store of its answers: up to 10,000 configurations "
    "(methods x modules or layers x accumulation x ratio of times x forward and backward threads, "
    "50 batches) on all cores, and up to 1,000 replicas of 16 workers x 1,000 batches with random "
    "times, beside as many simulations one after the other?"
)
_SWEEP_S, _REPLICAS_S = 60.0, 5.0
_JITTER: Final = 0.2
_NEIGHBOURS: Final = 25  # configurations in a row of the grid, which differ in the ratio alone
_SAMPLED: Final = 100  # configurations that are simulated one after the other
_STEP: Final = Fraction(1, 16)


def grid(least: int, most: int, batches: int) -> tuple[Configuration, ...]:
    """At least so many configurations of eight methods, of up to so many modules or layers."""
    sizes, threads = tuple(range(1, most + 1)), (1, 2, 3)
    methods = ("bp", "gpipe", "1f1b", "pipedream", "ddg", "fdg", "adl", "dsp")
    chosen: list[tuple[str, dict[str, Any]]] = [
        (name, {}) for name in (*methods, "async-lu", "async-bu")
    ]

    def asked(ratios: int) -> Sweep:
        axes: dict[str, Sequence[Any]] = {
            "modules": sizes,
            "layers": sizes,
            "accumulation": (1, 2, 4, 8),
            "forward_threads": threads[:2],
            "backward_threads": threads,
            "backward_ratio": [1 + step * _STEP for step in range(ratios)],
            "batches": (batches,),
        }
        return Sweep(chosen, axes)

    of_one = len(configurations(asked(1), Setting()))
    return configurations(asked(-(-least // of_one)), Setting())


def spread(asked: Sequence[Configuration], count: int) -> Sequence[Configuration]:
    """About so many configurations from all over the grid, neighbours together as in a sweep."""
    begins = range(0, len(asked), _NEIGHBOURS)
    step = max(1, len(begins) * _NEIGHBOURS // count)
    return [each for begin in begins[::step] for each in asked[begin : begin + _NEIGHBOURS]]


def measure(scale: Scale) -> Result:
    """The time of both studies, of several sizes."""
    tiny = scale.tiny
    asked = grid(60, 3, 4) if tiny else grid(10_000, 16, 50)
    sizes = (25, len(asked)) if tiny else (100, 1000, len(asked))
    studies = {f"configurations {size}": spread(asked, size) for size in sizes}
    many = {f"replicas {runs}": runs for runs in ((5, 20) if tiny else (10, 100, 1000))}
    schedule = build("fdg", modules=4 if tiny else 16, batches=10 if tiny else 1000)
    blocks = Workload.even(schedule.blocks)
    sample = spread(asked, _SAMPLED)

    def replicas(runs: int) -> int:
        monte_carlo(schedule, blocks, runs=runs, jitter=_JITTER)
        return runs

    def one_replica() -> int:
        simulate(schedule, blocks, jitter=_JITTER)
        return 1

    def one_by_one() -> int:
        for each in sample:
            answered(each, Setting())
        return len(sample)

    cases: dict[str, Case] = {
        # Processes that answer are no others, and how much they took is not known.
        **{name: _phase(partial(_sweep, study), watch=False) for name, study in studies.items()},
        "configurations": _phase(one_by_one),
        **{name: _phase(partial(replicas, runs)) for name, runs in many.items()},
        "replicas": _phase(one_replica),
    }
    rounds = paired(cases, scale)
    rows = [_row("configurations", name, len(study), rounds) for name, study in studies.items()]
    largest = _seconds(rows[-1])
    rows += [_row("replicas", name, runs, rounds) for name, runs in many.items()]
    targets = [
        Target("seconds for 10,000 configurations", _SWEEP_S, largest, at_least=False),
        Target("seconds for 1,000 replicas", _REPLICAS_S, _seconds(rows[-1]), at_least=False),
    ]
    notes = (
        f"The engine is {ENGINE}. One by one is the mean of {len(sample)} configurations over the "
        "grid in one process, without a store. The first large sweep of the first round starts "
        "processes. Where operations have a fixed order, replicas are one max-plus recurrence over "
        "arrays, beside one simulation by the engine.",
    )
    return Result("sweeps", QUESTION, rows, Phases.of(rounds), () if tiny else targets, notes)


def _phase(work: Callable[[], int], watch: bool = True) -> Case:
    """A phase of which one item is a configuration or a replica."""

    def run() -> Phase:
        watched, begun = CpuWatch(), perf_counter()
        count = work()
        spent = perf_counter() - begun
        return Phase(spent / count, watched.other_share() if watch else None)

    return run


def _sweep(asked: Sequence[Configuration]) -> int:
    setting = Setting()
    question = Question.of(asked, setting)
    with TemporaryDirectory() as folder, Store.open(Path(folder) / "store.sqlite") as store:
        store.begin(question)
        sweep(question, setting, store)
        assert not store.missing(question)
    return len(asked)


def _row(study: str, name: str, count: int, rounds: Rounds) -> dict[str, Cell]:
    each_s = rounds.batch_s(name)
    return {
        "study": study,
        "of": count,
        "time, s": each_s * count,
        "each, ms": 1000 * each_s,
        "one by one, ms": 1000 * rounds.batch_s(study),
        "one by one over study": rounds.ratio(study, name),
    }


def _seconds(row: dict[str, Any]) -> float:
    return float(row["time, s"])


if __name__ == "__main__":
    main(measure)
