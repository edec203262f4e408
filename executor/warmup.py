"""Warming up a worker before the clock starts.

The first passes of a thread through an operation allocate its buffers and choose its kernels,
which takes many times as long as the passes that follow; the heap needs about ten to settle.
"""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from executor.perform import Loss, WorkerTensors

__all__ = ["warm_up"]

_PASSES = 8


def warm_up(
    tensors: WorkerTensors,
    outputs: Sequence[torch.Tensor],
    labels: torch.Tensor,
    loss: Loss,
) -> None:
    """Train the worker's blocks for some passes, on copies; changes nothing else.

    `outputs` are templates of all blocks' outputs, block 0 being the data.
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
            inputs = outputs[block - 1].detach()
            if block > 1 and inputs.is_floating_point():
                inputs.requires_grad_()
            output = twin(inputs)
            (loss(output, labels) if last else output.sum()).backward()
            if optimizer is not None:
                optimizer.step()
    torch.set_rng_state(random_state)
