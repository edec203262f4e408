"""A channel between the processes of one machine: a ring of slots in shared memory.

Everything that the processes share is an inherited file descriptor: the slots are an anonymous
memory file, the numbers of the free and of the filled slots travel through two pipes. Nothing has
a name under /dev/shm, so nothing has to be unlinked, the resource tracker has nothing to warn
about, and a small /dev/shm, as containers have it, is no limit: the kernel frees a ring when the
last process that holds it is gone, however it went. There is no lock that a killed process could
keep. A wait is one `poll` of the pipes, the stop and the parent's life together, so it ends at
once with whichever comes first, and nothing is looked at in intervals.
"""

import errno
import math
import mmap
import multiprocessing
import os
import struct
import time
import weakref
from collections.abc import Iterable, Sequence
from multiprocessing import reduction
from multiprocessing.context import assert_spawning
from select import POLLIN, poll
from typing import Any, NamedTuple

import torch

from simcore.errors import GradlagError, InputError, RunError

__all__ = ["Message", "Ring", "Stop", "Stopped", "message_bytes", "select"]

MAX_SLOTS = 1024  # their numbers fill 4 KiB, which the smallest pipe holds: no write ever blocks
NUMBER_BYTES = 4
CLOSED = 2**32 - 1  # in place of a slot's number: no message comes after it
WORD_BYTES = 8
ALIGNMENT_BYTES = 64  # a cache line, and more than any dtype needs

# Both ends of a ring run the same interpreter and the same torch, so they number dtypes alike.
DTYPES = sorted({value for value in vars(torch).values() if isinstance(value, torch.dtype)}, key=str)
DTYPE_NUMBERS = {dtype: number for number, dtype in enumerate(DTYPES)}


class Stopped(GradlagError):
    """A wait was ended: the run was stopped, or the parent process has died."""


class Message(NamedTuple):
    """What a receiver gets: the batch's number and its tensors, which own their memory.

    `granted_ns` is the `time.monotonic_ns` at which the wait ended and copying began.
    """

    batch: int
    tensors: tuple[torch.Tensor, ...]
    granted_ns: int


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
    """A FIFO of numbers shared by processes: a pipe.

    Linux writes and reads four bytes of a pipe in one piece, so there is no lock: each number goes
    to one taker, in the order of the puts.
    """

    def __init__(self) -> None:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        self.reader, self.writer = Descriptor(reader), Descriptor(writer)

    def put(self, number: int) -> None:
        """Append a number; never blocks, because at most `MAX_SLOTS` are on their way."""
        os.write(self.writer.number, number.to_bytes(NUMBER_BYTES, "little"))

    def take(self) -> int | None:
        """Take the oldest number; None where there is none, as another process was faster."""
        try:
            return int.from_bytes(os.read(self.reader.number, NUMBER_BYTES), "little")
        except BlockingIOError:
            return None


