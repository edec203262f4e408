"""The port of a channel between processes, and its messages as flat lists of tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from executor.ports import LocalEnds, Message, Port
from executor.ring import Ring, select
from simcore.errors import IllegalOperationError
from simcore.ops import Channel, Item

__all__ = ["ProcessEnds", "RingPort", "tensors_of"]


def tensors_of(carries: Sequence[Item], payloads: Sequence[Any]) -> list[torch.Tensor]:
    """The tensors of a message: of an activation its output and labels, of a gradient itself."""
    tensors: list[torch.Tensor] = []
    for item, payload in zip(carries, payloads, strict=True):
        if item.kind == "activation":
            tensors += payload
        else:
            tensors.append(payload)
    return tensors


def _payloads_of(carries: Sequence[Item], tensors: Sequence[torch.Tensor]) -> list[Any]:
    rest = iter(tensors)
    return [
        (next(rest), next(rest)) if item.kind == "activation" else next(rest) for item in carries
    ]


class RingPort:
    """One end of a ring in one process."""

    def __init__(self, ring: Ring, channel: Channel) -> None:
        self.ring, self._carries = ring, channel.carries

    def send(self, batch: int, payloads: Sequence[Any]) -> int:
        """Copy the message into the ring once there is room."""
        return self.ring.send(batch, tensors_of(self._carries, payloads))

    def receive(self) -> Message | None:
        """Wait for the oldest message and copy it out."""
        received = self.ring.receive()
        return None if received is None else self.message(received)

    def message(self, received: Any) -> Message:
        """A message of the ring as programs' runtimes see it."""
        payloads = _payloads_of(self._carries, received.tensors)
        return Message(received.granted_ns, received.batch, payloads)

    def close(self) -> None:
        """The sender's program has ended."""
        self.ring.close()


class ProcessEnds:
    """The ports of one worker's process."""

    def __init__(self, ports: Mapping[Channel, Port], local: LocalEnds) -> None:
        self.ports, self._local = ports, local

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
