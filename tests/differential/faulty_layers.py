"""Layers that fail on purpose, and a script that trains for long, for worker processes."""

import os
import signal
import sys
from functools import partial

import torch
from torch import nn

from executor.data import generated
from executor.processes import run_processes
from executor.training import DataSource, Training, optimizer
from simcore.schedules import build


class Faulty(nn.Module):
    """Passes its input on, until its `at`-th forward pass in training."""

    def __init__(self, fault: str, at: int) -> None:
        super().__init__()
        self.fault, self.at, self.calls = fault, at, 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        if self.calls == self.at:
            if self.fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "exit":
                os._exit(3)
            raise ValueError("fault on purpose")
        return inputs


def training(
    name: str, bounds: tuple[int, ...], model: nn.Sequential, **options: object
) -> Training:
    """A training on generated data with two features and two classes."""
    data = DataSource(generated(samples=100, features=4, classes=3), 8, seed=3)
    make_schedule = partial(build, name, **options)
    return Training(make_schedule, model, bounds, data, optimizer("sgd", 0.05, momentum=0.5))


def network(layers: int, *extra: nn.Module, inputs: int = 4) -> nn.Sequential:
    """Linear layers with tanh; `extra` modules follow the first."""
    torch.manual_seed(5)
    parts: list[nn.Module] = [nn.Linear(inputs, 6), nn.Tanh(), *extra]
    for _ in range(layers - 2):
        parts += [nn.Linear(6, 6), nn.Tanh()]
    return nn.Sequential(*parts, nn.Linear(6, 3)).double().float()


def main() -> None:
    """Train for ever, as far as a test is concerned."""
    sys.stdout.write("started\n")
    sys.stdout.flush()
    run_processes(training("bp", (0, 3), network(3), modules=1, batches=10**5))


if __name__ == "__main__":
    main()
