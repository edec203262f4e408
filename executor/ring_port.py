"""The ports of channels and groups between processes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from executor.averaging import Contribution
from executor.clock import now_ns
from executor.payloads import Codec
from executor.ports import LocalEnds, Message, Port
from executor.ring import Ring, select
from executor.rounds import Meeting
from simcore.errors import IllegalOperationError
from simcore.ops import Channel, Group

__all__ = ["ProcessEnds", "RingMeeting", "RingPort"]


class RingPort:
    """One end of a ring in one process."""

    def __init__(self, ring: Ring, channel: Channel, codec: Codec) -> None:
        self.ring, self._carries, self._codec = ring, channel.carries, codec

    def send(self, batch: int, payloads: Sequence[Any]) -> int:
        """Copy the message into the ring once there is room."""
        return self.ring.send(batch, self._codec.tensors(self._carries, payloads))

    def receive(self) -> Message | None:
        """Wait for the oldest message and copy it out."""
        received = self.ring.receive()
        return None if received is None else self.message(received)

    def message(self, received: Any) -> Message:
        """A message of the ring as programs' runtimes see it."""
        payloads = self._codec.payloads(self._carries, received.tensors)
        return Message(received.granted_ns, received.batch, payloads)

    def close(self) -> None:
        """The sender's program has ended."""
        self.ring.close()


class RingMeeting:
    """One worker's end of a group of processes: a ring to each other member, and one from each.

    What a member contributes goes to all others, who take the mean in the same order. A message is
    numbered by its block; one without tensors contributes nothing. A member that has ended closes
    its rings, and no round waits for it any more.
    """

    def __init__(self, worker: int, to: Mapping[int, Ring], rings: Mapping[int, Ring]) -> None:
        self._worker, self._to, self._from = worker, to, rings
        self._own: dict[int, list[Contribution]] = {}
        self._early: dict[tuple[int, int], list[list[torch.Tensor]]] = {}

    def arrive(self, block: int, contribution: Contribution) -> None:
        """Contribute to the next round of a block, or of none (0), and go on."""
        self._own.setdefault(block, []).append(contribution)
        for ring in self._to.values():
            ring.send(block, contribution or [])

    def has_arrived(self, block: int) -> bool:
        """Whether this worker has arrived for a round that it has not joined."""
        return bool(self._own.get(block))

    def join(self, block: int) -> tuple[int, list[list[torch.Tensor]]]:
        """Wait for the others' contributions."""
        own = self._own[block].pop(0)
        given = {self._worker: own or []}
        for member in self._from:
            given[member] = self._next_of(member, block)
        return now_ns(), [given[member] for member in sorted(given) if given[member]]

    def leave(self) -> None:
        """The worker's program has ended."""
        for ring in self._to.values():
            ring.close()

    def _next_of(self, member: int, block: int) -> list[torch.Tensor]:
        early = self._early.get((member, block))
        if early:
            return early.pop(0)
        while (message := self._from[member].receive()) is not None:
            if message.batch == block:
                return list(message.tensors)
            self._early.setdefault((member, message.batch), []).append(list(message.tensors))
        return []


class ProcessEnds:
    """The ports and meetings of one worker's process."""

    def __init__(
        self, ports: Mapping[Channel, Port], local: LocalEnds, meetings: Mapping[Group, Meeting]
    ) -> None:
        self.ports, self.meetings, self._local = ports, meetings, local

    def select(self, channels: tuple[Channel, ...]) -> tuple[Channel, Message] | None:
        """Wait for the first of several channels that has a message; None if all are closed."""
        ports = [self.ports[channel] for channel in channels]
        between = [port for port in ports if isinstance(port, RingPort)]
        if not between:
            return self._local.select(channels)
        if len(between) < len(ports):
            raise IllegalOperationError(
                "a process cannot select among channels to itself and to others"
            )
        chosen = select([port.ring for port in between])
        if chosen is None:
            return None
        index, received = chosen
        return channels[index], between[index].message(received)
