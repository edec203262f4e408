"""Networks by name: two built-in families, and networks that a user's own function makes."""

import copy
import difflib
import importlib
import math
import os
import sys
from collections.abc import Callable
from re import fullmatch
from types import ModuleType
from typing import Final

import torch
from torch import nn

from executor.data import DataSet
from executor.examination import layer_error, one_line
from executor.network import layers_of
from simcore.errors import InputError

__all__ = ["MODELS", "conv", "make_model", "mlp"]


def make_model(spec: str, data: DataSet, seed: int) -> nn.Sequential:
    """Make a network for a data set: inputs (samples, features...) to outputs (samples, classes).

    `spec` is one of

    - `mlp:DEPTHxWIDTH` (see `mlp`), for instance `mlp:8x1024`;
    - `conv:DEPTHxCHANNELS` (see `conv`), for instance `conv:4x32`;
    - `package.module:factory`: a function, or a class, that is called without arguments and returns
      an `nn.Sequential`. Its module is looked for where Python looks, and at last in the current
      folder, which stays in `sys.path` so that processes started later find it too.

    The weights depend on the seed alone, in a factory's network as far as it draws them from
    torch's global random state. That state is left as it was.

    Raises:
        InputError: an unknown or malformed spec; a module that cannot be imported; a factory that
            is missing or fails; its result is not sequential, does not accept the data, or has
            other outputs than classes.
    """
    name, _, sizes = spec.partition(":")
    if name in MODELS:
        model = _built_in(spec, name, sizes, data)
        _initialise(model, torch.Generator().manual_seed(seed))
        return model
    parts = spec.split(":")
    if len(parts) == 2 and all(part.isidentifier() for part in [*name.split("."), parts[1]]):
        with torch.random.fork_rng():
            factory = _factory(spec, *parts)
            torch.manual_seed(seed)
            model = _made_by(factory, spec)
            _check_outputs(model, data)
        return model
    near = difflib.get_close_matches(name, MODELS, n=1)
    raise InputError(
        "model",
        spec,
        f"must be {', '.join(FORMS.values())} or package.module:factory",
        f"did you mean {near[0]}?" if near else f"write {EXAMPLE}, for instance",
    )


def mlp(data: DataSet, depth: int, width: int) -> nn.Sequential:
    """A perceptron of `depth` layers, each with one linear map of width x width and a ReLU.

    Before the first comes a linear map from the features with a ReLU, after the last one to the
    classes; both are small beside the others where width is much more than features and classes.
    So the layers are nearly even, and from a width of 1024 on their passes take milliseconds.
    """
    inputs = data.inputs
    layers: list[list[nn.Module]] = [
        [_empty(nn.Linear, width, width), nn.ReLU()] for _ in range(depth)
    ]
    layers[0][:0] = [_empty(nn.Linear, math.prod(inputs.shape[1:]), width), nn.ReLU()]
    if inputs.dim() != 2:
        layers[0].insert(0, nn.Flatten())
    layers[-1].append(_empty(nn.Linear, width, data.classes))
    return nn.Sequential(*(nn.Sequential(*parts) for parts in layers))


def conv(data: DataSet, depth: int, channels: int) -> nn.Sequential:
    """A ConvNet of `depth` layers: a 3 x 3 convolution of as many channels, batch norm, ReLU.

    Before the first comes such a layer from the image's own channels, after the last the mean over
    all pixels and a linear map to the classes. So the layers are nearly even. Rows of features are
    taken as square images of one channel, the digits (samples, 64) as (samples, 1, 8, 8).

    Raises:
        InputError: the samples are no images (channels, height, width), and not square either.
    """
    shape = tuple(data.inputs.shape[1:])
    image: list[nn.Module] = []
    if len(shape) == 1 and math.isqrt(shape[0]) ** 2 == shape[0]:
        shape = (1, math.isqrt(shape[0]), math.isqrt(shape[0]))
        image = [nn.Unflatten(1, shape)]
    if len(shape) != 3:
        rule = "must be (channels, height, width), or a square number, for a ConvNet"
        raise InputError(f"shape of a sample of {data.name}", shape, rule, "use an mlp")
    layers = [_convolution(channels, channels) for _ in range(depth)]
    layers[0][:0] = image + _convolution(shape[0], channels)
    layers[-1] += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]  # (batch, channels)
    layers[-1].append(_empty(nn.Linear, channels, data.classes))
    return nn.Sequential(*(nn.Sequential(*parts) for parts in layers))


