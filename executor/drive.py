"""The loop around one worker's program that threads and processes share."""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from executor.averaging import contribution, take_result
from executor.clock import now_ns
from executor.perform import perform
from executor.ports import Message, Port
from executor.position import Position
from executor.ring import Stopped
from executor.rounds import Meeting
from executor.tensors import WorkerTensors
from executor.watchdog import NO_PULSE, Pulse
from simcore.ops import (
    Arrive,
    Channel,
    Group,
    Join,
    Load,
    Operation,
    Receive,
    Select,
    Send,
    Worker,
    kind_of,
)
from simcore.rules import check_declared
from simcore.trace import KIND, Recorder

__all__ = ["Ends", "Losses", "Numbers", "drive", "place"]

_NO_ANSWER: Final[Any] = None


class Ends(Protocol):
    """The ends of channels and groups that a worker uses."""

    ports: Mapping[Channel, Port]
    meetings: Mapping[Group, Meeting]

    def select(self, channels: tuple[Channel, ...]) -> tuple[Channel, Message] | None:
        """Wait for the first of several channels, in their order, that can be served."""


class Losses:
    """Rows (batch, loss, ns) of the worker that computes the loss."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, float, int]] = []

    def drain(self) -> list[tuple[int, float, int]]:
        """Take out what was recorded since the last call."""
        rows, self.rows = self.rows, []
        return rows


class Numbers:
    """The numbers that traces give to channels and groups."""

    def __init__(self, channels: tuple[Channel, ...], groups: tuple[Group, ...]) -> None:
        self.channels = {channel: number for number, channel in enumerate(channels)}
        self.groups = {group: number for number, group in enumerate(groups)}


def place(operation: Operation) -> tuple[int, int]:
    """The columns `block` and `batch` of a computation's row."""
    if isinstance(operation, Load):
        return 0, operation.batch
    return getattr(operation, "block", -1), getattr(operation, "batch", -1)


def drive(
    number: int,
    worker: Worker,
    numbers: Numbers,
    tensors: WorkerTensors,
    ends: Ends,
    recorder: Recorder,
    losses: Losses,
    between: Callable[[], None],
    pulse: Pulse = NO_PULSE,
    position: Position | None = None,
) -> None:
    """Run a worker's program on real tensors until it ends, then close what it sends to.

    `between` is called after each operation, and ends the run by raising `Stopped`. `pulse` is
    told what the worker begins. `position` is where the program has got; with the same tensors and
    ends it can go on after `Stopped`, as what was waited for has then left no trace.
    """
    position = position or Position(worker, tuple(numbers.channels))
    while (operation := position.next()) is not None:
        index, answer = position.done, _NO_ANSWER
        check_declared(worker, operation)
        pulse.enter(operation)
        match operation:
            case Send(channel, batch):
                payloads = tensors.take(channel.carries, batch, send=True)
                try:
                    start = ends.ports[channel].send(batch, payloads)
                except Stopped:
                    tensors.give(channel.carries, batch, payloads)
                    raise
                row = KIND["send"], numbers.channels[channel], batch, -1
                recorder.span(start, now_ns(), number, index, *row)
            case Receive() | Select():
                received = _receive(ends, operation)
                if received is not None:
                    channel, message = received
                    tensors.give(channel.carries, message.batch, message.payloads)
                    row = KIND["receive"], numbers.channels[channel], message.batch, -1
                    recorder.span(message.since_ns, now_ns(), number, index, *row)
                    answer = message.batch
                    if isinstance(operation, Select):
                        answer = channel, message.batch
            case Arrive(group, block) | Join(group, block):
                start = now_ns()
                meeting = ends.meetings[group]
                if isinstance(operation, Arrive) or not meeting.has_arrived(block):
                    meeting.arrive(block, contribution(tensors, group, block))
                if isinstance(operation, Join):
                    start, contributions = meeting.join(block)
                    answer = take_result(tensors, group, block, contributions)
                row = KIND[kind_of(type(operation))], numbers.groups[group], block, -1
                recorder.span(start, now_ns(), number, index, *row)
            case _:
                start = now_ns()
                done = perform(tensors, operation)
                end = now_ns()
                at, batch = place(operation)
                kind = KIND[kind_of(type(operation))]
                recorder.span(start, end, number, index, kind, at, batch, done.version)
                if done.landed is not None:
                    recorder.update(end, number, done.landed)
                if done.loss is not None:
                    losses.rows.append((batch, done.loss, end))
        position.complete(answer)
        pulse.be_patient()
        between()
    for channel in worker.sends:
        ends.ports[channel].close()
    for meeting in ends.meetings.values():
        meeting.leave()
    position.closed = True


def _receive(ends: Ends, operation: Receive | Select) -> tuple[Channel, Message] | None:
    if isinstance(operation, Select):
        return ends.select(operation.channels)
    message = ends.ports[operation.channel].receive()
    return None if message is None else (operation.channel, message)
