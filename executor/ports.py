"""Ends of channels, as the drive loop uses them, and those that need no transport.

A message is a batch number and what the channel carries of that batch. Every port reports the
instant at which waiting ended, so that a trace shows work and waiting apart.
"""

import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from threading import Condition
from typing import Any, NamedTuple, Protocol

import torch

from executor.averaging import Contribution
from executor.clock import now_ns
from executor.ring import Stopped
from executor.rounds import LocalRounds, Meeting
from executor.slicing import Passes
from simcore.ops import Channel, Group
from simcore.schedule import Schedule

__all__ = [
    "Exchange",
    "LocalEnds",
    "LocalMeeting",
    "LocalPort",
    "Message",
    "Port",
    "SinkPort",
    "SourcePort",
    "local_port",
]


class Message(NamedTuple):
    """A message, and the instant (ns) at which it was there for the receiver."""

    since_ns: int
    batch: int
    payloads: Sequence[Any]


class Port(Protocol):
    """One end of a channel in one worker."""

    def send(self, batch: int, payloads: Sequence[Any]) -> int:
        """Put a message on its way; returns the instant (ns) at which there was room for it."""

    def receive(self) -> Message | None:
        """Take the oldest message; waits for one. None once the channel is closed and empty."""

    def close(self) -> None:
        """The sender's program has ended."""


class SourcePort:
    """What a source holds, made when it is taken; receivers that share it take turns.

    `next_number` counts, for all who share the source.
    """

    def __init__(
        self,
        channel: Channel,
        batches: int,
        make: Callable[[int], Sequence[Any]],
        next_number: Callable[[], int] | None = None,
    ) -> None:
        # A count is atomic, so that threads may share the port.
        self._next = next_number or itertools.count().__next__
        self._channel, self._batches, self._make = channel, batches, make

    def send(self, batch: int, payloads: Sequence[Any]) -> int:
        """Sources have no senders."""
        raise TypeError("a source cannot be sent to")

    def receive(self) -> Message | None:
        """The next batch."""
        since = now_ns()
        runs, within = divmod(self._next(), self._channel.run)
        batch = (self._channel.first + runs * self._channel.stride) * self._channel.run + within
        return Message(since, batch, self._make(batch)) if batch < self._batches else None

    def close(self) -> None:
        """Sources are closed from the start."""

    def taken(self) -> int:
        """How often it has been received from; nobody may do so meanwhile."""
        number = self._next()
        self.start_at(number)
        return number

    def start_at(self, number: int) -> None:
        """Go on after so many batches."""
        self._next = itertools.count(number).__next__


class SinkPort:
    """A channel that nobody receives from."""

    def send(self, batch: int, payloads: Sequence[Any]) -> int:
        """Drop the message."""
        return now_ns()

    def receive(self) -> Message | None:
        """Sinks have no receivers."""
        raise TypeError("a sink cannot be received from")

    def close(self) -> None:
        """Nothing to tell anyone."""


class Exchange:
    """What the threads of one run share to pass messages: one lock, one condition."""

    def __init__(self) -> None:
        self.changed = Condition()
        self.stopped = False

    def stop(self) -> None:
        """Wake up every worker that waits, with `Stopped`."""
        with self.changed:
            self.stopped = True
            self.changed.notify_all()

    def wait_for(self, ready: Callable[[], bool]) -> None:
        """Wait, holding the lock, until something is ready. Raises `Stopped`."""
        self.changed.wait_for(lambda: self.stopped or ready())
        if self.stopped:
            raise Stopped("the run was stopped")


class LocalPort:
    """A channel within one process: payloads pass by reference."""

    def __init__(self, exchange: Exchange, channel: Channel, senders: int) -> None:
        self._exchange, self._capacity, self._senders = exchange, channel.capacity, senders
        self.arrived: deque[tuple[int, Sequence[Any]]] = deque()

    def send(self, batch: int, payloads: Sequence[Any]) -> int:
        """Append the message once there is room."""
        with self._exchange.changed:
            if self._capacity is not None:
                capacity = self._capacity
                self._exchange.wait_for(lambda: len(self.arrived) < capacity)
            since = now_ns()
            self.arrived.append((batch, payloads))
            self._exchange.changed.notify_all()
        return since

    def receive(self) -> Message | None:
        """Take the oldest message."""
        with self._exchange.changed:
            self._exchange.wait_for(self.servable)
            return self.take()

    def close(self) -> None:
        """One sender less."""
        with self._exchange.changed:
            self._senders -= 1
            self._exchange.changed.notify_all()

    def servable(self) -> bool:
        """Whether a receiver would not have to wait."""
        return bool(self.arrived) or self._senders == 0

    def take(self) -> Message | None:
        """The oldest message, or None; the caller holds the lock and knows it is servable."""
        since = now_ns()
        if not self.arrived:
            return None
        batch, payloads = self.arrived.popleft()
        self._exchange.changed.notify_all()
        return Message(since, batch, payloads)


class LocalMeeting:
    """One worker's end of a group whose members all run in this process."""

    def __init__(self, exchange: Exchange, rounds: LocalRounds, worker: int) -> None:
        self._exchange, self._rounds, self._worker = exchange, rounds, worker

    def arrive(self, block: int, contribution: Contribution) -> None:
        """Contribute to the next round and go on."""
        with self._exchange.changed:
            self._rounds.arrive(self._worker, block, contribution)
            self._exchange.changed.notify_all()

    def has_arrived(self, block: int) -> bool:
        """Whether this worker has arrived for a round that it has not joined."""
        return self._rounds.has_arrived(self._worker, block)

    def join(self, block: int) -> tuple[int, list[list[torch.Tensor]]]:
        """Wait for the round's end, and take what was contributed."""
        with self._exchange.changed:
            self._exchange.wait_for(lambda: self._rounds.is_over(self._worker, block))
            return now_ns(), self._rounds.take(self._worker, block)

    def leave(self) -> None:
        """The worker's program has ended."""
        with self._exchange.changed:
            self._rounds.leave(self._worker)
            self._exchange.changed.notify_all()


def local_port(schedule: Schedule, channel: Channel, passes: Passes, exchange: Exchange) -> Port:
    """The port of a channel whose workers all run in this process, or of a source."""
    if channel.source:
        return SourcePort(
            channel,
            schedule.batches,
            lambda batch: [passes.payload(item, batch) for item in channel.carries],
        )
    if not schedule.receivers[channel]:
        return SinkPort()
    return LocalPort(exchange, channel, len(schedule.senders[channel]))


class LocalEnds:
    """The ports and meetings of workers that run in one process."""

    def __init__(
        self,
        ports: Mapping[Channel, Port],
        exchange: Exchange,
        meetings: Mapping[Group, Meeting],
    ) -> None:
        self.ports, self.meetings, self._exchange = ports, meetings, exchange

    def select(self, channels: tuple[Channel, ...]) -> tuple[Channel, Message] | None:
        """Wait for the first of several channels that has a message; None if all are closed."""
        local = [port for c in channels if isinstance(port := self.ports[c], LocalPort)]
        with self._exchange.changed:
            while True:
                for channel in channels:
                    port = self.ports[channel]
                    # A source has its next batch at once, or never again.
                    message = port.take() if isinstance(port, LocalPort) else port.receive()
                    if message is not None:
                        return channel, message
                if all(port.servable() for port in local):
                    return None
                self._exchange.wait_for(
                    lambda: (
                        any(port.arrived for port in local)
                        or all(port.servable() for port in local)
                    )
                )
