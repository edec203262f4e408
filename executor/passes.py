"""Training passes over one batch, layer by layer, with something around each operation."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import nn

from executor.network import layers_of
from executor.tensors import Loss
from executor.weights import MakeOptimizer

__all__ = ["Around", "Operation", "Passes"]

Operation = Literal["forward", "loss", "backward", "update"]
Around = Callable[[Operation, int], AbstractContextManager[object]]


class Passes:
    """A copy of a model on which any number of training passes over one batch can be made.

    `layers` are those of `layers_of`, `parameters` what each of them learns.

    A pass does to tensors what the runtimes do: forward through all layers, where each one begins a
    graph of its own; the loss; backward through all, where the first one computes no gradient of
    the data; then an update of each layer by an optimiser of its own. The learning rate is zero:
    the same work, but the weights stay, so that no pass differs from another or diverges.
    """

    def __init__(
        self,
        model: nn.Sequential,
        inputs: torch.Tensor,
        labels: torch.Tensor,
        loss: Loss,
        make_optimizer: MakeOptimizer,
    ) -> None:
        self.layers = layers_of(copy.deepcopy(model))
        # A copy, as a first layer may work in place.
        self.inputs, self.labels, self.loss = inputs.detach().clone(), labels, loss
        self.parameters = [
            [parameter for parameter in layer.parameters() if parameter.requires_grad]
            for layer in self.layers
        ]
        self.optimizers = [make_optimizer(parameters) for parameters in self.parameters]
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 0.0

    def run(self, around: Around) -> None:
        """Make one pass; `around(operation, layer)` is entered for each, layers counted from 0."""
        numbers = range(len(self.layers))
        data, graphs = self.inputs, []
        for number in numbers:
            with around("forward", number):
                inputs = data.detach()
                if number:
                    inputs.requires_grad_()
                output = self.layers[number](inputs)
            data = output.detach()
            if number == numbers[-1]:
                with around("loss", number):
                    output = self.loss(output, self.labels)
                    output.item()
            graphs.append((inputs, output))
        del inputs, output, data
        gradient, pending = None, []
        for number in reversed(numbers):
            with around("backward", number):
                gradient, found = self._backward(number, *graphs.pop(), gradient)
            pending.append(found)
        # All updates follow all backward passes. Measured beside blocks of four layers, this came
        # closer to a block's single update than an update right after each layer's backward pass.
        for number in reversed(numbers):
            with around("update", number):
                self._update(number, pending[-1 - number])

    def _backward(
        self,
        number: int,
        inputs: torch.Tensor,
        output: torch.Tensor,
        gradient: torch.Tensor | None,
    ) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        parameters = self.parameters[number]
        wanted = [inputs, *parameters] if number else parameters
        found = list(torch.autograd.grad(output, wanted, gradient, allow_unused=True))
        below = found.pop(0) if number else None
        gradients = [
            torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)
        ]
        return below, gradients

    def _update(self, number: int, gradients: list[torch.Tensor]) -> None:
        for parameter, gradient in zip(self.parameters[number], gradients, strict=True):
            parameter.grad = gradient
        self.optimizers[number].step()
        for parameter in self.parameters[number]:
            parameter.grad = None
