"""Memory of the baselines of AsyncFGD's Fig. 3, measured: BP, checkpointing, BPTT, forward passes.

Each network is one block of one worker, in which every layer or time step is a child or a step.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

sys.path.insert(0, str(Path(__file__).parent))

from memory_runs import column, counts, sides

from executor.data import generated
from executor.memory_rows import Held, held_by
from executor.memory_sizes import sizes_of
from executor.threads import run_threads
from executor.training import DataSource, Training, optimizer
from simcore.schedules import build

SAMPLES, CLASSES, FLOAT = 8, 3, 4


class Checkpointed(nn.Module):
    """A part of a network that keeps its input alone and runs again in the backward pass."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = checkpoint(self.part, inputs, use_reentrant=False)
        return output


class Unrolled(nn.Module):
    """A recurrent network over the features of a sample, one at a time: (samples, hidden)."""

    def __init__(self, hidden: int, every: int = 0) -> None:
        super().__init__()
        self.cell, self.every = nn.RNNCell(1, hidden), every

    def _steps(self, state: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        for at in range(inputs.shape[1]):
            state = self.cell(inputs[:, at : at + 1], state)
        return state

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        state = inputs.new_zeros(len(inputs), self.cell.hidden_size)
        if not self.every:
            return self._steps(state, inputs)
        for part in inputs.split(self.every, dim=1):
            state = checkpoint(self._steps, state, part, use_reentrant=False)
        return state


def measured(name: str, model: nn.Sequential, features: int, **options: Any) -> Held:
    """What the first worker of a run held, with a network in one block."""
    data = DataSource(generated(samples=32, features=features, classes=CLASSES), SAMPLES, seed=3)
    make = partial(build, name, batches=3, **options)
    layers = sum(any(p.requires_grad for p in child.parameters()) for child in model)
    blocks = make().blocks
    made = Training(
        make,
        model,
        (*range(blocks), layers),
        data,
        optimizer("sgd", 0.01),
        measure_memory=True,
    )
    result = run_threads(made)
    assert result.memory is not None
    return held_by(result.memory, result.trace)[0]


def deep(*, every: int = 0) -> nn.Sequential:
    """Sixteen layers in one child, in segments of `every` that are run again, and a classifier."""
    torch.manual_seed(1)
    parts = [nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(16)]
    if every:
        parts = [
            Checkpointed(nn.Sequential(*parts[first : first + every]))  # type: ignore[misc]
            for first in range(0, 16, every)
        ]
    return nn.Sequential(nn.Sequential(*parts), nn.Linear(16, CLASSES))


def test_sublinear_checkpointing_keeps_the_segments_inputs() -> None:
    """Chen et al. 2016: of n layers in segments of s, n/s outputs stay; forward gradients: none."""
    one = SAMPLES * 16 * FLOAT
    options = {"modules": 1}
    plain, sparse = (
        column(measured("bp", model, 16, **options), "activations").max()
        for model in (deep(), deep(every=4))
    )
    # Each layer's output is its tanh's, saved twice: for itself and as the next one's input.
    assert plain - sparse == (16 - 4) * one
    forward = measured("fgd", deep(), 16, modules=1)
    assert not column(forward, "activations").any()
    assert column(forward, "tangents").max() == column(forward, "weights").max()


def test_memory_of_backpropagation_through_time_grows_with_the_sequence() -> None:
    """BPTT keeps every step; checkpointing keeps a state for each part; forward gradients none."""

    def peak(steps: int, every: int = 0) -> int:
        torch.manual_seed(1)
        model = nn.Sequential(Unrolled(16, every), nn.Linear(16, CLASSES))
        return int(column(measured("bp", model, steps, modules=1), "activations").max())

    state = SAMPLES * 16 * FLOAT
    per_step = (peak(16) - peak(8)) / 8
    assert per_step >= state
    assert peak(16) - peak(8) == peak(24) - peak(16)
    # In parts of four steps, four more steps take a state, and the part's inputs, not counted.
    assert (peak(24, 4) - peak(16, 4)) / 2 == pytest.approx(state, abs=0)
    assert peak(16, 4) < peak(16) / 3


def test_replays_save_copies_of_running_statistics() -> None:
    torch.manual_seed(1)
    data = generated(samples=32, features=16, classes=CLASSES)
    model = nn.Sequential(
        nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()),
        nn.Sequential(nn.Flatten(), nn.Linear(8, CLASSES)),
    )
    more_bytes = {}
    for recompute in (False, True):
        made = Training(
            partial(build, "gpipe", modules=2, micro_batches=1, batches=3, recompute=recompute),
            model,
            (0, 1, 2),
            DataSource(data, SAMPLES, seed=3),
            optimizer("adam", 0.01),
            measure_memory=True,
        )
        schedule, sizes = made.make_schedule(), sizes_of(made)
        result = run_threads(made)
        _, predicted, found = sides(result, schedule, sizes)[0]
        assert (counts(found, "activations") == counts(predicted, "activations")).all()
        more = column(found, "activations") - column(predicted, "activations")
        more_bytes[recompute] = int(more.max())
        # Adam counts its steps in a number of its own for each of four parameters.
        assert column(found, "optimizer")[-1] == column(predicted, "optimizer")[-1] + 4 * FLOAT
        assert column(found, "buffers")[0] == 2 * 2 * FLOAT + 8
    assert more_bytes == {False: 0, True: 2 * 2 * FLOAT}
