"""What spawned processes share through inherited file descriptors, and the one wait for all of it.

None of it has a name under /dev/shm, so nothing has to be unlinked, the resource tracker has
nothing to warn about, and the kernel frees everything when the last process that holds it is gone,
however it went. There is no lock that a killed process could keep.
"""

import errno
import fcntl
import multiprocessing
import os
import threading
import weakref
from collections.abc import Collection, Sequence
from multiprocessing import reduction
from multiprocessing.context import assert_spawning
from select import POLLIN, poll
from typing import Any

from simcore.errors import GradlagError

__all__ = [
    "MAX_NUMBERS",
    "Descriptor",
    "FileLock",
    "Numbers",
    "Stop",
    "Stopped",
    "memory_file",
    "wait_any",
]

PIPE_BYTES, MAX_PIPE_BYTES = 2**16, 2**20  # the default, and what any user may ask for
NUMBER_BYTES = 4
MAX_NUMBERS = MAX_PIPE_BYTES // NUMBER_BYTES // 2  # half: a page that is read in part still counts


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


def memory_file(name: str, size_bytes: int) -> Descriptor:
    """Make an anonymous file of zeros in memory, of which no byte can be missing later.

    The name shows in /proc/PID/maps. Raises `OSError` where there is not that much memory.
    """
    # Asked first, because Linux may kill a process rather than refuse memory that there is not.
    with open("/proc/meminfo") as lines:
        kib = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    if size_bytes > kib * 1024:
        raise OSError(errno.ENOMEM, f"{kib * 1024} bytes are available")
    memory = Descriptor(os.memfd_create(f"gradlag-{name}"))
    os.posix_fallocate(memory.number, 0, size_bytes)
    return memory


class FileLock:
    """A lock between the processes and threads that share a file; not to be taken twice at once.

    The kernel frees it when the process that holds it dies. It is meant for a few instructions.
    """

    def __init__(self, file: Descriptor) -> None:
        self._file = file
        self._threads = threading.Lock()  # the kernel's lock belongs to the whole process

    def __enter__(self) -> None:
        self._threads.acquire()
        try:
            fcntl.lockf(self._file.number, fcntl.LOCK_EX)
        except BaseException:
            self._threads.release()
            raise

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self._file.number, fcntl.LOCK_UN)
        self._threads.release()


class Stop:
    """A flag that ends every wait of the processes that share it; an argument of `Process`.

    The parent makes it and gives the same one to all rings of a run. It is lowered only where all
    workers have paused.
    """

    def __init__(self) -> None:
        self.descriptor = Descriptor(os.eventfd(0))

    def set(self) -> None:
        """Raise the flag: every wait, under way or to come, raises `Stopped`."""
        os.eventfd_write(self.descriptor.number, 1)

    def lower(self) -> None:
        """Lower the flag, which is up: the run goes on."""
        os.eventfd_read(self.descriptor.number)

    def is_set(self) -> bool:
        """Say whether the flag is up, without waiting."""
        flag = poll()
        flag.register(self.descriptor.number, POLLIN)
        return bool(flag.poll(0))


class Numbers:
    """A FIFO of at most `most` numbers below 2^32, shared by processes: a pipe.

    Linux writes and reads four bytes of a pipe in one piece, so there is no lock: each number goes
    to one taker, in the order of the puts. `most` is `MAX_NUMBERS` at most. Raises `OSError` where
    the user has too many large pipes.
    """

    def __init__(self, most: int) -> None:
        reader, writer = os.pipe()
        self.reader, self.writer = Descriptor(reader), Descriptor(writer)
        os.set_blocking(reader, False)
        # A user with many pipes gets smaller ones, in which a put could block: ask, or fail now.
        size_bytes = max(PIPE_BYTES, 2 * NUMBER_BYTES * most)
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, size_bytes)

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
