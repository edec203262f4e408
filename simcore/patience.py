"""When a program goes on for ever: it neither computes nor ends.

Computations use up batches, so that there can only be so many; messages without content, rounds,
snapshots and the ends of channels a program may ask for without end, and without any time passing.
"""

from typing import Final

from simcore.errors import IllegalOperationError
from simcore.ops import Load, Operation, Pass
from simcore.rules import shown
from simcore.schedule import Schedule

__all__ = ["Patience"]

# Far more than a worker that only passes things on needs of each channel, group and block.
_PER_BATCH: Final = 10
_LEAST: Final = 1000


class Patience:
    """Counts what each worker does between two computations."""

    def __init__(self, schedule: Schedule) -> None:
        self.workers = schedule.workers
        parts = len(schedule.channels) + len(schedule.groups) + schedule.blocks
        self.most = _LEAST + _PER_BATCH * schedule.batches * parts
        self.done = [0] * len(schedule.workers)

    def note(self, worker: int, operation: Operation) -> None:
        """A worker is about to do an operation. Raises `IllegalOperationError` after too many."""
        if isinstance(operation, Pass | Load):
            self.done[worker] = 0
            return
        self.done[worker] += 1
        if self.done[worker] > self.most:
            raise IllegalOperationError(
                f"{self.workers[worker].name} goes on for ever: {self.most} operations without a "
                f"computation, and now {shown(operation)}"
            )
