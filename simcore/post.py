"""The messages of a simulation: mailboxes, links, and which workers wait for what."""

from collections.abc import Callable, Sequence
from functools import partial

from simcore.costs import Costs
from simcore.mailbox import Mailbox
from simcore.ops import Channel
from simcore.schedule import Schedule

__all__ = ["Post", "Served"]

# The number of the channel that served a worker, and the batch; None if all channels are closed.
Served = tuple[int, int | None]


class Post:
    """All channels of a schedule. `at` plans an action for a later tick."""

    def __init__(
        self, schedule: Schedule, costs: Costs, at: Callable[[int, Callable[[], None]], None]
    ) -> None:
        self.schedule, self.costs, self.at = schedule, costs, at
        self.number = {channel: n for n, channel in enumerate(schedule.channels)}
        self.mailboxes = [Mailbox.of(schedule, channel) for channel in schedule.channels]
        self.link_free = [0] * len(self.mailboxes)
        self.due: list[tuple[int, int, int]] = []
        self.departures = 0
        self.listening: dict[int, Sequence[Channel]] = {}
        self.waits = 0
        self.touched: set[int] = set()

    def take_slot(self, worker: int, channel: Channel) -> bool:
        """Take a slot for a message; a worker that finds none queues up for the next."""
        mailbox = self.mailboxes[self.number[channel]]
        if mailbox.take_slot():
            return True
        mailbox.blocked.append(worker)
        return False

    def depart(self, channel: Channel, batch: int, now: int) -> None:
        """Put a message on its link: transfers one at a time, then the latency."""
        number = self.number[channel]
        delays = self.costs.delays[number]
        self.mailboxes[number].depart()
        self.link_free[number] = max(now, self.link_free[number]) + delays.transmit
        arrival = self.link_free[number] + delays.latency
        message = (self.departures, number, batch)
        self.departures += 1
        if arrival == now:
            self.due.append(message)
        else:
            self.at(arrival, partial(self.due.append, message))

    def deliver(self) -> list[tuple[int, Served]]:
        """Deliver what is due, in the order of departure; the workers that no longer wait.

        Waiting workers are served first come, first served.
        """
        for _, number, batch in sorted(self.due):
            self.mailboxes[number].arrive(batch)
            self.touched.add(number)
        self.due.clear()
        candidates = {
            (since, worker)
            for number in self.touched
            for worker, since in self.mailboxes[number].waiting.items()
        }
        self.touched.clear()
        served = []
        for _, worker in sorted(candidates):
            found = self.serve(self.listening[worker])
            if found is not None:
                for channel in self.listening.pop(worker):
                    self.mailboxes[self.number[channel]].waiting.pop(worker, None)
                served.append((worker, found))
        return served

    def serve(self, channels: Sequence[Channel]) -> Served | None:
        """Take the message that a receiver of these channels gets now; None if it has to wait."""
        numbers = [self.number[channel] for channel in channels]
        for number in numbers:
            if self.mailboxes[number].arrived:
                return number, self.mailboxes[number].arrived.popleft()
        if all(self.mailboxes[number].closed for number in numbers):
            return numbers[0], None
        return None

    def wait(self, worker: int, channels: Sequence[Channel]) -> None:
        """Let a worker wait for the first of these channels that has a message."""
        self.waits += 1
        self.listening[worker] = channels
        for channel in channels:
            self.mailboxes[self.number[channel]].waiting[worker] = self.waits

    def free_slot(self, number: int) -> int | None:
        """A message has been received. Returns the worker that now has its slot, if any."""
        if self.schedule.channels[number].source:
            return None
        return self.mailboxes[number].free_slot()

    def close(self, channels: Sequence[Channel]) -> None:
        """A sender of these channels has ended."""
        for channel in channels:
            self.mailboxes[self.number[channel]].open_senders -= 1
            self.touched.add(self.number[channel])
