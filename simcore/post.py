"""The messages of a simulation: mailboxes, links, and which workers wait for what."""

from collections.abc import Sequence
from functools import partial

from simcore.cluster import Cluster
from simcore.costs import Costs
from simcore.mailbox import Mailbox
from simcore.ops import Channel
from simcore.schedule import Schedule
from simcore.wires import WIRES, Plan, SerialWire, SharedWire

__all__ = ["Post", "Served"]

# The number of the channel that served a worker, and the batch; None if all channels are closed.
Served = tuple[int, int | None]


class Post:
    """All channels of a schedule. `at` plans an action for a later tick."""

    def __init__(self, schedule: Schedule, costs: Costs, cluster: Cluster, at: Plan) -> None:
        self.schedule, self.costs, self.at = schedule, costs, at
        self.number = {channel: n for n, channel in enumerate(schedule.channels)}
        self.mailboxes = [Mailbox.of(schedule, channel) for channel in schedule.channels]
        self.wires = _wires(schedule, cluster, at)
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
        """Put a message on its link: the transfer over the wire, then the latency."""
        number = self.number[channel]
        self.mailboxes[number].depart()
        message = (self.departures, number, batch)
        self.departures += 1
        transmit = self.costs.delays[number].transmit
        self.wires[number].transmit(transmit, now, partial(self._transmitted, message))

    def _transmitted(self, message: tuple[int, int, int], now: int) -> None:
        latency = self.costs.delays[message[1]].latency
        if latency:
            self.at(now + latency, partial(self.due.append, message))
        else:
            self.due.append(message)

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

    def withdraw(self, worker: int) -> None:
        """Let a worker leave all lines in which it waits, for messages or for a slot."""
        for channel in self.listening.pop(worker, ()):
            self.mailboxes[self.number[channel]].waiting.pop(worker, None)
        for mailbox in self.mailboxes:
            if worker in mailbox.blocked:
                mailbox.blocked.remove(worker)

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


def _wires(schedule: Schedule, cluster: Cluster, at: Plan) -> list[SerialWire | SharedWire]:
    """The wire of each channel; a worker that talks to itself needs none of the cluster's."""
    named: dict[str, SerialWire | SharedWire] = {}
    wires = []
    for channel in schedule.channels:
        link = cluster.link_of(channel.name)
        wire = WIRES[link.transfers](at)
        if link.wire is not None and not schedule.is_local(channel):
            wire = named.setdefault(link.wire, wire)
        wires.append(wire)
    return wires
