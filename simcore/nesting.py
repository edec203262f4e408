"""Traces of one schedule with more and more batches: the same but for a period put in.

The trace for n + P batches *nests* the one for n if it is the same up to some row, and from a
later one on the same again: so many ticks later, and counted on in batches, versions and
operations. Every column of every row is compared, and all that is there on the way, messages and
running operations with what is left of them, shows in the rows that follow: so the two traces were
in the same state, relative to now, batch and version, before and behind what was put in.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simcore.passes import cells, cells_of
from simcore.trace import KIND, Trace

__all__ = ["Nesting", "nesting", "period_in_batches"]

_COUNTS_ON = ("update", "merge")


@dataclass(frozen=True, slots=True)
class Nesting:
    """What a period adds: `ticks`, and rows of the trace, `first` and `length` of them."""

    ticks: int
    first: int
    length: int


def nesting(short: Trace, longer: Trace) -> Nesting | None:
    """Whether the trace with more batches is the other with something put in; None if not."""
    batches = longer.header.batches - short.header.batches
    ticks = longer.end - short.end
    raised = _rises(longer) - _rises(short)
    spans = _counted_on(short, longer, ticks, batches, raised)
    found = _put_in(short.spans, longer.spans, spans)
    moved = short.gradients.copy()
    cell = cells_of(short, moved["worker"], moved["block"])
    moved["time"] += ticks
    moved["batch"] += batches
    for column in moved.dtype.names or ():
        if column.startswith("version"):
            moved[column] += raised[cell]
    applied = _put_in(short.gradients, longer.gradients, moved)
    if found is None or applied is None:
        return None
    return Nesting(ticks, *found)


def _rises(trace: Trace) -> NDArray[np.int64]:
    """How often the version of each cell was raised."""
    found = np.zeros(cells(trace.header), np.int64)
    for kind in _COUNTS_ON:
        rows = trace.of_kind(kind)
        np.add.at(found, cells_of(trace, rows["worker"], rows["block"]), 1)
    return found


def _counted_on(
    short: Trace, longer: Trace, ticks: int, batches: int, raised: NDArray[np.int64]
) -> NDArray[np.void]:
    """The rows of the shorter trace as they are at the end of the longer one."""
    rows = short.spans.copy()
    rows["start"] += ticks
    rows["end"] += ticks
    more = Counter(longer.spans["worker"].tolist())
    more.subtract(Counter(rows["worker"].tolist()))
    workers = range(len(short.header.workers))
    rows["index"] += np.array([more[worker] for worker in workers], np.int64)[rows["worker"]]
    meeting = np.isin(rows["kind"], [KIND["arrive"], KIND["join"]])
    rows["batch"] += np.where((rows["batch"] >= 0) & ~meeting, batches, 0)
    versioned = rows["version"] >= 0
    cell = cells_of(short, rows["worker"][versioned], rows["block"][versioned])
    rows["version"][versioned] += raised[cell]
    return rows


def _put_in(
    short: NDArray[np.void], longer: NDArray[np.void], moved: NDArray[np.void]
) -> tuple[int, int] | None:
    """Behind which row of the shorter table so many were put in; None if that is not all."""
    length = len(longer) - len(short)
    if length < 0:
        return None
    head = short != longer[: len(short)]
    tail = moved != longer[length:]
    same = int(np.argmax(head)) if head.any() else len(short)
    since = len(short) - int(np.argmax(tail[::-1])) if tail.any() else 0
    return (since, length) if since <= same else None


def period_in_batches(trace: Trace) -> int | None:
    """After how many batches the gradients of a trace come again as before, likely.

    Looks at the middle of the trace, where its updates, workers and gaps repeat a pattern at least
    twice.
    """
    rows = trace.gradients
    if len(rows) < 8:
        return None
    taken = trace.spans["start"][trace.spans["kind"] == KIND["forward"]]
    until = int(taken.max()) if len(taken) else trace.end
    count = int(np.searchsorted(rows["time"], until, side="right"))
    middle = rows[count // 3 : count]
    if len(middle) < 8:
        return None
    signs = np.stack(
        [
            np.diff(middle["time"]),
            middle["worker"][1:],
            middle["block"][1:],
            (middle["version_applied"] - middle["version_forward"])[1:],
        ],
        axis=1,
    )[::-1]
    for period in range(1, len(signs) // 2 + 1):
        if (signs[period:] == signs[:-period]).all():
            batches = np.sort(middle["batch"])[::-1]
            moved = int(middle["batch"][-1] - middle["batch"][-1 - period])
            return moved if 0 < moved <= int(batches[0]) else None
    return None
