"""The replay runtime: real tensors in one process, in the order of a given trace.

What makes a replay exact is not time but versions: a forward pass waits until its block has the
version that the trace says it read, and an update waits until everything that read the version
before it has been done. Who received which message is taken from the trace too. So many workers
can be trained on one core with exactly the staleness that was simulated or measured.
"""

import traceback
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from executor.assembly import Parts, finish
from executor.averaging import contribution, take_result
from executor.checkpoint import STOPPED, Checkpoints, opened
from executor.checkpoint_state import Flight, begin_again, goes_on
from executor.clock import now_ns
from executor.drive import Losses, Numbers, place
from executor.failure import WorkerError, reason_of
from executor.forward_gradients import dual_level_of
from executor.perform import perform
from executor.position import Position
from executor.progress import tell
from executor.replay_order import Reads, Version, rows_of
from executor.rounds import LocalRounds
from executor.supervision import WorkerThread, supervise
from executor.tensors import WorkerTensors
from executor.training import INTERRUPTED, RunResult, Training
from executor.watchdog import Pulse, Watchdog
from simcore.errors import InputError
from simcore.ops import (
    KINDS,
    Arrive,
    Join,
    Merge,
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
    training: Training,
    trace: Trace,
    progress: Callable[[int], None] | None = None,
    checkpoints: Checkpoints | None = None,
) -> RunResult:
    """Train by the operations of a trace, with exactly its gaps.

    `training.make_schedule` must make the schedule of the trace. `progress` is told how many
    gradients have been applied since it was last told. Ctrl-C ends the run and returns what was
    done. Raises `InputError` for a trace that is not one of the schedule, and `WorkerError` for a
    worker that fails or hangs, with its traceback and with what was done. All workers are one
    thread, which is left behind if it hangs (see `executor.supervision`). `checkpoints` say when
    the run is saved.
    """
    threads_before = torch.get_num_threads()
    try:
        schedule = training.make_schedule()
        with torch.random.fork_rng(), dual_level_of(schedule):
            torch.manual_seed(training.seed)
            torch.set_num_threads(training.threads)
            return _Replay(training, schedule, trace, progress, checkpoints).run()
    finally:
        torch.set_num_threads(threads_before)


