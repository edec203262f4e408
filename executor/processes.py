"""The process runtime: one spawned process per worker, messages through shared-memory rings."""

import multiprocessing
import os
import pickle
import signal
from collections import Counter
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from time import monotonic
from typing import Any

import torch

from executor.assembly import finish
from executor.drive import Losses
from executor.failure import WorkerError
from executor.hygiene import CpuWatch
from executor.network import block_shapes, split
from executor.ring import Ring, Stop, message_bytes
from executor.ring_port import tensors_of
from executor.support import refuse_unsupported
from executor.training import INTERRUPTED, RunResult, Training
from executor.worker_process import Failed, Finished, Ready, Rows, work
from simcore.errors import InputError
from simcore.ops import Channel, Item, Select
from simcore.schedule import Schedule
from simcore.trace import Recorder
from simcore.validate import operations_used, validate

__all__ = ["obstacle", "run_processes"]

# How long the others may take to end after a failure, an interrupt, before they are killed.
_GRACE_S = 3.0


def run_processes(training: Training, progress: Callable[[int], None] | None = None) -> RunResult:
    """Train with one process per worker on this machine.

    `progress` is told, now and then, how many gradients have been applied since it was last told.
    Ctrl-C ends the run and returns what was done. Raises `InputError` for a schedule that hands
    over graphs or is only simulated so far, or a training that cannot be pickled, and `WorkerError`
    for the first worker that fails or dies, with its own traceback and with what was done. No
    process outlives the call.
    """
    schedule = refuse_unsupported(training.make_schedule())
    if reason := obstacle(schedule):
        rule = f"cannot run in processes, as {reason}"
        raise InputError("schedule", schedule.name, rule, "use the runtime threads or replay")
    run = _ProcessRun(training, schedule, progress or (lambda _: None))
    return run.run()


def obstacle(schedule: Schedule) -> str | None:
    """Why a schedule cannot run in processes; None if it can."""
    for channel in schedule.channels:
        if any(item.kind == "graph" for item in channel.carries) and not schedule.is_local(channel):
            return f"{channel.name} hands over autograd graphs"
        if channel.source and len(schedule.receivers[channel]) > 1:
            return f"several workers share the source {channel.name}"
    for block, owners in Counter(b for w in schedule.workers for b in w.blocks).items():
        if owners > 1:
            return f"several workers share the weights of block {block}"
    if Select in operations_used(schedule):
        for worker in schedule.workers:
            within = [c for c in worker.receives if c.source or schedule.is_local(c)]
            if within and len(within) < len(worker.receives):
                return f"{worker.name} selects among channels to itself and to others"
    return None


def ring_sizes(training: Training, schedule: Schedule) -> dict[Channel, tuple[int, int]]:
    """Slots, and bytes of a slot, of each channel between workers.

    A channel without a capacity gets as many slots as it can ever need: the receiver is put last
    in the order of the untimed run, so that it lets messages pile up.
    """
    data = training.source.payload(Item("activation", 0), 0)
    outputs = block_shapes(split(training.model, training.bounds), data[0])
    sizes = {}
    for number, channel in enumerate(schedule.channels):
        if channel.source or schedule.is_local(channel):
            continue
        payloads = [
            (outputs[item.block], data[1]) if item.kind == "activation" else outputs[item.block]
            for item in channel.carries
        ]
        slots = channel.capacity
        if slots is None:
            last = set(schedule.receivers[channel])
            order = sorted(range(len(schedule.workers)), key=lambda worker: worker in last)
            slots = max(1, validate(schedule, order, every_batch=False).most_messages[number])
        sizes[channel] = slots, message_bytes(tensors_of(channel.carries, payloads))
    return sizes


