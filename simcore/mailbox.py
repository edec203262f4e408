"""The state of one channel, as every simulated interpreter keeps it; it knows no time."""

from collections import deque
from dataclasses import dataclass, field

from simcore.ops import Channel
from simcore.schedule import Schedule

__all__ = ["Mailbox"]


@dataclass(slots=True)
class Mailbox:
    """Messages of one channel: those on their way, and those that have arrived, oldest first.

    A message holds a slot from the moment it departs until it has been received. `blocked` are the
    workers that wait for a slot, in the order in which they came; `waiting` those that wait for a
    message, each with the number that says since when.
    """

    capacity: int | None = None
    open_senders: int = 0
    arrived: deque[int] = field(default_factory=deque)
    on_the_way: int = 0
    slots_taken: int = 0
    most_slots_taken: int = 0
    blocked: deque[int] = field(default_factory=deque)
    waiting: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, schedule: Schedule, channel: Channel) -> "Mailbox":
        """The mailbox of a channel before anything happens: a source holds its batches."""
        if channel.source:
            return cls(arrived=deque(channel.held(schedule.batches)))
        return cls(channel.capacity, len(schedule.senders[channel]))

    def take_slot(self) -> bool:
        """Take a slot for a message, if there is one."""
        if self.capacity is not None and self.slots_taken >= self.capacity:
            return False
        self.slots_taken += 1
        self.most_slots_taken = max(self.most_slots_taken, self.slots_taken)
        return True

    def free_slot(self) -> int | None:
        """Free the slot of a message that was received. Returns the worker that gets it, if any."""
        if self.blocked:
            return self.blocked.popleft()
        self.slots_taken -= 1
        return None

    def depart(self) -> None:
        """A message departs."""
        self.on_the_way += 1

    def arrive(self, batch: int) -> None:
        """A message arrives."""
        self.on_the_way -= 1
        self.arrived.append(batch)

    @property
    def closed(self) -> bool:
        """Whether no message is there and none can come."""
        return not (self.arrived or self.on_the_way or self.open_senders)
