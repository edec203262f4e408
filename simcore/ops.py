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

A class that extends another is a variant of it: it takes and makes other items, but it is timed,
costed and traced as the same kind.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

__all__ = [
    "COPIED",
    "KINDS",
    "Arrive",
    "Backward",
    "BackwardInput",
    "BackwardStop",
    "BackwardThrough",
    "BackwardWeight",
    "Channel",
    "Estimate",
    "Evaluate",
    "Feedback",
    "Forward",
    "ForwardError",
    "Group",
    "Item",
    "ItemKind",
    "Join",
    "Load",
    "Merge",
    "Operation",
    "Pass",
    "Play",
    "Program",
    "Project",
    "Receive",
    "Refine",
    "Replay",
    "Select",
    "Send",
    "Snapshot",
    "Synthesize",
    "Tangent",
    "TangentStep",
    "Update",
    "Worker",
    "kind_of",
]

ItemKind = Literal[
    "sample",
    "activation",
    "derivative",
    "input",
    "graph",
    "gradient",
    "weight_graph",
    "tangent",
    "scalar",
    "error",
    "synthesizer",
]


class Item(NamedTuple):
    """Something that a worker holds for one batch, and that a channel may carry.

    * `sample`, of block 0: where a batch lies in storage, not yet loaded.
    * `activation` of a block: its output; block 0 is the data, with its labels.
    * `derivative` of a block: that of its output along each direction, as large as the output.
    * `input` of a block: what its forward pass took in, kept to run it again.
    * `graph` of a block: what its forward pass keeps for its backward pass.
    * `gradient` of a block: of the loss with respect to that block's output.
    * `weight_graph` of a block: what is left of the graph for the gradient of the weights.
    * `tangent` of a block: the random direction of its weights, or the seed of it.
    * `scalar`, of the last block: the derivative of the loss along each direction.
    * `error`, of the last block: the loss gradient at the network's output, to be fed back.
    * `synthesizer` of a block: what its model of gradients keeps in order to learn.
    """

    kind: ItemKind
    block: int


# A Send copies these instead of moving them: every module gets the same number or vector.
COPIED: Final[tuple[ItemKind, ...]] = ("scalar", "error")


@dataclass(frozen=True, eq=False, slots=True)
class Channel:
    """A first-in first-out queue at the receiver.

    `carries` says which items of a batch one message moves. `capacity` is the number of messages
    that may be on their way or unread (None: unbounded); a `Send` to a full channel waits. A
    `source` has no sender: it holds its batches from the start and is closed behind the last. These
    are all, or of each `stride` runs of `run` batches the one that `first` says.
    """

    name: str
    carries: tuple[Item, ...]
    capacity: int | None = None
    source: bool = False
    first: int = 0
    stride: int = 1
    run: int = 1

    def held(self, batches: int) -> list[int]:
        """What a source holds of so many batches.

        >>> Channel("data", (), source=True, first=1, stride=2, run=2).held(9)
        [2, 3, 6, 7]
        """
        starts = range(self.first * self.run, batches, self.stride * self.run)
        return [b for start in starts for b in range(start, min(start + self.run, batches))]


@dataclass(frozen=True, eq=False, slots=True)
class Group:
    """The workers that declare it, who synchronise or reduce together.

    Every member arrives as often as the others, unless it ends; the n-th arrivals of all members
    make the n-th round. `blocks` are those whose gradients or weights a round may average. A group
    that reduces to the `norm` adds up the squares of all its members' pending gradients instead,
    for them to be scaled down together; its rounds are of no block.
    """

    name: str
    blocks: tuple[int, ...] = ()
    reduces: Literal["mean", "norm"] = "mean"


@dataclass(frozen=True, slots=True)
class Forward:
    """Compute a block's output for a batch; keeps the graph. The last block computes the loss."""

    block: int
    batch: int


@dataclass(frozen=True, slots=True)
class Play(Forward):
    """A forward pass without graph that keeps its input, to be run again by a `Replay`."""


@dataclass(frozen=True, slots=True)
class Evaluate:
    """A forward pass that keeps nothing: no backward pass of the block follows."""

    block: int
    batch: int


@dataclass(frozen=True, slots=True)
class ForwardError(Forward):
    """As `Forward`; the last block also gives the error at the network's output."""


@dataclass(frozen=True, slots=True)
class Tangent:
    """A forward pass with its derivative along a random direction of the weights (one or more).

    Keeps the direction, but no graph. The last block computes the derivative of the loss. All
    passes of a mini-batch share its directions, which are drawn at the first.
    """

    block: int
    batch: int


