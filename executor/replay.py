"""The replay runtime: real tensors in one process, in the order of a given trace.

What makes a replay exact is not time but versions: a forward pass waits until its block has the
version that the trace says it read, and an update waits until everything that read the version
before it has been done. Who received which message is taken from the trace too. So many workers
can be trained on one core with exactly the staleness that was simulated or measured.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from executor.assembly import Parts, finish
from executor.averaging import contribution, take_mean
from executor.clock import now_ns
from executor.drive import Losses, Numbers, place
from executor.forward_gradients import dual_level_of
from executor.perform import perform
from executor.rounds import LocalRounds
from executor.training import INTERRUPTED, RunResult, Training
from simcore.errors import InputError
from simcore.ops import (
    KINDS,
    Arrive,
    Backward,
    BackwardInput,
    BackwardThrough,
    Evaluate,
    Forward,
    Join,
    Merge,
    Operation,
    Receive,
    Replay,
    Select,
    Send,
    Snapshot,
    Tangent,
    Update,
    kind_of,
)
from simcore.rules import shown
from simcore.schedule import Schedule
from simcore.trace import KIND, Recorder, Trace

__all__ = ["run_replay"]

Version = tuple[int, int, int]  # of a replica's block
_READING: Final = (Forward, Evaluate, Tangent, Snapshot)


def run_replay(
    training: Training, trace: Trace, progress: Callable[[int], None] | None = None
) -> RunResult:
    """Train by the operations of a trace, with exactly its gaps.

    `training.make_schedule` must make the schedule of the trace. `progress` is told how many
    gradients have been applied since it was last told. Ctrl-C ends the run and returns what was
    done. Raises `InputError` for a trace that is not one of the schedule.
    """
    threads_before = torch.get_num_threads()
    try:
        schedule = training.make_schedule()
        with torch.random.fork_rng(), dual_level_of(schedule):
            torch.manual_seed(training.seed)
            torch.set_num_threads(training.threads)
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
        self.reads = _Reads(schedule, trace)
        self.readers = self.reads.count(trace)
        self.messages: defaultdict[tuple[int, int], deque[Sequence[Any]]] = defaultdict(deque)
        self.numbers = Numbers(schedule.channels, schedule.groups)
        self.rounds = {
            group: LocalRounds({w for w in workers if group in schedule.workers[w].joins})
            for group in schedule.groups
        }
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
                    for group in self.schedule.workers[worker].joins:
                        self.rounds[group].leave(worker)
                    return True
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
                number = self.numbers.channels[channel]
                self.expect(worker, operation, (KIND["send"], number, sent))
                payloads = self.tensors[worker].take(channel.carries, batch, send=True)
                if self.schedule.receivers[channel]:
                    self.messages[block, batch].append(payloads)
                done = True
            case Arrive() | Join():
                done = self.meet(worker, operation)
            case _:
                done = self.compute(worker, operation, version)
        if done:
            self.rows[worker].popleft()
            end = now_ns()
            self.recorder.span(start, end, worker, self.index[worker], kind, block, batch, version)
        return done

    def compute(self, worker: int, operation: Operation, version: int) -> bool:
        """Do a computation once its block has the version that the trace says."""
        block, batch = place(operation)
        self.expect(worker, operation, (KIND[kind_of(type(operation))], block, batch))
        if isinstance(operation, Update | Merge):
            if self.ledger.version(block, worker) != version or self.is_read(worker, block):
                return False
        else:
            reads = self.reads.of(worker, type(operation), block, batch, version)
            if not all(self.is_there(worker, each) for each in reads):
                return False
            self.readers.subtract(reads)
        done = perform(self.tensors[worker], operation)
        if done.landed is not None:
            self.recorder.update(now_ns(), worker, done.landed)
            if self.progress:
                self.progress(len(done.landed.gradients))
        if done.loss is not None:
            self.losses.rows.append((batch, done.loss, now_ns()))
        return True

    def is_there(self, worker: int, read: Version) -> bool:
        """Whether a version can be read now: the newest, or with a buffer the one before, too."""
        _, block, wanted = read
        newest = self.ledger.version(block, worker)
        return wanted == newest or bool(self.schedule.weights.buffer and wanted == newest - 1)

    def is_read(self, worker: int, block: int) -> bool:
        """Whether something is still to read the version that an update would overwrite."""
        newest = self.ledger.version(block, worker)
        overwritten = newest - 1 if self.schedule.weights.buffer else newest
        return self.readers[self.schedule.replicas[worker], block, overwritten] > 0

    def meet(self, worker: int, operation: Arrive | Join) -> bool:
        """Arrive for a round; join it once all have arrived."""
        group, block = operation.group, operation.block
        kind = KIND[kind_of(type(operation))]
        self.expect(worker, operation, (kind, self.numbers.groups[group], block))
        rounds, tensors = self.rounds[group], self.tensors[worker]
        if isinstance(operation, Arrive) or not rounds.has_arrived(worker, block):
            rounds.arrive(worker, block, contribution(tensors, block))
        if isinstance(operation, Arrive):
            return True
        if not rounds.is_over(worker, block):
            return False
        self.answers[worker] = take_mean(tensors, block, rounds.take(worker, block))
        return True

    def receive(self, worker: int, operation: Receive | Select, number: int, batch: int) -> bool:
        """Take the message that the trace says, if it has been sent."""
        channel = self.schedule.channels[number]
        offered = operation.channels if isinstance(operation, Select) else (operation.channel,)
        if channel not in offered:
            raise _not_of(self.trace, f"it has no {shown(operation)}")
        if channel.source:
            passes = self.parts.passes
            payloads: Sequence[Any] = [passes.payload(item, batch) for item in channel.carries]
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


class _Reads:
    """Which versions of the weights each operation of a trace reads."""

    def __init__(self, schedule: Schedule, trace: Trace) -> None:
        self.schedule, self.rules = schedule, schedule.weights
        # (worker, block, batch) -> the version that a worker's own copy stems from.
        self.bases: dict[tuple[int, int, int], int] = {}
        if self.rules.write == "assign":
            columns = ("worker", "block", "batch", "version_base")
            rows = zip(*(trace.gradients[name].tolist() for name in columns), strict=True)
            self.bases = {(worker, block, batch): base for worker, block, batch, base in rows}

    def of(
        self, worker: int, kind: type[Any], block: int, batch: int, version: int
    ) -> list[Version]:
        """What an operation reads; what a stash has kept for it does not count."""
        replica, rules = self.schedule.replicas[worker], self.rules
        if issubclass(kind, _READING):
            return [(replica, block, version)]
        if rules.policy == "stash" or not issubclass(kind, (Replay, Backward, BackwardInput)):
            return []
        found = [(replica, block, version)]
        whole = rules.write == "assign" and rules.refresh == "pass"
        if whole and issubclass(kind, Backward) and block == self.schedule.blocks:
            for each in range(1, block):
                if (base := self.bases.get((worker, each, batch))) is not None:
                    found.append((replica, each, base))
        return found

    def count(self, trace: Trace) -> Counter[Version]:
        """How often each version of each block is read in the trace."""
        readers: Counter[Version] = Counter()
        kinds = (*_READING, Replay, Backward, BackwardInput, BackwardThrough)
        for kind in kinds:
            rows = trace.spans[trace.spans["kind"] == KIND[kind_of(kind)]]
            columns = (rows[name].tolist() for name in ("worker", "block", "batch", "version"))
            for worker, block, batch, version in zip(*columns, strict=True):
                readers.update(self.of(worker, kind, block, batch, version))
        return readers


def _not_of(trace: Trace, why: str) -> InputError:
    header = trace.header
    shape = f"{header.schedule}: {header.blocks} blocks x {header.batches} batches"
    return InputError("trace", shape, f"must be one of the schedule ({why})", "give both alike")
