"""The sizes of a training's blocks, exact: what the prediction of its memory is made from."""

from dataclasses import replace
from fractions import Fraction

import torch
from torch import nn

from executor import slicing
from executor.assembly import extras_at
from executor.examination import examine
from executor.network import block_shapes, split
from executor.passes import Passes
from executor.training import Training
from executor.tree import bytes_of
from executor.weights import MakeOptimizer
from simcore.ops import Item
from simcore.partition import Partition, blocks_of
from simcore.workload import Layer, Workload

__all__ = ["sizes_of"]

_SECOND = Fraction(1)
_PROBE = 64  # numbers in a parameter: an optimiser's state of as many is one for each parameter


def sizes_of(training: Training) -> Workload:
    """A workload with a layer for each block of a training, with its sizes in bytes.

    Sizes are those of the first mini-batch: of outputs, parameters, of what autograd saves (see
    `examine`), of auxiliary networks or matrices, and how many states the optimiser keeps of a
    parameter. Times are not measured: every pass takes a second. In a schedule that goes from time
    step to time step, which keeps no graphs, outputs are those of all steps together. Raises
    `InputError` for a network that fails.
    """
    schedule = training.make_schedule()
    passes = slicing.Passes(schedule, training.source, training.first_batch)
    inputs, labels = training.source.payload(Item("activation", 0), training.first_batch)
    first, _ = passes.payload(Item("activation", 0), 0)
    with torch.random.fork_rng(), torch.enable_grad():
        blocks = split(training.model, training.bounds)
        outputs = block_shapes(blocks, first, by_time=passes.by_time)
        if passes.by_time:
            given = [bytes_of(output) * schedule.micro_batches for output in outputs[1:]]
            layers = [_layer(*each, 0) for each in zip(blocks, given, strict=True)]
        else:
            look = Passes(training.model, inputs, labels, training.loss, training.make_optimizer)
            sizes = zip(look.layers, examine(look), strict=True)
            whole = Workload("sizes", tuple(_layer(layer, *size) for layer, size in sizes))
            layers = list(blocks_of(whole, Partition(training.bounds)).layers)
        found = []
        for block, layer in enumerate(layers, start=1):
            extras = extras_at(training, schedule, outputs, block)
            modules = (extras.head, extras.synthesizer)
            own: list[torch.Tensor] = []
            for module in modules:
                own += [] if module is None else module.parameters()
            own += [] if extras.matrix is None else [extras.matrix]
            found.append((layer, sum(tensor.nbytes for tensor in own)))
    return Workload(
        "sizes",
        tuple(replace(layer, auxiliary_bytes=size) for layer, size in found),
        batch_size=len(labels),
        input_bytes=bytes_of(inputs),
        optimizer_states=_states(training.make_optimizer),
        note="sizes of the first mini-batch; times are not measured",
    )


def _layer(block: nn.Module, activation_bytes: int, saved_bytes: int) -> Layer:
    parameters = sum(parameter.nbytes for parameter in block.parameters())
    return Layer("", _SECOND, _SECOND, Fraction(0), activation_bytes, parameters, saved_bytes)


def _states(make_optimizer: MakeOptimizer) -> int:
    """How many numbers an optimiser keeps for each one of a parameter, after two steps."""
    parameter = nn.Parameter(torch.zeros(_PROBE))
    optimizer = make_optimizer([parameter])
    for _ in range(2):
        parameter.grad = torch.ones(_PROBE)
        optimizer.step()
    states = optimizer.state[parameter].values()
    return sum(torch.is_tensor(state) and state.numel() == _PROBE for state in states)
