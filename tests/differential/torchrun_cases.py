"""Trainings that ranks and tests make alike from what a command line can carry."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from faulty_layers import Faulty, faulty_training, network, training
from torch import nn

from executor.training import Training
from simcore.schedules import build

__all__ = ["Pair", "training_of"]


class Pair(nn.Module):
    """Gives its output twice over, as a tuple with whole numbers beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.layer(inputs), torch.arange(len(inputs))


class Rejoin(nn.Module):
    """Takes what `Pair` gives; whole numbers must have come through."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        values, numbers = pair
        assert numbers.dtype == torch.int64
        return self.layer(values * (1 + numbers[:, None] / 8))


def training_of(case: dict[str, Any]) -> Training:
    """A training by a schedule with options; `fault` puts in a layer that fails.

    `faulty` is that of `faulty_layers.faulty_training`: (fault, place, at, backward, note).
    """
    case = dict(case)
    if "faulty" in case:
        fault, place, at, backward, note = case["faulty"]
        layer = Faulty(fault, at, backward=backward, note=Path(note))
        return replace(faulty_training(layer, place), timeout_s=case["timeout_s"])
    name, batches = case.pop("schedule"), case.pop("batches", 15)
    fault, pair = case.pop("fault", None), case.pop("pair", False)
    timeout_s = case.pop("timeout_s", None)
    blocks = build(name, batches=batches, **case).blocks
    model = network(4, inputs=2 if "time_steps" in case else 4)
    if pair:
        torch.manual_seed(6)
        model = nn.Sequential(nn.Linear(4, 6), Pair(), Rejoin(), nn.Linear(6, 3))
    if fault:
        kind, layer, at = fault
        places = [n for n, part in enumerate(model) if isinstance(part, nn.Linear)]
        after = places[layer] + 1
        model = nn.Sequential(*model[:after], Faulty(kind, at), *model[after:])
    asked = training(name, (*range(blocks), 4), model, batches=batches, **case)
    return asked if timeout_s is None else replace(asked, timeout_s=timeout_s)
