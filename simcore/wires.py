"""Physical wires: transfers one at a time, or all at once with even shares of the bandwidth.

Everything is exact: a transfer is over at the first tick at which nothing of it is left.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from heapq import heappop, heappush
from itertools import count
from math import ceil
from typing import Final

from simcore.cluster import Transfers

__all__ = ["WIRES", "Plan", "SerialWire", "SharedWire"]

# Plans an action for a later tick, before that instant is settled.
Plan = Callable[[int, Callable[[], None]], None]
Done = Callable[[int], None]


class SerialWire:
    """One transfer at a time, first come, first served."""

    def __init__(self, at: Plan) -> None:
        self.at = at
        self.free = 0

    def transmit(self, ticks: int, now: int, done: Done) -> None:
        """Begin now a transfer of so many ticks; `done` is told the tick at which it is over."""
        self.free = max(now, self.free) + ticks
        if self.free == now:
            done(now)
        else:
            self.at(self.free, partial(done, self.free))


class SharedWire:
    """All transfers at once, at even shares of the bandwidth (processor sharing).

    `progress` is what each transfer that has been there from the start has got so far, in ticks of
    the whole bandwidth; a new transfer is over when `progress` has grown by its length.
    """

    def __init__(self, at: Plan) -> None:
        self.at = at
        self.now = 0
        self.progress = Fraction(0)
        self.ends: list[tuple[Fraction, int, Done]] = []
        self.order = count()
        self.planned = -1

    def transmit(self, ticks: int, now: int, done: Done) -> None:
        """Begin now a transfer that takes so many ticks when it is alone; see `SerialWire`."""
        if not ticks:
            done(now)
            return
        self._advance(now)
        heappush(self.ends, (self.progress + ticks, next(self.order), done))
        self._plan()

    def _advance(self, now: int) -> None:
        if self.ends:
            self.progress += Fraction(now - self.now, len(self.ends))
        self.now = now

    def _plan(self) -> None:
        """Plan the next completion, unless it is planned; others that are planned are void."""
        left = (self.ends[0][0] - self.progress) * len(self.ends)
        moment = self.now + ceil(left)
        if moment != self.planned:
            self.planned = moment
            self.at(moment, partial(self._complete, moment))

    def _complete(self, moment: int) -> None:
        if moment != self.planned:
            return
        self.planned = -1
        self._advance(moment)
        while self.ends and self.ends[0][0] <= self.progress:
            heappop(self.ends)[2](moment)
        if self.ends:
            self._plan()
        else:
            self.progress = Fraction(0)


WIRES: Final[dict[Transfers, type[SerialWire] | type[SharedWire]]] = {
    "serial": SerialWire,
    "shared": SharedWire,
}
