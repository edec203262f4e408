"""The flags of what is trained and how, and the experiment that they make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from analysis.cli.costs import WorkloadFile, fitted
from analysis.cli.learning import OptimizerFlags
from analysis.cli.options import Seed, flag
from analysis.cli.output import Bar
from analysis.cli.sizes import MemoryLimit, refuse_if_too_large
from analysis.cli.values import MOST_SEED, one_of, whole
from simcore.errors import InputError
from simcore.schedules import build, find

if TYPE_CHECKING:
    from torch import nn

    from analysis.experiment import Experiment
    from executor.data import DataSet
    from executor.recipes import Recipe
    from simcore.workload import Workload

__all__ = [
    "DATA_SETS",
    "Network",
    "NetworkFlags",
    "Setup",
    "TrainingFlags",
]

_PANEL: Final = "Training"
DATA_SETS: Final = (
    "digits",
    "generated",
    "mnist",
    "fashion-mnist",
    "cifar10",
    "cifar100",
    "svhn",
    "imdb",
    "images",
)
_NEVER_VARIED: Final = ("digits", "generated", "imdb")
_FEW: Final = 4  # batches of a schedule that is built only to see whether it can run
_MOST_THREADS: Final = 4096
# Enough to cut layers into even blocks.
_REPEATS, _PHASE_S = 2, 0.2


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A network, its data, and the size of a mini-batch."""

    spec: str
    model: "nn.Sequential"
    data: "DataSet"
    batch_size: int
    seed: int
    layers: int
    augment: bool = False
    time_steps: int | None = None
    data_dir: str | None = None


@dataclass(frozen=True, slots=True)
class NetworkFlags:
    """What is trained, on what."""

    model: Annotated[
        str,
        flag(
            "--model",
            "SPEC",
            "mlp:DEPTHxWIDTH, conv:DEPTHxCHANNELS, rnn:DEPTHxWIDTH, lstm:DEPTHxWIDTH, a network's "
            "name (resnet18, convs:tanh, ...), or package.module:function that makes an "
            "nn.Sequential",
            _PANEL,
        ),
    ] = "mlp:8x512"
    data: Annotated[str, flag("--data", "|".join(DATA_SETS), "what is learned", _PANEL)] = "digits"
    data_dir: Annotated[
        str | None,
        flag("--data-dir", "DIR", "where its files are (default $GRADLAG_DATA or data)", _PANEL),
    ] = None
    augment: Annotated[
        bool,
        typer.Option("--augment", help="vary images from epoch to epoch", rich_help_panel=_PANEL),
    ] = False
    batch_size: Annotated[
        str | None, flag("--batch-size", "N", "samples of a mini-batch (default 64)", _PANEL)
    ] = None
    threads: Annotated[
        str | None,
        flag(
            "--threads", "T", "cores that an operation may use (default: all, shared out)", _PANEL
        ),
    ] = None
    device: Annotated[
        str,
        flag(
            "--device",
            "cpu|cuda|cuda:N",
            "where workers compute: one for all (cuda: the GPUs in turn), or one for each",
            _PANEL,
        ),
    ] = "cpu"
    seed: Seed = "0"

    @property
    def cores(self) -> int | None:
        """The number of cores of an operation; None where it was not given."""
        if self.threads is None:
            return None
        return whole(self.threads, "--threads", most=_MOST_THREADS)

    def by_recipe(self, recipe: "Recipe | None") -> "NetworkFlags":
        """These flags, with those of a recipe where none were given."""
        if recipe is None:
            return self
        varied = bool(recipe.augment) and self.data not in _NEVER_VARIED
        size = str(recipe.batch_size) if self.batch_size is None else self.batch_size
        return replace(self, batch_size=size, augment=self.augment or varied)

    def make(self, time_steps: int | None = None) -> Network:
        """The network and its data, of single time steps where samples are to be cut into these.

        Raises `InputError` for bad flags.
        """
        chosen = one_of(self.data, "--data", DATA_SETS)
        size = whole(self.batch_size or "64", "--batch-size")
        seed = whole(self.seed, "--seed", least=0, most=MOST_SEED)

        from executor.allocator import tune_allocator
        from executor.data import open_data
        from executor.models import make_model
        from executor.network import layers_of
        from executor.slicing import step_of

        tune_allocator()  # as the processes of workers, which are measured too, do
        samples = open_data(chosen, self.data_dir, self.augment)
        samples.size_of(0, size)
        seen = samples if time_steps is None else step_of(samples, time_steps)
        made = make_model(self.model, seen, seed)
        layers = len(layers_of(made))
        about = self.augment, time_steps, self.data_dir
        return Network(self.model, made, samples, size, seed, layers, *about)


@dataclass(frozen=True, slots=True)
class TrainingFlags:
    """How long and how training goes on."""

    epochs: Annotated[
        str | None, flag("--epochs", "E", "passes through the data, not --batches", _PANEL)
    ] = None
    workload: WorkloadFile = None
    memory_limit: MemoryLimit = "4GiB"


