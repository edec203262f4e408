"""The worker x step grid: what each worker did, step by step, and what it waits for."""

from collections.abc import Mapping

import numpy as np

from simcore.errors import DeadlockError
from simcore.ops import KINDS, Receive, Send
from simcore.schedule import Schedule
from simcore.trace import SPAN_COLUMNS, Recorder, table

__all__ = ["deadlock", "label"]

_SHOWN_STEPS = 8


def label(kind: int, block: int, batch: int) -> str:
    """A short name of a computation.

    >>> label(0, 2, 5), label(2, 2, -1)
    ('F2:5', 'U2')
    """
    letter = KINDS[kind].__name__[0]
    return f"{letter}{block}" if batch < 0 else f"{letter}{block}:{batch}"


def deadlock(schedule: Schedule, recorder: Recorder, waiting: Mapping[int, str]) -> DeadlockError:
    """The error for workers that wait for ever, with the grid of the last steps of all workers."""
    rows = table(recorder.drain()[0], SPAN_COLUMNS)
    lines = []
    for number, worker in enumerate(schedule.workers):
        steps = [_step(schedule, row) for row in rows[rows["worker"] == number]]
        shown = (["..."] if len(steps) > _SHOWN_STEPS else []) + steps[-_SHOWN_STEPS:]
        last = f"waits at {waiting[number]}" if number in waiting else "ended"
        lines.append([worker.name, *shown, last])
    return DeadlockError(
        f"deadlock in {schedule.name}: {', '.join(schedule.workers[w].name for w in waiting)} "
        f"wait for what nobody will send",
        aligned(lines),
    )


def _step(schedule: Schedule, row: np.void) -> str:
    if KINDS[row["kind"]] not in (Send, Receive):
        return label(int(row["kind"]), int(row["block"]), int(row["batch"]))
    return f"{KINDS[row['kind']].__name__} {schedule.channels[row['block']].name}:{row['batch']}"


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
