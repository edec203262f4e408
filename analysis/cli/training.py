"""The flags of what is trained and how, and the experiment that they make."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from analysis.cli.options import flag
from analysis.cli.output import Bar
from analysis.cli.values import MOST_SEED, number, one_of, whole
from simcore.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from executor.data import DataSet
    from executor.weights import MakeOptimizer
    from simcore.workload import Workload

__all__ = [
    "BatchSize",
    "Data",
    "LearningRate",
    "Model",
    "MomentumFactor",
    "Network",
    "Optimizer",
    "Threads",
    "WeightDecay",
    "make_network",
    "measured_costs",
    "read_optimizer",
    "read_threads",
]

_PANEL: Final = "Training"
_DATA_SETS: Final = ("digits", "generated")
_OPTIMIZERS: Final = ("sgd", "adam")
_LEARNING_RATES: Final = {"sgd": "0.05", "adam": "0.001"}
_MOST_THREADS: Final = 4096
_REPEATS, _PHASE_S = 2, 0.2

Model = Annotated[
    str,
    flag(
        "--model",
        "SPEC",
        "mlp:DEPTHxWIDTH, conv:DEPTHxCHANNELS, or package.module:function that makes an "
        "nn.Sequential",
        _PANEL,
    ),
]
Data = Annotated[str, flag("--data", "|".join(_DATA_SETS), "what is learned", _PANEL)]
BatchSize = Annotated[str, flag("--batch-size", "N", "samples of a mini-batch", _PANEL)]
Optimizer = Annotated[str, flag("--optimizer", "|".join(_OPTIMIZERS), "of torch.optim", _PANEL)]
LearningRate = Annotated[
    str | None,
    flag("--learning-rate", "X", "default 0.05 for sgd, 0.001 for adam", _PANEL),
]
MomentumFactor = Annotated[
    str | None,
    flag(
        "--momentum-factor",
        "X",
        "momentum of sgd, 0 to 1 (default 0); --momentum is another thing: whose momentum",
        _PANEL,
    ),
]
WeightDecay = Annotated[str, flag("--weight-decay", "X", "of the optimizer", _PANEL)]
Threads = Annotated[str, flag("--threads", "T", "cores that a single operation may use", _PANEL)]


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A network, its data, and the size of a mini-batch."""

    spec: str
    model: "nn.Sequential"
    data: "DataSet"
    batch_size: int
    seed: int
    layers: int


def make_network(model: str, data: str, batch_size: str, seed: str) -> Network:
    """The network and data of the flags. Raises `InputError` for bad ones."""
    chosen = one_of(data, "--data", _DATA_SETS)
    size = whole(batch_size, "--batch-size")
    seed_number = whole(seed, "--seed", least=0, most=MOST_SEED)

    from executor.allocator import tune_allocator
    from executor.data import DATA_SETS
    from executor.models import make_model
    from executor.network import layers_of

    tune_allocator()  # what is measured in this process must not differ from the others
    samples = DATA_SETS[chosen]()
    samples.batch(0, size, seed_number)
    made = make_model(model, samples, seed_number)
    return Network(model, made, samples, size, seed_number, len(layers_of(made)))


def read_optimizer(
    name: str, learning_rate: str | None, momentum_factor: str | None, weight_decay: str
) -> "tuple[MakeOptimizer, Mapping[str, object]]":
    """A maker of optimisers, and its settings for reports. Raises `InputError` for bad flags."""
    chosen = one_of(name, "--optimizer", _OPTIMIZERS)
    if chosen == "adam" and momentum_factor is not None:
        rule = "is for sgd alone; adam has momentum of its own"
        raise InputError("--momentum-factor", momentum_factor, rule, "leave it out")
    rate = number(learning_rate or _LEARNING_RATES[chosen], "--learning-rate", above=True)
    factor = number(momentum_factor or "0", "--momentum-factor", most=1)
    decay = number(weight_decay, "--weight-decay")

    from executor.training import optimizer

    make = optimizer("adam" if chosen == "adam" else "sgd", rate, factor, decay)
    settings: dict[str, object] = {"optimizer": chosen, "learning_rate": rate}
    if chosen == "sgd":
        settings["momentum_factor"] = factor
    return make, {**settings, "weight_decay": decay}


def read_threads(text: str) -> int:
    """The number of cores of an operation."""
    return whole(text, "--threads", most=_MOST_THREADS)


def measured_costs(
    network: Network, make_optimizer: "MakeOptimizer", threads: int, bar: Bar
) -> "Workload":
    """What the layers cost, measured in a moment: enough to cut them into even blocks."""
    from torch import nn

    from executor.profile import profile

    bar.stage(f"timing the {network.layers} layers")
    inputs, labels = network.data.batch(0, network.batch_size, network.seed)
    return profile(
        network.model,
        inputs,
        labels,
        nn.CrossEntropyLoss(),
        make_optimizer,
        _REPEATS,
        threads,
        phase_s=_PHASE_S,
        name=network.spec,
    )
