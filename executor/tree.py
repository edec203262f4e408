"""What a block takes in and gives out: a tensor, or a tuple of such values."""

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import torch

__all__ = ["Value", "bytes_of", "detached", "flat", "floating", "refilled"]

Value: TypeAlias = "torch.Tensor | tuple[Value, ...]"


def flat(value: Value) -> list[torch.Tensor]:
    """All tensors of a value, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for part in value for tensor in flat(part)]


def floating(value: Value) -> list[torch.Tensor]:
    """Those that gradients and derivatives can belong to."""
    return [tensor for tensor in flat(value) if tensor.is_floating_point()]


def refilled(value: Value, tensors: Iterable[torch.Tensor]) -> Value:
    """A value of the same form with other tensors.

    >>> refilled((torch.zeros(1), (torch.zeros(1),)), [torch.tensor(1), torch.tensor(2)])
    (tensor(1), (tensor(2),))
    """
    return _refilled(value, iter(tensors))


def _refilled(value: Value, tensors: Iterator[torch.Tensor]) -> Value:
    if isinstance(value, torch.Tensor):
        return next(tensors)
    return tuple(_refilled(part, tensors) for part in value)


def detached(value: Value) -> Value:
    """The value without its graph; memory is shared."""
    return refilled(value, (tensor.detach() for tensor in flat(value)))


def bytes_of(value: Value) -> int:
    """The size of all tensors together."""
    return sum(tensor.nbytes for tensor in flat(value))
