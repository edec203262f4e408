"""Forward and backward passes, whole and in halves, and what replays them."""

from collections.abc import Sequence
from typing import Any

import torch

from executor.tensors import Done, Graph, Kept, WorkerTensors, untouched
from executor.tree import Value, detached, flat, floating
from executor.weights import AUXILIARY, Leaves
from simcore.errors import IllegalOperationError
from simcore.ops import (
    Backward,
    BackwardInput,
    BackwardWeight,
    Evaluate,
    Forward,
    ItemKind,
    Play,
    Replay,
)
from simcore.rules import consumed, made

__all__ = [
    "backward",
    "backward_input",
    "backward_weight",
    "evaluate",
    "forward",
    "graph_of",
    "play",
    "replay",
]


def forward(tensors: WorkerTensors, operation: Forward) -> Done:
    """Compute a block's output with the weights found now."""
    block, batch = operation.block, operation.batch
    [(data, labels)] = tensors.take(consumed(operation, tensors.blocks), batch)
    with tensors.ledger.lock:
        version = tensors.ledger.begin(tensors.worker, operation)
        leaves = tensors.weights[block].at(version)
        leaves.graphs += 1
    graph = graph_of(tensors, block, batch, data, labels, leaves)
    results: dict[ItemKind, Any] = {
        "graph": graph,
        "activation": (detached(graph.output), labels),
        "gradient": None,
    }
    loss = None
    if block == tensors.blocks:
        assert isinstance(graph.output, torch.Tensor)
        loss = tensors.checked(graph.output, batch)
    items = made(operation, tensors.blocks)
    if any(item.kind == "error" for item in items):
        [results["error"]] = torch.autograd.grad(
            flat(graph.output), flat(graph.features), retain_graph=True
        )
    tensors.give(items, batch, [results[item.kind] for item in items])
    tensors.ledger.end(tensors.worker, operation)
    return Done(version, loss=loss)


def play(tensors: WorkerTensors, operation: Play) -> Done:
    """A forward pass without graph; its input is kept, under `stash` with its weights."""
    block, batch = operation.block, operation.batch
    [(data, labels)] = tensors.take(consumed(operation, tensors.blocks), batch)
    with tensors.ledger.lock:
        version = tensors.ledger.begin(tensors.worker, operation)
        leaves = tensors.weights[block].at(version)
        leaves.graphs += tensors.rules.policy == "stash"
    output, loss = _without_graph(tensors, block, batch, data, labels, leaves)
    stashed = leaves if tensors.rules.policy == "stash" else None
    results: dict[ItemKind, Any] = {
        "input": Kept(detached(data), labels, stashed),
        "activation": (output, labels),
        "gradient": None,
    }
    items = made(operation, tensors.blocks)
    tensors.give(items, batch, [results[item.kind] for item in items])
    return Done(version, loss=loss)


def evaluate(tensors: WorkerTensors, operation: Evaluate) -> Done:
    """A forward pass that keeps nothing."""
    block, batch = operation.block, operation.batch
    [(data, labels)] = tensors.take(consumed(operation, tensors.blocks), batch)
    with tensors.ledger.lock:
        version = tensors.ledger.begin(tensors.worker, operation)
        leaves = tensors.weights[block].at(version)
    output, loss = _without_graph(tensors, block, batch, data, labels, leaves)
    if items := made(operation, tensors.blocks):
        tensors.give(items, batch, [(output, labels)])
    return Done(version, loss=loss)


def replay(tensors: WorkerTensors, operation: Replay) -> Done:
    """Run a forward pass again, with a graph; running statistics have counted it already."""
    block, batch = operation.block, operation.batch
    [kept] = tensors.take(consumed(operation, tensors.blocks), batch)
    with tensors.ledger.lock:
        version = tensors.ledger.begin(tensors.worker, operation)
        leaves = kept.leaves
        if leaves is None:
            leaves = tensors.weights[block].current
            leaves.graphs += 1
    with untouched(tensors.modules[block]):
        graph = graph_of(tensors, block, batch, kept.inputs, kept.labels, leaves)
    tensors.give(made(operation, tensors.blocks), batch, [graph])
    return Done(version)


def backward(tensors: WorkerTensors, operation: Backward) -> Done:
    """Continue backpropagation through a block; its weights' gradients become pending."""
    block, batch = operation.block, operation.batch
    version = tensors.ledger.begin(tensors.worker, operation)
    if tensors.rules.write == "assign":
        _renew_copies(tensors, block)
    graph, above = tensors.take(consumed(operation, tensors.blocks), batch)
    below = made(operation, tensors.blocks)
    inputs = floating(graph.inputs) if below else []
    parameters = _parameters(graph.leaves)
    found = _gradients(graph.output, [*inputs, *parameters], _shrunk(tensors, above))
    if below:
        tensors.give(below, batch, [tuple(found[: len(inputs)])])
    _released(tensors, graph)
    own = _own(found[len(inputs) :], found[: len(inputs)])
    tensors.add_pending(block, batch, own + graph.estimated)
    tensors.ledger.end(tensors.worker, operation)
    tensors.drop_copied(batch)
    return Done(version)


def backward_input(tensors: WorkerTensors, operation: BackwardInput) -> Done:
    """The half of a backward pass that the block below waits for.

    It finds the gradients of the outputs of all the block's children, so that the other half need
    only go through each child by itself.
    """
    block, batch = operation.block, operation.batch
    version = tensors.ledger.begin(tensors.worker, operation)
    graph, above = tensors.take(consumed(operation, tensors.blocks), batch)
    items = made(operation, tensors.blocks)
    halved = any(item.kind == "weight_graph" for item in items)
    inputs = floating(graph.inputs) if block > 1 else []
    inner = [tensor for value in graph.inner for tensor in _learning(value)] if halved else []
    gradient = _shrunk(tensors, above)
    found = _gradients(graph.output, [*inputs, *inner], gradient, retain=halved)
    results: dict[ItemKind, Any] = {
        "gradient": tuple(found[: len(inputs)]),
        "weight_graph": (graph, found[len(inputs) :]),
    }
    tensors.give(items, batch, [results[item.kind] for item in items])
    if not halved:
        _released(tensors, graph)
    tensors.ledger.end(tensors.worker, operation)
    return Done(version)


