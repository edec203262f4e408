"""The validator: runs the programs without time and checks every rule.

It runs one worker after the other, each until it must wait. Where every channel has one sender and
one receiver and no program uses `Select`, what each worker does does not depend on timing, so the
verdict holds for all timings. Elsewhere it tries random orders too, and the verdict says how many.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from simcore.errors import IllegalOperationError
from simcore.grid import deadlock, grid
from simcore.ledger import Ledger
from simcore.mailbox import Mailbox
from simcore.ops import (
    Arrive,
    Channel,
    Join,
    Load,
    Merge,
    Operation,
    Program,
    Receive,
    Select,
    Send,
    Snapshot,
    Update,
    kind_of,
)
from simcore.patience import Patience
from simcore.rounds import Rounds
from simcore.rules import Holdings, check_declared, shown
from simcore.schedule import Schedule
from simcore.trace import KIND, Recorder

__all__ = ["Verdict", "operations_used", "validate"]

_SEEN: Final = 1000  # operations of each worker after which its kinds of operation are known
_AT_ONCE: Final = 4  # operations of a worker in a row, at most, in a random order


@dataclass(frozen=True, slots=True)
class Verdict:
    """Legal runs: what each worker did, as `(kind, block or channel, batch)`, in its order.

    `most_messages` is the largest number of unread messages that each channel held. Unless it is
    `conclusive`, the verdict is that of so many `orders` that were tried: `operations` are those of
    the first, and `differing` are the workers that did something else in others.
    """

    operations: tuple[tuple[tuple[str, int, int], ...], ...]
    most_messages: tuple[int, ...]
    conclusive: bool
    orders: int
    differing: tuple[int, ...]


def validate(
    schedule: Schedule,
    order: Sequence[int] | None = None,
    *,
    orders: int = 8,
    generator: Random | None = None,
    every_batch: bool = True,
) -> Verdict:
    """Run a schedule's programs without time.

    Workers go on by their number, each until it must wait; or by `order`, a list of all workers,
    and then in this order alone. Where timing decides what workers do, so many more random `orders`
    are tried, drawn from `generator` (by default one with a fixed seed). Without `every_batch`
    batches may be left in a source, as in a schedule that is no training.

    Raises `IllegalOperationError` for a broken rule and `DeadlockError` for programs that wait for
    ever, both with the worker x step grid.
    """
    first = _Untimed(schedule)
    first.run(order if order is not None else range(len(schedule.workers)), every_batch)
    runs = [first]
    if order is None and not first.conclusive:
        generator = generator or Random(0)
        for _ in range(orders):
            runs.append(_Untimed(schedule))
            runs[-1].run_at_random(generator, every_batch)
    return Verdict(
        tuple(tuple(done) for done in first.done),
        tuple(
            max(mailbox.most_slots_taken for mailbox in each)
            for each in zip(*(run.mailboxes for run in runs), strict=True)
        ),
        first.conclusive,
        len(runs),
        tuple(w for w, did in enumerate(first.done) if any(run.done[w] != did for run in runs)),
    )


def operations_used(schedule: Schedule, most: int = _SEEN) -> set[type[Operation]]:
    """The kinds of operation among the first ones of each worker, `most` of them at most.

    Raises as `validate` for what is wrong until then.
    """
    run = _Untimed(schedule)
    moved = [True]
    while any(moved):
        moved = [len(done) < most and run.telling(w, 1) for w, done in enumerate(run.done)]
    return run.used


class _Untimed:
    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.ledger = Ledger(schedule.blocks, schedule.weights, schedule.replicas)
        self.rounds = Rounds(schedule, lambda *_: 0, _never, lambda _: None)
        self.recorder = Recorder()
        self.number = {channel: n for n, channel in enumerate(schedule.channels)}
        self.mailboxes = [Mailbox.of(schedule, channel) for channel in schedule.channels]
        self.programs: list[Program] = [worker.program() for worker in schedule.workers]
        self.holdings = [Holdings(worker.name, schedule.blocks) for worker in schedule.workers]
        self.answers: list[Any] = [None] * len(schedule.workers)
        self.at: list[Operation | None] = [None] * len(schedule.workers)
        self.ended = [False] * len(schedule.workers)
        self.done: list[list[tuple[str, int, int]]] = [[] for _ in schedule.workers]
        self.used: set[type[Operation]] = set()
        self.patience = Patience(schedule)

    @property
    def conclusive(self) -> bool:
        """Whether every channel has one sender (or is a source), one receiver, and no Select."""
        return Select not in self.used and all(
            len(self.schedule.receivers[channel]) == 1
            and (channel.source or len(self.schedule.senders[channel]) == 1)
            for channel in self.schedule.channels
        )

    @property
    def waiting(self) -> dict[int, str]:
        return {w: shown(operation) for w, operation in enumerate(self.at) if operation is not None}

    def run(self, order: Sequence[int], every_batch: bool) -> None:
        """Run all programs; the first worker of the order that can go on does."""
        while any(self.telling(worker) for worker in order):
            pass
        self.check_end(every_batch)

    def run_at_random(self, generator: Random, every_batch: bool) -> None:
        """Run all programs; a worker at random goes on, for a few operations."""
        able, stuck = list(range(len(self.programs))), list[int]()
        while able:
            at = generator.randrange(len(able))
            able[at], able[-1] = able[-1], able[at]
            if self.telling(able[-1], generator.randint(1, _AT_ONCE)):
                able += stuck
                stuck.clear()
            else:
                stuck.append(able.pop())
        self.check_end(every_batch)

    def telling(self, worker: int, most: int | None = None) -> bool:
        """As `advance`; an error shows what all workers did."""
        try:
            return self.advance(worker, most)
        except IllegalOperationError as error:
            raise self.with_grid(str(error), worker) from None

    def with_grid(self, message: str, culprit: int | None = None) -> IllegalOperationError:
        last = {w: "goes on" for w, ended in enumerate(self.ended) if not ended}
        last |= {worker: f"waits at {operation}" for worker, operation in self.waiting.items()}
        if culprit in self.waiting:
            last[culprit] = f"may not do {self.waiting[culprit]}"
        return IllegalOperationError(message, grid(self.schedule, self.recorder, last))

    def advance(self, worker: int, most: int | None = None) -> bool:
        """Run a worker until it must wait or ends, or for `most` operations; whether it did any."""
        moved, left = False, most
        while not self.ended[worker] and left != 0:
            left = None if left is None else left - 1
            operation = self.at[worker]
            if operation is None:
                try:
                    operation = self.programs[worker].send(self.answers[worker])
                except StopIteration:
                    self.end(worker)
                    return True
                self.at[worker] = operation
                check_declared(self.schedule.workers[worker], operation)
                self.patience.note(worker, operation)
                self.used.add(type(operation))
            if not self.perform(worker, operation):
                return moved
            self.at[worker], moved = None, True
        return moved

    def perform(self, worker: int, operation: Operation) -> bool:
        """Do an operation if it can be done now."""
        self.answers[worker] = None
        match operation:
            case Send(channel, batch):
                mailbox = self.mailboxes[self.number[channel]]
                if not mailbox.take_slot():
                    return False
                self.holdings[worker].take(channel.carries, batch, operation)
                mailbox.depart()
                mailbox.arrive(batch)
                self.record(worker, operation, self.number[channel], batch)
            case Receive(channel):
                return self.receive(worker, (channel,), operation)
            case Select(channels):
                return self.receive(worker, channels, operation)
            case Arrive(group, block) | Join(group, block):
                if not self.meet(worker, operation):
                    return False
                self.record(worker, operation, self.rounds.number[group], block)
            case Update(block):
                self.holdings[worker].compute(operation)
                self.ledger.update(worker, block)
                self.record(worker, operation, block, -1)
            case Merge(block):
                self.holdings[worker].compute(operation)
                self.ledger.merge(worker, block)
                self.record(worker, operation, block, -1)
            case Snapshot(block):
                self.holdings[worker].compute(operation)
                self.record(worker, operation, block, -1)
            case Load(batch):
                self.holdings[worker].compute(operation)
                self.record(worker, operation, 0, batch)
            case _:
                self.holdings[worker].compute(operation)
                self.ledger.begin(worker, operation)
                self.ledger.end(worker, operation)
                self.record(worker, operation, operation.block, operation.batch)
        return True

    def meet(self, worker: int, operation: Arrive | Join) -> bool:
        """Arrive for a round, once; whether the worker can go on."""
        group, block = operation.group, operation.block
        if isinstance(operation, Arrive) or not self.rounds.has_arrived(worker, group, block):
            contributes = self.holdings[worker].arrive(operation)
            self.rounds.arrive(worker, group, block, contributes, 0)
        if isinstance(operation, Arrive):
            return True
        finished = self.rounds.join(worker, group, block)
        if finished is None:
            return False
        self.holdings[worker].join(block, others=bool(finished.contributors - {worker}))
        self.answers[worker] = bool(finished.contributors)
        return True

    def receive(
        self, worker: int, channels: tuple[Channel, ...], operation: Receive | Select
    ) -> bool:
        for channel in channels:
            mailbox = self.mailboxes[self.number[channel]]
            if mailbox.arrived:
                batch = mailbox.arrived.popleft()
                mailbox.free_slot()
                self.holdings[worker].give(channel.carries, batch, operation)
                self.record(worker, Receive(channel), self.number[channel], batch)
                chosen = isinstance(operation, Select)
                self.answers[worker] = (channel, batch) if chosen else batch
                return True
        return all(self.mailboxes[self.number[channel]].closed for channel in channels)

    def record(self, worker: int, operation: Operation, block: int, batch: int) -> None:
        kind = kind_of(type(operation))
        index = len(self.done[worker])
        self.done[worker].append((kind, block, batch))
        self.recorder.span(index, index, worker, index, KIND[kind], block, batch, -1)

    def check_end(self, every_batch: bool) -> None:
        """No worker waits, and every message that one could receive has been received."""
        if self.waiting:
            raise deadlock(self.schedule, self.recorder, self.waiting)
        for channel, mailbox in zip(self.schedule.channels, self.mailboxes, strict=True):
            expected = every_batch or not channel.source
            if mailbox.arrived and expected and self.schedule.receivers[channel]:
                batches = ", ".join(map(str, list(mailbox.arrived)[:5]))
                raise self.with_grid(
                    f"{channel.name} still holds what nobody received: batches {batches}"
                )

    def end(self, worker: int) -> None:
        self.ended[worker] = True
        self.holdings[worker].end()
        self.rounds.leave(worker, 0)
        for channel in self.schedule.workers[worker].sends:
            self.mailboxes[self.number[channel]].open_senders -= 1


def _never(moment: int, action: object) -> None:
    raise AssertionError("without time there is nothing to wait for")
