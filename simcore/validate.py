"""The validator: runs the programs without time and checks every rule.

It runs one worker after the other, each until it must wait. Where every channel has one sender and
one receiver and no program uses `Select`, what each worker does does not depend on timing, so the
verdict holds for all timings; elsewhere it is the verdict of one order, and `conclusive` says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from simcore.errors import IllegalOperationError
from simcore.grid import deadlock
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
from simcore.rounds import Rounds
from simcore.rules import Holdings, check_declared, shown
from simcore.schedule import Schedule
from simcore.trace import KIND, Recorder

__all__ = ["Verdict", "validate"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A legal run: what each worker did, as `(kind, block or channel, batch)`, in its order.

    `most_messages` is the largest number of unread messages that each channel held.
    """

    operations: tuple[tuple[tuple[str, int, int], ...], ...]
    most_messages: tuple[int, ...]
    conclusive: bool


def validate(schedule: Schedule, order: Sequence[int] | None = None) -> Verdict:
    """Run a schedule's programs without time.

    `order` lists all workers; the first of them that can go on does, until it must wait. Raises
    `IllegalOperationError` for a broken rule and `DeadlockError`, with the worker x step grid, for
    programs that wait for ever.
    """
    run = _Untimed(schedule)
    numbers = list(order) if order is not None else list(range(len(schedule.workers)))
    while any(run.advance(worker) for worker in numbers):
        pass
    if run.waiting:
        raise deadlock(schedule, run.recorder, run.waiting)
    run.check_received()
    return Verdict(
        tuple(tuple(done) for done in run.done),
        tuple(mailbox.most_slots_taken for mailbox in run.mailboxes),
        run.conclusive,
    )


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
        self.selects = False

    @property
    def conclusive(self) -> bool:
        """Whether every channel has one sender (or is a source), one receiver, and no Select."""
        return not self.selects and all(
            len(self.schedule.receivers[channel]) == 1
            and (channel.source or len(self.schedule.senders[channel]) == 1)
            for channel in self.schedule.channels
        )

    @property
    def waiting(self) -> dict[int, str]:
        return {w: shown(operation) for w, operation in enumerate(self.at) if operation is not None}

    def advance(self, worker: int) -> bool:
        """Run a worker until it must wait or ends; whether it did anything."""
        moved = False
        while not self.ended[worker]:
            operation = self.at[worker]
            if operation is None:
                try:
                    operation = self.programs[worker].send(self.answers[worker])
                except StopIteration:
                    self.end(worker)
                    return True
                check_declared(self.schedule.workers[worker], operation)
                self.at[worker] = operation
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
                self.selects = True
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
            contributes = block in self.holdings[worker].pending
            self.rounds.arrive(worker, group, block, contributes, 0)
        if isinstance(operation, Arrive):
            return True
        finished = self.rounds.join(worker, group, block)
        if finished is None:
            return False
        if finished.contributors - {worker}:
            self.holdings[worker].joined.add(block)
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

    def check_received(self) -> None:
        """Every message that a worker could receive has been received."""
        for channel, mailbox in zip(self.schedule.channels, self.mailboxes, strict=True):
            if mailbox.arrived and not channel.source and self.schedule.receivers[channel]:
                batches = ", ".join(map(str, list(mailbox.arrived)[:5]))
                raise IllegalOperationError(
                    f"{channel.name} still holds messages that nobody received: batches {batches}"
                )

    def end(self, worker: int) -> None:
        self.ended[worker] = True
        self.holdings[worker].end()
        self.rounds.leave(worker, 0)
        for channel in self.schedule.workers[worker].sends:
            self.mailboxes[self.number[channel]].open_senders -= 1


def _never(moment: int, action: object) -> None:
    raise AssertionError("without time there is nothing to wait for")
