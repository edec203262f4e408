"""Gradients that do not come from above: from local losses, models, errors, targets."""

from collections.abc import Callable
from typing import Any

import torch
from torch.func import functional_call
from torch.nn import functional

from executor.tensors import Done, Graph, WorkerTensors
from executor.weights import AUXILIARY
from simcore.errors import IllegalOperationError
from simcore.ops import Estimate, Feedback, ItemKind, Refine, Synthesize
from simcore.rules import consumed, made, needed

__all__ = ["estimate", "feed_back", "refine", "synthesize"]


def estimate(tensors: WorkerTensors, operation: Estimate) -> Done:
    """The gradient of a block's output, by a loss of the block's own or from the targets."""
    guess = _from_target if tensors.rules.feedback == "target" else _from_head
    return _guess(tensors, operation, guess)


def feed_back(tensors: WorkerTensors, operation: Feedback) -> Done:
    """The gradient of a block's output as a fixed random projection of the error, or its sign."""
    [_, item] = sorted(needed(operation, tensors.blocks), key=lambda item: item.kind == "error")
    error: torch.Tensor = tensors.held[item.kind, item.block, operation.batch]
    if tensors.rules.feedback == "sign":
        error = error.sign() / len(error)  # of the size that an error has in a mean over samples

    def projected(tensors: WorkerTensors, block: int, batch: int, graph: Graph) -> torch.Tensor:
        return _projected(tensors, block, graph, error)

    return _guess(tensors, operation, projected)


def synthesize(tensors: WorkerTensors, operation: Synthesize) -> Done:
    """The gradient of a block's output, guessed by the block's model, which will be refined."""
    return _guess(tensors, operation, _synthetic)


def refine(tensors: WorkerTensors, operation: Refine) -> Done:
    """A step of the model that guesses gradients, towards the one that came from above.

    The model works on gradients of single samples; those of a mean are as many times smaller.
    """
    block, batch = operation.block, operation.batch
    [output, gradient] = tensors.take(consumed(operation, tensors.blocks), batch)
    extras = tensors.extras[block]
    assert extras.synthesizer is not None
    assert extras.optimizer is not None
    [target] = gradient
    extras.optimizer.zero_grad()
    with tensors.precision():
        guess = extras.synthesizer(output)
        loss = functional.mse_loss(guess, target.to(guess.dtype) * len(output))
    loss.backward()
    extras.optimizer.step()
    tensors.ledger.end(tensors.worker, operation)
    return Done()


def _guess(
    tensors: WorkerTensors,
    operation: Estimate,
    of: Callable[[WorkerTensors, int, int, Graph], torch.Tensor],
) -> Done:
    block, batch = operation.block, operation.batch
    graph: Graph = tensors.held["graph", block, batch]
    output = graph.output
    if not isinstance(output, torch.Tensor):
        raise IllegalOperationError(f"block {block} must give out one tensor to have a guess of it")
    results: dict[ItemKind, Any] = {
        "gradient": (of(tensors, block, batch, graph),),
        "synthesizer": output.detach(),
    }
    items = made(operation, tensors.blocks)
    tensors.give(items, batch, [results[item.kind] for item in items])
    tensors.ledger.end(tensors.worker, operation)
    return Done()


def _from_head(tensors: WorkerTensors, block: int, batch: int, graph: Graph) -> torch.Tensor:
    """The gradient of the head's loss; those of its weights wait for the backward pass."""
    head = tensors.extras[block].head
    assert head is not None
    weights: dict[str, torch.Tensor] = {
        name.removeprefix(AUXILIARY): parameter
        for name, parameter in graph.leaves.parameters.items()
        if name.startswith(AUXILIARY)
    }
    assert isinstance(graph.output, torch.Tensor)
    features = graph.output.detach().requires_grad_()
    with tensors.precision():
        guess = functional_call(head, weights, (features,))
    loss = tensors.loss_of(guess, graph.labels, batch)
    gradient, *graph.estimated = torch.autograd.grad(loss, [features, *weights.values()])
    return gradient


def _from_target(tensors: WorkerTensors, block: int, batch: int, graph: Graph) -> torch.Tensor:
    matrix = tensors.extras[block].matrix
    assert matrix is not None
    targets = functional.one_hot(graph.labels, len(matrix)).to(matrix.dtype)
    return _projected(tensors, block, graph, targets / len(targets))


def _projected(
    tensors: WorkerTensors, block: int, graph: Graph, error: torch.Tensor
) -> torch.Tensor:
    matrix = tensors.extras[block].matrix
    assert matrix is not None
    assert isinstance(graph.output, torch.Tensor)
    return (error.to(matrix.dtype) @ matrix).view_as(graph.output).to(graph.output.dtype)


def _synthetic(tensors: WorkerTensors, block: int, batch: int, graph: Graph) -> torch.Tensor:
    model = tensors.extras[block].synthesizer
    assert model is not None
    assert isinstance(graph.output, torch.Tensor)
    with torch.no_grad(), tensors.precision():
        guess: torch.Tensor = model(graph.output.detach()) / len(graph.output)
    return guess.to(graph.output.dtype)
