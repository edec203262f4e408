"""Splitting a sequential network into layers, and runs of layers into blocks."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from executor.tree import Value
from simcore.errors import InputError

__all__ = ["Stepper", "block_shapes", "layers_of", "split"]


def layers_of(model: nn.Module) -> list[nn.Sequential]:
    """The layers of a sequential network: each child that learns, and what follows it.

    Children without parameters to learn (activations, pooling, flattening, frozen ones) belong to
    the layer before them, those at the beginning to the first layer, so that every layer has
    weights to update.

    Raises `InputError` for a network that is not an `nn.Sequential`, that has nothing to learn, or
    that uses one parameter in two layers.
    """
    name = type(model).__name__
    if not isinstance(model, nn.Sequential):
        raise InputError("model", name, "must be an nn.Sequential", "wrap its parts in one")
    groups: list[list[nn.Module]] = []
    opened = False
    for child in model:
        has_parameters = any(parameter.requires_grad for parameter in child.parameters())
        if not groups or (has_parameters and opened):
            groups.append([])
        groups[-1].append(child)
        opened = opened or has_parameters
    if not opened:
        raise InputError("model", name, "must have parameters to learn", "add a layer that learns")
    seen: dict[int, int] = {}
    for number, group in enumerate(groups):
        for part in group:
            for parameter_name, parameter in part.named_parameters():
                if seen.setdefault(id(parameter), number) != number:
                    raise InputError(
                        "parameter",
                        parameter_name,
                        "must not be used in two layers",
                        "put what shares it into one child of the nn.Sequential",
                    )
    return [nn.Sequential(*group) for group in groups]


def split(model: nn.Module, bounds: Sequence[int]) -> list[nn.Sequential]:
    """The blocks of a network: layers bounds[i] up to bounds[i + 1], for each i.

    The blocks share the model's parameters. Raises `InputError` where the bounds leave out layers.
    """
    layers = layers_of(model)
    if list(bounds) != sorted({0, *bounds, len(layers)}):
        raise InputError(
            "bounds of blocks",
            tuple(bounds),
            f"must rise from 0 to the {len(layers)} layers of the model",
            "partition the model's own workload",
        )
    return [
        nn.Sequential(*(part for layer in layers[first:last] for part in layer))
        for first, last in pairwise(bounds)
    ]


def block_shapes(
    blocks: Sequence[nn.Module], inputs: torch.Tensor, *, by_time: bool = False
) -> list[Value]:
    """An output of each block for one batch of inputs, with block 0, the inputs, first.

    They serve as templates of shape and type: computed in evaluation mode, without gradients, so
    that batch statistics and random state stay as they are. With `by_time` it is that of one step.
    """
    outputs: list[Value] = [inputs]
    training = [block.training for block in blocks]
    random_state = torch.get_rng_state()
    with torch.no_grad():
        for block in blocks:
            block.eval()
            if by_time:
                outputs.append(Stepper(block)(outputs[-1], None)[0])
            else:
                outputs.append(block(outputs[-1]))
    for block, mode in zip(blocks, training, strict=True):
        block.train(mode)
    torch.set_rng_state(random_state)
    return outputs


class Stepper(nn.Module):
    """A block over one time step: its recurrent children go on from the state that they left."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, inputs: Value, states: Sequence[Any] | None) -> tuple[Value, list[Any]]:
        """The output of the step, and the state of each child; None for those without."""
        value, after, children = inputs, [], list(self.block.children())
        for child, state in zip(children, states or [None] * len(children), strict=True):
            step: Callable[..., Any] | None = getattr(child, "step", None)
            value, new = (child(value), None) if step is None else step(value, state)
            after.append(new)
        return value, after
