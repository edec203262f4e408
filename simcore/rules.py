"""What each operation needs, takes and makes: legality as one table.

The simulator, the validator and the tensor runtimes all read `RULES`; the table in the reference
documentation is drawn from it. A worker's `Holdings` are the items that it holds for each batch,
and the batches whose gradient it has computed but not yet applied.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from simcore.errors import IllegalOperationError
from simcore.ops import (
    COPIED,
    Arrive,
    Backward,
    BackwardInput,
    BackwardStop,
    BackwardThrough,
    BackwardWeight,
    Channel,
    Estimate,
    Evaluate,
    Feedback,
    Forward,
    ForwardError,
    Group,
    Item,
    ItemKind,
    Join,
    Load,
    Merge,
    Operation,
    Pass,
    Play,
    Project,
    Receive,
    Refine,
    Replay,
    Select,
    Send,
    Snapshot,
    Synthesize,
    Tangent,
    TangentStep,
    Update,
    Worker,
)

__all__ = ["RULES", "Holdings", "Rule", "check_declared", "consumed", "made", "needed", "shown"]

LAST: Final = "last"
Wanted = tuple[ItemKind, int | str]


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table. An item is given as its kind and its block relative to the operation's.

    Instead of a number, the block may be `LAST`, that of the last one. `needs` is what must be held
    and stays. `makes_last` is what the last block makes instead of `makes`: there the loss is
    computed. `pending` operations add the batch to the worker's gradients of the block. `timed`
    operations take time on a device; messages take what their link says.
    """

    timed: bool
    meaning: str
    consumes: tuple[Wanted, ...] = ()
    needs: tuple[Wanted, ...] = ()
    makes: tuple[Wanted, ...] = ()
    makes_last: tuple[Wanted, ...] | None = None
    pending: bool = False


_UP: Final[tuple[Wanted, ...]] = (("activation", -1),)

RULES: Final[dict[type[Any], Rule]] = {
    Forward: Rule(
        timed=True,
        meaning="reads the block's weights; version v_f",
        consumes=_UP,
        makes=(("graph", 0), ("activation", 0)),
        makes_last=(("graph", 0), ("gradient", 0)),
    ),
    Play: Rule(
        timed=True,
        meaning="as Forward, but keeps its input for a Replay instead of a graph",
        consumes=_UP,
        makes=(("input", 0), ("activation", 0)),
        makes_last=(("input", 0), ("gradient", 0)),
    ),
    Evaluate: Rule(
        timed=True,
        meaning="as Forward, but keeps nothing: no backward pass follows",
        consumes=_UP,
        makes=(("activation", 0),),
        makes_last=(),
    ),
    ForwardError: Rule(
        timed=True,
        meaning="as Forward; the last block also gives the error to be fed back",
        consumes=_UP,
        makes=(("graph", 0), ("activation", 0)),
        makes_last=(("graph", 0), ("gradient", 0), ("error", 0)),
    ),
    Tangent: Rule(
        timed=True,
        meaning="a forward pass with its derivative along random directions; version v_f",
        consumes=(*_UP, ("derivative", -1)),
        makes=(("tangent", 0), ("activation", 0), ("derivative", 0)),
        makes_last=(("tangent", 0), ("scalar", 0)),
    ),
    TangentStep: Rule(
        timed=True,
        meaning="as Tangent, of a time step: goes on from the state that the one before left",
        consumes=(*_UP, ("derivative", -1)),
        makes=(("tangent", 0), ("activation", 0), ("derivative", 0)),
        makes_last=(("tangent", 0), ("scalar", 0)),
    ),
    Replay: Rule(
        timed=True,
        meaning="the forward pass again; under stash with the same weights, else this is v_f",
        consumes=(("input", 0),),
        makes=(("graph", 0),),
    ),
    Backward: Rule(
        timed=True,
        meaning="adds the batch to the worker's pending gradients of the block; version v_b",
        consumes=(("graph", 0), ("gradient", 0)),
        makes=(("gradient", -1),),
        pending=True,
    ),
    BackwardStop: Rule(
        timed=True,
        meaning="as Backward, but goes no further down",
        consumes=(("graph", 0), ("gradient", 0)),
        pending=True,
    ),
    BackwardInput: Rule(
        timed=True,
        meaning="the gradient of the block's input alone; version v_b",
        consumes=(("graph", 0), ("gradient", 0)),
        makes=(("gradient", -1), ("weight_graph", 0)),
    ),
    BackwardThrough: Rule(
        timed=True,
        meaning="the gradient of the block's input, and of nothing else; version v_b",
        consumes=(("graph", 0), ("gradient", 0)),
        makes=(("gradient", -1),),
    ),
    BackwardWeight: Rule(
        timed=True,
        meaning="adds the batch to the worker's pending gradients of the block",
        consumes=(("weight_graph", 0),),
        pending=True,
    ),
    Project: Rule(
        timed=True,
        meaning="derivative times direction: adds the batch to the pending gradients of the block",
        consumes=(("tangent", 0),),
        needs=(("scalar", LAST),),
        pending=True,
    ),
    Estimate: Rule(
        timed=True,
        meaning="guesses the gradient of the output, from a loss of its own or from the targets",
        needs=(("graph", 0),),
        makes=(("gradient", 0),),
    ),
    Synthesize: Rule(
        timed=True,
        meaning="guesses the gradient of the output by a model that learns to",
        needs=(("graph", 0),),
        makes=(("gradient", 0), ("synthesizer", 0)),
    ),
    Feedback: Rule(
        timed=True,
        meaning="guesses the gradient of the output by a fixed random projection of the error",
        needs=(("error", LAST), ("graph", 0)),
        makes=(("gradient", 0),),
    ),
    Refine: Rule(
        timed=True,
        meaning="trains the model that guesses gradients; the block's version stays",
        consumes=(("synthesizer", 0), ("gradient", 0)),
    ),
    Update: Rule(timed=True, meaning="applies all pending gradients of the block; version v_a"),
    Snapshot: Rule(timed=True, meaning="keeps a copy of the block's weights"),
    Merge: Rule(
        timed=True,
        meaning="adds mean - snapshot to the block's weights; raises the version, counted apart",
    ),
    Load: Rule(
        timed=True,
        meaning="fetches a batch from storage",
        consumes=(("sample", 0),),
        makes=(("activation", 0),),
    ),
    Send: Rule(timed=False, meaning="takes what the channel carries of the batch"),
    Receive: Rule(timed=False, meaning="gives what the channel carries of the batch"),
    Select: Rule(timed=False, meaning="as Receive, of the first channel that has a message"),
    Arrive: Rule(timed=False, meaning="contributes to the group's next round and goes on"),
    Join: Rule(timed=False, meaning="waits until the group's round is over"),
}


