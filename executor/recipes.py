"""The papers' recipes by name: optimiser, batch size, learning rate and its schedule, epochs.

Numbers are as printed. What a paper does not give is None, and where it contradicts itself, or its
released code does something else, the recipe's notes say so.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from executor.learning_rates import LearningRate, linear_scaling, read_shape, read_warm_up
from executor.optimizers import make_optimizer
from executor.weights import MakeOptimizer
from simcore.errors import InputError

__all__ = ["RECIPES", "Recipe", "find_recipe"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a paper trains: None where it does not say.

    `schedule` and `warm_up` are texts of `executor.learning_rates.read_shape` and `read_warm_up`;
    a `warm_up` of None is none. The learning rate is `learning_rate`, or `scaled` for 256 samples
    an update (see `linear_scaling`), or one of `candidates` that a validation set has to choose.
    `data` and `networks` are names of `executor.data` and `executor.models`.
    `epochs` is how many there are, `patience_epochs` how many without a better test accuracy end
    the training. `augment` says whether images are cropped and mirrored at random in training.
    """

    source: str
    data: tuple[str, ...]
    networks: tuple[str, ...]
    optimizer: str
    batch_size: int
    options: Mapping[str, float | tuple[float, ...]] = field(default_factory=dict)
    learning_rate: float | None = None
    scaled: float | None = None
    candidates: tuple[float, ...] = ()
    schedule: str | None = None
    warm_up: str | None = None
    epochs: int | None = None
    patience_epochs: int | None = None
    augment: bool | None = None
    notes: tuple[str, ...] = ()

    def rate(self, accumulation: int = 1, given: float | None = None) -> float:
        """The base learning rate, for updates of so many mini-batches each, or the one given.

        Raises `InputError` where the paper leaves the choice to a validation set and none is given.
        """
        if given is not None:
            return given
        if self.learning_rate is not None:
            return self.learning_rate
        if self.scaled is not None:
            return linear_scaling(self.batch_size, accumulation, self.scaled)
        rule = "must be chosen by validation"
        remedy = f"give one of {', '.join(map(str, self.candidates))}"
        raise InputError("learning rate", self.source, rule, remedy)

    def make_optimizer(self, accumulation: int = 1, given: float | None = None) -> MakeOptimizer:
        """A maker of the recipe's optimisers, one for each block; it can be pickled.

        Raises `InputError` as `rate`.
        """
        return make_optimizer(self.optimizer, self.rate(accumulation, given), self.options)

    def learning_rates(
        self, batches_per_epoch: int, accumulation: int = 1, given: float | None = None
    ) -> LearningRate:
        """The factor on the base learning rate at each mini-batch; constant if none is printed.

        Milestones and cosines count the epochs of the training, those of the warm-up too.

        Raises `InputError` as `rate`.
        """
        shape = read_shape("constant" if self.schedule is None else self.schedule)
        base = self.rate(accumulation, given)
        warm_up = None if self.warm_up is None else read_warm_up(self.warm_up, base)
        return LearningRate(batches_per_epoch, shape, warm_up)


def find_recipe(name: str) -> Recipe:
    """The recipe of a name. Raises `InputError` with the nearest name where there is none.

    >>> find_recipe("fdg-cifar10").batch_size
    128
    """
    if name in RECIPES:
        return RECIPES[name]
    near = difflib.get_close_matches(name.lower(), RECIPES, n=1, cutoff=0.0)
    rule = f"must be one of {', '.join(RECIPES)}"
    raise InputError("recipe", name, rule, f"did you mean {near[0]}?")


_FDG_NETWORKS: Final = ("resnet20", "resnet56", "resnet18", "wrn-28-10")
_ASYNCFGD_NETWORKS: Final = (
    *("convs", "convl", "fcs", "fcl"),
    *("resnet18", "mobilenetv3-small", "efficientnet-b0", "mnasnet0.5", "shufflenetv2-0.5"),
)
_MILESTONES: Final = "step:150,225,275"


def _fdg(
    source: str, data: str, networks: tuple[str, ...], warm_up: str | None, *notes: str
) -> Recipe:
    return Recipe(
        source=f"FDG, section 5, implementation details, and {source}",
        data=(data,),
        networks=networks,
        optimizer="sgd",
        options={"momentum": 0.9, "weight_decay": 5e-4},
        batch_size=128,
        learning_rate=0.1,
        schedule=_MILESTONES,
        warm_up=warm_up,
        epochs=300,
        augment=True,
        notes=(
            "Errors are those of the last epoch, the median of 3 runs.",
            "The released code lowers the rate one epoch after each milestone.",
            *notes,
        ),
    )


_FDG_WARM_UP: Final = (
    "In the released code the scheduler ends the warm-up after the first epoch: it sets the full "
    "rate again.",
)


