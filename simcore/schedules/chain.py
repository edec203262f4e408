"""What the schedules of a chain of modules share: their channels and the two halves of a step."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from simcore.ops import Backward, Channel, Forward, Group, Item, Program, Receive, Send, Worker

__all__ = ["Chain", "data_channel"]


def data_channel() -> Channel:
    """The mini-batches: a source of the data, block 0."""
    return Channel("data", carries=(Item("activation", 0),), source=True)


@dataclass(frozen=True, slots=True)
class Chain:
    """Channels of `modules` modules in a row, indexed by the module that receives.

    `activations[1]` is the data. The last module computes the loss, so what it would send on comes
    back to itself: `activations[modules + 1]` is `gradients[modules]`.
    """

    modules: int
    activations: dict[int, Channel]
    gradients: dict[int, Channel]

    @classmethod
    def of(cls, modules: int) -> "Chain":
        """The channels of a chain of so many modules."""
        activations = {1: data_channel()}
        for k in range(2, modules + 1):
            activations[k] = Channel(f"activations[{k}]", (Item("activation", k - 1),))
        gradients = {
            k: Channel(f"gradients[{k}]", (Item("gradient", k),)) for k in range(1, modules + 1)
        }
        activations[modules + 1] = gradients[modules]
        return cls(modules, activations, gradients)

    def sends(self, k: int) -> tuple[Channel, ...]:
        """What module k sends to."""
        return (self.activations[k + 1], *([self.gradients[k - 1]] if k > 1 else []))

    def receives(self, k: int) -> tuple[Channel, ...]:
        """What module k receives from."""
        return (self.activations[k], self.gradients[k])

    def forward(self, k: int) -> Program:
        """Forward half of a step of module k: take the next input, compute, pass it on."""
        batch = yield Receive(self.activations[k])
        yield from self.forward_of(k, batch)

    def forward_of(self, k: int, batch: int) -> Program:
        """As `forward`, of a batch whose input has been received."""
        yield Forward(k, batch)
        yield Send(self.activations[k + 1], batch)

    def backward(self, k: int) -> Program:
        """Backward half of a step of module k: take the next gradient, compute, pass it down."""
        batch = yield Receive(self.gradients[k])
        yield from self.backward_of(k, batch)

    def backward_of(self, k: int, batch: int) -> Program:
        """As `backward`, of a batch whose gradient has been received."""
        yield Backward(k, batch)
        if k > 1:
            yield Send(self.gradients[k - 1], batch)

    def workers(
        self, program: Callable[[int], Program], joins: tuple[Group, ...] = ()
    ) -> tuple[Worker, ...]:
        """One worker for each module k, which runs `program(k)` and is a member of `joins`."""
        return tuple(
            Worker(f"module {k}", partial(program, k), (k,), self.sends(k), self.receives(k), joins)
            for k in range(1, self.modules + 1)
        )