@dataclass(frozen=True, slots=True)
class TangentStep(Tangent):
    """As `Tangent`, of a time step: goes on from the state that the step before left in the block.

    The passes of a mini-batch are the time steps of its sequences; the first starts from no state.
    """


@dataclass(frozen=True, slots=True)
class Replay:
    """Run a forward pass again on the kept input, now with a graph."""

    block: int
    batch: int


@dataclass(frozen=True, slots=True)
class Backward:
    """Turn the gradient of a block's output into those of its weights and of its input."""

    block: int
    batch: int


@dataclass(frozen=True, slots=True)
class BackwardStop(Backward):
    """A backward pass that goes no further down: no gradient of the block's input."""


@dataclass(frozen=True, slots=True)
class BackwardInput:
    """The half of a backward pass that the block below waits for: the gradient of the input."""

    block: int
    batch: int


@dataclass(frozen=True, slots=True)
class BackwardThrough(BackwardInput):
    """The gradient of the input, with no gradient of the weights to follow: the block stays."""


@dataclass(frozen=True, slots=True)
class BackwardWeight:
    """The other half of a backward pass: the gradient of the weights."""

    block: int
    batch: int


@dataclass(frozen=True, slots=True)
class Project:
    """Turn the kept direction and the derivative along it into a gradient of the weights."""

    block: int
    batch: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """Guess the gradient of a block's output: from a loss of its own, or from the targets."""

    block: int
    batch: int


@dataclass(frozen=True, slots=True)
class Synthesize(Estimate):
    """Let a model guess the gradient from the output; keeps what the model needs to learn."""


@dataclass(frozen=True, slots=True)
class Feedback(Estimate):
    """Take a fixed random projection of the error for the gradient."""


@dataclass(frozen=True, slots=True)
class Refine:
    """Train the model that guesses gradients with the gradient that came from above."""

    block: int
    batch: int


@dataclass(frozen=True, slots=True)
class Update:
    """Apply all gradients of the block that this worker has computed since its last update."""

    block: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Keep a copy of the block's weights, to be averaged with those of other replicas."""

    block: int


@dataclass(frozen=True, slots=True)
class Merge:
    """Add to the block's weights what averaging changed in the snapshot: mean - snapshot."""

    block: int


@dataclass(frozen=True, slots=True)
class Load:
    """Fetch a batch from storage."""

    batch: int


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


@dataclass(frozen=True, slots=True)
class Arrive:
    """Contribute to the group's next round and go on; a `Join` waits for its result.

    With a block, the contribution is this worker's pending gradients of it, or its snapshot.
    """

    group: Group
    block: int = 0


@dataclass(frozen=True, slots=True)
class Join:
    """Wait until the group's round is over; arrives first, unless this worker has by `Arrive`.

    The last arrival starts the round, which takes the time of a ring all-reduce; none, where there
    is nothing to average. All members then hold the mean of what was contributed. Answer: whether
    anything was.
    """

    group: Group
    block: int = 0


Pass = (
    Forward
    | Evaluate
    | Tangent
    | Replay
    | Backward
    | BackwardInput
    | BackwardWeight
    | Project
    | Estimate
    | Refine
)
Operation = Pass | Update | Snapshot | Merge | Load | Send | Receive | Select | Arrive | Join

# The order is the code that traces store. A Select leaves the row of the Receive that it became.
KINDS: Final[tuple[type[Any], ...]] = (
    Forward,
    Backward,
    Update,
    Send,
    Receive,
    Evaluate,
    Tangent,
    Replay,
    BackwardInput,
    BackwardWeight,
    Project,
    Estimate,
    Refine,
    Snapshot,
    Merge,
    Load,
    Arrive,
    Join,
    BackwardThrough,
)
_NAMES: Final = {
    kind: "".join(f"_{c.lower()}" if c.isupper() else c for c in kind.__name__)[1:]
    for kind in KINDS
}


def kind_of(operation: type[Any]) -> str:
    """The kind of an operation's class, in the words of traces: a variant has that of its parent.

    >>> kind_of(Play), kind_of(BackwardInput)
    ('forward', 'backward_input')
    """
    return next(_NAMES[each] for each in operation.__mro__ if each in _NAMES)


# What a program is sent depends on what it yielded, which Python's types cannot express.
Program = Generator[Operation, Any, None]


@dataclass(frozen=True, eq=False, slots=True)
class Worker:
    """A named program, the blocks that it computes with, and the channels that it uses.

    `joins` are the groups that it is a member of. Workers of one `replica` share one set of
    weights; replicas have a copy each.
    """

    name: str
    program: Callable[[], Program]
    blocks: tuple[int, ...]
    sends: tuple[Channel, ...] = ()
    receives: tuple[Channel, ...] = ()
    joins: tuple[Group, ...] = ()
    replica: int = 0
