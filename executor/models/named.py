"""What is known of a network by name: how it is made, where it is from, how papers split it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from torch import nn

from executor.data import DataSet

__all__ = ["NamedNetwork", "Reference", "Split", "runs"]


@dataclass(frozen=True, slots=True)
class Split:
    """Bounds of K modules in layers, as `executor.network.split` takes them, and who cut so."""

    bounds: tuple[int, ...]
    source: str


@dataclass(frozen=True, slots=True)
class Reference:
    """The number of parameters for a shape of samples and a number of classes.

    `printed` is the number as it is published, in its own digits; empty if nobody published it.
    """

    shape: tuple[int, ...]
    classes: int
    parameters: int
    printed: str = ""


@dataclass(frozen=True, slots=True)
class NamedNetwork:
    """A network by name.

    `make(data, variant)` returns it with `layers` layers, its weights unwritten, unless
    `own_weights` says that it draws them from torch's global random state. The first of `variants`
    is what the name alone stands for.
    """

    name: str
    source: str
    layers: int
    make: Callable[[DataSet, str], nn.Sequential]
    reference: Reference
    splits: Mapping[int, Split] = field(default_factory=dict)
    variants: tuple[str, ...] = ("",)
    own_weights: bool = False


def runs(*blocks: int, head: int = 1, tail: int = 1) -> tuple[int, ...]:
    """Bounds of modules of so many blocks each; the first has the head too, the last the tail.

    >>> runs(13, 14)
    (0, 14, 29)
    """
    counts = list(blocks)
    counts[0] += head
    counts[-1] += tail
    return (0, *accumulate(counts))
