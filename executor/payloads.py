"""What messages carry, as flat lists of tensors, for transports that know nothing else."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from executor.tree import Value, flat, floating, refilled
from simcore.errors import IllegalOperationError
from simcore.ops import Item

__all__ = ["Codec"]


class Codec:
    """Turns payloads into tensors and back, by the form of the blocks' outputs.

    `outputs` are templates of all blocks' outputs, the data first. Shapes may change from message
    to message; the number of tensors in an output may not.
    """

    def __init__(self, outputs: Sequence[Value], labels: torch.Tensor, directions: int) -> None:
        self.outputs, self.labels, self.directions = outputs, labels, directions

    def tensors(self, items: Sequence[Item], payloads: Sequence[Any]) -> list[torch.Tensor]:
        """The tensors of a message."""
        found: list[torch.Tensor] = []
        for item, payload in zip(items, payloads, strict=True):
            match item.kind:
                case "activation":
                    output, labels = payload
                    found += [*flat(output), labels]
                case "gradient":
                    found += payload
                case "derivative":
                    found += [tensor for direction in payload for tensor in direction]
                case "scalar" | "error":
                    found.append(payload)
                case _:
                    raise _stays(item)
        return found

    def payloads(self, items: Sequence[Item], tensors: Sequence[torch.Tensor]) -> list[Any]:
        """What the tensors of a message are."""
        rest = iter(tensors)
        return [self._payload(item, rest) for item in items]

    def examples(self, items: Sequence[Item]) -> list[torch.Tensor]:
        """The tensors of a message as large as the first one."""
        return self.tensors(items, [self.example(item) for item in items])

    def example(self, item: Item) -> Any:
        """A payload like that of the first message."""
        form = self.outputs[item.block]
        match item.kind:
            case "activation":
                return form, self.labels
            case "gradient":
                return tuple(floating(form))
            case "derivative":
                return (tuple(floating(form)),) * self.directions
            case "scalar":
                return torch.zeros(self.directions)
            case "error":
                return form
        raise _stays(item)

    def _payload(self, item: Item, rest: Iterator[torch.Tensor]) -> Any:
        form = self.outputs[item.block]
        match item.kind:
            case "activation":
                return refilled(form, rest), next(rest)
            case "gradient":
                return tuple(next(rest) for _ in floating(form))
            case "derivative":
                return tuple(
                    tuple(next(rest) for _ in floating(form)) for _ in range(self.directions)
                )
            case "scalar" | "error":
                return next(rest)
        raise _stays(item)


def _stays(item: Item) -> IllegalOperationError:
    return IllegalOperationError(f"{item.kind} of block {item.block} cannot leave its process")