def _adl(
    data: str, networks: tuple[str, ...], schedule: str, epochs: int, weight_decay: float
) -> Recipe:
    return Recipe(
        source="ADL, section V, implementation details",
        data=(data,),
        networks=networks,
        optimizer="sgd",
        options={"momentum": 0.9, "weight_decay": weight_decay},
        batch_size=32,
        scaled=0.1,
        schedule=schedule,
        warm_up="3",
        epochs=epochs,
        augment=True,
        notes=(
            "Errors are those of the last epoch, the median of 3 runs.",
            "The rate is 0.1 b M / 256 for batches of b samples and M batches an update.",
            "Where the gradual warm-up begins is not printed: the released code begins at 1 % of "
            "the rate, and takes 5 epochs if not told otherwise; here it begins at 0.",
            "The batch size of the measured times was tuned and is not given.",
        ),
    )


def _asyncfgd(batch_size: int, *notes: str) -> Recipe:
    return Recipe(
        source="AsyncFGD, sections 6.1 and 6.5, algorithm 2",
        data=("mnist", "fashion-mnist", "cifar10"),
        networks=_ASYNCFGD_NETWORKS,
        optimizer="adam",
        options={"betas": (0.9, 0.999), "eps": 1e-8},
        batch_size=batch_size,
        candidates=(1e-5, 1e-4, 1e-3, 1e-2),
        notes=("Seeds are 0. Epochs, augmentation and weight decay are not given.", *notes),
    )


def _async_bp(
    data: str,
    network: str,
    period: int,
    warm_up: str | None,
    *notes: str,
    optimizer: str = "sgd",
    batch_size: int = 128,
    learning_rate: float = 0.015,
    weight_decay: float = 0.005,
) -> Recipe:
    options = {"weight_decay": weight_decay}
    if optimizer == "sgd":
        options = {"momentum": 0.9, **options}
    return Recipe(
        source="Async BP, section 4.1 and the table of hyperparameters in its appendix",
        data=(data,),
        networks=(network,),
        optimizer=optimizer,
        options=options,
        batch_size=batch_size,
        learning_rate=learning_rate,
        schedule=f"cosine:{period}",
        warm_up=warm_up,
        patience_epochs=30,
        notes=(
            "Whether the epochs of the cosine count from the end of the warm-up is not given.",
            *notes,
        ),
    )


_ASYNC_BP_TEXT: Final = (
    "The text, as far as it can be read, has a weight decay of 5 x 110^-2 and T_max 110 for all "
    "networks, and 5 epochs of warm-up."
)
_ASYNC_BP_IMAGENET: Final = (
    "The text, as far as it can be read, has a weight decay of 3.5 x 110^-2 and the same rates as "
    "for CIFAR; it trains for 250 epochs."
)
_ASYNC_BP_IMDB: Final = (
    "The text has a learning rate of 1e-2. The table's momentum of 0.9 is taken as Adam's first "
    "beta, which is 0.9 by default."
)

RECIPES: Final[dict[str, Recipe]] = {
    "fdg-cifar10": _fdg("table 2", "cifar10", _FDG_NETWORKS, None),
    "fdg-cifar10-warm-up": _fdg(
        "tables 2 and 4",
        "cifar10",
        ("resnet110", "resnet56"),
        "3:0.01",
        *_FDG_WARM_UP,
        "For ResNet-110, and for ResNet-56 in 3 or 4 modules.",
    ),
    "fdg-cifar100": _fdg("table 3", "cifar100", _FDG_NETWORKS[1:], None),
    "fdg-cifar100-warm-up": _fdg("table 3", "cifar100", ("resnet110",), "3:0.01", *_FDG_WARM_UP),
    "adl-cifar10": _adl(
        "cifar10",
        ("resnet18", "resnet56", "resnet98", "resnet110", "resnet164"),
        _MILESTONES,
        300,
        5e-4,
    ),
    "adl-imagenet": _adl(
        "images", ("resnet18", "resnet50", "se-resnet18"), "step:30,60,80", 90, 1e-4
    ),
    "asyncfgd": _asyncfgd(64),
    "asyncfgd-speed": _asyncfgd(
        4, "For the measured times; micro-batches of the synchronous pipeline have 1 sample."
    ),
    "async-bp-cifar10-resnet18": _async_bp("cifar10", "resnet18", 105, "3:0.005", _ASYNC_BP_TEXT),
    "async-bp-cifar10-resnet50": _async_bp("cifar10", "resnet50", 120, "5:0.005", _ASYNC_BP_TEXT),
    "async-bp-cifar100-resnet18": _async_bp("cifar100", "resnet18", 100, "5:0.005", _ASYNC_BP_TEXT),
    "async-bp-cifar100-resnet50": _async_bp("cifar100", "resnet50", 120, "5:0.005", _ASYNC_BP_TEXT),
    "async-bp-imagenet-resnet50": _async_bp(
        "images",
        "resnet50",
        250,
        "5:0.0035",
        _ASYNC_BP_IMAGENET,
        batch_size=250,
        weight_decay=0.0035,
    ),
    "async-bp-imdb-lstm": _async_bp(
        "imdb",
        "lstm:2x256",
        150,
        None,
        _ASYNC_BP_IMDB,
        optimizer="adam",
        batch_size=75,
        learning_rate=0.001,
        weight_decay=0.0,
    ),
}
