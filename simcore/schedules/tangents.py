"""What the schedules of forward gradients share: the types of their options, and a chain."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from simcore.ops import Channel, Group, Item, Program, Project, Receive, Send, Tangent, Worker
from simcore.schedules.chain import data_channel

__all__ = ["Directions", "Keep", "TangentChain"]

Directions = Literal["gaussian", "rademacher"]
Keep = Literal["tangent", "seed"]


@dataclass(frozen=True, slots=True)
class TangentChain:
    """Channels of `modules` modules in a row, indexed by the module that receives.

    An activation travels with its derivatives. The last module sends the scalar, the derivative of
    the loss, to all modules, itself included, so that one program serves all.
    """

    modules: int
    activations: dict[int, Channel]
    scalars: dict[int, Channel]

    @classmethod
    def of(cls, modules: int) -> "TangentChain":
        """The channels of a chain of so many modules."""
        activations = {1: data_channel()}
        for k in range(2, modules + 1):
            below = Item("activation", k - 1), Item("derivative", k - 1)
            activations[k] = Channel(f"activations[{k}]", below)
        scalar = (Item("scalar", modules),)
        scalars = {k: Channel(f"scalars[{k}]", scalar) for k in range(1, modules + 1)}
        return cls(modules, activations, scalars)

    def tangent(self, k: int, kind: type[Tangent] = Tangent) -> Program:
        """Take module k's next input, go forward, pass it on; the last sends the scalar to all."""
        batch = yield Receive(self.activations[k])
        yield kind(k, batch)
        if k < self.modules:
            yield Send(self.activations[k + 1], batch)
        else:
            for each in range(1, self.modules + 1):
                yield Send(self.scalars[each], batch)

    def project(self, k: int) -> Program:
        """Take module k's next scalar, and make a gradient of it."""
        batch = yield Receive(self.scalars[k])
        yield Project(k, batch)

    def workers(
        self, program: Callable[[int], Program], joins: tuple[Group, ...] = ()
    ) -> tuple[Worker, ...]:
        """One worker for each module k, which runs `program(k)`."""
        return tuple(
            Worker(
                f"module {k}",
                partial(program, k),
                (k,),
                (self.activations[k + 1],) if k < self.modules else tuple(self.scalars.values()),
                (self.activations[k], self.scalars[k]),
                joins,
            )
            for k in range(1, self.modules + 1)
        )
