"""Learning rates over time, as pure functions of the mini-batch: factors on a base rate.

A worker that runs behind asks for the rate of the mini-batch whose gradient it applies, so no
clock is shared and no step is counted. Schedules change from epoch to epoch, as the papers' do; a
gradual warm-up changes with every mini-batch.
"""

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from simcore.errors import InputError

__all__ = [
    "AlphaRamp",
    "Constant",
    "Cosine",
    "LearningRate",
    "Shape",
    "Steps",
    "WarmUp",
    "linear_scaling",
    "read_shape",
    "read_warm_up",
]


@dataclass(frozen=True, slots=True)
class Constant:
    """The base rate throughout."""

    def at(self, epoch: int) -> float:
        """The factor of an epoch, counted from 0."""
        return 1.0


@dataclass(frozen=True, slots=True)
class Steps:
    """The rate is multiplied by `gamma` at each milestone, an epoch counted from 0.

    FDG, section 5: /10 at epochs 150, 225 and 275. As `torch.optim.lr_scheduler.MultiStepLR`.
    """

    milestones: tuple[int, ...]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        rising = sorted(set(self.milestones))
        if not rising or list(self.milestones) != rising or rising[0] < 1:
            what = ",".join(map(str, self.milestones))
            raise InputError("milestones", what, "must be epochs that rise from 1", "sort them")
        _positive("gamma", self.gamma)

    def at(self, epoch: int) -> float:
        """The factor of an epoch, counted from 0."""
        return float(self.gamma ** bisect_right(self.milestones, epoch))


@dataclass(frozen=True, slots=True)
class Cosine:
    """From 1 down to `least` in `period` epochs along half a cosine, and up again.

    `least + (1 - least) (1 + cos(pi epoch / period)) / 2`, as
    `torch.optim.lr_scheduler.CosineAnnealingLR` with T_max = `period`, which rises again after it
    too: Loshchilov and Hutter, "SGDR" (2017), equation 5, without its restarts. Async BP, table 10.
    """

    period: float
    least: float = 0.0

    def __post_init__(self) -> None:
        _positive("period of the cosine", self.period)
        if not 0 <= self.least <= 1:
            rule = "must be a factor from 0 to 1"
            raise InputError("least factor of the cosine", self.least, rule, "give 0, say")

    def at(self, epoch: int) -> float:
        """The factor of an epoch, counted from 0."""
        return self.least + (1 - self.least) * (1 + math.cos(math.pi * epoch / self.period)) / 2


Shape = Constant | Steps | Cosine


@dataclass(frozen=True, slots=True)
class WarmUp:
    """Smaller rates for the first `epochs`: `factor` times the rate, or a gradual rise from it.

    Constant: FDG, table 2 (0.01 for 3 epochs) and Async BP, table 10 (0.005 for 5). Gradual: equal
    steps from `factor` before the first mini-batch to 1 at the last one of the warm-up, as in
    P. Goyal et al., "Accurate, large minibatch SGD" (2017), section 2.2. ADL's paper has 3 epochs
    of it; its released code begins at a factor of 0.01.
    """

    epochs: float
    factor: float = 0.0
    gradual: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epochs) and self.epochs >= 0):
            raise InputError("epochs of warm-up", self.epochs, "must be at least 0", "give 3, say")
        if not (math.isfinite(self.factor) and self.factor >= 0):
            raise InputError(
                "factor of warm-up", self.factor, "must be at least 0", "give 0.1, say"
            )
        if not self.gradual and self.factor == 0:
            rule = "must be above 0 where it is constant"
            raise InputError("factor of warm-up", self.factor, rule, "give 0.1, say")


