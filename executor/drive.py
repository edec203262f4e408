"""The loop around one worker's program that threads and processes share."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from executor.clock import now_ns
from executor.perform import WorkerTensors
from executor.ports import Message, Port
from executor.support import check_supported
from simcore.ops import (
    Backward,
    Channel,
    Forward,
    Receive,
    Select,
    Send,
    Update,
    Worker,
    kind_of,
)
from simcore.rules import check_declared
from simcore.trace import KIND, Recorder

__all__ = ["Ends", "Losses", "drive"]


class Ends(Protocol):
    """The ends of channels that a worker uses."""

    ports: Mapping[Channel, Port]

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


def drive(
    number: int,
    worker: Worker,
    channel_numbers: Mapping[Channel, int],
    tensors: WorkerTensors,
    ends: Ends,
    recorder: Recorder,
    losses: Losses,
    between: Callable[[], None],
) -> None:
    """Run a worker's program on real tensors until it ends, then close what it sends to.

    `between` is called after each operation, and ends the run by raising `Stopped`.
    """
    program = worker.program()
    answer: Any = None
    index = -1
    while True:
        try:
            operation = program.send(answer)
        except StopIteration:
            break
        index, answer = index + 1, None
        check_declared(worker, operation)
        check_supported(operation)
        match operation:
            case Forward() | Backward() | Update():
                start = now_ns()
                done = tensors.perform(operation)
                end = now_ns()
                batch = -1 if isinstance(operation, Update) else operation.batch
                kind, block = KIND[kind_of(type(operation))], operation.block
                recorder.span(start, end, number, index, kind, block, batch, done.version)
                if done.landed is not None:
                    recorder.update(end, number, done.landed)
                if done.loss is not None:
                    losses.rows.append((batch, done.loss, end))
            case Send(channel, batch):
                payloads = tensors.take(channel.carries, batch)
                start = ends.ports[channel].send(batch, payloads)
                row = KIND["send"], channel_numbers[channel], batch, -1
                recorder.span(start, now_ns(), number, index, *row)
            case Receive() | Select():
                received = _receive(ends, operation)
                if received is not None:
                    channel, message = received
                    tensors.give(channel.carries, message.batch, message.payloads)
                    row = KIND["receive"], channel_numbers[channel], message.batch, -1
                    recorder.span(message.since_ns, now_ns(), number, index, *row)
                    answer = message.batch
                    if isinstance(operation, Select):
                        answer = channel, message.batch
        between()
    for channel in worker.sends:
        ends.ports[channel].close()


def _receive(ends: Ends, operation: Receive | Select) -> tuple[Channel, Message] | None:
    if isinstance(operation, Select):
        return ends.select(operation.channels)
    message = ends.ports[operation.channel].receive()
    return None if message is None else (operation.channel, message)
