"""Forward gradients: passes with derivatives along random directions, and their projection.

A dual level of forward-mode differentiation is global to the process. The runtime opens one around
the whole run (`dual_level_of`), in which the passes of all its workers live; levels of their own
would break each other.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.func import functional_call

from executor.network import Stepper
from executor.tensors import Done, WorkerTensors, untouched
from executor.tree import Value, flat, refilled
from simcore.errors import InputError, RunError
from simcore.ops import ItemKind, Project, Tangent, TangentStep
from simcore.rules import consumed, made, needed
from simcore.schedule import Schedule
from simcore.validate import operations_used

__all__ = ["dual_level_of", "project", "tangent"]

Direction = list[torch.Tensor]  # one tensor for each parameter of a block


def dual_level_of(schedule: Schedule) -> AbstractContextManager[Any]:
    """The dual level that a run of the schedule needs; none, if it has no forward gradients."""
    used = operations_used(schedule)
    return forward_ad.dual_level() if {Tangent, TangentStep} & used else nullcontext()


def tangent(tensors: WorkerTensors, operation: Tangent) -> Done:
    """A forward pass for each direction; the values are the same in all of them."""
    block, batch = operation.block, operation.batch
    taken = tensors.take(consumed(operation, tensors.blocks), batch)
    data, labels = tensors.received(taken[0][0]), taken[0][1]
    below: Sequence[Any] = taken[1] if block > 1 else [None] * tensors.rules.tangents
    with tensors.ledger.lock:
        version = tensors.ledger.begin(tensors.worker, operation)
        leaves = tensors.weights[block].current
    names = [name for name, parameter in leaves.parameters.items() if parameter.requires_grad]
    weights = [leaves.parameters[name].detach() for name in names]
    mini_batch = batch // tensors.settings.micro_batches
    directions = _directions(tensors, block, mini_batch, weights)
    steps = isinstance(operation, TangentStep)
    first_step = batch % tensors.settings.micro_batches == 0
    states = tensors.states.pop(block, None) if steps and not first_step else None
    derivatives, new_states, output, loss = [], [], None, None
    for number, (direction, derivative) in enumerate(zip(directions, below, strict=True)):
        duals = {
            name: forward_ad.make_dual(weight, along)
            for name, weight, along in zip(names, weights, direction, strict=True)
        }
        state = None if states is None else _dual_state(states[number])
        # Only the first of the passes counts for running statistics.
        with torch.no_grad(), untouched(tensors.modules[block]) if number else nullcontext():
            value, after = _pass(tensors, operation, duals, _dual(data, derivative), state)
            if block == tensors.blocks:
                value = tensors.loss_of(value, labels, batch)
        output, found = _parts(value)
        derivatives.append(found)
        new_states.append([None if each is None else _parts(each) for each in after])
    if steps:
        tensors.states[block] = new_states
    if block == tensors.blocks:
        assert isinstance(output, torch.Tensor)
        loss = tensors.checked(output, batch)
    kept = mini_batch if tensors.rules.keep == "seed" else directions
    results: dict[ItemKind, Any] = {
        "tangent": kept,
        "activation": (output, labels),
        "derivative": tuple(derivatives),
        "scalar": torch.stack([each[0] for each in derivatives]) if loss is not None else None,
    }
    items = made(operation, tensors.blocks)
    tensors.give(items, batch, [results[item.kind] for item in items])
    tensors.ledger.end(tensors.worker, operation)
    return Done(version, loss=loss)


def project(tensors: WorkerTensors, operation: Project) -> Done:
    """Derivative times direction, the mean over the directions: a gradient that is pending."""
    block, batch = operation.block, operation.batch
    version = tensors.ledger.begin(tensors.worker, operation)
    [kept] = tensors.take(consumed(operation, tensors.blocks), batch)
    [needs] = needed(operation, tensors.blocks)
    scalars: torch.Tensor = tensors.held[needs.kind, needs.block, batch]
    directions = kept
    if isinstance(kept, int):
        parameters = tensors.weights[block].current.parameters.values()
        weights = [parameter.detach() for parameter in parameters if parameter.requires_grad]
        directions = _directions(tensors, block, kept, weights)
    factors = (scalars / len(directions)).tolist()
    gradients = torch._foreach_mul(directions[0], factors[0])
    for direction, factor in zip(directions[1:], factors[1:], strict=True):
        torch._foreach_add_(gradients, direction, alpha=factor)
    tensors.add_pending(block, batch, list(gradients))
    tensors.ledger.end(tensors.worker, operation)
    tensors.drop_copied(batch)
    return Done(version)


def _pass(
    tensors: WorkerTensors,
    operation: Tangent,
    duals: dict[str, torch.Tensor],
    inputs: Value,
    states: Any,
) -> tuple[Value, list[Any]]:
    module = tensors.modules[operation.block]
    try:
        with tensors.surrounded(operation.block, operation.batch):
            if not isinstance(operation, TangentStep):
                output: Value = functional_call(module, duals, (inputs,))
                return output, []
            named = {f"block.{name}": dual for name, dual in duals.items()}
            return functional_call(Stepper(module), named, (inputs, states or []))  # type: ignore[no-any-return]
    except NotImplementedError as error:
        names = ", ".join(type(child).__name__ for child in module.children())
        rule = f"must have forward-mode derivatives ({str(error).splitlines()[0]})"
        remedy = "use other layers, or a schedule with backward passes"
        raise InputError(f"block {operation.block}", names, rule, remedy) from error


def _directions(
    tensors: WorkerTensors, block: int, mini_batch: int, weights: Sequence[torch.Tensor]
) -> list[Direction]:
    """The directions of a mini-batch in a block, drawn from its own seed: the same every time."""
    known = tensors.directions.get(block)
    if known is not None and known[0] == mini_batch:
        return list(known[1])
    seed = tensors.seed_of(block, tensors.settings.first_batch + mini_batch)
    generator = torch.Generator().manual_seed(seed)
    scales = _scales(tensors, block, mini_batch, len(weights))
    drawn = []
    for _ in range(tensors.rules.tangents):
        direction = [_draw(weight, tensors.rules.directions, generator) for weight in weights]
        for part, scale in zip(direction, scales, strict=True):
            if scale != 1.0:
                part *= scale
        drawn.append(direction)
    if tensors.rules.keep == "tangent":
        tensors.directions[block] = mini_batch, drawn
    return drawn


def _draw(like: torch.Tensor, distribution: str, generator: torch.Generator) -> torch.Tensor:
    if distribution == "rademacher":
        signs = torch.randint(2, like.shape, generator=generator, dtype=torch.int8)
        return (2 * signs - 1).to(like)
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)


def _scales(tensors: WorkerTensors, block: int, mini_batch: int, parameters: int) -> list[float]:
    """The scale of each parameter's direction: 1 for the classifier, alpha for all below it."""
    ramp = tensors.settings.learning.alpha
    number = tensors.settings.first_batch + mini_batch
    alpha = tensors.rules.alpha * (1.0 if ramp is None else ramp(number))
    if block < tensors.blocks:
        return [alpha] * parameters
    learning = [
        [parameter for parameter in child.parameters() if parameter.requires_grad]
        for child in tensors.modules[block].children()
    ]
    classifier = next((len(each) for each in reversed(learning) if each), parameters)
    return [alpha] * (parameters - classifier) + [1.0] * classifier


def _dual(value: Value, derivative: Sequence[torch.Tensor] | None) -> Value:
    if derivative is None:
        return value
    rest = iter(derivative)
    duals = (
        forward_ad.make_dual(tensor, next(rest).to(tensor.dtype))
        if tensor.is_floating_point()
        else tensor
        for tensor in flat(value)
    )
    return refilled(value, duals)


def _parts(value: Value) -> tuple[Value, tuple[torch.Tensor, ...]]:
    """A dual value without its derivatives, and these; zeros where nothing moved it."""
    unpacked = [forward_ad.unpack_dual(tensor) for tensor in flat(value)]
    for each in unpacked:
        if each.tangent is not None and each.tangent.dtype != each.primal.dtype:
            raise RunError("a derivative must have the type of its value")
    derivatives = tuple(
        torch.zeros_like(each.primal) if each.tangent is None else each.tangent
        for each in unpacked
        if each.primal.is_floating_point()
    )
    return refilled(value, (each.primal for each in unpacked)), derivatives


def _dual_state(parts: Sequence[Any]) -> list[Any]:
    return [None if each is None else _dual(*each) for each in parts]