class Ring:
    """A FIFO of messages with any number of sending and receiving processes.

    Made by `create` in the parent and handed to children as an argument of `Process` (start method
    `spawn`). Messages come out in the order in which senders finished copying them in, so those of
    one sender in the order of its calls. Each goes to one receiver. A full ring makes senders wait.
    """

    def __init__(
        self,
        name: str,
        slots: int,
        slot_bytes: int,
        memory: Descriptor,
        shared: tuple[Numbers, Numbers, Descriptor, Stop],
    ) -> None:
        self.name, self.slots, self.slot_bytes = name, slots, slot_bytes
        self._memory, self._shared = memory, shared
        self._free, self._filled, self._other_senders, self._stop = shared
        # Page tables are filled now, so that the first messages cause no page faults.
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        self._map = mmap.mmap(memory.number, slots * _aligned(slot_bytes), flags)
        self._bytes = torch.frombuffer(self._map, dtype=torch.uint8)
        self._sending, self._ended = True, False

    def __reduce__(self) -> tuple[Any, ...]:
        return Ring, (self.name, self.slots, self.slot_bytes, self._memory, self._shared)

    @classmethod
    def create(cls, name: str, slots: int, slot_bytes: int, stop: Stop, senders: int = 1) -> "Ring":
        """Make a ring of `slots` messages of at most `slot_bytes` bytes (see `message_bytes`).

        All its memory is taken now. `senders` is how many processes will `close` it. The name shows
        in errors and in /proc/PID/maps. Raises `InputError` where a number is out of range or the
        system cannot give the memory or the descriptors.
        """
        for what, value, most in (
            ("slots", slots, MAX_SLOTS),
            ("slot_bytes", slot_bytes, 2**48),
            ("senders", senders, 2**31),
        ):
            if not 1 <= value <= most:
                rule = f"must be between 1 and {most}"
                raise InputError(f"{what} of ring '{name}'", value, rule, "give a number in between")
        size_bytes = slots * _aligned(slot_bytes)
        try:
            memory = Descriptor(os.memfd_create(f"gradlag-{name}"))
            _take_memory(memory.number, size_bytes)
            others = os.eventfd(senders - 1, os.EFD_SEMAPHORE | os.EFD_NONBLOCK)
            shared = (Numbers(), Numbers(), Descriptor(others), stop)
            ring = cls(name, slots, slot_bytes, memory, shared)
        except OSError as error:
            what = f"size in bytes of ring '{name}'"
            rule = f"the system must be able to give that ({error.strerror})"
            remedy = "use fewer slots or smaller batches, or raise the limit that is named"
            raise InputError(what, size_bytes, rule, remedy) from error
        for slot in range(slots):
            ring._free.put(slot)
        return ring

    def send(self, batch: int, tensors: Sequence[torch.Tensor]) -> int:
        """Wait for a free slot, copy the tensors (any dtype, shape and strides) into it, post it.

        Returns the `time.monotonic_ns` at which the slot was granted: what was before it is
        waiting, what comes after it copying. Gradients are not followed. Raises `Stopped`, and
        `RunError` where the message exceeds a slot or this process has closed the ring.
        """
        if not self._sending:
            raise RunError(f"ring '{self.name}': batch {batch} is sent after close")
        if (needed_bytes := message_bytes(tensors)) > self.slot_bytes:
            raise RunError(
                f"ring '{self.name}': batch {batch} needs {needed_bytes} bytes, a slot has "
                f"{self.slot_bytes}; create the ring with message_bytes of the largest message"
            )
        slot = None
        while slot is None:
            _wait((self._free,), {self._stop})
            slot = self._free.take()
        granted_ns = time.monotonic_ns()
        try:
            self._write(slot, batch, tensors)
        except BaseException:
            self._free.put(slot)
            raise
        self._filled.put(slot)
        return granted_ns

    def receive(self) -> Message | None:
        """Wait for the next message; None once the ring is closed and empty. Raises `Stopped`."""
        found = select((self,))
        return None if found is None else found[1]

    def close(self) -> None:
        """End this process's sending; a second call does nothing.

        When every declared sender has closed, receivers get what is left, and then all get None.
        """
        if not self._sending:
            return
        self._sending = False
        try:
            os.eventfd_read(self._other_senders.number)
        except BlockingIOError:  # the others have closed, so all their messages are posted
            self._filled.put(CLOSED)

    def _take(self, granted_ns: int) -> Message | None:
        slot = self._filled.take()
        if slot is None:
            return None
        if slot == CLOSED:
            self._ended = True
            self._filled.put(CLOSED)  # every other receiver must see it as well
            return None
        try:
            return self._read(slot, granted_ns)
        finally:
            self._free.put(slot)

    def _write(self, slot: int, batch: int, tensors: Sequence[torch.Tensor]) -> None:
        start = slot * _aligned(self.slot_bytes)
        header = [batch, len(tensors)]
        for tensor in tensors:
            header += (DTYPE_NUMBERS[tensor.dtype], tensor.dim(), *tensor.shape)
        struct.pack_into(f"={len(header)}q", self._map, start, *header)
        offset = start + _aligned(WORD_BYTES * len(header))
        for tensor in tensors:
            self._view(offset, tensor.dtype, tensor.shape).copy_(tensor.detach())
            offset += _aligned(tensor.nbytes)

    def _read(self, slot: int, granted_ns: int) -> Message:
        start = slot * _aligned(self.slot_bytes)
        batch, count = struct.unpack_from("=2q", self._map, start)
        end = start + 2 * WORD_BYTES
        kinds: list[tuple[torch.dtype, tuple[int, ...]]] = []
        for _ in range(count):
            dtype, dims = struct.unpack_from("=2q", self._map, end)
            kinds.append((DTYPES[dtype], struct.unpack_from(f"={dims}q", self._map, end + 16)))
            end += (2 + dims) * WORD_BYTES
        offset, tensors = start + _aligned(end - start), []
        for kind, shape in kinds:
            tensors.append(self._view(offset, kind, shape).clone())
            offset += _aligned(tensors[-1].nbytes)
        return Message(batch, tuple(tensors), granted_ns)

    def _view(self, offset: int, dtype: torch.dtype, shape: Sequence[int]) -> torch.Tensor:
        size_bytes = math.prod(shape) * dtype.itemsize
        return self._bytes[offset : offset + size_bytes].view(dtype).view(tuple(shape))


def select(rings: Sequence[Ring]) -> tuple[int, Message] | None:
    """Wait until one of the rings has a message; the first in the listed order that has one.

    Returns its index and the message; None once all rings are closed and empty. Raises `Stopped`.
    """
    while waiting := [ring for ring in rings if not ring._ended]:
        ready = _wait([ring._filled for ring in waiting], {ring._stop for ring in waiting})
        granted_ns = time.monotonic_ns()
        for ring in waiting:
            # A ring without a message may have been emptied by another receiver, or be at its end.
            if ring._filled in ready and (message := ring._take(granted_ns)) is not None:
                return rings.index(ring), message
    return None


def message_bytes(tensors: Sequence[torch.Tensor]) -> int:
    """Count the bytes of a slot that a message of these tensors needs, with header and padding."""
    words = 2 + sum(2 + tensor.dim() for tensor in tensors)
    return _aligned(WORD_BYTES * words) + sum(_aligned(tensor.nbytes) for tensor in tensors)


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _wait(queues: Sequence[Numbers], stops: Iterable[Stop]) -> list[Numbers]:
    """Wait until one of the queues may hold a number, and return those that may."""
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


def _take_memory(number: int, size_bytes: int) -> None:
    """Allocate a memory file, so that no write into it can fail later; raises `OSError`."""
    # Linux may kill a process rather than refuse it more memory than there is.
    with open("/proc/meminfo") as lines:
        available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    if size_bytes > available * 1024:
        raise OSError(errno.ENOMEM, f"{available * 1024} bytes are available")
    os.posix_fallocate(number, 0, size_bytes)
