"""Optimisers by name: those of `torch.optim`, with options as a command line gives them.

Each block has an optimiser of its own, which sees that block's parameters only. One that computes
the loss again within a step cannot work so, as other workers have gone on meanwhile.
"""

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from executor.weights import MakeOptimizer
from simcore.errors import InputError

__all__ = ["OPTIMIZERS", "MuonWithAdamW", "make_optimizer", "optimizer_options"]

_NEEDS_CLOSURE: Final = "must step by gradients alone: it computes the loss again within a step"
_NEEDS_SPARSE: Final = "must take dense gradients: it takes sparse ones only"
_MATCHED: Final = "match_rms_adamw"


def make_optimizer(
    name: str,
    learning_rate: float | None = None,
    options: Mapping[str, object] | None = None,
) -> MakeOptimizer:
    """A maker of optimisers of one kind, one for each block; it can be pickled.

    `name` is that of a class of `torch.optim` in any case (`OPTIMIZERS`). `learning_rate` is
    dimensionless; None leaves it to the class. `options` are further arguments of the class, as
    values or as texts: `{"momentum": "0.9", "nesterov": "true", "betas": "0.9,0.95"}`. `muon` takes
    matrices only; what else a block has is left to AdamW (see `MuonWithAdamW`).

    Two steps of a trial parameter are made here, so that what the class refuses fails at once.

    Raises:
        InputError: an unknown name or option; a value that is malformed, that the class refuses or
            that gives weights that are not finite; an optimiser that cannot train a block.
    """
    kind = _find(name)
    arguments = _read(kind, options or {})
    if learning_rate is not None:
        if not (math.isfinite(learning_rate) and learning_rate > 0):
            raise InputError("learning rate", learning_rate, "must be above 0", "give 0.1, say")
        arguments["lr"] = float(learning_rate)
    make: Callable[..., Optimizer] = partial(kind, **arguments)
    _try(kind, arguments, make)
    return partial(_muon, **arguments) if kind is Muon else make


def optimizer_options(name: str) -> dict[str, object]:
    """The options of an optimiser with their defaults; not the learning rate.

    Raises `InputError` for an unknown name.

    >>> optimizer_options("sgd")["momentum"]
    0
    """
    return {option: known.default for option, known in _known(_find(name)).items()}


class MuonWithAdamW(Optimizer):
    """Muon for the matrices of a block, AdamW for its biases, scales and convolutions.

    K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024) updates
    matrices only. Both parts have the learning rate and the weight decay that are given. Muon's
    updates are scaled as in J. Liu et al., "Muon is scalable for LLM training" (2025), section 2.2,
    so that one rate fits both (`adjust_lr_fn="match_rms_adamw"`), unless the options say otherwise.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        arguments: Mapping[str, Any],
    ) -> None:
        shared = {name: arguments[name] for name in ("lr", "weight_decay") if name in arguments}
        parts = (Muon(matrices, **arguments), AdamW(others, **shared))
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = parts

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step both parts. A closure is not called: it would change no gradient here."""
        # Groups and state are this object's own, so that who moves or loads them need not know of
        # the parts.
        for number, part in enumerate(self._parts):
            part.param_groups, part.state = [self.param_groups[number]], self.state
            part.step()


def _muon(parameters: Iterable[nn.Parameter], **arguments: Any) -> Optimizer:
    arguments = {"adjust_lr_fn": _MATCHED} | arguments
    given = list(parameters)
    matrices = [parameter for parameter in given if parameter.dim() == 2]
    others = [parameter for parameter in given if parameter.dim() != 2]
    if not others:
        return Muon(matrices, **arguments)
    if not matrices:
        shared = {name: arguments[name] for name in ("lr", "weight_decay") if name in arguments}
        return AdamW(others, **shared)
    return MuonWithAdamW(matrices, others, arguments)


def _optimizers() -> dict[str, type[Optimizer]]:
    """All of `torch.optim`, whatever this version of PyTorch has, by their names in lower case."""
    found = {
        name.lower(): kind
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
    }
    return dict(sorted(found.items()))