@dataclass(frozen=True, slots=True)
class LearningRate:
    """The factor on the base learning rate at each mini-batch.

    An epoch has `batches_per_epoch` mini-batches. The shape's epochs are those of the training, so
    that milestones are where they are said to be, or with `after_warm_up` they begin when the
    warm-up has ended (as chained by `torch.optim.lr_scheduler.SequentialLR`).

    >>> rate = LearningRate(batches_per_epoch=2, shape=Steps((3,)), warm_up=WarmUp(1, gradual=True))
    >>> [rate.factor(mini_batch) for mini_batch in range(8)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.1, 0.1]
    """

    batches_per_epoch: int
    shape: Shape = Constant()
    warm_up: WarmUp | None = None
    after_warm_up: bool = False

    def __post_init__(self) -> None:
        _batches(self.batches_per_epoch)

    def factor(self, mini_batch: int) -> float:
        """The factor at a mini-batch, counted from 0; dimensionless."""
        began = 0
        if self.warm_up is not None:
            warm, first = self.warm_up, round(self.warm_up.epochs * self.batches_per_epoch)
            if mini_batch < first:
                share = (mini_batch + 1) / first if warm.gradual else 0.0
                return warm.factor + (1 - warm.factor) * share
            began = first if self.after_warm_up else 0
        return self.shape.at((mini_batch - began) // self.batches_per_epoch)


@dataclass(frozen=True, slots=True)
class AlphaRamp:
    """How the scale of random directions below the classifier grows: a factor on alpha*.

    AsyncFGD, appendix I.1: 0 for the first 10 epochs, then t / 20 in epoch t after these, in steps
    of 0.0075 for alpha* = 0.15, until it is 1. As the paper's t begins at 0, epoch 10 has factor 0
    as well.

    >>> ramp = AlphaRamp(batches_per_epoch=1)
    >>> [ramp.factor(epoch) for epoch in (0, 9, 10, 11, 20, 29, 30, 99)]
    [0.0, 0.0, 0.0, 0.05, 0.5, 0.95, 1.0, 1.0]
    """

    batches_per_epoch: int
    frozen_epochs: int = 10
    rising_epochs: int = 20

    def __post_init__(self) -> None:
        _batches(self.batches_per_epoch)
        for name, value in (("frozen", self.frozen_epochs), ("rising", self.rising_epochs)):
            if value < 0:
                rule = "must be at least 0"
                raise InputError(f"{name} epochs of alpha", value, rule, "give 0 or more")

    def factor(self, mini_batch: int) -> float:
        """The factor on alpha* at a mini-batch, counted from 0; dimensionless, 0 to 1."""
        risen = mini_batch // self.batches_per_epoch - self.frozen_epochs
        if risen < 0:
            return 0.0
        return risen / self.rising_epochs if risen < self.rising_epochs else 1.0


def linear_scaling(
    batch_size: int, accumulation: int = 1, rate: float = 0.1, reference: int = 256
) -> float:
    """The learning rate that goes with the samples of an update: `rate` for `reference` of them.

    ADL, section V: 0.1 b M / 256 for batches of b samples and M batches an update; the rule is that
    of P. Goyal et al., "Accurate, large minibatch SGD" (2017), section 2.1. It holds where the M
    gradients are averaged. Raises `InputError` for counts below 1.

    >>> linear_scaling(32, accumulation=4)
    0.05
    """
    for name, value in (("batch size", batch_size), ("accumulation", accumulation)):
        if value < 1:
            raise InputError(name, value, "must be at least 1", "give 1 or more")
    return rate * batch_size * accumulation / reference


def read_shape(text: str) -> Shape:
    """The shape that a text asks for.

    `constant`; `step:EPOCH,EPOCH,...` (a tenth at each) or `step:EPOCH,EPOCH,...:GAMMA`;
    `cosine:EPOCHS`. Raises `InputError` for any other.

    >>> read_shape("step:150,225,275")
    Steps(milestones=(150, 225, 275), gamma=0.1)
    >>> read_shape("cosine:105")
    Cosine(period=105.0, least=0.0)
    """
    name, *parts = text.split(":")
    if (name, len(parts)) == ("constant", 0):
        return Constant()
    if name in _READERS and 1 <= len(parts) <= _MOST_PARTS[name]:
        try:
            return _READERS[name](parts)
        except InputError:
            raise
        except ValueError:
            pass  # no numbers: as any other text
    remedy = "write step:150,225,275, for instance"
    raise InputError("learning-rate schedule", text, f"must be {_FORMS}", remedy)


def read_warm_up(text: str, learning_rate: float) -> WarmUp:
    """The warm-up that a text asks for, where the base learning rate is as given.

    `EPOCHS` rises gradually from 0; `EPOCHS:RATE` keeps a rate of its own. Raises `InputError` for
    any other.

    >>> read_warm_up("3:0.005", learning_rate=0.01)
    WarmUp(epochs=3.0, factor=0.5, gradual=False)
    """
    epochs, colon, rate = text.partition(":")
    try:
        counted = float(epochs)
        factor = float(rate) / learning_rate if colon else 0.0
    except ValueError:
        counted, factor = math.nan, math.nan
    if not (math.isfinite(counted) and counted >= 0) or (colon and not 0 < factor < math.inf):
        rule = "must be EPOCHS or EPOCHS:RATE with a rate above 0"
        raise InputError("warm-up", text, rule, "write 3 or 3:0.01, for instance")
    return WarmUp(counted, factor, gradual=not colon)


def _steps(parts: list[str]) -> Shape:
    milestones = tuple(int(part) for part in parts[0].split(","))
    return Steps(milestones, float(parts[1])) if len(parts) > 1 else Steps(milestones)


_FORMS: Final = "constant, step:EPOCH,EPOCH,...[:GAMMA] or cosine:EPOCHS"
_MOST_PARTS: Final = {"step": 2, "cosine": 1}
_READERS: Final[dict[str, Callable[[list[str]], Shape]]] = {
    "step": _steps,
    "cosine": lambda parts: Cosine(float(parts[0])),
}


def _positive(what: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise InputError(what, value, "must be above 0", "give a number above 0")


def _batches(count: int) -> None:
    if count < 1:
        raise InputError("batches per epoch", count, "must be at least 1", "give 1 or more")
