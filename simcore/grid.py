"""The worker x step grid: what each worker did, step by step, and what it waits for."""

from collections.abc import Mapping
from typing import Final

import numpy as np

from simcore.errors import DeadlockError
from simcore.ops import KINDS
from simcore.schedule import Schedule
from simcore.trace import KIND, SPAN_COLUMNS, Recorder, table

__all__ = ["LETTERS", "aligned", "deadlock", "grid", "label"]

_SHOWN_STEPS = 8

_LETTER_OF: Final = {
    "forward": "F",
    "backward": "B",
    "update": "U",
    "evaluate": "V",
    "tangent": "T",
    "replay": "R",
    "backward_input": "I",
    "backward_weight": "W",
    "backward_through": "D",
    "project": "P",
    "estimate": "E",
    "refine": "A",
    "snapshot": "S",
    "merge": "M",
    "load": "L",
}
# The letter of each kind of computation, by its code in traces.
LETTERS: Final = {KIND[kind]: letter for kind, letter in _LETTER_OF.items()}


def label(kind: int, block: int, batch: int) -> str:
    """A short name of a computation.

    >>> label(0, 2, 5), label(2, 2, -1)
    ('F2:5', 'U2')
    """
    letter = LETTERS[kind]
    return f"{letter}{block}" if batch < 0 else f"{letter}{block}:{batch}"


def deadlock(schedule: Schedule, recorder: Recorder, waiting: Mapping[int, str]) -> DeadlockError:
    """The error for workers that wait for ever, with the grid of the last steps of all workers."""
    names = ", ".join(schedule.workers[worker].name for worker in waiting)
    message = f"deadlock in {schedule.name}: {names} wait for what nobody will send"
    last = {worker: f"waits at {operation}" for worker, operation in waiting.items()}
    return DeadlockError(message, grid(schedule, recorder, last))


def grid(schedule: Schedule, recorder: Recorder, last: Mapping[int, str]) -> str:
    """The last steps of all workers, and how each stands; without a word it has ended.

    Takes the rows that have been recorded so far.
    """
    rows = table(recorder.drain()[0], SPAN_COLUMNS)
    lines = []
    for number, worker in enumerate(schedule.workers):
        steps = [_step(schedule, row) for row in rows[rows["worker"] == number]]
        shown = (["..."] if len(steps) > _SHOWN_STEPS else []) + steps[-_SHOWN_STEPS:]
        lines.append([worker.name, *shown, last.get(number, "ended")])
    return aligned(lines)


def _step(schedule: Schedule, row: np.void) -> str:
    kind, number, batch = int(row["kind"]), int(row["block"]), int(row["batch"])
    if kind in LETTERS:
        return label(kind, number, batch)
    where = schedule.channels if kind in (KIND["send"], KIND["receive"]) else schedule.groups
    return f"{KINDS[kind].__name__} {where[number].name}:{batch}"


def aligned(lines: list[list[str]]) -> str:
    """Cells in columns, as wide as the widest of each."""
    columns = max(len(line) for line in lines)
    widths = [
        max(len(line[column]) for line in lines if column < len(line)) for column in range(columns)
    ]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip()
        for line in lines
    )
