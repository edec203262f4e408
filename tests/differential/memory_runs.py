"""What was measured of a run, and what is predicted for it, side by side."""

from typing import Any

from analysis.memory_comparison import predicted_by
from executor.memory_rows import HELD, Held, held_by
from executor.training import RunResult
from simcore.schedule import Schedule
from simcore.workload import Workload


def sides(result: RunResult, schedule: Schedule, sizes: Workload) -> list[tuple[str, Held, Held]]:
    """For each worker: its name, what is predicted and what was measured."""
    assert result.memory is not None
    predicted = predicted_by(result.trace, schedule, sizes)
    measured = held_by(result.memory, result.trace)
    return list(zip(result.trace.header.workers, predicted, measured, strict=True))


def column(held: Held, category: str) -> Any:
    return held.bytes[:, HELD.index(category)]


def counts(held: Held, category: str) -> Any:
    return held.count[:, HELD.index(category)]
