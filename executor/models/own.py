"""Networks that a user's own function makes."""

import copy
import difflib
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from types import ModuleType

import torch
from torch import nn

from executor.data import DataSet
from executor.examination import layer_error, one_line
from executor.network import layers_of
from simcore.errors import InputError

__all__ = ["is_own", "own"]


def is_own(spec: str) -> bool:
    """Whether a spec has the form package.module:function."""
    parts = spec.split(":")
    return len(parts) == 2 and all(part.isidentifier() for part in [*parts[0].split("."), parts[1]])


def own(spec: str, data: DataSet, seed: int, forms: Mapping[str, str]) -> nn.Sequential:
    """The network that `package.module:factory` makes, checked with the data.

    `forms` are built-in names, and how each is written: what a spec may have meant if its module
    is not found. PyTorch's global random state is left as it was. Raises `InputError`.
    """
    name, _, factory_name = spec.partition(":")
    with torch.random.fork_rng():
        factory = _factory(spec, name, factory_name, forms)
        torch.manual_seed(seed)
        model = _made_by(factory, spec)
        _check_outputs(model, data)
    return model


def _factory(
    spec: str, module_name: str, name: str, forms: Mapping[str, str]
) -> Callable[[], object]:
    module = _import(spec, module_name, forms)
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


def _import(spec: str, name: str, forms: Mapping[str, str]) -> ModuleType:
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        remedy = "correct the module"
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            near = difflib.get_close_matches(name, forms, n=1)
            remedy = "go to its folder or install it"
            remedy = f"did you mean {forms[near[0]]}?" if near else remedy
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
    output: object = data.examples(2)
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
