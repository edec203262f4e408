"""How fast is a question about makespan, load and gaps answered without a trace?"""

import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any, Final

from simcore.engines import Engine, lowered, simulate
from simcore.figures import Figures, figures, figures_of
from tests.benchmarks.asked import counted, schedule, uneven
from tests.benchmarks.command import main
from tests.benchmarks.harness import Case, Scale, paired, watched
from tests.benchmarks.results import Cell, Phases, Result, Target
from tests.benchmarks.torch_table import one_f_one_b_actions, simulated

__all__ = ["measure"]

QUESTION: Final = (
    "How long does it take to answer what makespan, utilization and gaps a schedule has, from its "
    "name to the figures, without a trace; how many operations a second is that, beside the "
    "compiled engine with a trace, SimPy, and the simulator of tables in torch's pipelining; and "
    "what does it cost with more workers and more batches?"
)
# Schedule, workers, passes of batches: the question that is asked most, and one so long that
# building the schedule does not matter.
ASKED: Final = (("fdg", 8, 512), ("fdg", 64, 512), ("1f1b", 8, 512), ("1f1b", 64, 512))
LONG: Final = {8: 400_000, 64: 50_000}
BY_WORKERS: Final = tuple(("fdg", k, 10_000) for k in (8, 32, 128, 512, 2048))
BY_BATCHES: Final = tuple(("fdg", 64, n) for n in (100, 1000, 10_000, 100_000, 1_000_000))
LARGEST: Final = ("fdg", 4096, 10_000)
_WANTED: Final = {8: 60.0, 64: 50.0}
_MOST_MS: Final = 50.0
_OVER_SIMPY, _OVER_TORCH = 100.0, 50.0
_TIMES: Final = 3


def measure(scale: Scale) -> Result:
    """Milliseconds and operations a second."""
    rows: list[dict[str, Cell]] = []
    targets: list[Target] = []
    phases = Phases()
    for name, workers, batches in ASKED[::2] if scale.tiny else ASKED:
        row, counted, wanted = _compared(name, workers, 20 if scale.tiny else batches, scale)
        rows.append(row)
        targets += wanted
        phases += counted
    for name, workers, batches in () if scale.tiny else (*BY_WORKERS, *BY_BATCHES):
        rows.append(_alone(name, workers, batches, scale))
    row, wanted = _largest(("fdg", 16, 100) if scale.tiny else LARGEST, scale)
    return Result("figures", QUESTION, [*rows, row], phases, [*targets, *wanted], _NOTES)


_NOTES: Final = (
    "Times of modules are uneven. A pass is that of a mini-batch (fdg) or of a micro-batch of one "
    "mini-batch (1f1b). Operations are passes, updates, sends and receives; for torch, the actions "
    "of 1F1B's table, whose simulator gives each one step: times, versions and gaps it does not "
    "have. Torch builds its table and simulates it, or does that alone. Slim builds the schedule, "
    "lowers its programs, runs and reads the figures; again: other times, but the schedule lowered "
    "already. Engine: slim with 400,000 (8 workers) or 50,000 (64) passes, where building hardly "
    "matters. Rows with slim alone are single runs, or the median of three below a second.",
)


def _row(name: str, workers: int, passes: int, operations: int, seconds: float) -> dict[str, Cell]:
    return {
        "schedule": name,
        "workers": workers,
        "passes": passes,
        "operations": operations,
        "slim, ms": 1e3 * seconds,
        "again, ms": None,
        "slim, million/s": operations / seconds / 1e6,
        "engine, million/s": None,
        "compiled, million/s": None,
        "SimPy, million/s": None,
        "torch, million/s": None,
        "torch alone, million/s": None,
        "slim over SimPy": None,
        "slim over torch": None,
        "engine over torch alone": None,
        "memory, MiB": None,
    }


