"""Networks from what a user writes: by size, by name, or by a function of the user's own."""

import difflib
from collections.abc import Callable
from re import fullmatch
from typing import Final

import torch
from torch import nn

from executor.data import DataSet
from executor.examination import one_line
from executor.models.cifar import CIFAR
from executor.models.imagenet import IMAGENET
from executor.models.initial import initialise
from executor.models.named import NamedNetwork
from executor.models.own import is_own, own
from executor.models.recurrent import lstm, rnn
from executor.models.sized import conv, mlp
from executor.models.small import SMALL
from executor.models.vision import VISION
from simcore.errors import InputError

__all__ = ["EXAMPLE", "FORMS", "MODELS", "NETWORKS", "make_model", "published_split"]

MODELS: Final[dict[str, Callable[[DataSet, int, int], nn.Sequential]]] = {
    "mlp": mlp,
    "conv": conv,
    "rnn": rnn,
    "lstm": lstm,
}
FORMS: Final = {
    "mlp": "mlp:DEPTHxWIDTH",
    "conv": "conv:DEPTHxCHANNELS",
    "rnn": "rnn:DEPTHxWIDTH",
    "lstm": "lstm:DEPTHxWIDTH",
}
EXAMPLE: Final = "mlp:8x1024"
NETWORKS: Final[dict[str, NamedNetwork]] = {
    network.name: network for network in (*SMALL, *IMAGENET, *CIFAR, *VISION)
}


def make_model(spec: str, data: DataSet, seed: int) -> nn.Sequential:
    """Make a network for a data set: inputs (samples, features...) to outputs (samples, classes).

    `spec` is one of

    - `mlp:DEPTHxWIDTH`, `conv:DEPTHxCHANNELS`, `rnn:DEPTHxWIDTH`, `lstm:DEPTHxWIDTH` (see `mlp`,
      `conv`, `rnn`, `lstm`), for instance `mlp:8x1024`, `lstm:2x256`;
    - a name of `NETWORKS`, with one of its variants or without, for instance `resnet18`,
      `convs:tanh`;
    - `package.module:factory`: a function, or a class, that is called without arguments and returns
      an `nn.Sequential`. Its module is looked for where Python looks, and at last in the current
      folder, which stays in `sys.path` so that processes started later find it too.

    The weights depend on the seed alone, in a factory's network as far as it draws them from
    torch's global random state. That state is left as it was.

    Raises:
        InputError: an unknown or malformed spec; data that do not fit the network; a library that
            is missing; a module that cannot be imported; a factory that is missing or fails; its
            result is not sequential, does not accept the data, or has other outputs than classes.
    """
    name, _, rest = spec.partition(":")
    if name in MODELS:
        model = _sized(spec, name, rest, data)
    elif name in NETWORKS:
        model = _named(spec, data, seed)
        if NETWORKS[name].own_weights:
            return model
    elif is_own(spec):
        return own(spec, data, seed, _forms())
    else:
        near = difflib.get_close_matches(name.lower(), [*MODELS, *NETWORKS], n=1)
        raise InputError(
            "model",
            spec,
            f"must be {', '.join(FORMS.values())}, package.module:factory or one of "
            f"{', '.join(NETWORKS)}",
            f"did you mean {near[0]}?" if near else f"write {EXAMPLE}, for instance",
        )
    initialise(model, torch.Generator().manual_seed(seed))
    return model


def published_split(spec: str, modules: int) -> tuple[int, ...] | None:
    """The bounds at which a paper splits a network into so many modules; None if no paper does.

    Bounds count layers, as in `executor.network.split`. The head is the first module's, the tail
    the last one's.

    >>> published_split("resnet18", 4)
    (0, 3, 5, 7, 10)
    """
    network = NETWORKS.get(spec.partition(":")[0])
    found = network.splits.get(modules) if network else None
    return found.bounds if found else None


def _sized(spec: str, name: str, sizes: str, data: DataSet) -> nn.Sequential:
    found = fullmatch("([1-9][0-9]{0,5})x([1-9][0-9]{0,5})", sizes)
    if found is None:
        rule = f"must be {FORMS[name]}, in whole numbers from 1 to 999999"
        raise InputError("model", spec, rule, f"write {name}:8x64, for instance")
    try:
        return MODELS[name](data, int(found[1]), int(found[2]))
    except RuntimeError as error:
        rule = f"must fit into memory ({one_line(error)})"
        raise InputError("model", spec, rule, "choose a smaller one") from error


def _named(spec: str, data: DataSet, seed: int) -> nn.Sequential:
    name, colon, variant = spec.partition(":")
    network = NETWORKS[name]
    chosen = variant if colon else network.variants[0]
    if chosen not in network.variants or (colon and not variant):
        known = [each for each in network.variants if each]
        rule = f"must be {' or '.join([name, *(f'{name}:{each}' for each in known)])}"
        near = difflib.get_close_matches(variant, known, n=1)
        raise InputError(
            "model", spec, rule, f"did you mean {name}:{near[0]}?" if near else f"write {name}"
        )
    if not network.own_weights:
        return network.make(data, chosen)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return network.make(data, chosen)


def _forms() -> dict[str, str]:
    return {**FORMS, **{name: name for name in NETWORKS}}
