"""Streams of messages between the processes of torch.distributed.

A stream goes from one rank to one other under a tag of its own. Its receiver posts receives of a
size that both ends agree on ahead of need, in a thread, so that no sender ever waits for one. A
message is one packet of at most that size; what a larger one has more follows in a second packet.
"""

import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any, Final, NamedTuple

import torch

from executor.ring import DTYPE_NUMBERS, DTYPES
from executor.supervision import WorkerThread

__all__ = ["CLOSED", "Incoming", "Network", "Outgoing", "packed", "packet_bytes", "unpacked"]

CLOSED: Final = -1  # in place of a batch's number: no message comes after it
_POSTED: Final = 2  # receives that are posted ahead of need
_WORD_BYTES: Final = 8
_ALIGNMENT_BYTES: Final = 64  # a cache line, and more than any dtype needs
_CPU, _CUDA = 0, 1

Take = Callable[[int, list[torch.Tensor]], None]


class _Sent(NamedTuple):
    """A packet that is on its way; its memory must stay until the work is done."""

    to: int
    work: Any
    packet: torch.Tensor


class Network:
    """The sending and receiving of one process in one group of torch.distributed.

    `lost` is told of each rank to which the connection has broken, from any thread.
    """

    def __init__(self, group: Any, lost: Callable[[int], None]) -> None:
        self.group, self.lost = group, lost
        self._sent: SimpleQueue[_Sent | threading.Event] = SimpleQueue()
        # Works of gloo say that they are done to none but who waits for them.
        threading.Thread(target=self._finish, name="sent packets", daemon=True).start()

    def send(self, to: int, tag: int, packet: torch.Tensor) -> None:
        """Put a packet on its way, and go on."""
        try:
            work = self.group.send([packet], to, tag)
        except RuntimeError:
            self.lost(to)
            return
        self._sent.put(_Sent(to, work, packet))

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was sent has left; says whether it has."""
        done = threading.Event()
        self._sent.put(done)
        return done.wait(timeout_s)

    def _finish(self) -> None:
        while True:
            sent = self._sent.get()
            if isinstance(sent, threading.Event):
                sent.set()
                continue
            try:
                sent.work.wait()
            except RuntimeError:
                self.lost(sent.to)


class Outgoing:
    """The sending end of a stream; threads may share it."""

    def __init__(self, network: Network, to: int, tag: int, packet_bytes: int) -> None:
        self._network, self._to, self._tag = network, to, tag
        self._packet_bytes, self._lock = packet_bytes, threading.Lock()

    def send(self, batch: int, tensors: Sequence[torch.Tensor]) -> None:
        """Copy the message and put it on its way, without waiting."""
        message = packed(batch, tensors)
        with self._lock:
            self._network.send(self._to, 2 * self._tag, message[: self._packet_bytes])
            if len(message) > self._packet_bytes:
                self._network.send(self._to, 2 * self._tag + 1, message[self._packet_bytes :])

    def close(self) -> None:
        """No message comes any more."""
        for _ in range(_POSTED):  # one for each receive that is posted
            self.send(CLOSED, [])


class Incoming:
    """The receiving end of a stream: a thread that gives each message to `take`.

    `take` gets the batch and tensors that nobody else holds; after the last message `CLOSED`. The
    thread ends then, or when the connection breaks.
    """

    def __init__(
        self, network: Network, source: int, tag: int, packet_bytes: int, take: Take
    ) -> None:
        self._network, self._source, self._tag = network, source, tag
        self._packet_bytes, self._take = packet_bytes, take
        self._posted: deque[tuple[torch.Tensor, Any]] = deque()
        self.thread = WorkerThread(f"messages from rank {source}", self._receive)
        self.thread.start()

    def _receive(self) -> None:
        try:
            for _ in range(_POSTED):
                self._post()
            while (message := self._next()) is not None:
                self._take(*message)
            for _, work in self._posted:
                work.wait()
        except RuntimeError:
            self._network.lost(self._source)
        else:
            self._take(CLOSED, [])

    def _post(self) -> None:
        packet = torch.empty(self._packet_bytes, dtype=torch.uint8)
        self._posted.append((packet, self._ask(packet, 2 * self._tag)))

    def _next(self) -> tuple[int, list[torch.Tensor]] | None:
        packet, work = self._posted.popleft()
        work.wait()
        size_bytes, batch = struct.unpack_from("=2q", packet.numpy().data)
        if batch == CLOSED:
            return None
        self._post()
        if size_bytes > len(packet):
            whole = torch.empty(size_bytes, dtype=torch.uint8)
            rest = self._ask(whole[len(packet) :], 2 * self._tag + 1)
            whole[: len(packet)] = packet
            rest.wait()
            packet = whole
        return batch, unpacked(packet)

    def _ask(self, packet: torch.Tensor, tag: int) -> Any:
        return self._network.group.recv([packet], self._source, tag)


def packed(batch: int, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """A message as bytes, (size,) of uint8; tensors may have any dtype, shape and strides.

    64-bit words (size in bytes, batch, count, and dtype, device, dims, shape of each tensor) come
    first. Tensors of a CUDA device travel through this machine's memory.
    """
    words = [0, batch, len(tensors)]
    for tensor in tensors:
        device = _CUDA if tensor.is_cuda else _CPU
        words += (DTYPE_NUMBERS[tensor.dtype], device, tensor.dim(), *tensor.shape)
    words[0] = packet_bytes(tensors)
    message = torch.empty(words[0], dtype=torch.uint8)
    struct.pack_into(f"={len(words)}q", message.numpy().data, 0, *words)
    offset = _aligned(_WORD_BYTES * len(words))
    for tensor in tensors:
        room = message[offset : offset + tensor.nbytes].view(tensor.dtype)
        room.view(tensor.shape).copy_(tensor.detach())
        offset += _aligned(tensor.nbytes)
    return message


def unpacked(message: torch.Tensor) -> list[torch.Tensor]:
    """The tensors of a message; they share its memory, and each has a version counter of its own.

    The message may be longer than its words say.
    """
    (count,) = struct.unpack_from("=q", message.numpy().data, 2 * _WORD_BYTES)
    forms, end = [], 3 * _WORD_BYTES
    for _ in range(count):
        dtype, device, dims = struct.unpack_from("=3q", message.numpy().data, end)
        end += 3 * _WORD_BYTES
        shape = struct.unpack_from(f"={dims}q", message.numpy().data, end)
        end += dims * _WORD_BYTES
        forms.append((DTYPES[dtype], device, shape))
    return list(_tensors(message, _aligned(end), forms))


def _tensors(
    message: torch.Tensor, offset: int, forms: Sequence[tuple[torch.dtype, int, tuple[int, ...]]]
) -> Iterator[torch.Tensor]:
    for dtype, device, shape in forms:
        size_bytes = torch.Size(shape).numel() * dtype.itemsize
        view = message[offset : offset + size_bytes].view(dtype).view(shape)
        # Views count changes together: one that changed in place would spoil the others' graphs.
        yield view.data if device == _CPU else view.cuda()
        offset += _aligned(size_bytes)


def packet_bytes(tensors: Sequence[torch.Tensor]) -> int:
    """Count the bytes of a message of these tensors, with words and padding."""
    words = 3 + sum(3 + tensor.dim() for tensor in tensors)
    return _aligned(_WORD_BYTES * words) + sum(_aligned(tensor.nbytes) for tensor in tensors)


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