class _ProcessRun:
    def __init__(
        self, training: Training, schedule: Schedule, progress: Callable[[int], None]
    ) -> None:
        self.training, self.schedule, self.progress = training, schedule, progress
        self.stop = Stop()
        self.recorder, self.losses = Recorder(), Losses()
        self.state: dict[str, torch.Tensor] = {}
        self.failure: WorkerError | None = None
        self.ready: set[int] = set()
        self.finished: set[int] = set()
        self.cpu: CpuWatch | None = None
        self.other_cpu_share: float | None = None
        self.processes: list[SpawnProcess] = []
        self.connections: list[Connection] = []

    def run(self) -> RunResult:
        failure: str | None = None
        try:
            self.start()
            self.watch(until=None)
        except KeyboardInterrupt:
            failure = INTERRUPTED
        finally:
            self.end()
        if self.failure is not None:
            self.failure.partial = self.result(str(self.failure))
            raise self.failure
        return self.result(failure)

    def start(self) -> None:
        """Start the workers' processes; the clock starts when all are ready."""
        try:
            training = pickle.dumps(self.training)
        except Exception as error:
            raise InputError(
                "training", repr(error), "must be picklable", "define its parts at the top level"
            ) from error
        context = multiprocessing.get_context("spawn")
        rings = {
            self.schedule.channels.index(channel): Ring.create(
                channel.name, slots, slot_bytes, self.stop, len(self.schedule.senders[channel])
            )
            for channel, (slots, slot_bytes) in ring_sizes(self.training, self.schedule).items()
        }
        # Ctrl-C reaches the whole process group; it is this process that ends the run. Starting
        # Python's resource tracker unblocks SIGINT, so it must run before the first worker does.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for number, worker in enumerate(self.schedule.workers):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=work,
                    args=(number, training, rings, self.stop, theirs),
                    name=worker.name,
                    daemon=True,
                )
                process.start()
                theirs.close()
                self.processes.append(process)
                self.connections.append(ours)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def watch(self, until: float | None) -> None:
        """Take the workers' reports until all have ended, one fails, or `until` (monotonic s)."""
        open_ends = dict(zip(self.connections, range(len(self.connections)), strict=True))
        while open_ends and (until is not None or self.failure is None):
            left = None if until is None else until - monotonic()
            if left is not None and left <= 0:
                return
            for connection in wait(list(open_ends), left):
                assert isinstance(connection, Connection)
                number = open_ends[connection]
                try:
                    self.take(number, connection.recv())
                except (EOFError, OSError):  # the process has gone, in whatever way
                    del open_ends[connection]
                    if number not in self.finished:
                        self.died(number)

    def take(self, number: int, report: Any) -> None:
        """One report of a worker."""
        match report:
            case Ready():
                self.ready.add(number)
                if len(self.ready) == len(self.processes):
                    own = [os.getpid(), *(process.pid or 0 for process in self.processes)]
                    self.cpu = CpuWatch(own)
                    for connection in self.connections:
                        connection.send(Ready())
            case Rows(spans, gradients, losses, applied):
                self.recorder.add(spans, gradients)
                self.losses.rows.extend(losses)
                self.progress(applied)
            case Finished(state):
                self.state |= pickle.loads(state)
                self.finished.add(number)
                if len(self.finished) == len(self.processes):
                    if self.cpu:
                        self.other_cpu_share = self.cpu.other_share()
                    for connection in self.connections:
                        connection.send(Ready())
            case Failed(reason, traceback):
                self.finished.add(number)
                name = self.schedule.workers[number].name
                self.failure = self.failure or WorkerError(name, reason, traceback)

    def died(self, number: int) -> None:
        """A worker's process ended without a word."""
        self.processes[number].join(_GRACE_S)
        code = self.processes[number].exitcode
        if self.stop.is_set() and code == 0:
            return
        how = "still runs but closed its pipe" if code is None else f"exited with status {code}"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        name = self.schedule.workers[number].name
        self.failure = self.failure or WorkerError(name, f"its process {how}")

    def end(self) -> None:
        """End every process that is left, and take what they still have to tell."""
        self.stop.set()
        deadline = monotonic() + _GRACE_S
        self.watch(until=deadline)
        for process in self.processes:
            process.join(max(0.0, deadline - monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        for connection in self.connections:
            connection.close()

    def result(self, failure: str | None) -> RunResult:
        state = None if failure else self.state
        about = {"runtime": "processes", "other_cpu_share": self.other_cpu_share}
        return finish(
            self.training, self.schedule, self.recorder, self.losses, state, about, failure
        )
