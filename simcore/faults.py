"""What befalls workers: some are slow, some pause, some are lost.

Workers are counted from 0, as in a placement.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

from pydantic import model_validator

from simcore.border import Amount, FileModel, Positive, Seconds
from simcore.errors import InputError

__all__ = [
    "Loss",
    "LossFile",
    "Pause",
    "PauseFile",
    "Straggler",
    "StragglerFile",
    "refuse_strangers",
]


@dataclass(frozen=True, slots=True)
class Straggler:
    """A worker, counted from 0, whose computations all take `factor` times as long as others'."""

    worker: int
    factor: Fraction


@dataclass(frozen=True, slots=True)
class Pause:
    """A worker, counted from 0, that makes no progress for `for_s` seconds.

    It begins `at_s` seconds after the start; without that, after a random time, exponentially
    distributed with a mean of `mean_s` seconds.
    """

    worker: int
    for_s: Fraction
    at_s: Fraction | None = None
    mean_s: Fraction | None = None


@dataclass(frozen=True, slots=True)
class Loss:
    """A worker, counted from 0, that stops for good, at a time given as that of a `Pause`."""

    worker: int
    at_s: Fraction | None = None
    mean_s: Fraction | None = None


def refuse_strangers(faults: Iterable[Straggler | Pause | Loss], workers: int) -> None:
    """Raise `InputError` for the first fault of a worker that there is not."""
    for fault in faults:
        if not 0 <= fault.worker < workers:
            what = f"worker of a {type(fault).__name__.lower()}"
            rule = f"must be the number of a worker, 0 to {workers - 1}"
            raise InputError(what, fault.worker, rule, "give one of those")


class StragglerFile(FileModel):
    """A worker, counted from 0, whose computations take factor times as long as others'."""

    worker: Amount
    factor: Positive


class LossFile(FileModel):
    """A worker, counted from 0, that stops for good.

    At a given time, or after a random one, exponentially distributed with the given mean.
    """

    worker: Amount
    at_s: Seconds | None = None
    mean_s: Positive | None = None

    @model_validator(mode="after")
    def _has_one_time(self) -> Self:
        if (self.at_s is None) == (self.mean_s is None):
            shown = "missing" if self.at_s is None else "given with mean_s"
            rule = "must be given unless mean_s is, the mean of a random time"
            raise InputError("at_s", shown, rule, "give one of the two")
        return self


class PauseFile(LossFile):
    """A worker, counted from 0, that makes no progress for a while, from such a time on."""

    for_s: Positive
