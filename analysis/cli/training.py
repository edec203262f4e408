"""The flags of what is trained and how, and the experiment that they make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from analysis.cli.costs import WorkloadFile, fitted
from analysis.cli.options import Seed, flag
from analysis.cli.output import Bar
from analysis.cli.sizes import MemoryLimit, refuse_if_too_large
from analysis.cli.values import MOST_SEED, number, one_of, whole
from simcore.errors import InputError
from simcore.schedules import build, find

if TYPE_CHECKING:
    from torch import nn

    from analysis.experiment import Experiment
    from executor.data import DataSet
    from executor.weights import MakeOptimizer
    from simcore.workload import Workload

__all__ = [
    "DATA_SETS",
    "Network",
    "NetworkFlags",
    "OptimizerFlags",
    "Setup",
    "TrainingFlags",
]

_PANEL: Final = "Training"
DATA_SETS: Final = ("digits", "generated")
_OPTIMIZERS: Final = ("sgd", "adam")
_LEARNING_RATES: Final = {"sgd": "0.05", "adam": "0.001"}
_MOST_THREADS: Final = 4096
_FEW: Final = 4  # batches of a schedule that is built only to see whether it can run
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


@dataclass(frozen=True, slots=True)
class NetworkFlags:
    """What is trained, on what."""

    model: Annotated[
        str,
        flag(
            "--model",
            "SPEC",
            "mlp:DEPTHxWIDTH, conv:DEPTHxCHANNELS, or package.module:function that makes an "
            "nn.Sequential",
            _PANEL,
        ),
    ] = "mlp:8x512"
    data: Annotated[str, flag("--data", "|".join(DATA_SETS), "what is learned", _PANEL)] = "digits"
    batch_size: Annotated[str, flag("--batch-size", "N", "samples of a mini-batch", _PANEL)] = "64"
    threads: Annotated[
        str, flag("--threads", "T", "cores that a single operation may use", _PANEL)
    ] = "1"
    seed: Seed = "0"

    @property
    def cores(self) -> int:
        """The number of cores of an operation."""
        return whole(self.threads, "--threads", most=_MOST_THREADS)

    def make(self) -> Network:
        """The network and its data. Raises `InputError` for bad flags."""
        chosen = one_of(self.data, "--data", DATA_SETS)
        size = whole(self.batch_size, "--batch-size")
        seed = whole(self.seed, "--seed", least=0, most=MOST_SEED)

        from executor import data
        from executor.allocator import tune_allocator
        from executor.models import make_model
        from executor.network import layers_of

        tune_allocator()  # as the processes of workers, which are measured too, do
        samples = data.DATA_SETS[chosen]()
        samples.batch(0, size, seed)
        made = make_model(self.model, samples, seed)
        return Network(self.model, made, samples, size, seed, len(layers_of(made)))


@dataclass(frozen=True, slots=True)
class OptimizerFlags:
    """How weights are updated."""

    optimizer: Annotated[
        str, flag("--optimizer", "|".join(_OPTIMIZERS), "of torch.optim", _PANEL)
    ] = "sgd"
    learning_rate: Annotated[
        str | None, flag("--learning-rate", "X", "default 0.05 for sgd, 0.001 for adam", _PANEL)
    ] = None
    momentum_factor: Annotated[
        str | None,
        flag(
            "--momentum-factor",
            "X",
            "momentum of sgd, 0 to 1 (default 0); --momentum is another thing: whose momentum",
            _PANEL,
        ),
    ] = None
    weight_decay: Annotated[str, flag("--weight-decay", "X", "of the optimizer", _PANEL)] = "0"

    def settings(self) -> dict[str, object]:
        """The values. Raises `InputError` for bad ones."""
        chosen, factor = one_of(self.optimizer, "--optimizer", _OPTIMIZERS), self.momentum_factor
        if chosen == "adam" and factor is not None:
            rule = "is for sgd alone, as adam has momentum of its own"
            raise InputError("--momentum-factor", factor, rule, "leave it out")
        rate = self.learning_rate or _LEARNING_RATES[chosen]
        return {
            "optimizer": chosen,
            "learning_rate": number(rate, "--learning-rate", above=True),
            "momentum_factor": number(factor or "0", "--momentum-factor", most=1),
            "weight_decay": number(self.weight_decay, "--weight-decay"),
        }

    def make(self) -> "MakeOptimizer":
        """A maker of optimisers."""
        from executor.training import optimizer

        found = self.settings()
        return optimizer(
            "adam" if found["optimizer"] == "adam" else "sgd",
            float(str(found["learning_rate"])),
            float(str(found["momentum_factor"])),
            float(str(found["weight_decay"])),
        )


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
    threads: int
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

        Raises `InputError` for bad flags, for what needs too much memory or is only simulated so
        far, and for more blocks than the network has layers.
        """
        from executor.support import refuse_unsupported

        optimizer.settings()
        threads, count = network.cores, 100 if batches is None else int(str(batches))
        if training.epochs is not None and batches is not None:
            rule = "must not be given with --batches"
            raise InputError("--epochs", training.epochs, rule, "leave one out")
        epochs = None if training.epochs is None else whole(training.epochs, "--epochs")
        # Once before anything is made, and again when it is known how long an epoch is.
        _refuse(schedules, count if epochs is None else epochs, training.memory_limit)
        for name, options in schedules:
            few: dict[str, Any] = {**options, "batches": _FEW}
            few["batches"] = max(_FEW, few.get("replicas", 1))
            refuse_unsupported(build(name, **few))
        made = network.make()
        if epochs is not None:
            count = epochs * made.data.batches_per_epoch(made.batch_size)
            _refuse(schedules, count, training.memory_limit)
        for name, options in schedules:
            fitted(find(name), options, made.layers, f"of {made.spec}")
        return cls(made, optimizer, threads, count, _costs(training.workload, made))

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
        )

    def _measured_costs(self, bar: Bar) -> "Workload":
        from torch import nn

        from executor.profile import profile

        network = self.network
        bar.stage(f"timing the {network.layers} layers")
        inputs, labels = network.data.batch(0, network.batch_size, network.seed)
        return profile(
            network.model,
            inputs,
            labels,
            nn.CrossEntropyLoss(),
            self.optimizer.make(),
            _REPEATS,
            self.threads,
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
            "batch_size": network.batch_size,
            "batches": self.batches,
            **self.optimizer.settings(),
            "seed": network.seed,
        }


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