def _items(wanted: tuple[Wanted, ...], block: int, blocks: int) -> tuple[Item, ...]:
    found = (Item(kind, blocks if at == LAST else block + int(at)) for kind, at in wanted)
    # Nobody wants the gradient of the data, and no direction moves them.
    of_data = ("gradient", "derivative")
    return tuple(item for item in found if item.kind not in of_data or item.block >= 1)


def consumed(operation: Pass | Load, blocks: int) -> tuple[Item, ...]:
    """The items of its batch that a computation takes, in a network of so many blocks.

    >>> consumed(Backward(2, 5), blocks=3)
    (Item(kind='graph', block=2), Item(kind='gradient', block=2))
    """
    return _items(RULES[type(operation)].consumes, _block(operation), blocks)


def needed(operation: Pass | Load, blocks: int) -> tuple[Item, ...]:
    """The items of its batch that a computation reads without taking them."""
    return _items(RULES[type(operation)].needs, _block(operation), blocks)


def made(operation: Pass | Load, blocks: int) -> tuple[Item, ...]:
    """The items of its batch that a computation makes, in a network of so many blocks.

    >>> made(Forward(3, 0), blocks=3)
    (Item(kind='graph', block=3), Item(kind='gradient', block=3))
    >>> made(Backward(1, 0), blocks=3)  # nobody wants the gradient of the data
    ()
    """
    block, rule = _block(operation), RULES[type(operation)]
    last = block == blocks and rule.makes_last is not None
    return _items((rule.makes_last or ()) if last else rule.makes, block, blocks)


def _block(operation: Pass | Load) -> int:
    return 0 if isinstance(operation, Load) else operation.block


