"""The ports of channels and the meetings of groups whose workers are ranks of torch.distributed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import permutations
from typing import Any, Final, NamedTuple

import torch

from executor.assembly import Parts
from executor.averaging import Contribution
from executor.clock import now_ns
from executor.distributed_streams import CLOSED, Incoming, Network, Outgoing, packet_bytes
from executor.payloads import Codec
from executor.ports import Exchange, LocalEnds, LocalPort, Message, Port, local_port
from executor.ring import Stopped
from executor.rounds import LocalRounds, Meeting
from simcore.ops import Channel, Group
from simcore.schedule import Schedule

__all__ = [
    "ArrivalPort",
    "DistantMeeting",
    "SendPort",
    "StreamKey",
    "Streams",
    "distant_ends",
    "streams_of",
]

_CREDIT_BYTES: Final = packet_bytes([])


class StreamKey(NamedTuple):
    """What a stream is for: messages, room for them, or rounds; the channel's or group's number."""

    use: str
    number: int
    sender: int
    receiver: int


def streams_of(schedule: Schedule) -> dict[StreamKey, int]:
    """The tag of each stream of a schedule, from 1, the same in all processes."""
    keys: list[StreamKey] = []
    for number, channel in enumerate(schedule.channels):
        if channel.source or schedule.is_local(channel):
            continue
        for receiver in schedule.receivers[channel]:
            for sender in schedule.senders[channel]:
                keys.append(StreamKey("messages", number, sender, receiver))
                keys.append(StreamKey("room", number, receiver, sender))
    for number, group in enumerate(schedule.groups):
        members = [n for n, worker in enumerate(schedule.workers) if group in worker.joins]
        keys += [StreamKey("rounds", number, *pair) for pair in permutations(members, 2)]
    return {key: tag for tag, key in enumerate(keys, 1)}


class SendPort:
    """The sending end of a channel to another process."""

    def __init__(
        self, exchange: Exchange, channel: Channel, codec: Codec, stream: Outgoing
    ) -> None:
        self._exchange, self._channel, self._codec = exchange, channel, codec
        self._stream, self._unread = stream, 0

    def send(self, batch: int, payloads: Sequence[Any]) -> int:
        """Copy the message and put it on its way once there is room."""
        tensors = self._codec.tensors(self._channel.carries, payloads)
        capacity = self._channel.capacity
        with self._exchange.changed:
            if self._exchange.stopped:
                raise Stopped("the run was stopped")
            if capacity is not None:
                self._exchange.wait_for(lambda: self._unread < capacity)
                self._unread += 1
        since = now_ns()
        self._stream.send(batch, tensors)
        return since

    def receive(self) -> Message | None:
        """The receiver is elsewhere."""
        raise TypeError("another process receives from the channel")

    def close(self) -> None:
        """The sender's program has ended."""
        self._stream.close()

    def taken(self, batch: int, _: list[torch.Tensor]) -> None:
        """The receiver has taken a message, or has ended."""
        with self._exchange.changed:
            self._unread -= batch != CLOSED
            self._exchange.changed.notify_all()


class ArrivalPort(LocalPort):
    """The receiving end of a channel: messages of several senders in the order of arrival.

    `room` tells the sender of a channel with a capacity what has been taken.
    """

    def __init__(
        self,
        exchange: Exchange,
        channel: Channel,
        codec: Codec,
        senders: int,
        room: Outgoing | None = None,
    ) -> None:
        super().__init__(exchange, channel, senders)
        self._changes, self._channel, self._codec, self._room = exchange, channel, codec, room

    def arrive(self, batch: int, tensors: list[torch.Tensor]) -> None:
        """A message is there, or a sender has ended."""
        if batch == CLOSED:
            with self._changes.changed:  # no room is told of after it
                room, self._room = self._room, None
            if room is not None:
                room.close()
            self.close()
            return
        payloads = self._codec.payloads(self._channel.carries, tensors)
        with self._changes.changed:
            self.arrived.append((batch, payloads))
            self._changes.changed.notify_all()

    def send(self, batch: int, payloads: Sequence[Any]) -> int:
        """The senders are elsewhere."""
        raise TypeError("other processes send to the channel")

    def take(self) -> Message | None:
        """The oldest message, or None; see `LocalPort`."""
        message = super().take()
        if message is not None and self._room is not None:
            self._room.send(message.batch, [])
        return message


class _OwnRounds(LocalRounds):
    """The rounds of a group, of which only one member joins in this process."""

    def take(self, worker: int, block: int) -> list[list[torch.Tensor]]:
        """Join a round that is over, and forget it."""
        key = block, self.joined[worker, block]
        self.joined[worker, block] += 1
        given = self.given.pop(key, {})
        return [found for member in sorted(given) if (found := given[member]) is not None]


