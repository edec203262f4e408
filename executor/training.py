"""What is to be trained and how: the question that every runtime answers, and its answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal

import torch
from torch import nn

from executor.data import DataSet
from executor.slicing import Source
from executor.tensors import Clip, Loss
from executor.weights import MakeOptimizer
from simcore.ops import Item
from simcore.schedule import Schedule
from simcore.trace import Trace

INTERRUPTED: Final = "interrupted"

__all__ = [
    "INTERRUPTED",
    "DataSource",
    "RunResult",
    "Source",
    "Training",
    "optimizer",
]


class DataSource:
    """Mini-batches of a data set; a source channel carries block 0, the data."""

    def __init__(self, data: DataSet, batch_size: int, seed: int) -> None:
        self.data, self.batch_size, self.seed = data, batch_size, seed

    def payload(self, item: Item, batch: int) -> Any:
        """Inputs and labels of a mini-batch."""
        assert item == Item("activation", 0)
        return self.data.batch(batch, self.batch_size, self.seed)

    def samples(self, batch: int) -> int:
        """The samples of a mini-batch; the last of an epoch may have fewer."""
        return self.data.size_of(batch, self.batch_size)


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """A network to be trained by a schedule.

    `make_schedule` and the rest can be pickled, so that each process builds the schedule itself.
    `bounds` are the layers at which blocks begin, with the number of layers last. `model` is not
    changed: every run starts from its weights. `threads` is the number of cores that a single
    operation may use. `rate` and `alpha` are factors by the mini-batch, on the learning rate and on
    the directions of forward gradients; `clip` limits the gradients of a block at each update.
    """

    make_schedule: Callable[[], Schedule]
    model: nn.Sequential
    bounds: tuple[int, ...]
    source: Source
    make_optimizer: MakeOptimizer
    loss: Loss = field(default_factory=nn.CrossEntropyLoss)
    seed: int = 0
    threads: int = 1
    rate: Callable[[int], float] | None = None
    alpha: Callable[[int], float] | None = None
    clip: Clip | None = None
    precision: torch.dtype | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class RunResult:
    """What a run left: its trace, losses, weights.

    `losses` are rows (batch, loss, seconds since the run's start), by batch. `state` is the trained
    network's state, or None if the run did not end. `failure` is why it did not, or None;
    `INTERRUPTED` after Ctrl-C.
    """

    trace: Trace
    losses: list[tuple[int, float, float]]
    state: dict[str, torch.Tensor] | None
    failure: str | None = None


def optimizer(
    name: Literal["sgd", "adam"] = "sgd",
    learning_rate: float = 0.1,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
) -> MakeOptimizer:
    """A maker of optimisers, one for each block (SGD or Adam, of torch.optim)."""
    if name == "adam":
        return partial(torch.optim.Adam, lr=learning_rate, weight_decay=weight_decay)
    return partial(torch.optim.SGD, lr=learning_rate, momentum=momentum, weight_decay=weight_decay)
