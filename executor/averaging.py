"""Updates and averages: what a worker adds to a round, and what it takes from it."""

from collections.abc import Sequence

import torch

from executor.streams import working
from executor.tensors import Done, WorkerTensors
from simcore.errors import IllegalOperationError
from simcore.ops import Group, Merge, Snapshot, Update

__all__ = ["Contribution", "contribution", "merge", "snapshot", "take_result", "update"]

Contribution = list[torch.Tensor] | None


def update(tensors: WorkerTensors, operation: Update) -> Done:
    """Apply the pending gradients of a block: their mean or sum, or the mean of all replicas."""
    block, settings = operation.block, tensors.settings
    if block in tensors.averaged:
        gradients = tensors.averaged.pop(block)
    elif tensors.ledger.pending(tensors.worker, block):
        gradients = tensors.reduced(block)
    else:
        raise IllegalOperationError(f"worker {tensors.worker}: no gradient of block {block}")
    if settings.learning.clip is not None:
        settings.learning.clip(gradients)
    factor = 1.0
    if settings.learning.rate is not None:
        mini_batch = tensors.newest.get(block, 0) // settings.micro_batches
        # Replicas see neighbouring mini-batches in one update, and must all take the same step.
        whole = mini_batch - mini_batch % settings.batches_per_update
        factor = settings.learning.rate(settings.first_batch + whole)
    landed = tensors.weights[block].step(
        tensors.worker, gradients, lambda: tensors.ledger.update(tensors.worker, block), factor
    )
    return Done(landed.version, landed=landed)


def snapshot(tensors: WorkerTensors, operation: Snapshot) -> Done:
    """Copy a block's weights as they are now."""
    block = operation.block
    version = tensors.ledger.begin(tensors.worker, operation)
    tensors.snapshots[block] = tensors.weights[block].copied()
    return Done(version)


def merge(tensors: WorkerTensors, operation: Merge) -> Done:
    """Add to a block's weights what averaging changed in their snapshot."""
    block = operation.block
    changes = torch._foreach_sub(tensors.means.pop(block), tensors.snapshots.pop(block))
    version = tensors.weights[block].add(
        list(changes), lambda: tensors.ledger.merge(tensors.worker, block)
    )
    return Done(version)


def contribution(tensors: WorkerTensors, group: Group, block: int) -> Contribution:
    """What the worker adds to a round over a block: its snapshot or gradients; None if neither.

    To the norm of all gradients it adds the sum of the squares of its own.
    """
    with working(tensors.place):
        return _contribution(tensors, group, block)


def _contribution(tensors: WorkerTensors, group: Group, block: int) -> Contribution:
    if group.reduces == "norm":
        return _squares(tensors)
    if block in tensors.averaged:  # they have been scaled
        return tensors.averaged.pop(block)
    if block in tensors.snapshots:
        return tensors.snapshots[block]
    if block and tensors.ledger.pending(tensors.worker, block):
        return tensors.reduced(block)
    return None


def take_result(
    tensors: WorkerTensors,
    group: Group,
    block: int,
    contributions: Sequence[list[torch.Tensor]],
) -> bool:
    """Take what a round came to, from contributions in the same order; were there any?

    It is their mean, or a norm, to which gradients are scaled down if they must.
    """
    if not contributions:
        return False
    if group.reduces == "norm":
        _scale_down(tensors, sum(float(squares) for [squares] in contributions) ** 0.5)
        return True
    with working(tensors.place):
        mean = [tensor.to(tensors.device, copy=True) for tensor in contributions[0]]
        for other in contributions[1:]:
            torch._foreach_add_(mean, [tensor.to(tensors.device) for tensor in other])
        if len(contributions) > 1:
            torch._foreach_div_(mean, len(contributions))
    if block in tensors.snapshots:
        tensors.means[block] = mean
    else:
        tensors.averaged[block] = mean
    return True


def _squares(tensors: WorkerTensors) -> Contribution:
    """The sum of the squares of all gradients that the next updates will apply."""
    for block in list(tensors.pending):
        tensors.averaged[block] = tensors.reduced(block)
    gradients = [gradient for found in tensors.averaged.values() for gradient in found]
    if not gradients:
        return None
    norms = torch.stack([norm.double() for norm in torch._foreach_norm(gradients)])
    return [(norms**2).sum()]


def _scale_down(tensors: WorkerTensors, norm: float) -> None:
    """As `torch.nn.utils.clip_grad_norm_`, with the norm of the gradients of all workers."""
    limit = tensors.settings.learning.global_norm
    if limit is None or norm <= limit:
        return
    for gradients in tensors.averaged.values():
        torch._foreach_mul_(gradients, limit / (norm + 1e-6))
