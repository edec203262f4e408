"""The thread runtime: one thread per worker in this process, payloads by reference."""

import threading
import traceback
from collections.abc import Callable

import torch

from executor.assembly import Parts, finish
from executor.drive import Losses, Numbers, drive
from executor.failure import WorkerError
from executor.forward_gradients import dual_level_of
from executor.hygiene import CpuWatch
from executor.ports import Exchange, LocalEnds, LocalMeeting, local_port
from executor.ring import Stopped
from executor.rounds import LocalRounds
from executor.training import INTERRUPTED, RunResult, Training
from simcore.errors import GradlagError
from simcore.schedule import Schedule
from simcore.trace import Recorder

__all__ = ["run_threads"]

# How often the main thread looks for Ctrl-C and reports progress while its workers work.
_REPORT_S = 0.2


def run_threads(training: Training, progress: Callable[[int], None] | None = None) -> RunResult:
    """Train with one thread per worker.

    `progress` is told, now and then, how many gradients have been applied since it was last told.
    Ctrl-C ends the run and returns what was done. Raises `WorkerError` for the first worker that
    fails, with its traceback and with what was done.
    """
    schedule = training.make_schedule()
    run = _ThreadRun(training, schedule)
    threads_before = torch.get_num_threads()
    try:
        with torch.random.fork_rng(), dual_level_of(schedule):
            torch.manual_seed(training.seed)
            return run.run(progress or (lambda _: None))
    finally:
        torch.set_num_threads(threads_before)


class _ThreadRun:
    def __init__(self, training: Training, schedule: Schedule) -> None:
        self.training, self.schedule = training, schedule
        self.parts = Parts(training, schedule, range(len(schedule.workers)))
        self.exchange = Exchange()
        self.recorders = [Recorder() for _ in schedule.workers]
        self.losses = Losses()
        self.failures: list[WorkerError] = []
        # Not `Thread.join` alone: before Python 3.13, when Ctrl-C interrupts it, it takes a thread
        # that still works for ended.
        self.ended = [threading.Event() for _ in schedule.workers]
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

    def run(self, progress: Callable[[int], None]) -> RunResult:
        threads = [
            threading.Thread(target=self.work, args=(number,), name=worker.name, daemon=True)
            for number, worker in enumerate(self.schedule.workers)
        ]
        told, failure, working = 0, None, True
        try:
            for thread in threads:
                thread.start()
            while working:
                for ended in self.ended:
                    ended.wait(_REPORT_S / len(threads))
                working = not all(ended.is_set() for ended in self.ended)
                applied = sum(recorder.applied for recorder in self.recorders)
                progress(applied - told)
                told = applied
        except KeyboardInterrupt:
            failure = INTERRUPTED
        finally:
            self.exchange.stop()
            self.ready.abort()
        for thread, ended in zip(threads, self.ended, strict=True):
            if thread.ident is not None:  # Ctrl-C may come before all have started
                ended.wait()
                thread.join()
        if self.failures:
            error = self.failures[0]
            error.partial = self.result(str(error))
            raise error
        return self.result(failure)

    def result(self, failure: str | None) -> RunResult:
        recorder = Recorder()
        for part in self.recorders:
            recorder.add(*part.drain())
        state = None if failure else self.parts.state()
        about = {"runtime": "threads", "other_cpu_share": self.watch.other_share()}
        return finish(self.training, self.schedule, recorder, self.losses, state, about, failure)

    def work(self, number: int) -> None:
        """The body of one worker's thread."""
        worker = self.schedule.workers[number]
        torch.set_num_threads(self.training.threads)
        recorder = self.recorders[number]
        meetings = {
            group: LocalMeeting(self.exchange, self.rounds[group], number) for group in worker.joins
        }
        ends = LocalEnds(self.ports, self.exchange, meetings)
        try:
            tensors = self.parts.warm_tensors_of(number)
            self.ready.wait()
            between = self.check
            drive(number, worker, self.numbers, tensors, ends, recorder, self.losses, between)
        except (Stopped, threading.BrokenBarrierError):
            pass
        except BaseException as error:
            reason = str(error) if isinstance(error, GradlagError) else repr(error)
            self.failures.append(WorkerError(worker.name, reason, traceback.format_exc()))
            self.exchange.stop()
            self.ready.abort()
        finally:
            self.ended[number].set()

    def begin(self) -> None:
        """All workers are warmed up."""
        self.watch = CpuWatch()

    def check(self) -> None:
        """Between two operations: has the run been stopped?"""
        if self.exchange.stopped:
            raise Stopped("the run was stopped")
