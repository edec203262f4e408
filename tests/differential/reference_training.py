"""Training by definition, to compare the executor with: short, in one thread, in PyTorch alone.

Nothing here uses gradlag. Networks are `nn.Sequential`s, cut into modules 1..K at the children that
`cuts` names; batches are (inputs, labels), counted from 0; a version of a module's weights is the
number of steps that made it. The trained weights are left in the network that is given.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, one_hot, softmax

__all__ = ["Event", "Module", "by_the_clock", "delayed", "forward_descent", "modules_of", "plain"]

Batch = tuple[torch.Tensor, torch.Tensor]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Leaves = dict[str, torch.Tensor]
Event = tuple[str, int, int, int]  # what was done, by which worker, to which block, of which batch
READS = ("forward", "evaluate", "replay")
DONE = (*READS, "backward", "backward_through", "update", "snapshot", "merge")


class Module:
    """A module of the network with every version of its weights."""

    def __init__(self, part: nn.Sequential, make_optimizer: MakeOptimizer) -> None:
        self.part = part
        self.learning = {name: p for name, p in part.named_parameters() if p.requires_grad}
        self.optimizer = make_optimizer(self.learning.values())
        self.versions = [self.copied()]
        self.pending: list[Sequence[torch.Tensor]] = []

    def copied(self) -> Leaves:
        return {name: parameter.detach().clone() for name, parameter in self.learning.items()}

    def at(self, version: int) -> Leaves:
        """The weights of a version, as leaves of a new graph."""
        return {
            name: tensor.clone().requires_grad_() for name, tensor in self.versions[version].items()
        }

    def output(self, leaves: Leaves, inputs: Any, *, counts: bool = True) -> Any:
        """What the module gives out; a pass that does not count leaves running statistics alone."""
        buffers = {} if counts else {name: b.clone() for name, b in self.part.named_buffers()}
        return functional_call(self.part, leaves | buffers, (inputs,))

    def step(self, mean: bool = True) -> None:
        """Apply what is pending: the mean of the gradients, or their sum."""
        divisor = len(self.pending) if mean else 1
        for parameter, *gradients in zip(self.learning.values(), *self.pending, strict=True):
            parameter.grad = torch.stack(gradients).sum(0) / divisor
        self.optimizer.step()
        self.versions.append(self.copied())
        self.pending.clear()


def modules_of(
    model: nn.Sequential, cuts: Sequence[int], make_optimizer: MakeOptimizer
) -> list[Module]:
    """The modules of a network, whose children they share."""
    return [Module(model[first:last], make_optimizer) for first, last in pairwise(cuts)]


def plain(
    model: nn.Module,
    updates: Iterable[Sequence[Batch]],
    optimizer: torch.optim.Optimizer,
    before: Callable[[int], object] = lambda number: None,
) -> list[float]:
    """Ordinary training: each update takes the mean gradient of its batches. The losses.

    `before` is called with the number of each pass before it.
    """
    losses: list[float] = []
    for together in updates:
        optimizer.zero_grad()
        for inputs, labels in together:
            before(len(losses))
            loss = cross_entropy(model(inputs), labels)
            loss.backward()
            losses.append(loss.item())
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad /= len(together)
        optimizer.step()
    return losses


def delayed(
    model: nn.Sequential,
    cuts: Sequence[int],
    batches: Iterable[Batch],
    make_optimizer: MakeOptimizer,
    reads: Callable[[int, int], int],
    *,
    again: Callable[[int, int], int | None] = lambda k, t: None,
    closes: Callable[[int, int], bool] = lambda k, t: True,
    shrink: float = 1.0,
    mean: bool = True,
) -> list[float]:
    """Delayed gradients by definition. The losses.

    Batch t meets version `reads(k, t)` of module k on its way up. Its gradient comes down through
    the graph of that pass; or, where `again(k, t)` is a version, the module puts the input that it
    had through that one, and the gradient comes down through this graph. It is multiplied by
    `shrink` at each hop. Once `closes(k, t)`, module k applies what is pending.
    """
    modules = modules_of(model, cuts, make_optimizer)
    losses = []
    for t, (inputs, labels) in enumerate(batches):
        graphs = []
        value = inputs
        for k, module in enumerate(modules, 1):
            given = value.detach()
            if k > 1:
                given.requires_grad_()
            leaves = module.at(reads(k, t))
            value = module.output(leaves, given)
            graphs.append((given, leaves, value))
        loss = cross_entropy(value, labels)
        losses.append(loss.item())
        gradient = None
        for k, module in reversed([*enumerate(modules, 1)]):
            given, leaves, value = graphs[k - 1]
            version = again(k, t)
            if version is not None:
                leaves = module.at(version)
                value = module.output(leaves, given, counts=False)
            if k == len(modules):
                value = cross_entropy(value, labels)
            wanted = [*leaves.values(), *([given] if k > 1 else [])]
            found = torch.autograd.grad(value, wanted, gradient)
            module.pending.append(found[: len(leaves)])
            gradient = found[-1] * shrink
            if closes(k, t):
                module.step(mean)
    return losses


def forward_descent(
    modules: Sequence[Module],
    batches: Sequence[Batch],
    reads: Callable[[int, int], int],
    loss_of: Callable[[Sequence[Leaves], Batch], torch.Tensor],
    directions: Callable[[int, int], Sequence[Sequence[torch.Tensor]]],
    closes: Callable[[int], bool] = lambda t: True,
) -> list[float]:
    """Forward gradients by definition, from gradients: u <gradient, u>, the mean over all u.

    Batch t meets version `reads(k, t)` of module k, and `directions(k, t)` has its part of each
    direction u, one tensor for each parameter. After batches that close a step, all modules apply
    the mean of what is pending. The losses.
    """
    losses = []
    for t, batch in enumerate(batches):
        point = [module.at(reads(k, t)) for k, module in enumerate(modules, 1)]
        loss = loss_of(point, batch)
        losses.append(loss.item())
        flat = [leaf for leaves in point for leaf in leaves.values()]
        gradient = torch.autograd.grad(loss, flat, materialize_grads=True, allow_unused=True)
        parts = [directions(k, t) for k in range(1, len(modules) + 1)]
        for each in zip(*parts, strict=True):  # of each direction, its part in every module
            along = [tensor for part in each for tensor in part]
            scalar = sum((g * u).sum() for g, u in zip(gradient, along, strict=True))
            for module, part in zip(modules, each, strict=True):
                module.pending.append([scalar * u for u in part])
        if closes(t):
            for module in modules:
                module.step()
    return losses


@dataclass
class Dense:
    """A linear layer with tanh, or without, and its backward pass written out."""

    weights: list[torch.Tensor]  # (out, in), (out,)
    last: bool = False

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        value = inputs @ self.weights[0].T + self.weights[1]
        return value if self.last else torch.tanh(value)

    def backward(
        self, inputs: torch.Tensor, output: torch.Tensor, gradient: torch.Tensor
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Gradients of the weights, and of the input with the weights as they are now."""
        gradient = gradient if self.last else gradient * (1 - output**2)
        return [gradient.T @ inputs, gradient.sum(0)], gradient @ self.weights[0]


