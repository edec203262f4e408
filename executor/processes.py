"""The process runtime: one spawned process per worker, messages through shared-memory rings."""

import multiprocessing
import os
import pickle
import signal
from array import array
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from executor.assembly import finish, mean_state
from executor.checkpoint import STOPPED, Checkpoints, losses_of, opened
from executor.drive import Losses
from executor.failure import GRACE_S, WorkerError
from executor.hygiene import CpuWatch
from executor.lifelines import Lifelines
from executor.obstacles import obstacle
from executor.progress import tell
from executor.provisions import Provisions
from executor.ring import Stop
from executor.streams import devices_of
from executor.training import INTERRUPTED, RunResult, Training
from executor.watchdog import LOOK_S, Watchdog
from executor.worker_process import (
    End,
    Failed,
    Finished,
    Pause,
    Ready,
    Rows,
    Save,
    Saved,
    work,
)
from simcore.errors import InputError
from simcore.schedule import Schedule
from simcore.trace import Recorder

__all__ = ["run_processes"]


def run_processes(
    training: Training,
    progress: Callable[[int], None] | None = None,
    checkpoints: Checkpoints | None = None,
) -> RunResult:
    """Train with one process per worker on this machine.

    `progress` is told, now and then, how many gradients have been applied since it was last told.
    Ctrl-C ends the run and returns what was done. Raises `InputError` for a schedule that cannot
    run in processes (see `obstacle`) or a training that cannot be pickled, and `WorkerError` for
    the first worker that fails, dies or hangs, with its own traceback and with what was done. No
    process outlives the call. `checkpoints` say when the run is saved.
    """
    schedule = training.make_schedule()
    if reason := obstacle(schedule):
        rule = f"cannot run in processes, as {reason}"
        raise InputError("schedule", schedule.name, rule, "use the runtime threads or replay")
    devices_of(training.devices, schedule)
    run = _ProcessRun(training, schedule, progress or (lambda _: None), checkpoints)
    return run.run()


class _FailedError(Exception):
    """A worker has failed: it is in `failure` which, and how."""


