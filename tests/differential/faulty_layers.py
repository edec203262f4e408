"""Layers and programs that fail on purpose, and a script that trains with them."""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from executor.data import generated
from executor.processes import run_processes
from executor.replay import run_replay
from executor.threads import run_threads
from executor.training import DataSource, RunResult, Training, optimizer
from simcore.engine import simulate
from simcore.ops import Operation
from simcore.schedule import Schedule
from simcore.schedules import build
from simcore.workload import Workload

MODULES = 3
LAST_BATCH = 24
RELEASE = threading.Event()  # ends every hang of this process


def strike(fault: str) -> None:
    """Fail, in this thread or process."""
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if fault == "exit":
        os._exit(3)
    if fault == "slow":
        time.sleep(0.2)
    if fault == "hang":
        RELEASE.wait()
    if fault == "spin":
        while not RELEASE.is_set():
            pass
    if fault == "raise":
        raise ValueError("fault on purpose")


class Faulty(nn.Module):
    """Passes its input on, until its `at`-th forward (or `backward`) pass in training.

    `nan` spoils the output or the gradient, `nan-weight` the gradient of the layer's own weight.
    The instant of the fault (`time.monotonic`) is left in the file `note`; if another copy has
    failed and left it, all goes well.
    """

    def __init__(
        self, fault: str, at: int, *, backward: bool = False, note: Path | None = None
    ) -> None:
        super().__init__()
        self.fault, self.at, self.calls = fault, at, 0
        self.backward, self.note = backward, note
        if fault == "nan-weight":
            self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.fault == "nan-weight":
            inputs = inputs + self.weight * 0
        if self.backward or self.fault == "nan-weight":
            passed: torch.Tensor = _Passed.apply(inputs, getattr(self, "weight", None), self)
            return passed
        self.calls += self.training
        due = self.calls == self.at or (self.fault == "slow" and self.calls > self.at)
        return inputs * self.count() if due else inputs

    def count(self) -> float:
        """Fail; returns the factor that spoils what passes."""
        if self.note is not None:
            if self.note.exists() and self.fault != "nan":  # which passes to warm up survive
                return 1.0
            self.note.write_text(str(time.monotonic()))
        strike(self.fault)
        return float("nan") if self.fault == "nan" else 1.0


class _Passed(torch.autograd.Function):
    """The identity; its backward pass may fail."""

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, weight: torch.Tensor | None, layer: Faulty
    ) -> torch.Tensor:
        ctx.layer = layer
        return inputs.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:  # type: ignore[override]
        layer = ctx.layer
        layer.calls += 1
        if layer.calls != layer.at:
            return gradient, None if layer.fault != "nan-weight" else torch.zeros(1), None
        factor = layer.count()
        spoilt = torch.full((1,), float("nan")) if layer.fault == "nan-weight" else None
        return gradient * factor, spoilt, None


class Brittle(nn.CrossEntropyLoss):
    """A loss that fails where it is unpickled."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        strike(self.fault)


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


def faulty_training(
    layer: Faulty, place: int, name: str = "fdg", batches: int = LAST_BATCH, **options: object
) -> Training:
    """Three modules of one layer each, that of `place` (from 1) with the fault in it."""
    torch.manual_seed(5)
    blocks = [[nn.Linear(4, 6)], [nn.Tanh(), nn.Linear(6, 6)], [nn.Tanh(), nn.Linear(6, 3)]]
    blocks[place - 1] = [*blocks[place - 1], layer]
    model = nn.Sequential(*(nn.Sequential(*block) for block in blocks))
    return training(name, (0, 1, 2, 3), model, modules=MODULES, batches=batches, **options)


def failing_at_its_end(make: Callable[[], Schedule], place: int, fault: str) -> Schedule:
    """A schedule in which a worker fails after the last operation of its program."""
    schedule = make()
    workers = list(schedule.workers)
    program = workers[place - 1].program

    def until_then() -> Iterator[Operation]:
        yield from program()
        # Schedules are checked by running their programs, too.
        if any(each.name == "drive" for each in traceback.extract_stack()):
            strike(fault)

    workers[place - 1] = replace(workers[place - 1], program=until_then)
    return replace(schedule, workers=tuple(workers))


def run_in(runtime: str, asked: Training) -> RunResult:
    """Train in a runtime; a replay follows a simulation."""
    if runtime == "threads":
        return run_threads(asked)
    if runtime == "processes":
        return run_processes(asked)
    schedule = asked.make_schedule()
    return run_replay(asked, simulate(schedule, Workload.even(schedule.blocks, 1, 2, 1)))


def main() -> None:
    """Train in a runtime, with a fault at a place, in the pass of a number; or for ever."""
    sys.stdout.write("started\n")
    sys.stdout.flush()
    if len(sys.argv) == 1:
        run_processes(training("bp", (0, 3), network(3), modules=1, batches=10**5))
    runtime, fault, place, at = sys.argv[1:]
    run_in(runtime, faulty_training(Faulty(fault, int(at)), int(place)))


if __name__ == "__main__":
    main()
