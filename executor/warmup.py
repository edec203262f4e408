"""Warming up a worker before the clock starts.

The first passes of a thread through an operation allocate its buffers and choose its kernels,
which takes many times as long as the passes that follow; the heap needs about ten to settle.
"""

import copy
from collections.abc import Sequence
from typing import Final

import torch
from torch import nn

from executor.network import Stepper
from executor.streams import working
from executor.tensors import WorkerTensors
from executor.tree import Value, detached, floating
from executor.watchdog import NO_PULSE, Pulse

__all__ = ["warm_up"]

_PASSES: Final = 8


def warm_up(
    tensors: WorkerTensors,
    outputs: Sequence[Value],
    labels: torch.Tensor,
    pulse: Pulse = NO_PULSE,
) -> None:
    """Train the worker's blocks for some passes, on copies; changes nothing else.

    `outputs` are templates of all blocks' outputs, block 0 being the data. Blocks that draw from
    torch's random state are noted in `tensors.drawing`. `pulse` is told of each pass.
    """
    outputs = [tensors.brought("activation", output) for output in outputs]
    labels = tensors.brought("activation", labels)
    with torch.random.fork_rng(tensors.random_devices), working(tensors.place):
        _warm_up(tensors, outputs, labels, pulse)


def _warm_up(
    tensors: WorkerTensors, outputs: Sequence[Value], labels: torch.Tensor, pulse: Pulse
) -> None:
    for block, module in tensors.modules.items():
        pulse.start()
        twin: nn.Module = copy.deepcopy(module)
        last = block == len(outputs) - 1
        learning = [parameter for parameter in twin.parameters() if parameter.requires_grad]
        # The first step of a process imports what torch.optim needs, which takes about a second. It
        # is not the training's own optimiser, which may count or log its steps.
        optimizer = torch.optim.SGD(learning, lr=0.0) if learning else None
        if optimizer is not None:
            optimizer.step()
        for _ in range(_PASSES):
            pulse.warm_up()
            inputs = detached(outputs[block - 1])
            if block > 1:
                for tensor in floating(inputs):
                    tensor.requires_grad_()
            before = _random_states(tensors)
            with tensors.precision():
                if tensors.settings.passes.by_time:
                    output = Stepper(twin)(inputs, None)[0]
                else:
                    output = twin(inputs)
            drawn = zip(before, _random_states(tensors), strict=True)
            if not all(torch.equal(one, other) for one, other in drawn):
                tensors.drawing.add(block)
            if last:
                loss = tensors.settings.loss(output, labels)
            else:
                loss = torch.stack([tensor.sum() for tensor in floating(output)]).sum()
            loss.backward()
            if optimizer is not None:
                optimizer.step()


def _random_states(tensors: WorkerTensors) -> list[torch.Tensor]:
    found = [torch.get_rng_state()]
    return found + [torch.cuda.get_rng_state(device) for device in tensors.random_devices]
