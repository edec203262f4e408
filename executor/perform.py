"""What operations do to tensors: one table, shared by all runtimes.

A worker's tensors are kept under the items of `simcore.rules`: an activation with its labels, the
gradient of a block's output, the graph of a block's forward pass.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from executor.weights import BlockWeights, Leaves
from simcore.errors import IllegalOperationError, RunError
from simcore.ledger import Ledger
from simcore.ledger import Update as Landed
from simcore.ops import Backward, Forward, Item, ItemKind, Update
from simcore.rules import consumed, made

__all__ = ["Done", "Graph", "Loss", "WorkerTensors", "skeleton"]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Graph:
    """What a forward pass keeps: its input, its output (or the loss), and the weights it used."""

    inputs: torch.Tensor
    output: torch.Tensor
    leaves: Leaves


@dataclass(frozen=True, slots=True)
class Done:
    """What a computation reports: the version for the trace, what landed, the loss."""

    version: int
    landed: Landed | None = None
    loss: float | None = None


def skeleton(block: nn.Module) -> nn.Module:
    """A copy of a block's structure for one worker; parameters and buffers are shared.

    Workers bind versions of parameters to their own copy, so that no other worker's forward pass
    sees the binding. Running statistics are one set of tensors, whoever updates them.
    """
    shared: dict[int, Any] = {id(tensor): tensor for tensor in block.parameters()}
    shared |= {id(tensor): tensor for tensor in block.buffers()}
    return copy.deepcopy(block, shared)


class WorkerTensors:
    """The tensors of one worker: its blocks, what it holds, and its pending gradients.

    `modules` are the worker's own skeletons, and `weights` the blocks' weights, both by block.
    """

    def __init__(
        self,
        worker: int,
        ledger: Ledger,
        modules: Mapping[int, nn.Module],
        weights: Mapping[int, BlockWeights],
        loss: Loss,
    ) -> None:
        self.worker, self.ledger, self.rules = worker, ledger, ledger.rules
        self.modules, self.weights, self.loss = modules, weights, loss
        self.held: dict[tuple[ItemKind, int, int], Any] = {}
        self.pending: dict[int, list[torch.Tensor]] = {}
        self._bound: dict[int, Leaves] = {}
        self._names = {block: _names(module) for block, module in modules.items()}

    def perform(self, operation: Forward | Backward | Update) -> Done:
        """Do a computation on real tensors."""
        return _TABLE[type(operation)](self, operation)

    def take(self, items: Sequence[Item], batch: int) -> list[Any]:
        """Take out what is held of a batch, in the order of the items."""
        try:
            return [self.held.pop((kind, block, batch)) for kind, block in items]
        except KeyError as missing:
            raise IllegalOperationError(f"worker {self.worker} does not hold {missing}") from None

    def give(self, items: Sequence[Item], batch: int, payloads: Sequence[Any]) -> None:
        """Hold these of a batch."""
        for (kind, block), payload in zip(items, payloads, strict=True):
            self.held[kind, block, batch] = payload

    def forward(self, operation: Forward) -> Done:
        """Compute a block's output with the weights found now."""
        block, batch = operation.block, operation.batch
        [(data, labels)] = self.take(consumed(operation, self.ledger.blocks), batch)
        weights = self.weights[block]
        with self.ledger.lock:
            version = self.ledger.forward(block, batch)
            leaves = weights.current
            leaves.graphs += 1
        self._bind(block, leaves)
        inputs = data.detach()
        if block > 1 and inputs.is_floating_point():
            inputs.requires_grad_()
        output = self.modules[block](inputs)
        loss = None
        if block == self.ledger.blocks:
            output = self.loss(output, labels)
            loss = output.item()
            if not loss - loss == 0:  # infinite or not a number
                raise RunError(
                    f"the loss of batch {batch} is {loss}: training diverged; "
                    "use a smaller learning rate"
                )
        results: dict[ItemKind, Any] = {
            "graph": Graph(inputs, output, leaves),
            "activation": (output.detach(), labels),
            "gradient": None,
        }
        items = made(operation, self.ledger.blocks)
        self.give(items, batch, [results[kind] for kind, _ in items])
        return Done(version, loss=loss)

    def backward(self, operation: Backward) -> Done:
        """Continue backpropagation through a block; its weights' gradients become pending."""
        block, batch = operation.block, operation.batch
        version = self.ledger.backward(self.worker, block, batch)
        if self.rules.write == "assign":
            self._renew_copies(block)
        graph, gradient = self.take(consumed(operation, self.ledger.blocks), batch)
        if gradient is not None and self.rules.shrink != 1.0:
            gradient = gradient * self.rules.shrink
        wanted = list(graph.leaves.parameters.values())
        below = made(operation, self.ledger.blocks)
        if below:
            wanted.insert(0, graph.inputs)
        found = list(torch.autograd.grad(graph.output, wanted, gradient, allow_unused=True))
        if below:
            self.give(below, batch, [found.pop(0)])
        with self.ledger.lock:
            graph.leaves.graphs -= 1
        parameters = graph.leaves.parameters.values()
        computed = [
            torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)
        ]
        if block in self.pending:
            torch._foreach_add_(self.pending[block], computed)
        else:
            self.pending[block] = computed
        self.ledger.computed(self.worker, block, batch)
        return Done(version)

    def update(self, operation: Update) -> Done:
        """Apply the pending gradients of a block, their mean or their sum."""
        block = operation.block
        count = self.ledger.pending(self.worker, block)
        if not count:
            raise IllegalOperationError(f"worker {self.worker}: no gradient of block {block}")
        gradients = self.pending.pop(block)
        if self.rules.reduce == "mean" and count > 1:
            torch._foreach_div_(gradients, count)
        landed = self.weights[block].step(
            self.worker, gradients, lambda: self.ledger.update(self.worker, block)
        )
        return Done(landed.version, landed=landed)

    def _bind(self, block: int, leaves: Leaves) -> None:
        if self._bound.get(block) is leaves:
            return
        for first, parameter in leaves.parameters.items():
            for name in self._names[block][first]:
                path, _, last = name.rpartition(".")
                setattr(self.modules[block].get_submodule(path), last, parameter)
        self._bound[block] = leaves

    def _renew_copies(self, block: int) -> None:
        if self.rules.refresh == "layer":
            self.weights[block].renew_copy(self.worker)
        elif block == self.ledger.blocks:
            for weights in self.weights.values():
                weights.renew_copy(self.worker)


def _names(module: nn.Module) -> dict[str, list[str]]:
    """All names of each parameter, by its first; a parameter that is used twice has two."""
    first: dict[int, str] = {}
    names: dict[str, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(first.setdefault(id(parameter), name), []).append(name)
    return names


_TABLE: Final[dict[type, Callable[[WorkerTensors, Any], Done]]] = {
    Forward: WorkerTensors.forward,
    Backward: WorkerTensors.backward,
    Update: WorkerTensors.update,
}
