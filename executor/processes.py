"""The process runtime: one spawned process per worker, messages through shared-memory rings."""

import multiprocessing
import os
import pickle
import signal
from collections import Counter
from collections.abc import Callable
from itertools import permutations
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from time import monotonic
from typing import Any, Final

import torch

from executor.assembly import finish, mean_state
from executor.auxiliary import extras_of
from executor.drive import Losses
from executor.failure import WorkerError
from executor.hygiene import CpuWatch
from executor.network import block_shapes, split
from executor.payloads import Codec
from executor.ring import Ring, Stop, message_bytes
from executor.slicing import Passes
from executor.training import INTERRUPTED, RunResult, Training
from executor.worker_process import Failed, Finished, Links, Ready, Rows, work
from simcore.errors import InputError
from simcore.ops import Group, Item, ItemKind, Select
from simcore.schedule import Schedule
from simcore.trace import Recorder
from simcore.validate import operations_used, validate

__all__ = ["obstacle", "run_processes"]

# What cannot leave its process.
_BOUND: Final[dict[ItemKind, str]] = {
    "graph": "autograd graphs",
    "weight_graph": "autograd graphs",
    "input": "inputs that are bound to weights",
    "tangent": "random directions",
    "synthesizer": "what a model learns from",
    "sample": "what has not been loaded",
}
# How long the others may take to end after a failure, an interrupt, before they are killed.
_GRACE_S = 3.0


def run_processes(training: Training, progress: Callable[[int], None] | None = None) -> RunResult:
    """Train with one process per worker on this machine.

    `progress` is told, now and then, how many gradients have been applied since it was last told.
    Ctrl-C ends the run and returns what was done. Raises `InputError` for a schedule that cannot
    run in processes (see `obstacle`) or a training that cannot be pickled, and `WorkerError` for
    the first worker that fails or dies, with its own traceback and with what was done. No process
    outlives the call.
    """
    schedule = training.make_schedule()
    if reason := obstacle(schedule):
        rule = f"cannot run in processes, as {reason}"
        raise InputError("schedule", schedule.name, rule, "use the runtime threads or replay")
    run = _ProcessRun(training, schedule, progress or (lambda _: None))
    return run.run()


def obstacle(schedule: Schedule) -> str | None:
    """Why a schedule cannot run in processes; None if it can."""
    for channel in schedule.channels:
        kinds = {item.kind for item in channel.carries} & _BOUND.keys()
        if kinds and not channel.source and not schedule.is_local(channel):
            return f"{channel.name} hands over {_BOUND[min(kinds)]}"
        if channel.source and len(schedule.receivers[channel]) > 1:
            return f"several workers share the source {channel.name}"
    weights = Counter((w.replica, block) for w in schedule.workers for block in w.blocks)
    for (_, block), owners in weights.items():
        if owners > 1:
            return f"several workers share the weights of block {block}"
    if Select in operations_used(schedule):
        for worker in schedule.workers:
            within = [c for c in worker.receives if c.source or schedule.is_local(c)]
            if within and len(within) < len(worker.receives):
                return f"{worker.name} selects among channels to itself and to others"
    return None


class _Sizes:
    """What the rings of a run need: a slot for each message, and room for the largest of them."""

    def __init__(self, training: Training, schedule: Schedule) -> None:
        self.training, self.schedule = training, schedule
        passes = Passes(schedule, training.source)
        data, labels = passes.payload(Item("activation", 0), 0)
        self.blocks = split(training.model, training.bounds)
        self.outputs = block_shapes(self.blocks, data, by_time=passes.by_time)
        self.codec = Codec(self.outputs, labels, schedule.weights.tangents)

    def of_channels(self) -> dict[int, tuple[int, int]]:
        """Slots, and bytes of a slot, of each channel between workers, by its number.

        A channel without a capacity gets as many slots as it can ever need: the receiver is put
        last in the order of the untimed run, so that it lets messages pile up.
        """
        schedule, sizes = self.schedule, {}
        for number, channel in enumerate(schedule.channels):
            if channel.source or schedule.is_local(channel) or not schedule.receivers[channel]:
                continue
            slots = channel.capacity
            if slots is None:
                last = set(schedule.receivers[channel])
                order = sorted(range(len(schedule.workers)), key=lambda worker: worker in last)
                slots = max(1, validate(schedule, order, every_batch=False).most_messages[number])
            sizes[number] = slots, message_bytes(self.codec.examples(channel.carries))
        return sizes

    def of_group(self, group: Group) -> tuple[int, int]:
        """Slots, and bytes of a slot, of each ring between two members of a group.

        A member arrives for a round when it has joined the one before, which the others may still
        have to read: two messages for each block, and one that is on its way.
        """
        contributions = [message_bytes(self._weights(block)) for block in group.blocks]
        return 2 * (len(group.blocks) + 1) + 1, max([message_bytes([]), *contributions])

    def _weights(self, block: int) -> list[torch.Tensor]:
        extras = extras_of(
            self.schedule,
            block,
            self.outputs[block],
            self.outputs[-1],
            0,
            self.training.make_optimizer,
        )
        parts = [self.blocks[block - 1], *([] if extras.head is None else [extras.head])]
        return [p for part in parts for p in part.parameters() if p.requires_grad]


class _ProcessRun:
    def __init__(
        self, training: Training, schedule: Schedule, progress: Callable[[int], None]
    ) -> None:
        self.training, self.schedule, self.progress = training, schedule, progress
        self.stop = Stop()
        self.recorder, self.losses = Recorder(), Losses()
        self.states: dict[int, dict[str, torch.Tensor]] = {}
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
        sizes = _Sizes(self.training, self.schedule)
        rings = {
            number: self.ring(number, slots, slot_bytes)
            for number, (slots, slot_bytes) in sizes.of_channels().items()
        }
        between = {
            (number, sender, receiver): Ring.create(group.name, *of_group, self.stop)
            for number, group in enumerate(self.schedule.groups)
            for of_group in [sizes.of_group(group)]
            for sender, receiver in permutations(self.members(group), 2)
        }
        # Ctrl-C reaches the whole process group; it is this process that ends the run. Starting
        # Python's resource tracker unblocks SIGINT, so it must run before the first worker does.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for number, worker in enumerate(self.schedule.workers):
                ours, theirs = context.Pipe()
                used = {self.schedule.channels.index(c) for c in (*worker.sends, *worker.receives)}
                links = Links(
                    {n: ring for n, ring in rings.items() if n in used},
                    {key: ring for key, ring in between.items() if number in key[1:]},
                )
                process = context.Process(
                    target=work,
                    args=(number, training, links, self.stop, theirs),
                    name=worker.name,
                    daemon=True,
                )
                process.start()
                theirs.close()
                self.processes.append(process)
                self.connections.append(ours)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def ring(self, number: int, slots: int, slot_bytes: int) -> Ring:
        """A ring for a channel."""
        channel = self.schedule.channels[number]
        senders = len(self.schedule.senders[channel])
        return Ring.create(channel.name, slots, slot_bytes, self.stop, senders)

    def members(self, group: Group) -> list[int]:
        """The numbers of a group's workers."""
        return [n for n, worker in enumerate(self.schedule.workers) if group in worker.joins]

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
                replica = self.schedule.replicas[number]
                self.states.setdefault(replica, {}).update(pickle.loads(state))
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
        state = None if failure else mean_state([*self.states.values()])
        about = {"runtime": "processes", "other_cpu_share": self.other_cpu_share}
        return finish(
            self.training, self.schedule, self.recorder, self.losses, state, about, failure
        )