class _ProcessRun:
    def __init__(
        self,
        training: Training,
        schedule: Schedule,
        progress: Callable[[int], None],
        checkpoints: Checkpoints | None,
    ) -> None:
        self.training, self.schedule, self.progress = training, schedule, progress
        self.checkpoints = checkpoints
        found = opened(training, schedule, "processes")
        if checkpoints is not None:
            checkpoints.begin(training, schedule, "processes")
        self.stop = Stop()
        self.recorder, self.losses = Recorder(), Losses()
        if found is not None:
            self.losses.rows.extend(losses_of(found[0]))
        self.over = self.paused = False
        self.states: dict[int, dict[str, torch.Tensor]] = {}
        self.failure: WorkerError | None = None
        self.ready: set[int] = set()
        self.finished: set[int] = set()
        self.cpu: CpuWatch | None = None
        self.other_cpu_share: float | None = None
        self.memory = array("q") if training.measure_memory else None
        self.peaks: dict[str, Any] = {}
        self.provisions: Provisions | None = None
        self.lifelines = Lifelines(len(schedule.workers))
        self.watchdog = Watchdog(self.lifelines.pulses, training.timeout_s)
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
        return self.result(STOPPED if self.paused and failure is None else failure)

    def start(self) -> None:
        """Start the workers' processes; the clock starts when all are ready."""
        try:
            training = pickle.dumps(self.training)
        except Exception as error:
            raise InputError(
                "training", repr(error), "must be picklable", "define its parts at the top level"
            ) from error
        context = multiprocessing.get_context("spawn")
        self.provisions = Provisions(self.training, self.schedule, self.stop)
        # Ctrl-C reaches the whole process group; it is this process that ends the run. Starting
        # Python's resource tracker unblocks SIGINT, so it must run before the first worker does.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for number, worker in enumerate(self.schedule.workers):
                ours, theirs = context.Pipe()
                links = self.provisions.links_of(number)
                process = context.Process(
                    target=work,
                    args=(number, training, links, self.stop, theirs, self.lifelines.of(number)),
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
        while open_ends and (until is not None or (self.failure is None and not self.paused)):
            left = None if until is None else until - monotonic()
            if left is not None and left <= 0:
                return
            for connection in wait(list(open_ends), LOOK_S if left is None else left):
                assert isinstance(connection, Connection)
                number = open_ends[connection]
                try:
                    report = connection.recv()
                except (EOFError, OSError):  # the process has gone, in whatever way
                    del open_ends[connection]
                    if number not in self.finished:
                        self.died(number)
                else:
                    self.take(number, report)
            if until is None and self.failure is None:
                self.look()
                with suppress(_FailedError):
                    self.checkpoint()

    def checkpoint(self) -> None:
        """If all have finished, let them go; if the run is to be saved before, save it."""
        if len(self.finished) == len(self.processes) and not self.over:
            self.over = True
            if self.cpu:
                self.other_cpu_share = self.cpu.other_share()
            self.write(drained=True)
            self.tell_all(End())
        elif (
            self.checkpoints is not None
            and len(self.ready) == len(self.processes)
            and not self.over
            and self.checkpoints.is_due(len(self.losses.rows))
        ):
            self.tell_all(Pause())
            self.stop.set()
            self.replies(Pause)
            self.stop.lower()
            if len(self.finished) == len(self.processes) or self.write(drained=False):
                self.tell_all(Ready())
            else:
                self.paused = True

    def write(self, *, drained: bool) -> bool:
        """Let all workers, who wait, write their files; returns whether the run is to go on."""

        def write_parts(folder: Path) -> list[str]:
            self.tell_all(Save(str(folder), drained))
            return [found.name for found in self.replies(Saved)]

        return self.checkpoints is not None and self.checkpoints.write(
            self.losses.rows, drained=drained, write_parts=write_parts
        )

    def replies(self, kind: type[Any]) -> list[Any]:
        """An answer of this kind from each worker. Raises `_FailedError` if one fails before."""
        found: dict[int, Any] = {}
        while len(found) < len(self.connections):
            missing = [each for n, each in enumerate(self.connections) if n not in found]
            for connection in wait(missing, LOOK_S):
                assert isinstance(connection, Connection)
                number = self.connections.index(connection)
                try:
                    report = connection.recv()
                except (EOFError, OSError):
                    self.died(number)
                    break
                if isinstance(report, kind):
                    found[number] = report
                else:
                    self.take(number, report)
            if self.failure is None:
                self.look()
            if self.failure is not None:
                raise _FailedError
        return [found[number] for number in sorted(found)]

    def look(self) -> None:
        """If a worker hangs, ask it where it is, and end it."""
        if (hang := self.watchdog.look()) is None:
            return
        left = [n for n in range(len(self.processes)) if n not in self.finished]
        asked = left if hang.waits else [hang.worker]
        pids = {number: self.processes[number].pid or 0 for number in asked}
        stacks = {number: self.lifelines.stack_of(number, pid) for number, pid in pids.items()}
        # If all seem to wait, one of them may be stopped.
        number = next((n for n in asked if not stacks[n]), hang.worker)
        name = self.schedule.workers[number].name
        self.failure = WorkerError(name, hang.reason, stacks[number])
        self.processes[number].kill()

    def tell_all(self, request: Ready | Pause | Save | End) -> None:
        """Tell all workers the same. Who has gone is found by the next wait."""
        for connection in self.connections:
            with suppress(OSError):
                connection.send(request)

    def take(self, number: int, report: Any) -> None:
        """One report of a worker."""
        match report:
            case Ready():
                self.ready.add(number)
                if len(self.ready) == len(self.processes):
                    own = [os.getpid(), *(process.pid or 0 for process in self.processes)]
                    self.cpu = CpuWatch(own)
                    self.tell_all(Ready())
            case Rows(spans, gradients, losses, applied, memory):
                self.recorder.add(spans, gradients)
                if memory is not None and self.memory is not None:
                    self.memory.extend(memory[0])
                    self.peaks[self.schedule.workers[number].name] = memory[1]
                self.losses.rows.extend(losses)
                tell(self.progress, applied, self.losses.rows, [self.recorder.newest_gap])
            case Finished(state):
                replica = self.schedule.replicas[number]
                self.states.setdefault(replica, {}).update(pickle.loads(state))
                self.finished.add(number)
            case Failed(reason, traceback):
                self.finished.add(number)
                name = self.schedule.workers[number].name
                self.failure = self.failure or WorkerError(name, reason, traceback)

    def died(self, number: int) -> None:
        """A worker's process ended without a word."""
        self.processes[number].join(GRACE_S)
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
        self.tell_all(End())
        deadline = monotonic() + GRACE_S
        self.watch(until=deadline)
        for process in self.processes:
            process.join(max(0.0, deadline - monotonic()))
            if process.is_alive():
                process.kill()
                process.join(GRACE_S)
        for connection in self.connections:
            connection.close()

    def result(self, failure: str | None) -> RunResult:
        state = None
        if failure is None and self.provisions is not None:
            shared = self.provisions.shared_state
            state = mean_state([own | shared(replica) for replica, own in self.states.items()])
        about: dict[str, Any] = {"runtime": "processes", "other_cpu_share": self.other_cpu_share}
        if self.memory is not None:
            about["memory"] = self.peaks
        return finish(
            self.training,
            self.schedule,
            self.recorder,
            self.losses,
            state,
            about,
            failure,
            self.memory,
        )
