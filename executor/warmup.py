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
from executor.tensors import WorkerTensors
from executor.tree import Value, detached, floating

__all__ = ["warm_up"]

_PASSES: Final = 8


def warm_up(tensors: WorkerTensors, outputs: Sequence[Value], labels: torch.Tensor) -> None:
    """Train the worker's blocks for some passes, on copies; changes nothing else.

    `outputs` are templates of all blocks' outputs, block 0 being the data. Blocks that draw from
    torch's random state are noted in `tensors.drawing`.
    """
    random_state = torch.get_rng_state()
    for block, module in tensors.modules.items():
        twin: nn.Module = copy.deepcopy(module)
        last = block == len(outputs) - 1
        learning = [parameter for parameter in twin.parameters() if parameter.requires_grad]
        # The first step of a process imports what torch.optim needs, which takes about a second. It
        # is not the training's own optimiser, which may count or log its steps.
        optimizer = torch.optim.SGD(learning, lr=0.0) if learning else None
        for _ in range(_PASSES):
            inputs = detached(outputs[block - 1])
            if block > 1:
                for tensor in floating(inputs):
                    tensor.requires_grad_()
            before = torch.get_rng_state()
            with tensors.precision():
                if tensors.settings.passes.by_time:
                    output = Stepper(twin)(inputs, None)[0]
                else:
                    output = twin(inputs)
            if not torch.equal(before, torch.get_rng_state()):
                tensors.drawing.add(block)
            if last:
                loss = tensors.settings.loss(output, labels)
            else:
                loss = torch.stack([tensor.sum() for tensor in floating(output)]).sum()
            loss.backward()
            if optimizer is not None:
                optimizer.step()
    torch.set_rng_state(random_state)