def _compared(
    name: str, workers: int, passes: int, scale: Scale
) -> tuple[dict[str, Cell], Phases, list[Target]]:
    """The question to all simulators in turn."""
    scale.told(f"{name}, {workers} workers, {passes} passes:")
    actions = one_f_one_b_actions(workers, passes)
    asked = schedule(name, workers, passes)
    lowering = lowered(asked)
    cases: dict[str, Case] = {
        "slim": _case(lambda: counted(name, workers, passes), scale),
        "again": _case(lambda: figures(asked, uneven(workers), lowering=lowering), scale),
        "engine": _case(lambda: counted(name, workers, _long(workers, scale)), scale),
        "compiled": _case(lambda: _traced(name, workers, passes, "compiled"), scale),
        "simpy": _case(lambda: _traced(name, workers, passes, "simpy"), scale),
        "torch": _case(lambda: simulated(one_f_one_b_actions(workers, passes)), scale),
        "torch alone": _case(lambda: simulated(actions), scale),
    }
    operations = counted(name, workers, passes).operations
    of_torch = sum(map(len, actions.values()))
    of_engine = counted(name, workers, _long(workers, scale)).operations
    rounds = paired(cases, scale)
    different = {"engine": of_engine, "torch": of_torch, "torch alone": of_torch}
    rate = {each: different.get(each, operations) / rounds.batch_s(each) / 1e6 for each in cases}
    row = _row(name, workers, passes, operations, rounds.batch_s("slim")) | {
        "again, ms": 1e3 * rounds.batch_s("again"),
        "engine, million/s": rate["engine"],
        "compiled, million/s": rate["compiled"],
        "SimPy, million/s": rate["simpy"],
        "torch, million/s": rate["torch"],
        "torch alone, million/s": rate["torch alone"],
        "slim over SimPy": rounds.ratio("simpy", "slim"),
        "slim over torch": rate["slim"] / rate["torch"],
        "engine over torch alone": rate["engine"] / rate["torch alone"],
    }
    return row, Phases.of(rounds), _targets(f"{name}, {workers} workers", workers, row)


def _targets(told: str, workers: int, row: dict[str, Cell]) -> list[Target]:
    def measured(key: str) -> float:
        found = row[key]
        assert isinstance(found, float)
        return found

    engine = measured("engine, million/s")
    found = [Target(f"{told}: engine, million operations a second", _WANTED[workers], engine)]
    if workers == max(_WANTED):
        wanted = (
            ("whole question over SimPy", _OVER_SIMPY, "slim over SimPy"),
            ("whole question over torch, table included", _OVER_TORCH, "slim over torch"),
            ("engine over torch's simulator alone", _OVER_TORCH, "engine over torch alone"),
        )
        question = measured("slim, ms")
        found += [Target(f"{told}: whole question, ms", _MOST_MS, question, at_least=False)]
        found += [Target(f"{told}: {what}", least, measured(key)) for what, least, key in wanted]
    return found


def _long(workers: int, scale: Scale) -> int:
    return 50 if scale.tiny else LONG[workers]


def _case(ask: Callable[[], Any], scale: Scale) -> Case:
    """Ask again and again for the time of a phase; the mean time of a question."""

    def run() -> tuple[float, None]:
        began, asked = time.perf_counter(), 0
        while not asked or time.perf_counter() - began < scale.phase_s / 4:
            ask()
            asked += 1
        return (time.perf_counter() - began) / asked, None

    return lambda: watched(run, ())


def _alone(name: str, workers: int, passes: int, scale: Scale) -> dict[str, Cell]:
    """The slim variant alone: the median of three times if it is quick."""
    tried: list[float] = []
    while not tried or (len(tried) < _TIMES and tried[0] < 1.0):
        began = time.perf_counter()
        found = counted(name, workers, passes)
        tried.append(time.perf_counter() - began)
    seconds = median(tried)
    scale.told(f"{name}, {workers} workers, {passes} passes: {seconds:.3f} s")
    return _row(name, workers, passes, found.operations, seconds)


def _largest(size: tuple[str, int, int], scale: Scale) -> tuple[dict[str, Cell], list[Target]]:
    """A large simulation in a process of its own, whose memory is that of this question."""
    name, workers, passes = size
    command = [sys.executable, "-m", "tests.benchmarks.asked", *map(str, size)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    operations, seconds, mebibytes = int(printed[0]), float(printed[1]), float(printed[2])
    scale.told(f"{name}, {workers} workers, {passes} passes: {seconds:.1f} s, {mebibytes:.0f} MiB")
    row = _row(name, workers, passes, operations, seconds) | {"memory, MiB": mebibytes}
    told = f"{name}, {workers} workers, {passes} passes"
    return row, [
        Target(f"{told}: seconds", 30.0, seconds, at_least=False),
        Target(f"{told}: GiB", 2.0, mebibytes / 1024, at_least=False),
    ]


def _traced(name: str, workers: int, passes: int, engine: Engine) -> Figures:
    asked = schedule(name, workers, passes)
    return figures_of(simulate(asked, uneven(workers), engine=engine), asked)


if __name__ == "__main__":
    main(measure)