class DistantMeeting:
    """One worker's end of a group of processes.

    What a member contributes goes to all others, who take the mean in the same order, so that all
    get the same. A message is numbered by its block; one without tensors contributes nothing.
    """

    def __init__(
        self, exchange: Exchange, worker: int, members: set[int], to: Sequence[Outgoing]
    ) -> None:
        self._exchange, self._worker, self._to = exchange, worker, to
        self._rounds = _OwnRounds(members)

    def arrive(self, block: int, contribution: Contribution) -> None:
        """Contribute to the next round of a block, or of none (0), and go on."""
        for stream in self._to:
            stream.send(block, contribution or [])
        self._add(self._worker, block, contribution)

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
        for stream in self._to:
            stream.close()

    def arrived(self, member: int, block: int, tensors: list[torch.Tensor]) -> None:
        """Another member has arrived, or has ended."""
        if block != CLOSED:
            self._add(member, block, tensors or None)
            return
        with self._exchange.changed:
            self._rounds.leave(member)
            self._exchange.changed.notify_all()

    def _add(self, member: int, block: int, contribution: Contribution) -> None:
        with self._exchange.changed:
            self._rounds.arrive(member, block, contribution)
            self._exchange.changed.notify_all()


class Streams(NamedTuple):
    """The streams that come in and go out for a worker."""

    incoming: Sequence[Incoming] = ()
    outgoing: Sequence[Outgoing] = ()


def distant_ends(
    parts: Parts, worker: int, exchange: Exchange, network: Network
) -> tuple[LocalEnds, Streams]:
    """The ports and meetings of one worker, and the streams that serve them."""
    made = _Ends(parts, worker, exchange, network)
    ports = dict(made.ports())
    meetings = dict(made.meetings())
    return LocalEnds(ports, exchange, meetings), Streams(made.incoming, made.outgoing)


class _Ends:
    def __init__(self, parts: Parts, worker: int, exchange: Exchange, network: Network) -> None:
        self.parts, self.schedule, self.worker = parts, parts.schedule, worker
        self.exchange, self.network = exchange, network
        self.codec = Codec(parts.outputs, parts.labels, parts.schedule.weights.tangents)
        self.streams: Mapping[StreamKey, int] = streams_of(parts.schedule)
        self.incoming: list[Incoming] = []
        self.outgoing: list[Outgoing] = []

    def ports(self) -> Iterator[tuple[Channel, Port]]:
        own = self.schedule.workers[self.worker]
        for number, channel in enumerate(self.schedule.channels):
            if channel not in (*own.receives, *own.sends):
                continue
            receivers, senders = self.schedule.receivers[channel], self.schedule.senders[channel]
            if channel.source or not receivers or self.schedule.is_local(channel):
                yield channel, local_port(self.schedule, channel, self.parts.passes, self.exchange)
            elif self.worker in receivers:
                yield channel, self._arrivals(number, channel, senders)
            else:
                yield channel, self._departures(number, channel, receivers[0])

    def _arrivals(self, number: int, channel: Channel, senders: Sequence[int]) -> ArrivalPort:
        room = None
        if channel.capacity is not None:
            room = self._outgoing("room", number, senders[0], _CREDIT_BYTES)
        port = ArrivalPort(self.exchange, channel, self.codec, len(senders), room)
        for sender in senders:
            self._listen("messages", number, sender, self._bytes_of(channel), port.arrive)
        return port

    def _departures(self, number: int, channel: Channel, receiver: int) -> SendPort:
        stream = self._outgoing("messages", number, receiver, self._bytes_of(channel))
        port = SendPort(self.exchange, channel, self.codec, stream)
        if channel.capacity is not None:
            self._listen("room", number, receiver, _CREDIT_BYTES, port.taken)
        return port

    def meetings(self) -> Iterator[tuple[Group, Meeting]]:
        for number, group in enumerate(self.schedule.groups):
            members = {n for n, worker in enumerate(self.schedule.workers) if group in worker.joins}
            if self.worker not in members:
                continue
            size_bytes = self._bytes_of_group(group)
            others = sorted(members - {self.worker})
            to = [self._outgoing("rounds", number, other, size_bytes) for other in others]
            meeting = DistantMeeting(self.exchange, self.worker, members, to)
            for other in others:
                self._listen("rounds", number, other, size_bytes, partial(meeting.arrived, other))
            yield group, meeting

    def _outgoing(self, use: str, number: int, to: int, size_bytes: int) -> Outgoing:
        tag = self.streams[StreamKey(use, number, self.worker, to)]
        self.outgoing.append(Outgoing(self.network, to, tag, size_bytes))
        return self.outgoing[-1]

    def _listen(
        self,
        use: str,
        number: int,
        source: int,
        size_bytes: int,
        take: Callable[[int, list[torch.Tensor]], None],
    ) -> None:
        tag = self.streams[StreamKey(use, number, source, self.worker)]
        self.incoming.append(Incoming(self.network, source, tag, size_bytes, take))

    def _bytes_of(self, channel: Channel) -> int:
        return packet_bytes(self.codec.examples(channel.carries))

    def _bytes_of_group(self, group: Group) -> int:
        """The size of the largest contribution, but for the heads of blocks that have one."""
        blocks = next(iter(self.parts.blocks.values()))
        sizes = [
            packet_bytes([p for p in blocks[block - 1].parameters() if p.requires_grad])
            for block in group.blocks
        ]
        return max([packet_bytes([]), *sizes])