def backward_weight(tensors: WorkerTensors, operation: BackwardWeight) -> Done:
    """The other half: the gradients of the weights, child by child."""
    block, batch = operation.block, operation.batch
    version = tensors.ledger.begin(tensors.worker, operation)
    [(graph, found)] = tensors.take(consumed(operation, tensors.blocks), batch)
    names = [name for name in graph.leaves.parameters if not name.startswith(AUXILIARY)]
    sums: dict[str, torch.Tensor] = {}
    rest = iter(found)
    for (child, _), value in zip(tensors.modules[block].named_children(), graph.inner, strict=True):
        outputs = _learning(value)
        gradients = [next(rest) for _ in outputs]
        own = [name for name in names if name.startswith(f"{child}.")]
        if not own or not outputs:
            continue
        wanted = [graph.leaves.parameters[name] for name in own]
        for name, gradient in zip(
            own, _gradients(tuple(outputs), wanted, tuple(gradients)), strict=True
        ):
            sums[name] = gradient
    parameters = zip(names, _parameters(graph.leaves), strict=True)
    computed = [sums.get(name, torch.zeros_like(parameter)) for name, parameter in parameters]
    _released(tensors, graph)
    tensors.add_pending(block, batch, _own(computed, found) + graph.estimated)
    tensors.ledger.end(tensors.worker, operation)
    tensors.drop_copied(batch)
    return Done(version)


def graph_of(
    tensors: WorkerTensors,
    block: int,
    batch: int,
    data: Value,
    labels: torch.Tensor,
    leaves: Leaves,
) -> Graph:
    """Run a block with a graph; the last one computes the loss."""
    tensors.bind(block, leaves)
    inputs = tensors.received(data)
    if block > 1:
        for tensor in floating(inputs):
            tensor.requires_grad_()
    inner: list[Value] = []
    features = tensors.run(block, batch, inputs, inner if tensors.settings.split_backward else None)
    output: Value = features
    if block == tensors.blocks:
        output = tensors.loss_of(features, labels, batch)
    return Graph(inputs, output, leaves, labels, features, inner)


def _without_graph(
    tensors: WorkerTensors,
    block: int,
    batch: int,
    data: Value,
    labels: torch.Tensor,
    leaves: Leaves,
) -> tuple[Value, float | None]:
    """Run a block without a graph: its output, and the loss of the last one."""
    tensors.bind(block, leaves)
    with torch.no_grad():
        output = tensors.run(block, batch, tensors.received(data))
        if block < tensors.blocks:
            return output, None
        return output, tensors.checked(tensors.loss_of(output, labels, batch), batch)


def _gradients(
    output: Value,
    wanted: list[torch.Tensor],
    gradient: tuple[torch.Tensor, ...] | None,
    retain: bool = False,
) -> list[torch.Tensor]:
    """Gradients with respect to what is wanted; zeros, where it had no part."""
    outputs, given = flat(output), gradient
    if gradient is not None:
        pairs = zip(floating(output), gradient, strict=True)
        learning = [(each, g) for each, g in pairs if each.requires_grad]
        outputs, given = (
            [each for each, _ in learning],
            tuple(g.to(each.dtype) for each, g in learning),
        )
    if not wanted:
        return []
    found = torch.autograd.grad(outputs, wanted, given, allow_unused=True, retain_graph=retain)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, found, strict=True)]


def _own(gradients: list[torch.Tensor], others: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The gradients in memory of their own, for what is pending is changed in place.

    Autograd may give one tensor for a weight and for the input that it is added to, whose gradient
    is on its way down, and one number for all elements of a weight that is summed up.
    """
    seen = {each.untyped_storage().data_ptr() for each in others}
    found = []
    for gradient in gradients:
        memory = gradient.untyped_storage()
        shared = memory.data_ptr() in seen or memory.nbytes() < gradient.nbytes
        found.append(gradient.clone(memory_format=torch.contiguous_format) if shared else gradient)
        seen.add(memory.data_ptr())
    return found


def _shrunk(
    tensors: WorkerTensors, gradient: tuple[torch.Tensor, ...] | None
) -> tuple[torch.Tensor, ...] | None:
    if gradient is None or tensors.rules.shrink == 1.0:
        return gradient
    return tuple(each * tensors.rules.shrink for each in gradient)


def _learning(value: Value) -> list[torch.Tensor]:
    return [tensor for tensor in floating(value) if tensor.requires_grad]


def _parameters(leaves: Leaves) -> list[torch.Tensor]:
    return [p for name, p in leaves.parameters.items() if not name.startswith(AUXILIARY)]


def _released(tensors: WorkerTensors, graph: Graph) -> None:
    with tensors.ledger.lock:
        if graph.leaves.graphs < 1:
            raise IllegalOperationError(f"worker {tensors.worker}: a graph was used twice")
        graph.leaves.graphs -= 1


def _renew_copies(tensors: WorkerTensors, block: int) -> None:
    if tensors.rules.refresh == "layer":
        tensors.weights[block].renew_copy(tensors.worker)
    elif block == tensors.blocks:
        for weights in tensors.weights.values():
            weights.renew_copy(tensors.worker)
