"""The replay runtime: real tensors in one process, in the order of a given trace.

What makes a replay exact is not time but versions: a forward pass waits until its block has the
version that the trace says it read, and an update waits until everything that read the version
before it has been done. Who received which message is taken from the trace too. So many workers
can be trained on one core with exactly the staleness that was simulated or measured.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any

import torch

from executor.assembly import Parts, finish
from executor.clock import now_ns
from executor.drive import Losses
from executor.support import check_supported, refuse_unsupported
from executor.training import INTERRUPTED, RunResult, Training
from simcore.errors import InputError
from simcore.ops import (
    KINDS,
    Backward,
    Forward,
    Operation,
    Receive,
    Select,
    Send,
    Update,
    kind_of,
)
from simcore.rules import shown
from simcore.schedule import Schedule
from simcore.trace import KIND, Recorder, Trace

__all__ = ["run_replay"]


def run_replay(
    training: Training, trace: Trace, progress: Callable[[int], None] | None = None
) -> RunResult:
    """Train by the operations of a trace, with exactly its gaps.

    `training.make_schedule` must make the schedule of the trace. `progress` is told how many
    gradients have been applied since it was last told. Ctrl-C ends the run and returns what was
    done. Raises `InputError` for a trace that is not one of the schedule, and for a schedule that
    is only simulated so far.
    """
    threads_before = torch.get_num_threads()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(training.seed)
            torch.set_num_threads(training.threads)
            schedule = refuse_unsupported(training.make_schedule())
            return _Replay(training, schedule, trace, progress).run()
    finally:
        torch.set_num_threads(threads_before)


class _Replay:
    def __init__(
        self,
        training: Training,
        schedule: Schedule,
        trace: Trace,
        progress: Callable[[int], None] | None,
    ) -> None:
        self.training, self.schedule, self.progress = training, schedule, progress
        if (schedule.name, schedule.blocks, schedule.batches) != (
            trace.header.schedule,
            trace.header.blocks,
            trace.header.batches,
        ):
            raise _not_of(trace, f"{schedule.name}: {schedule.blocks} x {schedule.batches}")
        self.trace = trace
        self.parts = Parts(training, schedule, range(len(schedule.workers)))
        self.ledger = self.parts.ledger
        workers = range(len(schedule.workers))
        self.tensors = [self.parts.warm_tensors_of(worker) for worker in workers]
        self.rows = [_rows_of(trace, worker) for worker in workers]
        self.bases = _bases(schedule, trace)
        self.readers = _readers(schedule, self.bases, trace)
        self.messages: defaultdict[tuple[int, int], deque[Sequence[Any]]] = defaultdict(deque)
        self.numbers = {channel: number for number, channel in enumerate(schedule.channels)}
        self.programs = [worker.program() for worker in schedule.workers]
        self.at: list[Operation | None] = [None for _ in workers]
        self.index = [-1 for _ in workers]
        self.answers: list[Any] = [None for _ in workers]
        self.ended = [False for _ in workers]
        self.recorder, self.losses = Recorder(), Losses()

    def run(self) -> RunResult:
        failure = None
        try:
            while not all(self.ended):
                moved = [self.advance(worker) for worker in range(len(self.programs))]
                if not any(moved):
                    waiting = next(shown(each) for each in self.at if each is not None)
                    raise _not_of(self.trace, f"no worker can go on, one is at {waiting}")
        except KeyboardInterrupt:
            failure = INTERRUPTED
        state = None if failure else self.parts.state()
        about = {"runtime": "replay"}
        return finish(
            self.training, self.schedule, self.recorder, self.losses, state, about, failure
        )

    def advance(self, worker: int) -> bool:
        """Run a worker until it must wait for another; whether it did anything."""
        moved = False
        while not self.ended[worker]:
            operation = self.at[worker]
            if operation is None:
                try:
                    operation = self.programs[worker].send(self.answers[worker])
                except StopIteration:
                    self.ended[worker] = True
                    return True
                check_supported(operation)
                self.at[worker] = operation
                self.index[worker] += 1
            if not self.perform(worker, operation):
                return moved
            self.at[worker], moved = None, True
        return moved

    def perform(self, worker: int, operation: Operation) -> bool:
        """Do an operation, unless the trace says that something else comes first."""
        self.answers[worker] = None
        if not self.rows[worker]:
            # The trace has no more of this worker: its input had ended, or the run was cut short.
            self.ended[worker] = not isinstance(operation, Receive | Select)
            return True
        kind, block, batch, version = self.rows[worker][0]
        start = now_ns()
        match operation:
            case Receive() | Select():
                done = KINDS[kind] is Receive and self.receive(worker, operation, block, batch)
            case Send(channel, sent):
                self.expect(worker, operation, (KIND["send"], self.numbers[channel], sent))
                payloads = self.tensors[worker].take(channel.carries, batch)
                if self.schedule.receivers[channel]:
                    self.messages[block, batch].append(payloads)
                done = True
            case Forward() | Backward() | Update():
                done = self.compute(worker, operation, version)
        if done:
            self.rows[worker].popleft()
            end = now_ns()
            self.recorder.span(start, end, worker, self.index[worker], kind, block, batch, version)
        return done

    def compute(self, worker: int, operation: Forward | Backward | Update, version: int) -> bool:
        """Do a computation once its block has the version that the trace says."""
        block = operation.block
        kind = KIND[kind_of(type(operation))]
        batch = -1 if isinstance(operation, Update) else operation.batch
        self.expect(worker, operation, (kind, block, batch))
        if isinstance(operation, Update):
            if self.ledger.version(block) != version or self.readers[block, version]:
                return False
        else:
            reads = self.reads(worker, operation, version)
            if any(self.ledger.version(each) != wanted for each, wanted in reads):
                return False
            self.readers.subtract(reads)
        done = self.tensors[worker].perform(operation)
        if done.landed is not None:
            self.recorder.update(now_ns(), worker, done.landed)
            if self.progress:
                self.progress(len(done.landed.gradients))
        if done.loss is not None:
            self.losses.rows.append((batch, done.loss, now_ns()))
        return True

    def reads(
        self, worker: int, operation: Forward | Backward, version: int
    ) -> list[tuple[int, int]]:
        """The (block, version) that the weights must have for an operation to read them."""
        return _reads(
            self.schedule,
            self.bases,
            worker,
            type(operation),
            operation.block,
            operation.batch,
            version,
        )

    def receive(self, worker: int, operation: Receive | Select, number: int, batch: int) -> bool:
        """Take the message that the trace says, if it has been sent."""
        channel = self.schedule.channels[number]
        offered = operation.channels if isinstance(operation, Select) else (operation.channel,)
        if channel not in offered:
            raise _not_of(self.trace, f"it has no {shown(operation)}")
        if channel.source:
            source = self.training.source
            payloads: Sequence[Any] = [source.payload(item, batch) for item in channel.carries]
        elif self.messages[number, batch]:
            payloads = self.messages[number, batch].popleft()
        else:
            return False
        self.tensors[worker].give(channel.carries, batch, payloads)
        self.answers[worker] = (channel, batch) if isinstance(operation, Select) else batch
        return True

    def expect(self, worker: int, operation: Operation, row: tuple[int, int, int]) -> None:
        """The next row of the worker must be this operation."""
        if self.rows[worker][0][:3] != row:
            raise _not_of(
                self.trace, f"{self.schedule.workers[worker].name} does {shown(operation)}"
            )


def _rows_of(trace: Trace, worker: int) -> deque[tuple[int, int, int, int]]:
    """(kind, block, batch, version) of a worker's operations, in its program's order."""
    own = trace.spans[trace.spans["worker"] == worker]
    own = own[own["index"].argsort(kind="stable")]
    columns = (own[name].tolist() for name in ("kind", "block", "batch", "version"))
    return deque(zip(*columns, strict=True))


def _bases(schedule: Schedule, trace: Trace) -> dict[tuple[int, int, int], int]:
    """(worker, block, batch) -> the version that a worker's own copy stems from."""
    if schedule.weights.write != "assign":
        return {}
    rows = trace.gradients
    columns = (rows[name].tolist() for name in ("worker", "block", "batch", "version_base"))
    return {
        (worker, block, batch): base for worker, block, batch, base in zip(*columns, strict=True)
    }


