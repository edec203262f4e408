"""Traces of one schedule with more and more batches: the same but for a period put in.

The trace for n + P batches *nests* the one for n if it is the same up to some row, and from a row
before that one on the same again: so many ticks later, and counted on in batches, versions and
operations. Every column of every row is compared. The rows that are in both parts come twice in the
longer trace, a period apart. If all that is under way behind them began in them, messages, running
operations, batches whose gradients are yet to be applied, then the run is in the same state there,
relative to now, batch and version, as a period later: it *recurs*.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simcore.passes import cells, cells_of
from simcore.trace import KIND, Trace

__all__ = ["Nesting", "likely_period", "nesting", "recurs"]

_COUNTS_ON: Final = ("update", "merge")
_NO_PASS: Final = [KIND[kind] for kind in ("send", "receive", "arrive", "join", "load")]
_MOST_TRIED: Final = 200  # periods that fit the last rows and are compared with all others
_LOOKED_AT: Final = 64
# Odd numbers that make one of several; the sum is taken modulo 2**64.
_MIXED: Final = np.array([0x9E3779B97F4A7C1, 0xC2B2AE3D27D4EB5, 0x165667B19E3779F, 0x27D4EB2F1656D])


@dataclass(frozen=True, slots=True)
class Nesting:
    """What a period adds: `ticks`, and `length` rows of the trace.

    Rows from `since` to before `until` come again `length` rows later.
    """

    ticks: int
    length: int
    since: int
    until: int


def nesting(short: Trace, longer: Trace) -> Nesting | None:
    """Whether the trace with more batches is the other with something put in; None if not."""
    batches = longer.header.batches - short.header.batches
    ticks = longer.end - short.end
    raised = _rises(longer) - _rises(short)
    found = _put_in(short.spans, longer.spans, _counted_on(short, longer, ticks, batches, raised))
    moved = short.gradients.copy()
    cell = cells_of(short, moved["worker"], moved["block"])
    moved["time"] += ticks
    moved["batch"] += batches
    for column in moved.dtype.names or ():
        if column.startswith("version"):
            moved[column] += raised[cell]
    if found is None or _put_in(short.gradients, longer.gradients, moved) is None:
        return None
    return Nesting(ticks, len(longer.spans) - len(short.spans), *found)


def recurs(longer: Trace, found: Nesting) -> bool:
    """Whether all that is under way at the period's end began in rows that were seen twice.

    The longest that anything is under way is taken from all of the trace: the duration of an
    operation, and the time from a batch's first operation to its last, or to its last update.
    """
    spans, gradients = longer.spans, longer.gradients
    if found.until >= len(spans) or not found.length:
        return False
    passing = spans[(spans["batch"] >= 0) & ~_is_meeting(spans)]
    began = np.zeros(longer.header.batches, np.int64)
    began[passing["batch"][::-1]] = passing["start"][::-1]  # the first stays
    over = began.copy()
    np.maximum.at(over, passing["batch"], passing["end"])
    np.maximum.at(over, gradients["batch"], gradients["time"])
    longest = max(int((over - began).max()), int((spans["end"] - spans["start"]).max()))
    seen = int(spans["start"][found.until] - spans["start"][found.since])
    return seen > max(longest, found.ticks)


def _rises(trace: Trace) -> NDArray[np.int64]:
    """How often the version of each cell was raised."""
    found = np.zeros(cells(trace.header), np.int64)
    for kind in _COUNTS_ON:
        rows = trace.of_kind(kind)
        np.add.at(found, cells_of(trace, rows["worker"], rows["block"]), 1)
    return found


def _is_meeting(rows: NDArray[np.void]) -> NDArray[np.bool_]:
    """Of which rows the column of batches has a block."""
    return np.isin(rows["kind"], [KIND["arrive"], KIND["join"]])


def _counted_on(
    short: Trace, longer: Trace, ticks: int, batches: int, raised: NDArray[np.int64]
) -> NDArray[np.void]:
    """The rows of the shorter trace as they are at the end of the longer one."""
    rows = short.spans.copy()
    rows["start"] += ticks
    rows["end"] += ticks
    workers = len(short.header.workers)
    more = np.bincount(longer.spans["worker"], minlength=workers)
    more -= np.bincount(rows["worker"], minlength=workers)
    rows["index"] += more[rows["worker"]]
    rows["batch"] += np.where((rows["batch"] >= 0) & ~_is_meeting(rows), batches, 0)
    versioned = rows["version"] >= 0
    cell = cells_of(short, rows["worker"][versioned], rows["block"][versioned])
    rows["version"][versioned] += raised[cell]
    return rows


def _put_in(
    short: NDArray[np.void], longer: NDArray[np.void], moved: NDArray[np.void]
) -> tuple[int, int] | None:
    """From which row on the shorter table is the end of the longer one, and up to which row it is
    its beginning; None if the two parts are not all of it.
    """
    length = len(longer) - len(short)
    if length < 0:
        return None
    columns = len(short.dtype.names or ())
    # Comparing rows field by field is slow.
    head = short.view(np.int64) != longer[: len(short)].view(np.int64)
    tail = (moved.view(np.int64) != longer[length:].view(np.int64))[::-1]
    same = int(np.argmax(head)) // columns if head.any() else len(short)
    since = len(short) - int(np.argmax(tail)) // columns if tail.any() else 0
    return (since, same) if since <= same else None


def _data_run_out(trace: Trace) -> int:
    """The tick at which one of the last tenth of the batches begins to be computed with."""
    spans = trace.spans
    late = (spans["batch"] >= trace.header.batches * 9 // 10) & ~np.isin(spans["kind"], _NO_PASS)
    return int(spans["start"][late].min(initial=trace.end))


def likely_period(trace: Trace) -> int | None:
    """After how many batches the gradients of a trace come again as before, likely.

    Looks at the second half of those before the data run out: whether their updates, workers and
    gaps repeat a pattern at least twice.
    """
    rows = trace.gradients
    count = int(np.searchsorted(rows["time"], _data_run_out(trace), side="right"))
    middle = rows[count // 2 : count]
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
    )
    mixed = (signs @ _MIXED)[::-1]
    tried = 0
    for period in (np.flatnonzero(mixed[1 : len(mixed) // 2 + 1] == mixed[0]) + 1).tolist():
        near = mixed[period : period + _LOOKED_AT]
        if (near != mixed[: len(near)]).any():
            continue
        if (mixed[period:] == mixed[:-period]).all():
            moved = int(middle["batch"][-1] - middle["batch"][-1 - period])
            return moved if moved > 0 else None
        tried += 1
        if tried == _MOST_TRIED:
            return None
    return None
