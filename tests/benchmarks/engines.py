"""How many operations a second do the two simulators manage?"""

import time
from collections.abc import Callable
from typing import Any, Final

from simcore.engines import Engine, simulate
from simcore.schedules import build
from simcore.trace import Trace
from tests.benchmarks.asked import uneven
from tests.benchmarks.command import main
from tests.benchmarks.harness import Case, Phase, Scale, paired, watched
from tests.benchmarks.results import Cell, Phases, Result, Target

__all__ = ["measure"]

QUESTION: Final = (
    "How many operations a second (passes, updates, messages) do the compiled engine and the "
    "reference on SimPy simulate, from the schedule to the trace, and what is their ratio?"
)
# Schedule, workers, batches: as many as keep SimPy busy for a second.
SIZES: Final = (
    ("fdg", 2, 8000),
    ("fdg", 8, 2000),
    ("fdg", 64, 512),
    ("1f1b", 64, 512),
    ("async-lu", 4, 4000),
)
TINY: Final = (("fdg", 2, 50),)
_WANTED: Final = 100.0


def measure(scale: Scale) -> Result:
    """Operations a second, by schedule and number of workers."""
    rows: list[dict[str, Cell]] = []
    targets: list[Target] = []
    phases = Phases()
    for name, workers, batches in TINY if scale.tiny else SIZES:
        row, counted = _row(name, workers, batches, scale)
        rows.append(row)
        phases += counted
        if workers == 64:
            ratio = row["compiled over SimPy"]
            assert isinstance(ratio, float)
            claim = f"{name} with 64 workers: compiled over SimPy, program building included"
            targets.append(Target(claim, _WANTED, ratio))
    return Result("engines", QUESTION, rows, phases, targets, _NOTES)


_NOTES: Final = (
    "Times of modules are uneven; batches of 1f1b are the micro-batches of one mini-batch.",
    "Building the schedule, lowering its programs and sorting the "
    "trace are included; compiling the engine, which is done once for a machine, is not.",
)


def _row(name: str, workers: int, batches: int, scale: Scale) -> tuple[dict[str, Cell], Phases]:
    scale.told(f"{name}, {workers} workers:")
    options = _options(name, workers, batches)
    cases: dict[str, Case] = {
        engine: _case(name, engine, options) for engine in ("simpy", "compiled")
    }
    cases["compiled"]()  # loads the compiled code
    rounds = paired(cases, scale)
    operations = len(rounds.details("compiled")[0].spans)
    rate = {each: operations / rounds.batch_s(each) / 1e6 for each in cases}
    return {
        "schedule": name,
        "workers": workers,
        "batches": batches,
        "operations": operations,
        "SimPy, million/s": rate["simpy"],
        "compiled, million/s": rate["compiled"],
        "compiled over SimPy": rounds.ratio("simpy", "compiled"),
    }, Phases.of(rounds)


def _options(name: str, workers: int, batches: int) -> dict[str, Any]:
    if name == "async-lu":
        threads = {"forward_threads": 1, "backward_threads": workers - 1}
        return {"layers": 4, "batches": batches, **threads}
    if name == "1f1b":
        return {"modules": workers, "batches": 1, "micro_batches": batches}
    return {"modules": workers, "batches": batches}


def _case(name: str, engine: Engine, options: dict[str, Any]) -> Case:
    def run() -> tuple[float, Trace]:
        began = time.perf_counter()
        schedule = build(name, **options)
        trace = simulate(schedule, uneven(schedule.blocks), engine=engine)
        return time.perf_counter() - began, trace

    measured: Callable[[], Phase] = lambda: watched(run, ())  # noqa: E731
    return measured


if __name__ == "__main__":
    main(measure)
