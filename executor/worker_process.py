"""What one worker's process does, and what it reports to the process that started it."""

import pickle
import traceback
from array import array
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch

from executor.allocator import tune_allocator
from executor.assembly import Parts
from executor.clock import now_ns
from executor.drive import Losses, Numbers, drive
from executor.forward_gradients import dual_level_of
from executor.payloads import Codec
from executor.ports import Exchange, LocalEnds, Port, local_port
from executor.ring import Ring, Stop, Stopped
from executor.ring_port import ProcessEnds, RingMeeting, RingPort
from executor.training import Training
from simcore.errors import GradlagError
from simcore.ops import Channel
from simcore.trace import Recorder

__all__ = ["Failed", "Finished", "Links", "Ready", "Rows", "work"]

# How often a worker reports: what it measured since is lost if its process is killed.
_REPORT_NS = 250_000_000


class Ready(NamedTuple):
    """The worker is warmed up; sent back to it when all are, and again when all have finished."""


class Rows(NamedTuple):
    """Rows of the trace and losses since the last report, and how many gradients they applied."""

    spans: "array[int]"
    gradients: "array[int]"
    losses: list[tuple[int, float, int]]
    applied: int


class Finished(NamedTuple):
    """The program has ended; the state of the worker's blocks, pickled.

    Sent as it is, torch would move it to shared memory that outlives the process.
    """

    state: bytes


class Failed(NamedTuple):
    """The worker failed."""

    reason: str
    traceback: str


class Links(NamedTuple):
    """The rings of one worker: of channels, by number; of groups, by (group, sender, receiver)."""

    channels: Mapping[int, Ring]
    groups: Mapping[tuple[int, int, int], Ring]


def work(number: int, pickled: bytes, links: Links, stop: Stop, connection: Connection) -> None:
    """The whole life of a worker's process."""
    reporter = _Reporter(connection, stop)
    try:
        tune_allocator()
        training: Training = pickle.loads(pickled)
        torch.set_num_threads(training.threads)
        torch.manual_seed(training.seed)
        schedule = training.make_schedule()
        parts = Parts(training, schedule, [number])
        tensors = parts.warm_tensors_of(number)
        worker, exchange, between = schedule.workers[number], Exchange(), links.groups
        codec = Codec(parts.outputs, parts.labels, schedule.weights.tangents)
        numbers = Numbers(schedule.channels, schedule.groups)
        ports: dict[Channel, Port] = {}
        for channel in (*worker.receives, *worker.sends):
            ring = links.channels.get(numbers.channels[channel])
            ports[channel] = (
                RingPort(ring, channel, codec)
                if ring is not None
                else local_port(schedule, channel, parts.passes, exchange)
            )
        meetings = {
            group: RingMeeting(
                number,
                {to: ring for (n, own, to), ring in between.items() if (n, own) == (at, number)},
                {by: ring for (n, by, own), ring in between.items() if (n, own) == (at, number)},
            )
            for group, at in numbers.groups.items()
            if group in worker.joins
        }
        ends = ProcessEnds(ports, LocalEnds(ports, exchange, {}), meetings)
        connection.send(Ready())
        connection.recv()
        recorder, losses = reporter.recorder, reporter.losses
        with dual_level_of(schedule):
            drive(number, worker, numbers, tensors, ends, recorder, losses, reporter.between)
        reporter.report()
        connection.send(Finished(pickle.dumps(parts.state())))
        connection.recv()  # a process that has gone no longer tells what CPU time it took
    except (Stopped, EOFError, BrokenPipeError):
        reporter.last_words()
    except BaseException as error:
        reason = str(error) if isinstance(error, GradlagError) else repr(error)
        reporter.last_words(Failed(reason, traceback.format_exc()))


class _Reporter:
    def __init__(self, connection: Connection, stop: Stop) -> None:
        self.connection, self.stop = connection, stop
        self.recorder, self.losses = Recorder(), Losses()
        self.reported_ns, self.applied = now_ns(), 0

    def between(self) -> None:
        """Between two operations: report now and then; has the run been stopped?"""
        if now_ns() - self.reported_ns < _REPORT_NS:
            return
        if self.stop.is_set():
            raise Stopped("the run was stopped")
        self.report()

    def report(self) -> None:
        """Send what was recorded since the last report."""
        applied = self.recorder.applied - self.applied
        self.connection.send(Rows(*self.recorder.drain(), self.losses.drain(), applied))
        self.reported_ns, self.applied = now_ns(), self.recorder.applied

    def last_words(self, failure: Failed | None = None) -> None:
        """Report what is left, if anybody still listens."""
        try:
            self.report()
            if failure is not None:
                self.connection.send(failure)
        except OSError:
            pass
