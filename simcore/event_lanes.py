"""The events of a static schedule, in lanes, each with what it comes after.

There is a lane for the operations of each worker, one for each wire that takes time, and one for
the rounds of each group over each block.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from simcore.errors import InputError

__all__ = ["After", "Event", "Lane", "Lanes", "NotStaticError", "Recording"]

# Kind, block (or channel, or group), batch (-1: none), and of rounds the block that is averaged and
# whether anything is contributed.
Event = tuple[str, int, int, tuple[int, bool] | None]
# An event that another one comes after: its lane, its place there, and the ticks from its end to
# the end of the other at least.
After = tuple[int, int, int]


class NotStaticError(InputError):
    """What a schedule does, or the times of it, depend on more than a fixed order of events."""


@dataclass(slots=True)
class Lane:
    """Events in their order: what each is, when it ends, and what it comes after."""

    name: str
    events: list[Event] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    after: list[tuple[After, ...]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Recording:
    """All lanes of a schedule, those of its workers first.

    `order` lists the lanes of all events, each of which comes after what is listed before it.
    """

    lanes: list[Lane]
    workers: int
    order: list[int]

    @property
    def end(self) -> int:
        """The tick at which the last event ends."""
        return max((lane.ends[-1] for lane in self.lanes if lane.ends), default=0)


class Lanes:
    """Lanes that are being recorded, and `order`, the lanes of all events as they were added."""

    def __init__(self, names: Sequence[str]) -> None:
        self.all = [Lane(name) for name in names]
        self.order: list[int] = []

    def new(self, name: str) -> int:
        """Add a lane; returns its number."""
        self.all.append(Lane(name))
        return len(self.all) - 1

    def add(self, lane: int, event: Event, duration: int, after: tuple[After, ...]) -> After:
        """Add an event; returns what comes after it, as yet without time in between."""
        to, end = self.all[lane], -1
        for other, place, ticks in after:  # faster than max()
            known = self.all[other].ends[place] + ticks
            if known > end:
                end = known
        to.ends.append(end if after else duration)
        to.events.append(event)
        to.after.append(after)
        self.order.append(lane)
        return lane, len(to.events) - 1, 0

    def before(self, lane: int, duration: int) -> tuple[After, ...]:
        """What came last in a lane, if anything."""
        done = len(self.all[lane].events)
        return ((lane, done - 1, duration),) if done else ()