def _obstacle(kind: type[Optimizer]) -> str | None:
    """Why an optimiser cannot train a block, as a rule that it breaks; or None."""
    closure = inspect.signature(kind.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        return _NEEDS_CLOSURE
    return _NEEDS_SPARSE if kind is torch.optim.SparseAdam else None


_ALL: Final = _optimizers()
OPTIMIZERS: Final = tuple(name for name, kind in _ALL.items() if _obstacle(kind) is None)


def _find(name: str) -> type[Optimizer]:
    kind = _ALL.get(name.lower())
    if kind is None:
        near = difflib.get_close_matches(name.lower(), OPTIMIZERS, n=1, cutoff=0.0)
        rule = f"must be one of {', '.join(OPTIMIZERS)}"
        raise InputError("optimizer", name, rule, f"did you mean {near[0]}?")
    if obstacle := _obstacle(kind):
        raise InputError("optimizer", name, obstacle, f"use one of {', '.join(OPTIMIZERS)}")
    return kind


def _known(kind: type[Optimizer]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(kind).parameters
    return {name: known for name, known in parameters.items() if name not in ("params", "lr")}


def _read(kind: type[Optimizer], options: Mapping[str, object]) -> dict[str, Any]:
    """The options as arguments of the class; texts are read by what they stand for."""
    known, label = _known(kind), kind.__name__.lower()
    found = {}
    for name, value in options.items():
        if name == "lr":
            raise InputError("option lr", value, "is the learning rate", "give it as such")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"did you mean {near[0]}?" if near else "leave it out"
            rule = f"must be one of {', '.join(known)}"
            raise InputError(f"option of {label}", name, rule, remedy)
        found[name] = _value(f"{name} of {label}", value, known[name])
    return found


def _value(what: str, value: object, known: inspect.Parameter) -> Any:
    default, annotation = known.default, _text(known.annotation)
    if isinstance(default, tuple):
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple) or len(parts) != len(default):
            rule = f"must be {len(default)} numbers with commas between"
            remedy = f"the default is {_shown(default)}"
            raise InputError(what, _shown(value), rule, remedy)
        return tuple(
            _number(what, part, float, optional=each is None)
            for part, each in zip(parts, default, strict=True)
        )
    optional = default is None
    if not isinstance(value, str):
        return value
    if optional and value.lower() == "none":
        return None
    if "bool" in annotation:
        if value.lower() not in ("true", "false"):
            raise InputError(what, value, "must be true or false", "give one of these")
        return value.lower() == "true"
    if "float" in annotation or "int" in annotation:
        return _number(what, value, float if "float" in annotation else int, optional=optional)
    return value


def _number(what: str, value: object, kind: type[float], *, optional: bool) -> float | None:
    text = str(value).strip()
    if optional and text.lower() == "none":
        return None
    word = "number" if kind is float else "whole number"
    try:
        found = kind(text)
    except ValueError:
        raise InputError(what, text, f"must be a {word}", "give one") from None
    if not math.isfinite(found):
        raise InputError(what, text, "must be finite", "give a number")
    return found


def _text(annotation: object) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _shown(value: object) -> str:
    parts = value if isinstance(value, list | tuple) else [value]
    return ",".join(str(part).lower() if part is None else str(part) for part in parts)


def _try(
    kind: type[Optimizer], arguments: Mapping[str, object], make: Callable[..., Optimizer]
) -> None:
    """Make two steps of a trial parameter, as some arguments are looked at in a step only."""
    trial = nn.Parameter(torch.ones(2, 2))
    values = ", ".join(f"{name}={_shown(value)}" for name, value in arguments.items())
    shown = f"{kind.__name__.lower()}({values})"
    try:
        optimizer = make([trial])
        for _ in range(2):
            trial.grad = torch.ones_like(trial)
            optimizer.step()
    except Exception as error:
        rule = f"must be accepted by torch.optim ({' '.join(str(error).split())})"
        raise InputError("optimizer", shown, rule, "change its options") from error
    if not bool(trial.isfinite().all()):
        rule = "must keep weights finite, which two steps with gradients of 1 did not"
        raise InputError("optimizer", shown, rule, "change its options")
