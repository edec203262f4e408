"""How weights begin: from a seed alone, without PyTorch's global random state."""

from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import nn

__all__ = ["Initialised", "empty", "initialise"]

_Layer = TypeVar("_Layer", bound=nn.Module)


@runtime_checkable
class Initialised(Protocol):
    """A module that knows how its weights, and those of its children, begin."""

    def initialise(self, generator: torch.Generator) -> None:
        """Write the weights."""


def empty(layer: type[_Layer], *sizes: int, **options: object) -> _Layer:
    """A layer whose weights have yet to be written.

    On the meta device PyTorch's own initialisation does not draw from the global random state.
    """
    return layer(*sizes, **options, device="meta").to_empty(device="cpu")


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """He et al., "Delving deep into rectifiers" (2015), equation 10; biases are zero.

    Modules that are `Initialised` do it themselves. Embeddings are standard normal, as PyTorch
    makes them; normalisation begins with factor 1 and shift 0, as it is made.
    """
    if isinstance(module, Initialised):
        module.initialise(generator)
    elif isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, generator=generator)
    for child in () if isinstance(module, Initialised) else module.children():
        initialise(child, generator)