@dataclass(slots=True)
class Holdings:
    """What one worker holds. Every method raises `IllegalOperationError` when a rule is broken.

    `joined` are the blocks whose gradients others have contributed to since the last update;
    `contributed` those that it has contributed to a round and not yet joined; `snapshots` say of
    each block with a snapshot whether a round has made it a mean.
    """

    worker: str
    blocks: int
    items: set[tuple[ItemKind, int, int]] = field(default_factory=set)
    pending: dict[int, list[int]] = field(default_factory=dict)
    joined: set[int] = field(default_factory=set)
    contributed: set[int] = field(default_factory=set)
    snapshots: dict[int, bool] = field(default_factory=dict)

    def compute(self, operation: Pass | Update | Snapshot | Merge | Load) -> None:
        """Take what the computation needs and add what it makes."""
        match operation:
            case Update(block):
                if block in self.contributed and block not in self.snapshots:
                    reason = "its gradients are in a round that has not been joined"
                    raise self._illegal(operation, reason)
                own = self.pending.pop(block, None)
                if not own and block not in self.joined:
                    reason = "no gradient of this block has been computed since"
                    raise self._illegal(operation, reason)
                self.joined.discard(block)
                return
            case Snapshot(block):
                if block in self.snapshots:
                    raise self._illegal(operation, "the last snapshot has not been merged")
                self.snapshots[block] = False
                return
            case Merge(block):
                if block not in self.snapshots:
                    raise self._illegal(operation, "there is no snapshot of this block")
                if not self.snapshots.pop(block):
                    raise self._illegal(operation, "no round has averaged the snapshot")
                return
        self.take(consumed(operation, self.blocks), operation.batch, operation)
        for kind, block in needed(operation, self.blocks):
            self._held(kind, block, operation.batch, operation)
        self.give(made(operation, self.blocks), operation.batch, operation)
        if not isinstance(operation, Load) and RULES[type(operation)].pending:
            self.pending.setdefault(operation.block, []).append(operation.batch)

    def arrive(self, operation: Arrive | Join) -> bool:
        """Contribute what there is of the block to a round; whether there is something."""
        block = operation.block
        if block in self.contributed:
            raise self._illegal(operation, "the last round of this block has not been joined")
        if block in self.pending or block in self.snapshots:
            self.contributed.add(block)
        return block in self.contributed

    def join(self, block: int, others: bool) -> None:
        """Take the result of a round to which `others` contributed, or only this worker."""
        self.contributed.discard(block)
        if block in self.snapshots:
            self.snapshots[block] = True
        elif others:
            self.joined.add(block)

    def take(self, items: tuple[Item, ...], batch: int, operation: Operation) -> None:
        """Remove items of a batch; each must be there. A `Send` copies what is to be copied."""
        for kind, block in items:
            self._held(kind, block, batch, operation)
            if not (isinstance(operation, Send) and kind in COPIED):
                self.items.remove((kind, block, batch))

    def give(self, items: tuple[Item, ...], batch: int, operation: Operation) -> None:
        """Add items of a batch; none may be there already, but for what a `Send` has copied."""
        for kind, block in items:
            if kind not in COPIED and (kind, block, batch) in self.items:
                reason = f"already holds the {kind} of block {block} for batch {batch}"
                raise self._illegal(operation, reason)
            self.items.add((kind, block, batch))

    def end(self) -> None:
        """Check that nothing is left over: every gradient applied, every item used."""
        for block, batches in self.pending.items():
            raise IllegalOperationError(
                f"{self.worker} ended with unapplied gradients of block {block}, batches {batches}"
            )
        for block in sorted(self.snapshots)[:1]:
            raise IllegalOperationError(
                f"{self.worker} ended with a snapshot of block {block} that it did not merge"
            )
        left = (item for item in sorted(self.items) if item[0] not in COPIED)
        for kind, block, batch in left:
            raise IllegalOperationError(
                f"{self.worker} ended holding the {kind} of block {block} for batch {batch}, unused"
            )

    def _held(self, kind: ItemKind, block: int, batch: int, operation: Operation) -> None:
        if (kind, block, batch) not in self.items:
            reason = f"holds no {kind} of block {block} for batch {batch}"
            raise self._illegal(operation, reason)

    def _illegal(self, operation: Operation, reason: str) -> IllegalOperationError:
        return IllegalOperationError(f"{self.worker} may not do {shown(operation)}: {reason}")


def check_declared(worker: Worker, operation: Operation) -> None:
    """Check that a worker uses only blocks, channels and groups that it has declared."""
    used: tuple[object, ...]
    declared: tuple[object, ...]
    match operation:
        case Send(channel):
            used, declared, use = (channel,), worker.sends, "sends to"
        case Receive(channel):
            used, declared, use = (channel,), worker.receives, "receives from"
        case Select(channels):
            used, declared, use = channels, worker.receives, "receives from"
        case Arrive(group, block) | Join(group, block):
            used, declared, use = (group,), worker.joins, "joins"
            if block and block not in group.blocks:
                used, declared, use = (block,), group.blocks, f"averages in {group.name}"
        case Load():
            return
        case _ if type(operation) in RULES:
            used, declared, use = (operation.block,), worker.blocks, "computes with"
        case _:
            reason = "it is no operation of simcore.ops"
            raise IllegalOperationError(f"{worker.name} may not do {operation!r}: {reason}")
    if not used or any(each not in declared for each in used):
        raise IllegalOperationError(
            f"{worker.name} may not do {shown(operation)}: it must declare what it {use}"
        )


def shown(operation: Operation) -> str:
    """An operation as one reads it: `Forward(2, 5)`, `Send(gradients[1], 5)`."""
    if type(operation) not in RULES:
        return repr(operation)
    fields: list[str] = []
    for name in operation.__match_args__:
        value = getattr(operation, name)
        if isinstance(value, tuple):
            fields += [channel.name for channel in value]
        elif isinstance(value, Channel | Group):
            fields.append(value.name)
        elif name != "block" or value or not isinstance(operation, Arrive | Join):
            fields.append(str(value))
    return f"{type(operation).__name__}({', '.join(fields)})"