@dataclass(frozen=True, slots=True, eq=False)
class Setup:
    """An experiment as the flags describe it, checked, before anything is measured."""

    network: Network
    optimizer: OptimizerFlags
    threads: int | None
    devices: tuple[str, ...]
    batches: int
    costs: "Workload | None"

    @classmethod
    def read(
        cls,
        schedules: Sequence[tuple[str, Mapping[str, object]]],
        batches: object,
        network: NetworkFlags,
        optimizer: OptimizerFlags,
        training: TrainingFlags,
    ) -> "Setup":
        """The setup of schedules with their options; `batches` is None if none were asked for.

        Raises `InputError` for bad flags, for what needs too much memory, and for more blocks than
        the network has layers.
        """
        from executor.streams import devices_of

        recipe = optimizer.found_recipe()
        optimizer, network = optimizer.by_recipe(), network.by_recipe(recipe)
        optimizer.settings()
        if recipe is not None and training.epochs is None and batches is None:
            wanted = None if recipe.epochs is None else str(recipe.epochs)
            training = replace(training, epochs=wanted)
        threads, count = network.cores, 100 if batches is None else int(str(batches))
        if training.epochs is not None and batches is not None:
            rule = "must not be given with --batches"
            raise InputError("--epochs", training.epochs, rule, "leave one out")
        epochs = None if training.epochs is None else whole(training.epochs, "--epochs")
        # Once before anything is made, and again when it is known how long an epoch is.
        _refuse(schedules, count if epochs is None else epochs, training.memory_limit)
        made = network.make(_time_steps(schedules))
        if epochs is not None:
            count = epochs * made.data.batches_per_epoch(made.batch_size)
            _refuse(schedules, count, training.memory_limit)
        devices = tuple(each.strip() for each in network.device.split(","))
        if devices != ("cpu",):
            for name, options in schedules:
                few: dict[str, Any] = {**options, "batches": _FEW}
                few["batches"] = max(_FEW, few.get("replicas", 1))
                devices_of(devices, build(name, **few))
        for name, options in schedules:
            fitted(find(name), options, made.layers, f"of {made.spec}")
        return cls(made, optimizer, threads, devices, count, _costs(training.workload, made))

    def experiment(self, bar: Bar, *, even: bool = False) -> "Experiment":
        """The experiment; layers are timed where the flags do not say what they cost.

        With `even` they need not be timed, as there is only one way to cut them into blocks.
        """
        from analysis.experiment import Experiment
        from simcore.workload import Workload

        network, costs = self.network, self.costs
        if costs is None:
            costs = Workload.even(network.layers) if even else self._measured_costs(bar)
        return Experiment(
            network.model,
            network.data,
            costs,
            network.batch_size,
            self.batches,
            self.optimizer.make(),
            network.seed,
            self.threads,
            self.optimizer.learning(network.data.batches_per_epoch(network.batch_size)),
            network.time_steps,
            self.devices,
            self.settings,
        )

    def _measured_costs(self, bar: Bar) -> "Workload":
        from torch import nn

        from executor.profile import profile
        from executor.slicing import time_steps

        network = self.network
        bar.stage(f"timing the {network.layers} layers")
        inputs, labels = network.data.batch(0, network.batch_size, network.seed)
        if network.time_steps is not None:
            inputs = time_steps(inputs, network.time_steps)[0]
        return profile(
            network.model,
            inputs,
            labels,
            nn.CrossEntropyLoss(),
            self.optimizer.make(),
            _REPEATS,
            self.threads or 1,
            phase_s=_PHASE_S,
            name=network.spec,
        )

    @property
    def settings(self) -> dict[str, object]:
        """What was trained and how, for reports."""
        network = self.network
        return {
            "model": network.spec,
            "data": network.data.name,
            **({} if network.data_dir is None else {"data_dir": network.data_dir}),
            **({"augment": True} if network.augment else {}),
            "batch_size": network.batch_size,
            "batches": self.batches,
            **self.optimizer.settings(),
            "seed": network.seed,
        }


def _time_steps(schedules: Sequence[tuple[str, Mapping[str, object]]]) -> int | None:
    """The time steps into which a schedule cuts samples; None if none does.

    Raises `InputError` where they differ: one network cannot take both.
    """
    wanted = {
        options.get("time_steps", entry.defaults.get("time_steps"))
        for name, options in schedules
        for entry in [find(name)]
        if name != "bp"
    }
    steps = [each for each in wanted if isinstance(each, int)]
    if len(wanted) > 1 and steps:
        rule = "must be the same in all schedules, as they train one network"
        raise InputError("time_steps", steps[0], rule, "compare it by itself")
    return steps[0] if steps else None


def _refuse(
    schedules: Sequence[tuple[str, Mapping[str, object]]], batches: int, limit: str
) -> None:
    for name, options in schedules:
        refuse_if_too_large(name, {**options, "batches": batches}, limit)


def _costs(file: str | None, network: Network) -> "Workload | None":
    if file is None:
        return None
    from simcore.interop.workloads import load_workload_any

    found = load_workload_any(file)
    if len(found.layers) != network.layers:
        rule = f"must have the {network.layers} layers of {network.spec}, not {len(found.layers)}"
        raise InputError("--workload", file, rule, "profile this network")
    return found
