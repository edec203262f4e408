"""How gradients become steps, whatever the schedule: rates, scales, clipping, precision."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["Clip", "Learning"]

Clip = Callable[[list[torch.Tensor]], object]  # limits the gradients of a block, in place


@dataclass(frozen=True, slots=True)
class Learning:
    """What is done to gradients and directions. All of it can be pickled.

    `rate` and `alpha` are factors by the mini-batch, dimensionless: on the learning rate, and on
    the directions of forward gradients below the classifier. `clip` limits the gradients of a block
    at each update; `global_norm` is the largest norm of all gradients together, for a schedule that
    waits for it. `precisions` are what the matrix products of workers are computed in (None: as
    their operands are): one for all, or one for each worker.
    """

    rate: Callable[[int], float] | None = None
    alpha: Callable[[int], float] | None = None
    clip: Clip | None = None
    global_norm: float | None = None
    precisions: tuple[torch.dtype | None, ...] = ()

    def precision(self, worker: int) -> torch.dtype | None:
        """That of a worker."""
        if not self.precisions:
            return None
        return self.precisions[worker if len(self.precisions) > 1 else 0]
