"""The ports of channels and groups between processes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from executor.averaging import Contribution
from executor.clock import now_ns
from executor.payloads import Codec
from executor.ports import LocalEnds, LocalPort, Message, Port
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
        # Nothing is taken before all is there: a pause may end the wait.
        there = [member for member in self._from if self._is_there(member, block)]
        given = {self._worker: self._own[block].pop(0) or []}
        for member in there:
            given[member] = self._early[member, block].pop(0)
        return now_ns(), [given[member] for member in sorted(given) if given[member]]

    def leave(self) -> None:
        """The worker's program has ended."""
        for ring in self._to.values():
            ring.close()

    def saved(self) -> dict[str, Any]:
        """Contributions to rounds that this worker has not joined, read or not."""
        return {
            "own": dict(self._own),
            "early": dict(self._early),
            "unread": {
                member: [(found.batch, list(found.tensors)) for found in ring.unread()]
                for member, ring in self._from.items()
            },
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from what another one has `saved`; nobody may use the rings meanwhile."""
        self._own, self._early = dict(saved["own"]), dict(saved["early"])
        for member, messages in saved["unread"].items():
            for block, tensors in messages:
                self._from[member].send(block, tensors)

    def _is_there(self, member: int, block: int) -> bool:
        """Wait for a member's contribution to a block; False if it has ended without."""
        while not self._early.get((member, block)):
            message = self._from[member].receive()
            if message is None:
                return False
            self._early.setdefault((member, message.batch), []).append(list(message.tensors))
        return True


class ProcessEnds:
    """The ports and meetings of one worker's process."""

    def __init__(
        self, ports: Mapping[Channel, Port], local: LocalEnds, meetings: Mapping[Group, Meeting]
    ) -> None:
        self.ports, self.meetings, self._local = ports, meetings, local

    def select(self, channels: tuple[Channel, ...]) -> tuple[Channel, Message] | None:
        """Wait for the first of several channels that has a message; None if all are closed."""
        between = [c for c in channels if isinstance(self.ports[c], RingPort)]
        if not between:
            return self._local.select(channels)
        for channel in channels if len(between) < len(channels) else ():
            if (message := self._found(self.ports[channel])) is not None:
                return channel, message
        # What comes from this process itself, or from storage, is there at once or never: while
        # the worker waits, only other processes can send.
        rings = [port.ring for c in between if isinstance(port := self.ports[c], RingPort)]
        chosen = select(rings)
        if chosen is not None:
            channel = between[chosen[0]]
            port = self.ports[channel]
            assert isinstance(port, RingPort)
            return channel, port.message(chosen[1])
        own = [c for c in channels if isinstance(self.ports[c], LocalPort)]
        if own:
            reason = f"waits for {own[0].name}, to which nobody but itself sends"
            raise IllegalOperationError(f"the worker {reason}")
        return None

    def _found(self, port: Port) -> Message | None:
        """What can be taken from a channel without waiting."""
        match port:
            case RingPort():
                received = port.ring.poll()
                return None if received is None else port.message(received)
            case LocalPort():
                return port.receive() if port.arrived else None
            case _:
                return port.receive()
