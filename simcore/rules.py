"""What each operation needs, takes and makes: legality as one table.

The simulator, the validator and the tensor runtimes all read `RULES`; the table in the reference
documentation is drawn from it. A worker's `Holdings` are the items that it holds for each batch,
and the batches whose gradient it has computed but not yet applied.
"""

from dataclasses import dataclass, field

from simcore.errors import IllegalOperationError
from simcore.ops import (
    Backward,
    Forward,
    Item,
    ItemKind,
    Operation,
    Receive,
    Select,
    Send,
    Update,
    Worker,
)

__all__ = ["RULES", "Holdings", "Rule", "check_declared", "consumed", "made", "shown"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table. An item is given as its kind and its block relative to the operation's.

    `makes_last` is what the last block makes instead of `makes`: there the loss is computed.
    `timed` operations take time on a device; messages take what their link says.
    """

    timed: bool
    meaning: str
    consumes: tuple[tuple[ItemKind, int], ...] = ()
    makes: tuple[tuple[ItemKind, int], ...] = ()
    makes_last: tuple[tuple[ItemKind, int], ...] | None = None


RULES: dict[type[Operation], Rule] = {
    Forward: Rule(
        timed=True,
        meaning="reads the block's weights; version v_f",
        consumes=(("activation", -1),),
        makes=(("graph", 0), ("activation", 0)),
        makes_last=(("graph", 0), ("gradient", 0)),
    ),
    Backward: Rule(
        timed=True,
        meaning="adds the batch to the worker's pending gradients of the block; version v_b",
        consumes=(("graph", 0), ("gradient", 0)),
        makes=(("gradient", -1),),
    ),
    Update: Rule(timed=True, meaning="applies all pending gradients of the block; version v_a"),
    Send: Rule(timed=False, meaning="takes what the channel carries of the batch"),
    Receive: Rule(timed=False, meaning="gives what the channel carries of the batch"),
    Select: Rule(timed=False, meaning="as Receive, of the first channel that has a message"),
}


def consumed(operation: Forward | Backward) -> tuple[Item, ...]:
    """The items of its batch that a computation takes.

    >>> consumed(Backward(2, 5))
    (Item(kind='graph', block=2), Item(kind='gradient', block=2))
    """
    block = operation.block
    return tuple(Item(kind, block + offset) for kind, offset in RULES[type(operation)].consumes)


def made(operation: Forward | Backward, blocks: int) -> tuple[Item, ...]:
    """The items of its batch that a computation makes, in a network of so many blocks.

    >>> made(Forward(3, 0), blocks=3)
    (Item(kind='graph', block=3), Item(kind='gradient', block=3))
    >>> made(Backward(1, 0), blocks=3)  # nobody wants the gradient of the data
    ()
    """
    block, rule = operation.block, RULES[type(operation)]
    makes = rule.makes if block < blocks or rule.makes_last is None else rule.makes_last
    items = (Item(kind, block + offset) for kind, offset in makes)
    return tuple(item for item in items if item.kind != "gradient" or item.block >= 1)


@dataclass(slots=True)
class Holdings:
    """What one worker holds. Every method raises `IllegalOperationError` when a rule is broken."""

    worker: str
    blocks: int
    items: set[tuple[ItemKind, int, int]] = field(default_factory=set)
    pending: dict[int, list[int]] = field(default_factory=dict)

    def compute(self, operation: Forward | Backward | Update) -> None:
        """Take what the computation needs and add what it makes."""
        if isinstance(operation, Update):
            if not self.pending.pop(operation.block, None):
                raise self._illegal(operation, "no gradient of this block has been computed since")
            return
        self.take(consumed(operation), operation.batch, operation)
        self.give(made(operation, self.blocks), operation.batch, operation)
        if isinstance(operation, Backward):
            self.pending.setdefault(operation.block, []).append(operation.batch)

    def take(self, items: tuple[Item, ...], batch: int, operation: Operation) -> None:
        """Remove items of a batch; each must be there."""
        for kind, block in items:
            try:
                self.items.remove((kind, block, batch))
            except KeyError:
                reason = f"holds no {kind} of block {block} for batch {batch}"
                raise self._illegal(operation, reason) from None

    def give(self, items: tuple[Item, ...], batch: int, operation: Operation) -> None:
        """Add items of a batch; none may be there already."""
        for kind, block in items:
            if (kind, block, batch) in self.items:
                reason = f"already holds the {kind} of block {block} for batch {batch}"
                raise self._illegal(operation, reason)
            self.items.add((kind, block, batch))

    def end(self) -> None:
        """Check that nothing is left over: every gradient applied, every item used."""
        for block, batches in self.pending.items():
            raise IllegalOperationError(
                f"{self.worker} ended with unapplied gradients of block {block}, batches {batches}"
            )
        for kind, block, batch in sorted(self.items)[:1]:
            raise IllegalOperationError(
                f"{self.worker} ended holding the {kind} of block {block} for batch {batch}, unused"
            )

    def _illegal(self, operation: Operation, reason: str) -> IllegalOperationError:
        return IllegalOperationError(f"{self.worker} may not do {shown(operation)}: {reason}")


def check_declared(worker: Worker, operation: Operation) -> None:
    """Check that a worker uses only blocks and channels that it has declared."""
    used: tuple[object, ...]
    declared: tuple[object, ...]
    match operation:
        case Send(channel):
            used, declared, use = (channel,), worker.sends, "sends to"
        case Receive(channel):
            used, declared, use = (channel,), worker.receives, "receives from"
        case Select(channels):
            used, declared, use = channels, worker.receives, "receives from"
        case Forward() | Backward() | Update():
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
    match operation:
        case Send(channel, batch):
            return f"Send({channel.name}, {batch})"
        case Receive(channel):
            return f"Receive({channel.name})"
        case Select(channels):
            return f"Select({', '.join(channel.name for channel in channels)})"
        case Update(block):
            return f"Update({block})"
        case Forward(block, batch) | Backward(block, batch):
            return f"{type(operation).__name__}({block}, {batch})"
