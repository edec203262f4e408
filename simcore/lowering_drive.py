"""A program that is being recorded: led on with symbols, its batches kept in registers."""

import heapq
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from simcore.lowering_environment import Environment
from simcore.lowering_state import Suspended, state_of
from simcore.lowering_symbols import Batch, Counter, JoinAnswer, Loop, Residue
from simcore.ops import Operation, Program
from simcore.steps import COUNTERS

__all__ = ["Drive", "Event"]

Event = tuple[list[Any], Any]  # the jumps made at an operation, and its answer


class Drive:
    """A program on its way: the generator, its loops, which registers its batches use."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.loops: list[Loop] = []
        self.events: list[Event] = []
        self.owners: dict[int, int] = {}
        self.free: list[int] = []
        self.used = 0
        self.joined: JoinAnswer | None = None
        self.at = -1
        self.suspended = Suspended()

    def count(self, number: Any) -> Loop:
        """What `steps` counts with, in this program."""
        loop = Loop(number.number() if isinstance(number, Counter | Residue) else number)
        self.loops.append(loop)
        return loop

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Within it, `steps` counts for this program."""
        token = COUNTERS.set(self.count)
        try:
            yield
        finally:
            COUNTERS.reset(token)

    def send(self, answer: Any) -> Operation:
        """Send the program an answer. Returns the operation that it yields."""
        try:
            return self.program.send(answer)
        finally:
            if self.joined is not None:
                self.joined.present = False
            for loop in self.loops:
                if not loop.live:
                    self.loops = [each for each in self.loops if each.live]
                    break

    def state(self, operation: Operation, environment: Environment, loop: Loop | None) -> Any:
        """The state at an operation, and its batches: see `simcore.lowering_state.state_of`."""
        return state_of(self.program, operation, environment, loop, self.suspended)

    def register(self, wanted: int | None = None) -> int:
        """A register that is free, or this one."""
        if wanted is None:
            wanted = heapq.heappop(self.free) if self.free else self.used
        self.used = max(self.used, wanted + 1)
        return wanted

    def batch(self, wanted: int | None = None) -> "Owned":
        """A batch that the program is to be sent."""
        batch = Owned(self.register(wanted))
        batch.drive = self
        self.owners[batch.register] = id(batch)
        return batch

    def rename(self, batches: list[Batch], registers: tuple[int, ...]) -> None:
        """The live batches are in these registers now, and all others are free."""
        for batch, register in zip(batches, registers, strict=True):
            batch.register = register
        self.owners = {batch.register: id(batch) for batch in batches}
        self.free = [each for each in range(self.used) if each not in self.owners]


class Owned(Batch):
    """A batch that gives its register back when the program forgets it."""

    __slots__ = ("drive",)
    drive: Drive
    __hash__ = Batch.__hash__

    def __del__(self) -> None:
        owners = self.drive.owners
        if owners.get(self.register) == id(self):
            del owners[self.register]
            heapq.heappush(self.drive.free, self.register)
