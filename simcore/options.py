"""The options of schedules: one meaning and one rule for each name, whatever schedule has it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from simcore.errors import InputError

__all__ = ["OPTIONS", "Option", "check"]


@dataclass(frozen=True, slots=True)
class Option:
    """An option that schedules may have: what it means, and which values it takes.

    `choices` is empty for numbers. `optional` options take None, which `absent` explains.
    """

    meaning: str
    kind: type[int] | type[float] | type[str]
    rule: str
    remedy: str
    holds: Callable[[float], bool] = lambda value: True
    choices: tuple[str, ...] = ()
    absent: str = ""

    def read(self, flag: str, value: object) -> int | float | str | None:
        """The value, checked. Raises `InputError` naming the flag, the value and the rule."""
        if value is None and self.absent:
            return None
        if self.kind is str:
            if value in self.choices:
                return str(value)
            raise InputError(flag, value, self.rule, self.remedy)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(flag, value, self.rule, self.remedy)
        if isinstance(value, float) and (self.kind is int or not math.isfinite(value)):
            raise InputError(flag, value, self.rule, self.remedy)
        if not self.holds(value):
            raise InputError(flag, value, self.rule, self.remedy)
        return value


def _count(meaning: str, absent: str = "") -> Option:
    rule, remedy = "must be a whole number of at least 1", "give 1 or more"
    return Option(meaning, int, rule, remedy, lambda n: n >= 1, absent=absent)


def _choice(meaning: str, *choices: str) -> Option:
    rule = f"must be one of {', '.join(choices)}"
    return Option(meaning, str, rule, "choose one of these", choices=choices)


OPTIONS: Final[dict[str, Option]] = {
    "batches": _count("mini-batches to train on, N"),
    "modules": _count("modules that the network is split into, K; one worker each, but for bp"),
    "layers": _count("layers, each with a version counter of its own, L"),
    "accumulation": _count("gradients per update, M"),
    "forward_threads": _count("threads that run forward passes, F"),
    "backward_threads": _count("threads that run backward passes, B"),
    "queue_capacity": _count("losses that may wait for a backward thread", "unbounded"),
    "shrink": Option(
        "factor on a gradient at each hop from a module to the one before",
        float,
        "must be above 0 and at most 1",
        "give 1 to leave gradients as they are",
        lambda x: 0 < x <= 1,
    ),
    "order": _choice(
        "within an iteration: forward, backward, update as ADL's paper, or backward, update, "
        "forward as its released code",
        "forward-first",
        "update-first",
    ),
    "reduce": _choice("what is done to the gradients of one update", "mean", "sum"),
    "window": _choice(
        "what the windows of M gradients are counted from: the batch index, as ADL's paper, or "
        "each module's own first gradient, as its released code",
        "batch",
        "gradient",
    ),
    "write": _choice(
        "an update adds to the shared weights, or assigns the thread's own copy to them",
        "add",
        "assign",
    ),
    "refresh": _choice(
        "with write=assign, a backward thread renews its copy of a layer when its backward pass "
        "of that layer starts, or of all layers when its pass starts",
        "layer",
        "pass",
    ),
    "momentum": _choice(
        "whose optimiser state an update uses: the worker's own, or one shared per layer",
        "worker",
        "shared",
    ),
    "weights": _choice(
        "the weights of a backward pass: those of its forward pass (stash), or those found in "
        "place when it runs (mixed)",
        "stash",
        "mixed",
    ),
}


def check(name: str, value: object, flag: str | None = None) -> int | float | str | None:
    """The value of option `name`, checked. Raises `InputError` naming `flag`, or else the option.

    >>> check("modules", 4)
    4
    >>> check("shrink", 0.0)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    simcore.errors.InputError: shrink is 0.0: must be above 0 and at most 1; give 1 to leave ...
    """
    return OPTIONS[name].read(flag or name, value)
