"""One clock for the ranks of a run: how far the clock of another machine is ahead of this one's.

A question and its answer bracket the other clock's time by two of this one's; the answer that came
back soonest is the most exact. Clocks also run at different speeds, by some 10 parts per million,
so they are compared at the start and at the end of a run.
"""

import os
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from executor.clock import now_ns
from simcore.trace import GRADIENT_COLUMNS, SPAN_COLUMNS

__all__ = ["Ahead", "Comparison", "compared", "machine"]

_QUESTIONS: Final = 16


class Ahead(NamedTuple):
    """The other clock is `ahead_ns` ahead, give or take `within_ns`, when it shows `at_ns`."""

    ahead_ns: int = 0
    within_ns: int = 0
    at_ns: int = 0


def compared(ask: Callable[[], int | None], now: Callable[[], int] = now_ns) -> Ahead | None:
    """Compare this clock with another, which `ask` reads; None if nobody answers.

    The error is at most half of the time between question and answer.

    >>> ticks = iter(range(0, 10**6, 100))
    >>> compared(lambda: next(ticks) + 5000, lambda: next(ticks))
    Ahead(ahead_ns=5000, within_ns=100, at_ns=5100)
    """
    best: Ahead | None = None
    for _ in range(_QUESTIONS):
        asked = now()
        told = ask()
        answered = now()
        if told is None:
            return best
        found = Ahead(told - (asked + answered) // 2, (answered - asked + 1) // 2, told)
        if best is None or found.within_ns < best.within_ns:
            best = found
    return best


class Comparison(NamedTuple):
    """A clock compared at the start of a run and at its end, if it came so far."""

    first: Ahead = Ahead()
    last: Ahead | None = None

    def here(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """Times of the other clock (ns) as this clock's."""
        first, last = self.first, self.last
        if last is None or last.at_ns == first.at_ns:
            return times - first.ahead_ns
        drift = (last.ahead_ns - first.ahead_ns) / (last.at_ns - first.at_ns)
        late: NDArray[np.int64] = np.rint((times - first.at_ns) * drift).astype(np.int64)
        return times - first.ahead_ns - late

    def time(self, time: int) -> int:
        """One time of the other clock (ns) as this clock's."""
        return int(self.here(np.array([time], np.int64))[0])

    def spans(self, rows: "array[int]") -> "array[int]":
        """Rows of a trace's spans by this clock."""
        return self._rows(rows, SPAN_COLUMNS, ("start", "end"))

    def gradients(self, rows: "array[int]") -> "array[int]":
        """Rows of a trace's gradients by this clock."""
        return self._rows(rows, GRADIENT_COLUMNS, ("time",))

    def _rows(
        self, rows: "array[int]", columns: tuple[str, ...], times: tuple[str, ...]
    ) -> "array[int]":
        if self == Comparison():
            return rows
        table = np.array(rows, np.int64).reshape(-1, len(columns))
        for name in times:
            table[:, columns.index(name)] = self.here(table[:, columns.index(name)])
        return array("q", table.tobytes())


def machine() -> str:
    """What processes share that read the same clock and see each other's numbers."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    spaces = [os.readlink(f"/proc/self/ns/{name}") for name in ("time", "pid") if _has(name)]
    return " ".join([boot.read_text().strip() if boot.exists() else os.uname().nodename, *spaces])


def _has(name: str) -> bool:
    return os.path.lexists(f"/proc/self/ns/{name}")