MODELS: Final[dict[str, Callable[[DataSet, int, int], nn.Sequential]]] = {"mlp": mlp, "conv": conv}
FORMS: Final = {"mlp": "mlp:DEPTHxWIDTH", "conv": "conv:DEPTHxCHANNELS"}
EXAMPLE: Final = "mlp:8x1024"


def _built_in(spec: str, name: str, sizes: str, data: DataSet) -> nn.Sequential:
    found = fullmatch("([1-9][0-9]{0,5})x([1-9][0-9]{0,5})", sizes)
    if found is None:
        rule = f"must be {FORMS[name]}, in whole numbers from 1 to 999999"
        raise InputError("model", spec, rule, f"write {name}:8x64, for instance")
    try:
        return MODELS[name](data, int(found[1]), int(found[2]))
    except RuntimeError as error:
        rule = f"must fit into memory ({one_line(error)})"
        raise InputError("model", spec, rule, "choose a smaller one") from error


def _empty(layer: type[nn.Module], *sizes: int, **options: object) -> nn.Module:
    # On the meta device PyTorch's own initialisation does not draw from the global random state.
    return layer(*sizes, **options, device="meta").to_empty(device="cpu")


def _convolution(channels: int, made: int) -> list[nn.Module]:
    # Batch norm takes out what a bias would add.
    return [
        _empty(nn.Conv2d, channels, made, 3, padding=1, bias=False),
        nn.BatchNorm2d(made),
        nn.ReLU(),
    ]


def _initialise(model: nn.Module, generator: torch.Generator) -> None:
    """He et al., "Delving deep into rectifiers" (2015), equation 10; biases are zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _factory(spec: str, module_name: str, name: str) -> Callable[[], object]:
    module = _import(spec, module_name)
    found: object = getattr(module, name, None)
    if callable(found) and not isinstance(found, nn.Module):
        return found
    functions = [key for key, value in vars(module).items() if callable(value)]
    near = difflib.get_close_matches(name, functions, n=1)
    raise InputError(
        "model",
        spec,
        f"'{name}' must be a function of {module_name} that returns the network",
        f"did you mean {module_name}:{near[0]}?" if near else "write one that takes no arguments",
    )


def _import(spec: str, name: str) -> ModuleType:
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        remedy = "correct the module"
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            near = difflib.get_close_matches(name, MODELS, n=1)
            remedy = "go to its folder or install it"
            remedy = f"did you mean {FORMS[near[0]]}?" if near else remedy
        rule = f"{name} must be a module that can be imported ({one_line(error)})"
        raise InputError("model", spec, rule, remedy) from error


def _made_by(factory: Callable[[], object], spec: str) -> nn.Sequential:
    try:
        model = factory()
    except Exception as error:
        rule = f"its function must work without arguments ({one_line(error)})"
        raise InputError("model", spec, rule, "correct it") from error
    if not isinstance(model, nn.Sequential):
        rule = f"must return an nn.Sequential, not {type(model).__name__}"
        raise InputError("model", spec, rule, "wrap its parts in one")
    return model


def _check_outputs(model: nn.Sequential, data: DataSet) -> None:
    """Try two samples on a copy, so that buffers and modes stay as the factory made them."""
    layers = layers_of(copy.deepcopy(model).eval())
    output: object = data.inputs[:2]
    with torch.no_grad():
        for number, layer in enumerate(layers, start=1):
            try:
                output = layer(output)
            except Exception as error:
                what = "the samples" if number == 1 else f"the output of layer {number - 1}"
                rule = f"must accept {what} ({one_line(error)})"
                raise layer_error(number, layer, rule, "make the two fit") from error
    shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if shape != (2, data.classes):
        rule = f"must be (2, {data.classes}) for two samples of {data.name}"
        remedy = f"give the last layer {data.classes} outputs"
        raise InputError("shape of the model's output", shape, rule, remedy)
