"""Async BP with threads: the gaps of a real run are distributed as in the simulator.

Layers sleep, so that their times are known and three workers do not need three cores. The times are
chosen so that each read of a version is at least 20 ms away from the update that would change it.
"""

import sys
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from faulty_layers import training

from executor.threads import run_threads
from simcore.engine import simulate
from simcore.staleness import gap_summaries
from simcore.trace import Trace
from simcore.workload import Workload

# Naps are long beside the milliseconds by which other tests at the same time delay a thread.
LAYERS, FORWARD_S, BATCHES = 3, 0.08, 30


class Nap(torch.autograd.Function):
    """Passes its input on; forward and backward take a known time and no processor."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, forward_s: float, backward_s: float) -> Any:
        ctx.backward_s = backward_s
        time.sleep(forward_s)
        return inputs.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:  # type: ignore[override]
        time.sleep(ctx.backward_s)
        return gradient, None, None


class Sleepy(nn.Linear):
    """A linear layer of known times; naps once warm-up passes, on copies, are through."""

    def __init__(self, inputs: int, outputs: int, backward_s: float) -> None:
        super().__init__(inputs, outputs)
        self.backward_s = backward_s

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = Nap.apply(super().forward(inputs), FORWARD_S, self.backward_s)
        return result


def histograms(trace: Trace) -> list[Counter[int]]:
    return [Counter(dict(gaps.histogram)) for gaps in gap_summaries(trace)]


@pytest.mark.parametrize(("name", "ratio"), [("async-lu", "2.75"), ("async-bu", "2.5")])
def test_gaps_are_distributed_as_simulated(name: str, ratio: str) -> None:
    backward_s = float(Fraction(ratio)) * FORWARD_S
    sizes = (4, 6, 6, 3)
    torch.manual_seed(0)
    layers = [Sleepy(sizes[k], sizes[k + 1], backward_s) for k in range(LAYERS)]
    options = {"layers": LAYERS, "backward_threads": 3}
    asked = training(name, (0, 1, 2, 3), nn.Sequential(*layers), batches=BATCHES, **options)
    times = Workload.even(LAYERS, LAYERS * Fraction(str(FORWARD_S)), Fraction(ratio), "0.0006")
    simulated = histograms(simulate(asked.make_schedule(), times))
    measured = histograms(run_threads(asked).trace)
    for expected, found in zip(simulated, measured, strict=True):
        assert expected.total() == found.total() == BATCHES
        # Total variation. A hiccup of the machine may shift single gaps: two of thirty may be off.
        assert (expected - found).total() <= BATCHES // 15
