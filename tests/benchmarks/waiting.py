"""A network whose layers mostly wait, so that more threads than cores do not compete for cores."""

import time
from typing import Any, Final

import torch
from torch import nn

__all__ = ["network"]

FORWARD_S: Final = 0.002
BACKWARD_S: Final = 0.0053
_SIZES: Final = (64, 64, 64, 64, 10)


class _Wait(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor) -> Any:
        time.sleep(FORWARD_S)
        return inputs.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:  # type: ignore[override]
        time.sleep(BACKWARD_S)
        return gradient


class Waiting(nn.Linear):
    """A linear layer that computes for microseconds and waits for milliseconds."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = _Wait.apply(super().forward(inputs))
        return result


def network() -> nn.Sequential:
    """Four such layers, for the data of `tests.benchmarks.harness`."""
    return nn.Sequential(*map(Waiting, _SIZES[:-1], _SIZES[1:]))
