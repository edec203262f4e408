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
    tensors: WorkerTensors, outputs: Sequence[torch.Tensor], labels: torch.Tensor, loss: Loss
) -> None:
    """Run forward and backward passes of the worker's blocks on copies; changes nothing else.

    `outputs` are templates of all blocks' outputs, block 0 being the data.
    """
    random_state = torch.get_rng_state()
    for block, module in tensors.modules.items():
        twin: nn.Module = copy.deepcopy(module)
        last = block == len(outputs) - 1
        for _ in range(_PASSES):
            inputs = outputs[block - 1].detach()
            if block > 1 and inputs.is_floating_point():
                inputs.requires_grad_()
            output = twin(inputs)
            (loss(output, labels) if last else output.sum()).backward()
    torch.set_rng_state(random_state)
