"""What one worker's process does, and what it reports to the process that started it."""

import pickle
import traceback
from array import array
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from executor.allocator import tune_allocator
from executor.assembly import Parts
from executor.checkpoint import opened
from executor.checkpoint_files import write_part
from executor.checkpoint_state import Flight, restore, saved
from executor.clock import now_ns
from executor.drive import Losses, Numbers, drive
from executor.failure import reason_of
from executor.forward_gradients import dual_level_of
from executor.lifelines import Lifeline
from executor.measured_memory import Meter, measuring
from executor.payloads import Codec
from executor.ports import Exchange, LocalEnds, Port, SourcePort, local_port
from executor.position import Position
from executor.ring import Ring, Stop, Stopped
from executor.ring_port import ProcessEnds, RingMeeting, RingPort
from executor.shared_numbers import SharedNumbers
from executor.shared_weights import SharedWeights
from executor.training import Training
from executor.watchdog import NO_PULSE, Pulse
from simcore.ops import Channel
from simcore.trace import Recorder

__all__ = [
    "End",
    "Failed",
    "Finished",
    "Links",
    "Pause",
    "Ready",
    "Rows",
    "Save",
    "Saved",
    "work",
]

# How often a worker reports: what it measured since is lost if its process is killed.
_REPORT_NS = 250_000_000


class Ready(NamedTuple):
    """The worker is warmed up; sent back to it when all are, and when it may go on."""


class Rows(NamedTuple):
    """Rows of the trace and losses since the last report, and how many gradients they applied.

    Where memory is measured, its rows too, and the peaks up to now.
    """

    spans: "array[int]"
    gradients: "array[int]"
    losses: list[tuple[int, float, int]]
    applied: int
    memory: "tuple[array[int], dict[str, Any]] | None"


class Finished(NamedTuple):
    """The program has ended; the state of the worker's blocks, pickled.

    Sent as it is, torch would move it to shared memory that outlives the process.
    """

    state: bytes


class Pause(NamedTuple):
    """To a worker: wait, between two operations or instead of one that waits. Sent back then."""


class Save(NamedTuple):
    """To a worker that pauses or has finished: write your file to this folder."""

    folder: str
    drained: bool


class Saved(NamedTuple):
    """The name of the file that the worker has written."""

    name: str


class End(NamedTuple):
    """To a worker that waits, or has finished: the run is over."""


class Failed(NamedTuple):
    """The worker failed."""

    reason: str
    traceback: str


class Links(NamedTuple):
    """What one worker shares with others.

    Rings of channels, by number, and of groups, by (group, sender, receiver); the `weights` of its
    replica, where others update them, too, and then the `versions` of all blocks; how many batches
    have been `taken` from the sources, by number of the channel, where several workers take them.
    """

    channels: Mapping[int, Ring]
    groups: Mapping[tuple[int, int, int], Ring]
    weights: Mapping[int, SharedWeights]
    versions: SharedNumbers | None
    taken: SharedNumbers | None


def work(
    number: int,
    pickled: bytes,
    links: Links,
    stop: Stop,
    connection: Connection,
    lifeline: Lifeline,
) -> None:
    """The whole life of a worker's process."""
    reporter = _Reporter(connection, stop)
    try:
        pulse = lifeline.hold()
        tune_allocator()
        training: Training = pickle.loads(pickled)
        torch.set_num_threads(training.threads)
        torch.manual_seed(training.seed)
        schedule = training.make_schedule()
        parts = Parts(training, schedule, [number], links.weights, links.versions)
        tensors = parts.warm_tensors_of(number, pulse)
        worker, exchange, between = schedule.workers[number], Exchange(), links.groups
        codec = Codec(parts.outputs, parts.labels, schedule.weights.tangents)
        numbers = Numbers(schedule.channels, schedule.groups)
        ports = {
            channel: _port(channel, numbers.channels[channel], links, parts, codec, exchange)
            for channel in (*worker.receives, *worker.sends)
        }
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
        position = Position(worker, schedule.channels)
        flight = Flight(parts, {number: tensors}, {number: position}, ports, meetings)
        if (found := opened(training, schedule, "processes")) is not None:
            restore(flight, found[1])
        connection.send(Ready())
        _serve(connection, number, flight, pulse)
        recorder, losses = reporter.recorder, reporter.losses
        with dual_level_of(schedule):
            meter = reporter.meter = Meter(schedule) if training.measure_memory else None
            with measuring(meter, number, tensors, ends, reporter.between) as report:
                own = number, worker, numbers, tensors, ends, recorder, losses, report, pulse
                while not position.closed:
                    try:
                        drive(*own, position)
                    except Stopped:
                        if not connection.poll():
                            raise
                        reporter.report()
                        _serve(connection, number, flight, pulse)
        pulse.be_patient()
        reporter.report()
        connection.send(Finished(pickle.dumps(parts.state())))
        pulse.end()
        while True:  # a process that has gone no longer tells what CPU time it took
            _serve(connection, number, flight, NO_PULSE)
    except (Stopped, EOFError, BrokenPipeError):
        reporter.last_words()
    except BaseException as error:
        reporter.last_words(Failed(reason_of(error), traceback.format_exc()))


def _serve(connection: Connection, number: int, flight: Flight, pulse: Pulse) -> None:
    """Do what the process that started the run asks for, until the run goes on."""
    while True:
        pulse.wait()
        match connection.recv():
            case Pause() as asked:
                connection.send(asked)
            case Save(folder, drained):
                pulse.be_patient()
                state = saved(flight, drained=drained)
                connection.send(Saved(write_part(Path(folder), f"worker-{number}.pt", state)))
            case End():
                raise Stopped("the run was stopped")
            case _:
                return


def _port(
    channel: Channel, at: int, links: Links, parts: Parts, codec: Codec, exchange: Exchange
) -> Port:
    if at in links.channels:
        return RingPort(links.channels[at], channel, codec)
    schedule, taken = parts.schedule, links.taken
    if taken is None or not channel.source or len(schedule.receivers[channel]) == 1:
        return local_port(schedule, channel, parts.passes, exchange)
    return SourcePort(
        channel,
        schedule.batches,
        lambda batch: [parts.passes.payload(item, batch) for item in channel.carries],
        lambda: taken.next(at),
    )


class _Reporter:
    def __init__(self, connection: Connection, stop: Stop) -> None:
        self.connection, self.stop = connection, stop
        self.recorder, self.losses = Recorder(), Losses()
        self.reported_ns, self.applied = now_ns(), 0
        self.meter: Meter | None = None

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
        memory = None if self.meter is None else (self.meter.drain(), self.meter.peaks())
        rows = self.recorder.drain()
        self.connection.send(Rows(*rows, self.losses.drain(), applied, memory))
        self.reported_ns, self.applied = now_ns(), self.recorder.applied

    def last_words(self, failure: Failed | None = None) -> None:
        """Report what is left, if anybody still listens."""
        try:
            self.report()
            if failure is not None:
                self.connection.send(failure)
        except OSError:
            pass
