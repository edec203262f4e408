"""What each worker does all the time: busy, starved, blocked or waiting, read from a trace.

A worker is busy while it is *computing*, *sending*, *receiving*, or *reducing* with others. When it
is not, what it does next says why: it is *starved* before it receives, for no message is there;
*blocked* before it sends, for the channel is full; *waiting* before it joins, for other members.
*Other* is the time before it computes: in a real run what lies between operations, in a simulated
one a wait for a channel that was closed. It is *early* before its first operation and *done* after
its last.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from simcore.trace import KIND, Trace

__all__ = ["STATES", "occupancy", "occupancy_s"]

STATES: Final = (
    "computing",
    "sending",
    "receiving",
    "reducing",
    "starved",
    "blocked",
    "waiting",
    "other",
    "early",
    "done",
)
_BUSY: Final = {"send": "sending", "receive": "receiving", "arrive": "reducing", "join": "reducing"}
_IDLE: Final = {"send": "blocked", "receive": "starved", "join": "waiting"}


def occupancy(trace: Trace) -> NDArray[np.int64]:
    """Ticks that each worker spent in each state, shape (workers, states), states as in `STATES`.

    Each row sums to the makespan, exactly.
    """
    spans = trace.spans
    ticks = np.zeros((len(trace.header.workers), len(STATES)), np.int64)
    order = np.argsort(spans["worker"], kind="stable")  # within a worker, rows are in its order
    worker, kind = spans["worker"][order], spans["kind"][order]
    start, end = spans["start"][order], spans["end"][order]
    first = np.append(True, worker[1:] != worker[:-1])[: len(order)]
    before = np.where(first, trace.start, np.roll(end, 1))
    busy, idle = _states(_BUSY, "computing")[kind], _states(_IDLE, "other")[kind]
    idle[first] = STATES.index("early")
    np.add.at(ticks, (worker, busy), end - start)
    np.add.at(ticks, (worker, idle), start - before)
    last = np.full(len(ticks), trace.start)
    last[worker] = end
    ticks[:, STATES.index("done")] = trace.end - last
    return ticks


def occupancy_s(trace: Trace) -> tuple[dict[str, float], ...]:
    """For each worker, the seconds that it spent in each state."""
    tick_s = trace.header.tick_s
    return tuple(
        {state: float(ticks * tick_s) for state, ticks in zip(STATES, row, strict=True)}
        for row in occupancy(trace).tolist()
    )


def _states(names: dict[str, str], otherwise: str) -> NDArray[np.int64]:
    return np.array([STATES.index(names.get(kind, otherwise)) for kind in KIND], np.int64)
