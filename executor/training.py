"""What is to be trained and how: the question that every runtime answers, and its answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from executor.data import DataSet
from executor.learning import Learning
from executor.slicing import Source
from executor.tensors import Loss
from executor.weights import MakeOptimizer
from simcore.ops import Item
from simcore.schedule import Schedule
from simcore.trace import Trace

INTERRUPTED: Final = "interrupted"

__all__ = [
    "INTERRUPTED",
    "DataSource",
    "Learning",
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
    operation may use. `devices` are where workers compute (see `executor.streams.places_of`).
    `timeout_s` is the longest that one operation of a worker may take, and that all may wait (None:
    by measure, see `executor.watchdog`). With `check_finite` a worker that computes an infinite
    value, or one that is no number, ends the run. `start` is the folder of a checkpoint to go on
    from, and `first_batch` the mini-batch of the data, and of all that goes by it, with which the
    schedule begins (see `executor.checkpoint.resumed`). With `measure_memory` the run measures what
    its workers hold (see `executor.measured_memory`).
    """

    make_schedule: Callable[[], Schedule]
    model: nn.Sequential
    bounds: tuple[int, ...]
    source: Source
    make_optimizer: MakeOptimizer
    loss: Loss = field(default_factory=nn.CrossEntropyLoss)
    seed: int = 0
    threads: int = 1
    learning: Learning = Learning()
    devices: tuple[str, ...] = ("cpu",)
    timeout_s: float | None = None
    check_finite: bool = True
    start: str | None = None
    first_batch: int = 0
    measure_memory: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class RunResult:
    """What a run left: its trace, losses, weights.

    `losses` are rows (mini-batch, loss, seconds since the run's start), by mini-batch, counted from
    the `first_batch` of the training. `state` is the trained network's state, or None if the run
    did not end. `failure` is why it did not, or None; `INTERRUPTED` after Ctrl-C,
    `executor.checkpoint.STOPPED` if it can be resumed.
    """

    trace: Trace
    losses: list[tuple[int, float, float]]
    state: dict[str, torch.Tensor] | None
    failure: str | None = None
    memory: NDArray[np.void] | None = None


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
