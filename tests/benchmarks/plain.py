"""Plain PyTorch without this project's executor: the baseline, and what each operation costs.

It runs in a process of its own, with the allocator tuned as in the executor's workers, that waits
on a pipe between two phases. A profile times the operations of a schedule one by one in a loop of a
few lines; it is what the simulator's ideal is made of.
"""

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Final, Self

import torch
from torch import nn

from executor.allocator import tune_allocator
from executor.clock import now_ns
from executor.network import split
from executor.training import optimizer
from simcore.workload import Layer, Workload
from tests.benchmarks.harness import Phase, Task, watched

__all__ = ["Plain"]

_WARM_UP: Final = 10  # passes until the heap has its final size
Times = list[tuple[float, float, float]]  # forward, backward, update of each block, in seconds


@dataclass(frozen=True, slots=True)
class _Asked:
    """Mini-batches of plain backpropagation; with `bounds`, block by block and timed."""

    batches: int
    threads: int = 1
    bounds: tuple[int, ...] = ()
    parts: int = 1


class Plain:
    """A process that trains with plain PyTorch."""

    def __init__(self, task: Task) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(task, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pipe.close()
        self._process.join(10)

    def backpropagation(self, batches: int, threads: int = 1) -> Phase:
        """Forward, backward and update of the whole network, on so many threads."""
        asked = _Asked(batches, threads)
        return watched(lambda: (self._ask(asked), None), [self._process.pid or 0])

    def profile(
        self, batches: int, bounds: Sequence[int], parts: int = 1, beside: "Plain | None" = None
    ) -> Phase:
        """The same block by block; the detail is a `Workload` of the blocks' mean times.

        Each mini-batch passes in so many parts, whose times are added up. `beside` does the same at
        the same time, as workers on the other cores will.
        """
        asked = _Asked(batches, 1, tuple(bounds), parts)

        def measured() -> tuple[float, Workload]:
            if beside is not None:
                beside._pipe.send(asked)
            times: Times = self._ask(asked)
            if beside is not None:
                beside._pipe.recv()
            layers = tuple(
                Layer(f"block {number}", _exact(forward_s), _exact(backward_s), _exact(update_s))
                for number, (forward_s, backward_s, update_s) in enumerate(times, 1)
            )
            return sum(map(sum, times)), Workload("profiled", layers)

        processes = [each._process.pid or 0 for each in (self, beside) if each is not None]
        return watched(measured, processes)

    def _ask(self, asked: _Asked) -> Any:
        self._pipe.send(asked)
        return self._pipe.recv()


def _exact(seconds: float) -> Fraction:
    return Fraction(round(1e9 * seconds), 10**9)


def _serve(task: Task, pipe: Connection) -> None:
    tune_allocator()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    trainer = _Trainer(task)
    trainer.backpropagation(_WARM_UP)
    pipe.send("ready")
    while True:
        try:
            asked: _Asked = pipe.recv()
        except EOFError:
            return
        if torch.get_num_threads() != asked.threads:
            torch.set_num_threads(asked.threads)
            trainer.backpropagation(_WARM_UP)
        if asked.bounds:
            pipe.send(trainer.profile(asked))
        else:
            pipe.send(trainer.backpropagation(asked.batches))


class _Trainer:
    def __init__(self, task: Task) -> None:
        self.task, self.source = task, task.source()
        self.model = task.network().to(task.device)
        self.loss = nn.CrossEntropyLoss()
        self.warmed: set[tuple[tuple[int, ...], int]] = set()

    def batch(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs (samples, features) and labels (samples,), on the device."""
        inputs, labels = self.source.data.batch(number, self.task.batch_size, 0)
        return inputs.to(self.task.device), labels.to(self.task.device)

    def settle(self) -> None:
        """Wait for the device: a CPU has finished when a call returns."""
        if self.task.device != "cpu":
            torch.cuda.synchronize(self.task.device)

    def backpropagation(self, batches: int) -> float:
        """Seconds per mini-batch."""
        stepper = optimizer("sgd", 1e-3)(self.model.parameters())
        self.settle()
        start = now_ns()
        for number in range(batches):
            inputs, labels = self.batch(number)
            loss = self.loss(self.model(inputs), labels)
            stepper.zero_grad()
            loss.backward()
            stepper.step()
            loss.item()
        self.settle()
        return (now_ns() - start) / 1e9 / batches

    def profile(self, asked: _Asked) -> Times:
        """Mean times of each block's operations, for a whole mini-batch."""
        if (asked.bounds, asked.parts) not in self.warmed:
            self.warmed.add((asked.bounds, asked.parts))
            self.profile(replace(asked, batches=_WARM_UP))
        blocks = [_Block(*each) for each in enumerate(split(self.model, asked.bounds))]
        sums = [[0, 0, 0] for _ in blocks]
        for number in range(asked.batches):
            inputs, labels = self.batch(number)
            pairs = zip(inputs.chunk(asked.parts), labels.chunk(asked.parts), strict=True)
            for part, wanted in pairs:
                self.pass_through(blocks, sums, part, wanted)
            for block, total in zip(blocks, sums, strict=True):
                total[2] += self.timed(block.update)
        return [
            (forward / 1e9 / asked.batches, back / 1e9 / asked.batches, step / 1e9 / asked.batches)
            for forward, back, step in sums
        ]

    def pass_through(
        self, blocks: "list[_Block]", sums: list[list[int]], part: torch.Tensor, wanted: Any
    ) -> None:
        """Forward and backward of one part of a mini-batch."""
        value = part
        for block, total in zip(blocks, sums, strict=True):
            last = (self.loss, wanted) if block is blocks[-1] else None
            total[0] += self.timed(partial(block.forward, value, last))
            value = block.output.detach()
        above: torch.Tensor | None = None
        for block, total in zip(reversed(blocks), reversed(sums), strict=True):
            total[1] += self.timed(partial(block.backward, above))
            above = block.below

    def timed(self, action: Callable[[], None]) -> int:
        """How long it takes, in ns."""
        start = now_ns()
        action()
        self.settle()
        return now_ns() - start


class _Block:
    """A block with what one pass leaves in it."""

    def __init__(self, number: int, module: nn.Module) -> None:
        self.module, self.parameters = module, list(module.parameters())
        self.is_first = number == 0
        self.stepper = optimizer("sgd", 1e-3)(self.parameters)
        self.inputs = self.output = torch.empty(0)
        self.below: torch.Tensor | None = None

    def forward(self, value: torch.Tensor, last: tuple[nn.Module, torch.Tensor] | None) -> None:
        self.inputs = value.detach()
        if not self.is_first:
            self.inputs.requires_grad_()
        self.output = self.module(self.inputs)
        if last is not None:
            loss, wanted = last
            self.output = loss(self.output, wanted)
            self.output.item()

    def backward(self, above: torch.Tensor | None) -> None:
        inputs = [] if self.is_first else [self.inputs]
        found = torch.autograd.grad(self.output, [*inputs, *self.parameters], above)
        self.below = found[0] if inputs else None
        for parameter, gradient in zip(self.parameters, found[len(inputs) :], strict=True):
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad += gradient

    def update(self) -> None:
        self.stepper.step()
        self.stepper.zero_grad()
