"""What spawned processes share through inherited file descriptors, and the one wait for all of it.

None of it has a name under /dev/shm, so nothing has to be unlinked, the resource tracker has
nothing to warn about, and the kernel frees everything when the last process that holds it is gone,
however it went. There is no lock that a killed process could keep.
"""

import fcntl
import multiprocessing
import os
import weakref
from collections.abc import Collection, Sequence
from multiprocessing import reduction
from multiprocessing.context import assert_spawning
from select import POLLIN, poll
from typing import Any

from simcore.errors import GradlagError

__all__ = ["MAX_NUMBERS", "Descriptor", "Numbers", "Stop", "Stopped", "wait_any"]

PIPE_BYTES = 2**16  # what any user may ask for, and the default
NUMBER_BYTES = 4
MAX_NUMBERS = PIPE_BYTES // NUMBER_BYTES // 2  # half: a page that is read in part still counts


class Stopped(GradlagError):  # noqa: N818 - a run that is told to end is no error
    """A wait was ended: the run was stopped, or the parent process has died."""


class Descriptor:
    """A file descriptor that is closed with its owner and that a spawned child inherits."""

    def __init__(self, number: int) -> None:
        self.number = number
        # Not at exit: the kernel closes it then, and a daemon thread may still be waiting on it.
        weakref.finalize(self, os.close, number).atexit = False

    def __reduce__(self) -> tuple[Any, ...]:
        assert_spawning(self)
        return _inherited, (reduction.DupFd(self.number),)


def _inherited(duplicate: Any) -> Descriptor:
    return Descriptor(duplicate.detach())


class Stop:
    """A flag that ends every wait of the processes that share it; an argument of `Process`.

    The parent makes it and gives the same one to all rings of a run. It is never lowered.
    """

    def __init__(self) -> None:
        self.descriptor = Descriptor(os.eventfd(0))

    def set(self) -> None:
        """Raise the flag: every wait, under way or to come, raises `Stopped`."""
        os.eventfd_write(self.descriptor.number, 1)

    def is_set(self) -> bool:
        """Say whether the flag is up, without waiting."""
        flag = poll()
        flag.register(self.descriptor.number, POLLIN)
        return bool(flag.poll(0))


class Numbers:
    """A FIFO of at most `MAX_NUMBERS` numbers below 2^32, shared by processes: a pipe.

    Linux writes and reads four bytes of a pipe in one piece, so there is no lock: each number goes
    to one taker, in the order of the puts.
    """

    def __init__(self) -> None:
        reader, writer = os.pipe()
        self.reader, self.writer = Descriptor(reader), Descriptor(writer)
        os.set_blocking(reader, False)
        # A user with many pipes gets smaller ones, in which a put could block: ask, or fail now.
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def put(self, number: int) -> None:
        """Append a number; never blocks."""
        os.write(self.writer.number, number.to_bytes(NUMBER_BYTES, "little"))

    def take(self) -> int | None:
        """Take the oldest number; None where there is none, perhaps as another was faster."""
        try:
            return int.from_bytes(os.read(self.reader.number, NUMBER_BYTES), "little")
        except BlockingIOError:
            return None


def wait_any(queues: Sequence[Numbers], stops: Collection[Stop]) -> list[Numbers]:
    """Wait until at least one queue may hold a number, and return those that may, in their order.

    Raises `Stopped` as soon as one of the stops is set or the parent process has died. All is one
    `poll`, so nothing is looked at in intervals.
    """
    waits = poll()
    for queue in queues:
        waits.register(queue.reader.number, POLLIN)
    for stop in stops:
        waits.register(stop.descriptor.number, POLLIN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        waits.register(parent.sentinel, POLLIN)
    ready = {number for number, _ in waits.poll()}
    if any(stop.descriptor.number in ready for stop in stops):
        raise Stopped("the run was stopped")
    if parent is not None and parent.sentinel in ready:
        raise Stopped("the parent process has died")
    return [queue for queue in queues if queue.reader.number in ready]
