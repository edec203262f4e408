"""A channel between the processes of one machine: a ring of slots in shared memory.

The slots are an anonymous memory file, which a small /dev/shm, as containers have it, does not
limit. The numbers of the free and of the filled slots travel through two pipes (see
`executor.handles`), and messages are copied in and out while nothing is locked.
"""

import ctypes
import mmap
import os
import struct
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from executor.handles import (
    MAX_NUMBERS,
    Descriptor,
    Numbers,
    Stop,
    Stopped,
    memory_file,
    wait_any,
)
from simcore.errors import InputError, RunError

__all__ = ["Message", "Ring", "Stop", "Stopped", "message_bytes", "select"]

CLOSED = 2**32 - 1  # in place of a slot's number: no message comes after it
MAX_SLOTS = MAX_NUMBERS - 1
WORD_BYTES = 8
ALIGNMENT_BYTES = 64  # a cache line, and more than any dtype needs

# Both ends of a ring run the same interpreter and the same torch, so they number dtypes alike.
DTYPES = sorted(
    {value for value in vars(torch).values() if isinstance(value, torch.dtype)}, key=str
)
DTYPE_NUMBERS = {dtype: number for number, dtype in enumerate(DTYPES)}


class Message(NamedTuple):
    """What a receiver gets: the batch's number and its tensors, which own their memory.

    `granted_ns` is the `time.monotonic_ns` at which the wait ended and copying began.
    """

    batch: int
    tensors: tuple[torch.Tensor, ...]
    granted_ns: int


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
        self._address = self._bytes.data_ptr()
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
                raise InputError(
                    f"{what} of ring '{name}'", value, rule, "give a number in between"
                )
        size_bytes = slots * _aligned(slot_bytes)
        try:
            memory = memory_file(name, size_bytes)
            others = os.eventfd(senders - 1, os.EFD_SEMAPHORE | os.EFD_NONBLOCK)
            shared = (Numbers(slots), Numbers(slots + 1), Descriptor(others), stop)
            ring = cls(name, slots, slot_bytes, memory, shared)
        except OSError as error:
            what = f"size in bytes of ring '{name}'"
            rule = f"the system must be able to give it ({error.strerror})"
            remedy = "use fewer slots or smaller batches, or raise the limit that is named"
            raise InputError(what, size_bytes, rule, remedy) from error
        for slot in range(slots):
            ring._free.put(slot)
        return ring

    def send(self, batch: int, tensors: Sequence[torch.Tensor]) -> int:
        """Wait for a free slot, copy the tensors (any dtype, shape and strides) into it, post it.

        Returns the `time.monotonic_ns` at which the slot was granted: what was before it is
        waiting, what comes after it copying. Gradients are not followed. Raises `Stopped` if it
        has to wait, and `RunError` where the message exceeds a slot or this process has closed the
        ring.
        """
        if not self._sending:
            raise RunError(f"ring '{self.name}': batch {batch} is sent after close")
        if (needed_bytes := message_bytes(tensors)) > self.slot_bytes:
            raise RunError(
                f"ring '{self.name}': batch {batch} needs {needed_bytes} bytes, a slot has "
                f"{self.slot_bytes}; create the ring with message_bytes of the largest message"
            )
        while (slot := self._free.take()) is None:
            wait_any((self._free,), (self._stop,))
        granted_ns = time.monotonic_ns()
        try:
            self._write(slot, batch, tensors)
        except BaseException:
            self._free.put(slot)
            raise
        self._filled.put(slot)
        return granted_ns

    def receive(self) -> Message | None:
        """Wait for the next message and copy it out; its tensors are contiguous.

        None once the ring is closed and empty. Raises `Stopped`, even if there is a message.
        """
        found = select((self,))
        return None if found is None else found[1]

    def poll(self) -> Message | None:
        """Take the next message if there is one now."""
        return self._take(time.monotonic_ns())

    def unread(self) -> list[Message]:
        """Copies of all messages that nobody has taken, oldest first; they stay in the ring.

        Nobody else may use the ring meanwhile.
        """
        slots = []
        while (slot := self._filled.take()) is not None:
            slots.append(slot)
        for slot in slots:
            self._filled.put(slot)
        now_ns = time.monotonic_ns()
        return [self._read(slot, now_ns) for slot in slots if slot != CLOSED]

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
        """Take a message, or None: another receiver was faster, or it was the end of the ring."""
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
        """Write 64-bit words (batch, count, and dtype, dims, shape of each), then the tensors."""
        start = slot * _aligned(self.slot_bytes)
        words = [batch, len(tensors)]
        for tensor in tensors:
            words += (DTYPE_NUMBERS[tensor.dtype], tensor.dim(), *tensor.shape)
        struct.pack_into(f"={len(words)}q", self._map, start, *words)
        offset = start + _aligned(WORD_BYTES * len(words))
        for tensor in tensors:
            self._store(offset, tensor)
            offset += _aligned(tensor.nbytes)

    def _store(self, offset: int, tensor: torch.Tensor) -> None:
        if tensor.is_contiguous() and tensor.is_cpu and not (tensor.is_conj() or tensor.is_neg()):
            # A small tensor takes a third of the time that it takes through views and copy_.
            ctypes.memmove(self._address + offset, tensor.data_ptr(), tensor.nbytes)
        else:
            room = self._bytes[offset : offset + tensor.nbytes].view(tensor.dtype)
            room.view(tensor.shape).copy_(tensor.detach())

    def _read(self, slot: int, granted_ns: int) -> Message:
        start = slot * _aligned(self.slot_bytes)
        batch, count = struct.unpack_from("=2q", self._map, start)
        end, kinds = start + 2 * WORD_BYTES, []
        for _ in range(count):
            dtype, dims = struct.unpack_from("=2q", self._map, end)
            shape = struct.unpack_from(f"={dims}q", self._map, end + 2 * WORD_BYTES)
            kinds.append((DTYPES[dtype], shape))
            end += (2 + dims) * WORD_BYTES
        offset, tensors = start + _aligned(end - start), []
        for kind, shape in kinds:
            tensor = torch.empty(shape, dtype=kind, device="cpu")
            ctypes.memmove(tensor.data_ptr(), self._address + offset, tensor.nbytes)
            tensors.append(tensor)
            offset += _aligned(tensor.nbytes)
        return Message(batch, tuple(tensors), granted_ns)


def select(rings: Sequence[Ring]) -> tuple[int, Message] | None:
    """Wait until one of the rings has a message; take that of the first in the listed order.

    Returns its index and the message; None once all rings are closed and empty. Raises `Stopped`.
    """
    while waiting := [ring for ring in rings if not ring._ended]:
        ready = wait_any([ring._filled for ring in waiting], {ring._stop for ring in waiting})
        granted_ns = time.monotonic_ns()
        for ring in waiting:
            if ring._filled in ready and (message := ring._take(granted_ns)) is not None:
                return rings.index(ring), message
    return None


def message_bytes(tensors: Sequence[torch.Tensor]) -> int:
    """Count the bytes of a slot that a message of these tensors needs, with header and padding."""
    words = 2 + sum(2 + tensor.dim() for tensor in tensors)
    return _aligned(WORD_BYTES * words) + sum(_aligned(tensor.nbytes) for tensor in tensors)


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
