"""The vocabulary: what a worker program may yield. Operations are defined here and nowhere else.

A worker program is a generator. It yields operations and is sent back their answers; it knows no
clock, no tensor and no interpreter:

>>> activations = Channel("activations[2]", carries=(Item("activation", 1),))
>>> def program():
...     batch = yield Receive(activations)
...     yield Forward(2, batch)
>>> running = program()
>>> next(running).channel.name
'activations[2]'
>>> running.send(7)
Forward(block=2, batch=7)
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

__all__ = [
    "KINDS",
    "Backward",
    "Channel",
    "Forward",
    "Item",
    "ItemKind",
    "Operation",
    "Program",
    "Receive",
    "Select",
    "Send",
    "Update",
    "Worker",
]

ItemKind = Literal["activation", "gradient", "graph"]


class Item(NamedTuple):
    """Something that a worker holds for one batch, and that a channel may carry.

    * `activation` of a block: its output; block 0 is the data, with its labels.
    * `gradient` of a block: of the loss with respect to that block's output.
    * `graph` of a block: what its forward pass keeps for its backward pass.
    """

    kind: ItemKind
    block: int


@dataclass(frozen=True, eq=False, slots=True)
class Channel:
    """A first-in first-out queue at the receiver.

    `carries` says which items of a batch one message moves. `capacity` is the number of messages
    that may be on their way or unread (None: unbounded); a `Send` to a full channel waits. A
    `source` has no sender: it holds batches 0, 1, ... from the start and is closed behind the last.
    """

    name: str
    carries: tuple[Item, ...]
    capacity: int | None = None
    source: bool = False


@dataclass(frozen=True, slots=True)
class Forward:
    """Compute a block's output for a batch; keeps the graph. The last block computes the loss."""

    block: int
    batch: int


@dataclass(frozen=True, slots=True)
class Backward:
    """Turn the gradient of a block's output into those of its weights and of its input."""

    block: int
    batch: int


@dataclass(frozen=True, slots=True)
class Update:
    """Apply all gradients of the block that this worker has computed since its last update."""

    block: int


@dataclass(frozen=True, slots=True)
class Send:
    """Put what the channel carries of a batch on its way; waits while the channel is full."""

    channel: Channel
    batch: int


@dataclass(frozen=True, slots=True)
class Receive:
    """Take the oldest message. Answer: its batch, or None once the channel is closed and empty."""

    channel: Channel


@dataclass(frozen=True, slots=True)
class Select:
    """Take the oldest message of the first channel, in the listed order, that has one.

    Waits while none has. Answer: `(channel, batch)`, or None once all are closed and empty.
    """

    channels: tuple[Channel, ...]


Operation = Forward | Backward | Update | Send | Receive | Select

# The order is the code that traces store. A Select leaves the row of the Receive that it became.
KINDS: tuple[type[Forward | Backward | Update | Send | Receive], ...] = (
    Forward,
    Backward,
    Update,
    Send,
    Receive,
)

# What a program is sent depends on what it yielded, which Python's types cannot express.
Program = Generator[Operation, Any, None]


@dataclass(frozen=True, eq=False, slots=True)
class Worker:
    """A named program, the blocks that it computes with, and the channels that it uses."""

    name: str
    program: Callable[[], Program]
    blocks: tuple[int, ...]
    sends: tuple[Channel, ...] = ()
    receives: tuple[Channel, ...] = ()
