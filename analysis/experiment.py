"""An experiment: one network, one data set, one way to learn, to be trained by any schedule."""

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from executor.data import DataSet
from executor.learning import Learning
from executor.network import Stepper, layers_of
from executor.slicing import time_steps
from executor.training import DataSource, Training
from executor.weights import MakeOptimizer
from simcore.errors import InputError
from simcore.partition import partition
from simcore.schedule import Schedule
from simcore.schedules import build, find
from simcore.workload import Workload

__all__ = ["Experiment", "Wanted"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A schedule to be trained with: its name and the options that were asked for."""

    name: str
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name and options, as the command line takes them.

        >>> Wanted("adl", {"accumulation": 4, "recompute": True}).label
        'adl:accumulation=4,recompute=true'
        >>> Wanted("pipedream", {"in_flight": (2, 1)}).label
        'pipedream:in_flight=2,1'
        """
        options = ",".join(f"{name}={_typed(value)}" for name, value in self.options.items())
        return f"{self.name}:{options}" if options else self.name


def _typed(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@dataclass(frozen=True, slots=True, eq=False)
class Experiment:
    """What stays the same while schedules change.

    `layer_costs` has a layer for each of the network's (see `executor.network.layers_of`); blocks
    are made as even as they allow. `threads` is how many cores one operation may use (None: all
    cores, shared out among the workers). `about` says what is trained, for readers of traces.
    `timeout_s` is that of `executor.training.Training`, and `split` gives the bounds of so many
    blocks (None: even ones). With `time_steps` the network takes one of so many parts of a sample
    after the other.
    """

    model: nn.Sequential
    data: DataSet
    layer_costs: Workload
    batch_size: int
    batches: int
    make_optimizer: MakeOptimizer
    seed: int = 0
    threads: int | None = None
    learning: Learning = Learning()
    time_steps: int | None = None
    devices: tuple[str, ...] = ("cpu",)
    about: Mapping[str, object] = field(default_factory=dict)
    timeout_s: float | None = None
    split: Callable[[int], tuple[int, ...]] | None = None

    def __post_init__(self) -> None:
        layers, costs = len(layers_of(self.model)), len(self.layer_costs.layers)
        if layers != costs:
            rule = f"must have the {layers} layers of the network"
            raise InputError("workload", f"{costs} layers", rule, "profile this network")

    def options(self, wanted: Wanted) -> dict[str, object]:
        """The options of a schedule here: every layer a block, or no more modules than layers."""
        entry, layers = find(wanted.name), len(self.layer_costs.layers)
        name = entry.blocks_option
        if name is None:
            return {**wanted.options, "batches": self.batches}
        default = entry.defaults[name]
        assert isinstance(default, int)
        chunks = entry.blocks({**wanted.options, name: 1})
        blocks = layers if name == "layers" else max(1, min(default, layers // chunks))
        return {name: blocks, **wanted.options, "batches": self.batches}

    def training(
        self,
        wanted: Wanted,
        threads: int | None = None,
        bounds: Sequence[int] | None = None,
    ) -> Training:
        """The training by a schedule, with blocks that are even or as the bounds say.

        Raises `InputError` for options or bounds that do not fit.
        """
        factory: Callable[..., Schedule] = build
        make_schedule = partial(factory, wanted.name, **self.options(wanted))
        schedule = make_schedule()
        if bounds is None and self.split is not None:
            bounds = self.split(schedule.blocks)
        if bounds is None:
            bounds = partition(self.layer_costs, schedule.blocks).bounds
        if threads is None:
            cores = os.cpu_count() or 1
            threads = self.threads or max(1, cores // len(schedule.workers))
        return Training(
            make_schedule,
            self.model,
            tuple(bounds),
            DataSource(self.data, self.batch_size, self.seed),
            self.make_optimizer,
            seed=self.seed,
            threads=threads,
            learning=self.learning,
            devices=self.devices,
            timeout_s=self.timeout_s,
            about={"training": {**self.about, "bounds": list(bounds)}} if self.about else {},
        )

    def accuracy(self, state: Mapping[str, torch.Tensor]) -> float:
        """Share of the test samples that a trained network classifies right, 0 to 1."""
        model = copy.deepcopy(self.model)
        model.load_state_dict(dict(state))
        model.eval()
        right = 0
        with torch.no_grad():
            for inputs, labels in self.data.test_batches():
                right += int((self._answers(model, inputs).argmax(dim=1) == labels).sum())
        return right / len(self.data.test_labels)

    def _answers(self, model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        """What a network says of samples, (samples, classes); at the last time step, if any."""
        if self.time_steps is None:
            found: torch.Tensor = model(inputs)
            return found
        stepper, states = Stepper(model), None
        for part in time_steps(inputs, self.time_steps):
            found, states = stepper(part, states)
        return found
