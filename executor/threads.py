"""The thread runtime: one thread per worker in this process, payloads by reference."""

import threading
import traceback
from array import array
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from executor.assembly import Parts, finish
from executor.checkpoint import STOPPED, Checkpoints, opened
from executor.checkpoint_state import Flight, begin_again, goes_on
from executor.drive import Losses, Numbers, drive
from executor.failure import WorkerError, reason_of
from executor.forward_gradients import dual_level_of
from executor.hygiene import CpuWatch
from executor.measured_memory import Meter, measuring
from executor.ports import Exchange, LocalEnds, LocalMeeting, local_port
from executor.position import Position
from executor.progress import tell
from executor.ring import Stopped
from executor.rounds import LocalRounds
from executor.supervision import WorkerThread, supervise
from executor.tensors import WorkerTensors
from executor.training import INTERRUPTED, RunResult, Training
from executor.watchdog import Pulse, Watchdog
from simcore.schedule import Schedule
from simcore.trace import Recorder

__all__ = ["run_threads"]


def run_threads(
    training: Training,
    progress: Callable[[int], None] | None = None,
    checkpoints: Checkpoints | None = None,
) -> RunResult:
    """Train with one thread per worker.

    `progress` is told, now and then, how many gradients have been applied since it was last told.
    Ctrl-C ends the run and returns what was done. Raises `WorkerError` for the first worker that
    fails or hangs, with its traceback and with what was done. A thread that hangs is left behind,
    see `executor.supervision`. `checkpoints` say when the run is saved.
    """
    schedule = training.make_schedule()
    run = _ThreadRun(training, schedule, checkpoints)
    threads_before = torch.get_num_threads()
    try:
        with torch.random.fork_rng(), dual_level_of(schedule):
            torch.manual_seed(training.seed)
            return run.run(progress or (lambda _: None))
    finally:
        torch.set_num_threads(threads_before)


class _ThreadRun:
    def __init__(
        self, training: Training, schedule: Schedule, checkpoints: Checkpoints | None
    ) -> None:
        self.training, self.schedule, self.checkpoints = training, schedule, checkpoints
        self.opened = opened(training, schedule, "threads")
        if checkpoints is not None:
            checkpoints.begin(training, schedule, "threads")
        self.parts = Parts(training, schedule, range(len(schedule.workers)))
        self.exchange = Exchange()
        self.recorders = [Recorder() for _ in schedule.workers]
        self.losses = Losses()
        self.meter = Meter(schedule) if training.measure_memory else None
        self.failures: list[WorkerError] = []
        self.pulses = array("q", [0] * len(schedule.workers))
        self.watchdog = Watchdog(self.pulses, training.timeout_s)
        self.told = 0
        self.ready = threading.Barrier(len(schedule.workers), action=self.begin)
        self.watch = CpuWatch()
        self.ports = {
            channel: local_port(schedule, channel, self.parts.passes, self.exchange)
            for channel in schedule.channels
        }
        self.rounds = {
            group: LocalRounds({n for n, w in enumerate(schedule.workers) if group in w.joins})
            for group in schedule.groups
        }
        self.numbers = Numbers(schedule.channels, schedule.groups)
        self.tensors: dict[int, WorkerTensors] = {}
        self.positions = {
            number: Position(worker, schedule.channels)
            for number, worker in enumerate(schedule.workers)
        }
        self.flight = Flight(
            self.parts, self.tensors, self.positions, self.ports, rounds=self.rounds
        )
        self.paused = False

    def run(self, progress: Callable[[int], None]) -> RunResult:
        names = [worker.name for worker in self.schedule.workers]
        tick = partial(self.tell, progress)
        going_on = True
        while going_on:
            threads = [WorkerThread(name, partial(self.work, n)) for n, name in enumerate(names)]
            interrupted = supervise(threads, self.watchdog, self.failures, names, tick, self.stop)
            if self.failures:
                error = self.failures[0]
                error.partial = self.result(str(error))
                raise error
            if interrupted:
                return self.result(INTERRUPTED)
            going_on = self.pause()
        return self.result(STOPPED if self.paused else None)

    def pause(self) -> bool:
        """All threads have ended: the run is saved, if it is to be. Whether it goes on."""
        self.paused = not all(position.ended for position in self.positions.values())
        going_on = goes_on(self.flight, self.losses, self.checkpoints, not self.paused)
        if going_on:
            self.exchange.stopped = False
            self.ready.reset()
        return going_on

    def tell(self, progress: Callable[[int], None]) -> None:
        """Report how many gradients have been applied since the last report."""
        applied = sum(recorder.applied for recorder in self.recorders)
        gaps = [recorder.newest_gap for recorder in self.recorders]
        tell(progress, applied - self.told, self.losses.rows, gaps)
        self.told = applied
        if self.is_due():
            self.exchange.stop()

    def is_due(self) -> bool:
        """Whether the run should pause."""
        return self.checkpoints is not None and self.checkpoints.is_due(len(self.losses.rows))

    def stop(self) -> None:
        """Every worker ends as soon as it waits, or has done its operation."""
        self.exchange.stop()
        self.ready.abort()

    def result(self, failure: str | None) -> RunResult:
        recorder = Recorder()
        for part in self.recorders:
            recorder.add(*part.drain())
        state = None if failure else self.parts.state()
        about: dict[str, Any] = {"runtime": "threads", "other_cpu_share": self.watch.other_share()}
        memory = None
        if self.meter is not None:
            about["memory"], memory = {"process": self.meter.peaks()}, self.meter.drain()
        return finish(
            self.training, self.schedule, recorder, self.losses, state, about, failure, memory
        )

    def work(self, number: int) -> None:
        """The body of one worker's thread."""
        worker = self.schedule.workers[number]
        torch.set_num_threads(self.training.threads)
        recorder = self.recorders[number]
        meetings = {
            group: LocalMeeting(self.exchange, self.rounds[group], number) for group in worker.joins
        }
        ends = LocalEnds(self.ports, self.exchange, meetings)
        pulse = Pulse(self.pulses, number)
        try:
            pulse.start()
            if number not in self.tensors:
                self.tensors[number] = self.parts.warm_tensors_of(number, pulse)
            pulse.wait()
            self.ready.wait()
            tensors, position = self.tensors[number], self.positions[number]
            if position.closed:
                return
            with measuring(self.meter, number, tensors, ends, self.check, position.done) as between:
                drive(
                    number,
                    worker,
                    self.numbers,
                    tensors,
                    ends,
                    recorder,
                    self.losses,
                    between,
                    pulse,
                    position,
                )
        except (Stopped, threading.BrokenBarrierError):
            pass
        except BaseException as error:
            failure = WorkerError(worker.name, reason_of(error), traceback.format_exc())
            self.failures.append(failure)
            self.stop()
        finally:
            pulse.end()

    def begin(self) -> None:
        """All workers are warmed up."""
        begin_again(self.flight, self.losses, self.opened)
        self.opened = None
        self.watch = CpuWatch()

    def check(self) -> None:
        """Between two operations: has the run been stopped?"""
        if self.is_due():
            self.exchange.stop()
        if self.exchange.stopped:
            raise Stopped("the run was stopped")