def _reads(
    schedule: Schedule,
    bases: dict[tuple[int, int, int], int],
    worker: int,
    kind: type,
    block: int,
    batch: int,
    version: int,
) -> list[tuple[int, int]]:
    if kind is Forward:
        return [(block, version)]
    rules = schedule.weights
    if rules.write == "assign" and rules.refresh == "pass" and block == schedule.blocks:
        copied = [(each, bases.get((worker, each, batch))) for each in range(1, block)]
        return [(block, version), *((each, base) for each, base in copied if base is not None)]
    return [(block, version)] if rules.policy == "mixed" else []


def _readers(
    schedule: Schedule, bases: dict[tuple[int, int, int], int], trace: Trace
) -> Counter[tuple[int, int]]:
    """How often each version of each block is read in the trace."""
    readers: Counter[tuple[int, int]] = Counter()
    for kind in (Forward, Backward):
        rows = trace.of_kind(kind.__name__.lower())
        columns = (rows[name].tolist() for name in ("worker", "block", "batch", "version"))
        for worker, block, batch, version in zip(*columns, strict=True):
            readers.update(_reads(schedule, bases, worker, kind, block, batch, version))
    return readers


def _not_of(trace: Trace, why: str) -> InputError:
    header = trace.header
    shape = f"{header.schedule}: {header.blocks} blocks x {header.batches} batches"
    return InputError("trace", shape, f"must be one of the schedule ({why})", "give both alike")
