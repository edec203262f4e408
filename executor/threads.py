"""The thread runtime: one thread per worker in this process, payloads by reference."""

import threading
import traceback
from collections.abc import Callable, Mapping

import torch

from executor.assembly import Parts, finish
from executor.drive import Losses, drive
from executor.failure import WorkerError
from executor.network import block_shapes
from executor.ports import Exchange, LocalPort, Message, Port, SinkPort, SourcePort
from executor.ring import Stopped
from executor.training import RunResult, Training
from executor.warmup import warm_up
from simcore.errors import GradlagError
from simcore.ops import Channel, Item
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
    run = _ThreadRun(training, training.make_schedule())
    threads_before = torch.get_num_threads()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(training.seed)
            return run.run(progress or (lambda _: None))
    finally:
        torch.set_num_threads(threads_before)


class _ThreadEnds:
    """All ports of the run; which of them a worker may use is checked against its declaration."""

    def __init__(self, ports: Mapping[Channel, Port], exchange: Exchange) -> None:
        self.ports, self._exchange = ports, exchange

    def select(self, channels: tuple[Channel, ...]) -> tuple[Channel, Message] | None:
        """The first servable channel in the listed order."""
        return select_local(self._exchange, {c: self.ports[c] for c in channels})


def select_local(
    exchange: Exchange, ports: Mapping[Channel, Port]
) -> tuple[Channel, Message] | None:
    """Wait for the first of several local channels that has a message; None if all are closed."""

    def first() -> Channel | None:
        for channel, port in ports.items():
            if isinstance(port, LocalPort) and port.arrived:
                return channel
        return None

    with exchange.changed:
        exchange.wait_for(
            lambda: (
                first() is not None
                or all(isinstance(port, LocalPort) and port.servable() for port in ports.values())
            )
        )
        channel = first()
        if channel is None:
            return None
        port = ports[channel]
        assert isinstance(port, LocalPort)
        message = port.take()
        assert message is not None
        return channel, message


class _ThreadRun:
    def __init__(self, training: Training, schedule: Schedule) -> None:
        self.training, self.schedule = training, schedule
        self.parts = Parts(training, schedule)
        self.exchange = Exchange()
        self.recorders = [Recorder() for _ in schedule.workers]
        self.losses = Losses()
        self.failures: list[WorkerError] = []
        self.ready = threading.Barrier(len(schedule.workers))
        inputs, self.labels = training.source.payload(Item("activation", 0), 0)
        self.outputs = block_shapes(self.parts.blocks, inputs)
        ports = {channel: self.port(channel) for channel in schedule.channels}
        self.ends = _ThreadEnds(ports, self.exchange)

    def port(self, channel: Channel) -> Port:
        source = self.training.source
        if channel.source:
            return SourcePort(
                self.schedule.batches,
                lambda batch: [source.payload(item, batch) for item in channel.carries],
            )
        if not self.schedule.receivers[channel]:
            return SinkPort()
        return LocalPort(self.exchange, channel, len(self.schedule.senders[channel]))

    def run(self, progress: Callable[[int], None]) -> RunResult:
        threads = [
            threading.Thread(target=self.work, args=(number,), name=worker.name, daemon=True)
            for number, worker in enumerate(self.schedule.workers)
        ]
        told, failure = 0, None
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                for thread in threads:
                    thread.join(_REPORT_S / len(threads))
                applied = sum(recorder.applied for recorder in self.recorders)
                progress(applied - told)
                told = applied
        except KeyboardInterrupt:
            failure = "interrupted"
        finally:
            self.exchange.stop()
            self.ready.abort()
        for thread in threads:
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
        state = None if failure else self.parts.state(range(1, self.schedule.blocks + 1))
        about = {"runtime": "threads"}
        return finish(self.training, self.schedule, recorder, self.losses, state, about, failure)

    def work(self, number: int) -> None:
        """The body of one worker's thread."""
        worker = self.schedule.workers[number]
        torch.set_num_threads(self.training.threads)
        numbers = {channel: n for n, channel in enumerate(self.schedule.channels)}
        recorder = self.recorders[number]
        try:
            tensors = self.parts.tensors_of(number)
            warm_up(tensors, self.outputs, self.labels, self.training.loss)
            self.ready.wait()
            drive(number, worker, numbers, tensors, self.ends, recorder, self.losses, self.check)
        except (Stopped, threading.BrokenBarrierError):
            pass
        except BaseException as error:
            reason = str(error) if isinstance(error, GradlagError) else repr(error)
            self.failures.append(WorkerError(worker.name, reason, traceback.format_exc()))
            self.exchange.stop()
            self.ready.abort()

    def check(self) -> None:
        """Between two operations: has the run been stopped?"""
        if self.exchange.stopped:
            raise Stopped("the run was stopped")
