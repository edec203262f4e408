"""The options of schedules: one meaning and one rule for each name, whatever schedule has it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args, get_origin

from simcore.errors import InputError

__all__ = ["OPTIONS", "Option", "Value", "check", "own_option"]


Value = int | float | str | bool | tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Option:
    """An option that schedules may have: what it means, and which values it takes.

    `choices` is empty for what is not one of a few words. Options that take None say in `absent`
    what that means. An option of kind tuple takes one number, or a list of one for each module.
    """

    meaning: str
    kind: type[int] | type[float] | type[str] | type[bool] | type[tuple[int, ...]]
    rule: str
    remedy: str
    holds: Callable[[float], bool] = lambda value: True
    choices: tuple[str, ...] = ()
    absent: str = ""

    def read(self, flag: str, value: object) -> Value:
        """The value, checked. Raises `InputError` naming the flag, the value and the rule."""
        if value is None and self.absent:
            return None
        if self.kind is tuple and isinstance(value, list | tuple) and value:
            return tuple(int(self._number(flag, each)) for each in value)
        if self.kind is str:
            if value in self.choices or (not self.choices and isinstance(value, str)):
                return str(value)
            raise InputError(flag, value, self.rule, self.remedy)
        if self.kind is bool:
            if isinstance(value, bool):
                return value
            raise InputError(flag, value, self.rule, self.remedy)
        return self._number(flag, value)

    def _number(self, flag: str, value: object) -> int | float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(flag, value, self.rule, self.remedy)
        if isinstance(value, float) and (self.kind is not float or not math.isfinite(value)):
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


def _switch(meaning: str) -> Option:
    return Option(meaning, bool, "must be true or false", "give one of these")


OPTIONS: Final[dict[str, Option]] = {
    "batches": _count("mini-batches to train on, N"),
    "modules": _count("modules that the network is split into, K; one worker each, but for bp"),
    "layers": _count("layers, each with a version counter of its own, L"),
    "accumulation": _count("gradients per update, M"),
    "forward_threads": _count("threads that run forward passes, F"),
    "backward_threads": _count("threads that run backward passes, B"),
    "chunks": _count("blocks of each worker, not next to each other, V"),
    "micro_batches": _count(
        "parts into which each mini-batch is split, m", "as many as there are modules"
    ),
    "processes": _count("processes that train side by side, P"),
    "replicas": _count("copies of the weights, each trained by workers of its own, R"),
    "averaging": _count("batches that a replica trains on between two averagings"),
    "loaders": Option(
        "workers that load batches ahead; 0: batches are there",
        int,
        "must be a whole number of at least 0",
        "give 0 or more",
        lambda n: n >= 0,
    ),
    "prefetch": _count("loaded batches that may wait"),
    "tangents": _count("random directions of each forward gradient"),
    "time_steps": _count("time steps of a sequence"),
    "in_flight": Option(
        "batches that a module may hold at once: that of the first, from which the others step "
        "down evenly to 1 at the last, or a list of one for each module",
        tuple,
        "must be a whole number of at least 1, or a list of one for each module",
        "give one such as 4 or 4,3,2,1",
        lambda n: n >= 1,
        absent="as in the paper of the method",
    ),
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
    "recompute": _switch(
        "keep the input of a forward pass instead of its graph, and run it again before the "
        "backward pass (checkpointing), with the same weights or, if mixed, with those found then"
    ),
    "global_norm": _switch(
        "all modules wait for the norm of all gradients before they update, to be clipped together "
        "(in each replica by itself)"
    ),
    "lockstep": _switch("all modules start each iteration together, as the papers draw it"),
    "directions": _choice("what random directions are drawn from", "gaussian", "rademacher"),
    "keep": _choice(
        "what is kept until a direction is used: itself, or the seed that it is drawn from again",
        "tangent",
        "seed",
    ),
    "alpha": Option(
        "scale of the directions of all layers but the classifier's",
        float,
        "must be at least 0",
        "give 1 to leave them as they are",
        lambda x: x >= 0,
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


def check(name: str, value: object, flag: str | None = None) -> Value:
    """The value of option `name`, checked. Raises `InputError` naming `flag`, or else the option.

    >>> check("modules", 4)
    4
    >>> check("shrink", 0.0)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    simcore.errors.InputError: shrink is 0.0: must be above 0 and at most 1; give 1 to leave ...
    """
    return OPTIONS[name].read(flag or name, value)


def own_option(name: str, default: object, annotation: Any = None) -> Option:
    """An option that a schedule has of its own: known by its default and its annotation.

    Raises `InputError` for a default that is no number, word, or true or false.

    >>> own_option("slack", 2).rule
    'must be a whole number'
    >>> own_option("side", "left", Literal["left", "right"]).choices
    ('left', 'right')
    """
    if isinstance(default, bool):
        return _switch(f"{name}, an option of its own")
    if isinstance(default, str) and get_origin(annotation) is Literal:
        return _choice(f"{name}, an option of its own", *map(str, get_args(annotation)))
    meaning, remedy = f"{name}, an option of its own", "give one"
    match default:
        case int():
            return Option(meaning, int, "must be a whole number", remedy)
        case float():
            return Option(meaning, float, "must be a number", remedy)
        case str():
            return Option(meaning, str, "must be a word", remedy)
    rule = "must have a number, a word, True or False for its default"
    raise InputError("option", name, rule, "give it one")
