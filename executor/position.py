"""How far a worker's program has got, so that it can go on later, in another process too.

A program is a generator, which cannot be saved. But it depends on nothing but the answers that it
was sent: a fresh one that is fed the recorded answers stands where the old one stood.
"""

import zlib
from array import array
from typing import Any

import numpy as np
import torch

from simcore.errors import InputError
from simcore.ops import Channel, Join, Operation, Receive, Select, Worker

__all__ = ["Position"]

_NOTHING = -1  # the answer of a channel that is closed and empty


class Position:
    """A running program, the operation that it waits for, and all answers that it was sent.

    `done` counts the operations that are complete. When the program has `ended`, the worker has
    still to close what it sends to: then it is `closed`. `channels` are the schedule's: answers
    name them by number.
    """

    def __init__(self, worker: Worker, channels: tuple[Channel, ...]) -> None:
        self._channels = channels
        self._program = worker.program()
        self._answer: Any = None
        self._answers = array("q")
        self.operation: Operation | None = None
        self.done = 0
        self.ended = False
        self.closed = False

    def next(self) -> Operation | None:
        """The operation to be done now, the same until it is complete; None at the end."""
        if self.operation is None and not self.ended:
            try:
                self.operation = self._program.send(self._answer)
            except StopIteration:
                self.ended = True
        return self.operation

    def complete(self, answer: Any = None) -> None:
        """The operation has been done: the program will be sent this answer."""
        match self.operation:
            case Select():
                number = _NOTHING if answer is None else self._channels.index(answer[0])
                self._answers.extend((number, _NOTHING if answer is None else answer[1]))
            case Receive():
                self._answers.append(_NOTHING if answer is None else answer)
            case Join():
                self._answers.append(bool(answer))
        self.operation, self._answer = None, answer
        self.done += 1

    def saved(self) -> dict[str, Any]:
        """What `go_to` needs: the number of operations, and the answers, compressed."""
        # Batches mostly count up, so that differences are few different numbers.
        steps = np.diff(np.asarray(self._answers, np.int64), prepend=0)
        packed = np.frombuffer(zlib.compress(steps.tobytes()), np.uint8)
        return {"done": self.done, "answers": torch.from_numpy(packed.copy())}

    def go_to(self, saved: dict[str, Any]) -> None:
        """Bring a fresh program to where another one was.

        Raises `InputError` if it does not ask for as many answers as the other one was sent.
        """
        steps = np.frombuffer(zlib.decompress(saved["answers"].numpy().tobytes()), np.int64)
        answers = np.cumsum(steps).tolist()
        rest = iter(answers)
        try:
            for _ in range(saved["done"]):
                operation = self.next()
                self.complete(None if operation is None else self._recorded(operation, rest))
        except StopIteration:
            pass
        if self.done < saved["done"] or len(self._answers) != len(answers):
            rule = f"must be that of the checkpoint, which had {len(answers)} answers"
            raise InputError("program", "another", rule, "resume with the schedule that was saved")

    def _recorded(self, operation: Operation, rest: Any) -> Any:
        match operation:
            case Select():
                number, batch = next(rest), next(rest)
                return None if number == _NOTHING else (self._channels[number], batch)
            case Receive():
                batch = next(rest)
                return None if batch == _NOTHING else batch
            case Join():
                return bool(next(rest))
        return None