class _Replay:
    def __init__(
        self,
        training: Training,
        schedule: Schedule,
        trace: Trace,
        progress: Callable[[int], None] | None,
        checkpoints: Checkpoints | None,
    ) -> None:
        self.training, self.schedule, self.progress = training, schedule, progress
        if (schedule.name, schedule.blocks, schedule.batches) != (
            trace.header.schedule,
            trace.header.blocks,
            trace.header.batches,
        ):
            raise _not_of(trace, f"{schedule.name}: {schedule.blocks} x {schedule.batches}")
        self.checkpoints = checkpoints
        self.opened = opened(training, schedule, "replay")
        if checkpoints is not None:
            checkpoints.begin(training, schedule, "replay")
        self.trace = trace
        self.parts = Parts(training, schedule, range(len(schedule.workers)))
        self.ledger = self.parts.ledger
        workers = range(len(schedule.workers))
        self.tensors: dict[int, WorkerTensors] = {}
        self.reads = Reads(schedule, trace)
        self.numbers = Numbers(schedule.channels, schedule.groups)
        self.rounds = {
            group: LocalRounds({w for w in workers if group in schedule.workers[w].joins})
            for group in schedule.groups
        }
        self.positions = {
            number: Position(worker, schedule.channels)
            for number, worker in enumerate(schedule.workers)
        }
        self.flight = Flight(self.parts, self.tensors, self.positions, rounds=self.rounds)
        self.messages, self.taken = self.flight.messages, self.flight.taken
        self.follow(trace)
        self.answers: list[Any] = [None for _ in workers]
        self.ended = [False for _ in workers]
        self.recorder, self.losses = Recorder(), Losses()
        values = array("q", [0 for _ in workers])
        self.pulses = [Pulse(values, worker) for worker in workers]
        self.watchdog = Watchdog(values, training.timeout_s)
        self.failures: list[WorkerError] = []
        self.refusal: InputError | None = None
        self.stopped, self.told = False, 0

    def run(self) -> RunResult:
        names = [worker.name for worker in self.schedule.workers]
        going_on = True
        while going_on:
            self.stopped = False
            thread = WorkerThread("replay", self.work)
            interrupted = supervise(
                [thread], self.watchdog, self.failures, names, self.tell, self.request_stop
            )
            if self.refusal is not None:
                raise self.refusal
            if self.failures:
                error = self.failures[0]
                error.partial = self.result(str(error))
                raise error
            if interrupted:
                return self.result(INTERRUPTED)
            going_on = goes_on(self.flight, self.losses, self.checkpoints, all(self.ended))
        return self.result(None if all(self.ended) else STOPPED)

    def follow(self, trace: Trace) -> None:
        """What is still to be done of the trace, and who reads which version in it."""
        done = np.array([self.positions[worker].done for worker in sorted(self.positions)])
        left = trace.spans[trace.spans["index"] >= done[trace.spans["worker"]]]
        rest = Trace(trace.header, left, trace.gradients)
        self.rows = [rows_of(rest, worker) for worker in self.positions]
        self.readers = self.reads.count(rest)

    def tell(self) -> None:
        """Report how many gradients have been applied since the last report."""
        applied = self.recorder.applied
        if self.progress:
            gaps = [self.recorder.newest_gap]
            tell(self.progress, applied - self.told, self.losses.rows, gaps)
        self.told = applied

    def request_stop(self) -> None:
        """The thread ends after the operation that it is at."""
        self.stopped = True

    def work(self) -> None:
        """Run all workers, in the thread of the replay."""
        torch.set_num_threads(self.training.threads)
        for pulse in self.pulses:
            pulse.wait()
        try:
            for worker in self.positions:
                self.guarded(worker, self.warm)
            if self.opened is not None:
                begin_again(self.flight, self.losses, self.opened)
                self.opened = None
                self.follow(self.trace)
            while not all(self.ended) and not self.stopped:
                moved = [self.guarded(worker, self.advance) for worker in self.positions]
                if not any(moved) and not self.stopped:
                    at = (position.operation for position in self.positions.values())
                    waiting = next(shown(each) for each in at if each is not None)
                    raise _not_of(self.trace, f"no worker can go on, one is at {waiting}")
        except InputError as error:
            self.refusal = error
        except WorkerError as error:
            self.failures.append(error)

    def guarded(self, worker: int, act: Callable[[int], bool]) -> bool:
        """Let a worker act; it is named by what it raises, if it is no fault of the trace."""
        try:
            return act(worker)
        except InputError:
            raise
        except BaseException as error:
            name = self.schedule.workers[worker].name
            raise WorkerError(name, reason_of(error), traceback.format_exc()) from error

    def warm(self, worker: int) -> bool:
        """Warm a worker up."""
        if worker in self.tensors:
            return False
        self.pulses[worker].start()
        self.tensors[worker] = self.parts.warm_tensors_of(worker, self.pulses[worker])
        self.pulses[worker].wait()
        return True

    def result(self, failure: str | None) -> RunResult:
        """What was done."""
        state = None if failure else self.parts.state()
        about = {"runtime": "replay"}
        return finish(
            self.training, self.schedule, self.recorder, self.losses, state, about, failure
        )

    def advance(self, worker: int) -> bool:
        """Run a worker until it must wait for another; whether it did anything."""
        moved = False
        pulse = self.pulses[worker]
        while not self.ended[worker] and not self.stopped:
            operation = self.positions[worker].next()
            if operation is None:
                self.ended[worker] = True
                for group in self.schedule.workers[worker].joins:
                    self.rounds[group].leave(worker)
                return True
            pulse.enter(operation)
            done = self.perform(worker, operation)
            pulse.wait()
            if not done:
                return moved
            self.positions[worker].complete(self.answers[worker])
            moved = True
            if self.checkpoints is not None and self.checkpoints.is_due(len(self.losses.rows)):
                self.stopped = True
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
            index = self.positions[worker].done
            self.recorder.span(start, end, worker, index, kind, block, batch, version)
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
            rounds.arrive(worker, block, contribution(tensors, group, block))
        if isinstance(operation, Arrive):
            return True
        if not rounds.is_over(worker, block):
            return False
        self.answers[worker] = take_result(tensors, group, block, rounds.take(worker, block))
        return True

    def receive(self, worker: int, operation: Receive | Select, number: int, batch: int) -> bool:
        """Take the message that the trace says, if it has been sent."""
        channel = self.schedule.channels[number]
        offered = operation.channels if isinstance(operation, Select) else (operation.channel,)
        if channel not in offered:
            raise _not_of(self.trace, f"it has no {shown(operation)}")
        if channel.source:
            passes = self.parts.passes
            self.taken[number] += 1
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


def _not_of(trace: Trace, why: str) -> InputError:
    header = trace.header
    shape = f"{header.schedule}: {header.blocks} blocks x {header.batches} batches"
    return InputError("trace", shape, f"must be one of the schedule ({why})", "give both alike")
