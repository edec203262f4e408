"""A look at each layer in a training pass: what it makes and keeps, and whether it fails."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final, NamedTuple

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from executor.passes import Operation, Passes
from simcore.errors import GradlagError, InputError

__all__ = ["Sizes", "examine", "layer_error", "one_line"]

SHOWN_LENGTH: Final = 160  # characters of an exception that an error line repeats


class Sizes(NamedTuple):
    """What a layer's forward pass makes and keeps for one batch, as in `simcore.workload.Layer`."""

    activation_bytes: int
    saved_bytes: int


def examine(passes: Passes) -> list[Sizes]:
    """Make one pass and measure each layer's output and what it keeps; exact.

    Kept is all that autograd saves from the forward to the backward pass, in the loss too, and the
    output, which the next layer or the graph keeps; the last layer's if autograd saves it. A
    storage that several tensors share counts once. Not counted are parameters, buffers, labels and
    the layer's input, which is the output of the layer before: so the sum over any run of layers is
    what they keep besides the input of the first.

    Raises `InputError` for a layer, the loss or an optimiser that fails, with the layer's number.
    """
    look = _Examination(passes)
    passes.run(look)
    return [look.sizes(number) for number in range(len(passes.layers))]


def layer_error(number: int, layer: nn.Sequential, rule: str, remedy: str) -> InputError:
    """The error of a layer that breaks a rule; layers are counted from 1."""
    names = [
        type(leaf).__name__
        for part in layer
        for leaf in (part if isinstance(part, nn.Sequential) else [part])
    ]
    return InputError(f"layer {number} of the model", ", ".join(names), rule, remedy)


def one_line(error: BaseException) -> str:
    """Type and message of an exception, on one line and not too long."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    return text if len(text) <= SHOWN_LENGTH else f"{text[: SHOWN_LENGTH - 3]}..."


class _Examination:
    """Surrounds the operations of one pass."""

    def __init__(self, passes: Passes) -> None:
        self._passes = passes
        self._outputs: list[torch.Tensor] = []
        # Kept alive until the end, so that no address is used again by another storage.
        self._saved: list[list[torch.Tensor]] = [[] for _ in passes.layers]

    def __call__(self, operation: Operation, number: int) -> AbstractContextManager[None]:
        """The context of an operation of a layer, counted from 0."""
        return {
            "forward": self._forward,
            "loss": self._loss,
            "backward": self._backward,
            "update": self._update,
        }[operation](number)

    def sizes(self, number: int) -> Sizes:
        given = self._outputs[number - 1] if number else self._passes.inputs
        layer = self._passes.layers[number]
        known = [given, self._passes.labels, *layer.parameters(), *layer.buffers()]
        kept = list(self._saved[number])
        if number + 1 < len(self._outputs):
            kept.append(self._outputs[number])
        sizes = {_address(tensor): tensor.untyped_storage().nbytes() for tensor in kept}
        for tensor in known:
            sizes.pop(_address(tensor), None)
        return Sizes(self._outputs[number].nbytes, sum(sizes.values()))

    @contextmanager
    def _forward(self, number: int) -> Iterator[None]:
        layer = self._passes.layers[number]
        hook = layer.register_forward_hook(lambda *seen: self._look(number, seen[-1]))
        what = f"the output of layer {number}" if number else "the data"
        given = self._outputs[-1] if number else self._passes.inputs
        remedy = "make the two fit"
        if not number and not given.is_floating_point():
            remedy = "convert the data to floating point, or begin with an nn.Embedding"
        try:
            with self._saving(number):
                yield
        except GradlagError:
            raise
        except Exception as error:
            shape, dtype = tuple(given.shape), str(given.dtype).removeprefix("torch.")
            rule = f"must accept {what}, {dtype} of shape {shape} ({one_line(error)})"
            raise layer_error(number + 1, layer, rule, remedy) from error
        finally:
            hook.remove()

    def _look(self, number: int, output: object) -> None:
        layer = self._passes.layers[number]
        if not isinstance(output, torch.Tensor):
            rule = f"must return one tensor, not a {type(output).__name__}"
            raise layer_error(number + 1, layer, rule, "wrap it in a module that does")
        if not output.is_floating_point():
            dtype = str(output.dtype).removeprefix("torch.")
            rule = f"must return floating-point numbers, not {dtype}, for gradients to come back"
            raise layer_error(number + 1, layer, rule, "convert its output")
        self._outputs.append(output.detach())

    @contextmanager
    def _loss(self, number: int) -> Iterator[None]:
        try:
            with self._saving(number):
                yield
        except Exception as error:
            name = getattr(self._passes.loss, "__name__", type(self._passes.loss).__name__)
            shape = tuple(self._outputs[-1].shape)
            rule = f"must make one number of outputs {shape} and the labels ({one_line(error)})"
            raise InputError("loss", name, rule, "make the model, the labels and it fit") from error

    @contextmanager
    def _backward(self, number: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            layer = self._passes.layers[number]
            rule = f"must let gradients through to what it is given ({one_line(error)})"
            raise layer_error(number + 1, layer, rule, "correct its forward pass") from error

    @contextmanager
    def _update(self, number: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            name = type(self._passes.optimizers[number]).__name__
            rule = f"must update layer {number + 1} from its gradients ({one_line(error)})"
            raise InputError("optimiser", name, rule, "choose another one") from error

    def _saving(self, number: int) -> saved_tensors_hooks:
        def keep(tensor: torch.Tensor) -> torch.Tensor:
            self._saved[number].append(tensor.detach())
            return tensor

        return saved_tensors_hooks(keep, lambda tensor: tensor)


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