@dataclass
class Lockfree:
    """How the steps of `by_the_clock` are made: SGD, whose momentum is each worker's own or shared.

    With `assign` a worker copies a layer when its backward pass of it starts, steps from the copy,
    and writes the result over the layer.
    """

    learning_rate: float
    momentum: float = 0.0
    shared: bool = False
    assign: bool = False
    mean: bool = True
    velocity: dict[tuple[int, int, int], list[torch.Tensor]] = field(default_factory=dict)

    def changed(
        self, key: tuple[int, int, int], old: list[torch.Tensor], gradient: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        if key in self.velocity:
            past = zip(self.velocity[key], gradient, strict=True)
            gradient = [self.momentum * v + g for v, g in past]
        self.velocity[key] = gradient
        return [w - self.learning_rate * v for w, v in zip(old, gradient, strict=True)]


def by_the_clock(
    layers: Sequence[nn.Linear],
    batches: Sequence[Batch],
    events: Iterable[Event],
    replica_of: Callable[[int], int],
    replicas: int,
    rules: Lockfree,
) -> tuple[list[float], list[list[torch.Tensor]]]:
    """Train linear layers with tanh between them by what was done, in the order of time.

    Nothing keeps old weights: whatever computes takes those that it finds, a backward pass together
    with the inputs and outputs that the forward pass left. The losses, by batch, and the weights of
    each layer at the end, the mean of all replicas.
    """
    copies = [
        [
            Dense([p.detach().clone() for p in layer.parameters()], n == len(layers))
            for n, layer in enumerate(layers, 1)
        ]
        for _ in range(replicas)
    ]
    values: dict[tuple[int, int], torch.Tensor] = {}
    inputs_of: dict[tuple[int, int], torch.Tensor] = {}
    gradients: dict[tuple[int, int], torch.Tensor] = {}
    pending: defaultdict[tuple[int, int], list[list[torch.Tensor]]] = defaultdict(list)
    own: dict[tuple[int, int], list[torch.Tensor]] = {}
    snapshots: defaultdict[tuple[int, int], list[list[torch.Tensor]]] = defaultdict(list)
    merged: defaultdict[tuple[int, int], int] = defaultdict(int)
    losses: dict[int, float] = {}
    for kind, worker, block, batch in events:
        if kind not in DONE:
            continue
        replica = replica_of(worker)
        layer = copies[replica][block - 1]
        if kind in READS:
            given = values.get((block - 1, batch), batches[batch][0])
            if kind == "replay":
                given = inputs_of[block, batch]
            inputs_of[block, batch] = given
            values[block, batch] = layer.forward(given)
            if layer.last:
                labels = batches[batch][1]
                losses[batch] = cross_entropy(values[block, batch], labels).item()
                error = softmax(values[block, batch], 1) - one_hot(labels, len(layer.weights[1]))
                gradients[block, batch] = error / len(labels)
        elif kind in ("backward", "backward_through"):
            if rules.assign:
                own[worker, block] = [w.clone() for w in layer.weights]
            graph = inputs_of[block, batch], values[block, batch], gradients[block, batch]
            found, gradients[block - 1, batch] = layer.backward(*graph)
            if kind == "backward":
                pending[worker, block].append(found)
        elif kind == "update":
            together = pending.pop((worker, block))
            divisor = len(together) if rules.mean else 1
            gradient = [torch.stack(each).sum(0) / divisor for each in zip(*together, strict=True)]
            old = own[worker, block] if rules.assign else layer.weights
            key = -1 if rules.shared else worker, replica, block
            layer.weights = rules.changed(key, old, gradient)
        elif kind == "snapshot":
            snapshots[replica, block].append([w.clone() for w in layer.weights])
        elif kind == "merge":
            number = merged[replica, block]
            merged[replica, block] += 1
            of_all = [snapshots[each, block][number] for each in range(replicas)]
            for w, mine, *each in zip(layer.weights, of_all[replica], *of_all, strict=True):
                w += torch.stack(each).mean(0) - mine
    means = [
        [torch.stack(each).mean(0) for each in zip(*(c[n].weights for c in copies), strict=True)]
        for n in range(len(layers))
    ]
    return [losses[batch] for batch in sorted(losses)], means
