"""Two workers that pass one message to and fro, through each transport."""

import multiprocessing
import tempfile
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import torch
import torch.multiprocessing as torch_multiprocessing
from torch import distributed

from executor.allocator import tune_allocator
from executor.clock import now_ns
from executor.ports import Exchange, LocalPort
from executor.ring import Ring, Stop, message_bytes
from simcore.errors import InputError
from simcore.ops import Channel

__all__ = ["SIZES", "Messengers", "threads_s"]

SIZES: Final = {"1 KB": 2**10, "256 KB": 2**18, "4 MB": 2**22}
_FLOAT_BYTES: Final = 4
_SLOTS: Final = 2
_WARM_UP: Final = 20
# One message there and one back, for the worker that begins and for the other.
Trip = Callable[[], None]


class Messengers:
    """Two processes, which wait on pipes between phases."""

    def __init__(self, device: str = "cpu") -> None:
        if device != "cpu":
            rule = "must be cpu for messages between processes of one machine"
            raise InputError("--device", device, rule, "leave it out")
        context = multiprocessing.get_context("spawn")
        queues = torch_multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        self._stop = Stop()
        slot = message_bytes([_message(max(SIZES.values()))])
        rings = [Ring.create(name, _SLOTS, slot, self._stop) for name in ("to", "fro")]
        shared = rings, [queues.Queue(), queues.Queue()], str(Path(self._folder.name) / "store")
        self._pipes: list[Connection] = []
        self._processes = []
        for number in range(2):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(number, shared, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        for pipe in self._pipes:
            pipe.recv()

    @property
    def pids(self) -> list[int]:
        """The two processes."""
        return [process.pid or 0 for process in self._processes]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(10)
        self._folder.cleanup()

    def one_way_s(self, transport: str, size: int, trips: int) -> float:
        """Mean seconds of a message of so many bytes, over so many round trips."""
        for pipe in self._pipes:
            pipe.send((transport, size, trips))
        found: list[float] = [pipe.recv() for pipe in self._pipes]
        return found[0]


def _message(size: int) -> torch.Tensor:
    return torch.zeros(size // _FLOAT_BYTES)


def _serve(number: int, shared: Any, pipe: Connection) -> None:
    tune_allocator()
    torch.set_num_threads(1)
    rings, queues, store = shared
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=2)
    pipe.send("ready")
    while True:
        try:
            transport, size, trips = pipe.recv()
            trip = _trip(transport, number, _message(size), rings, queues)
            pipe.send(_timed(trip, trips))
        except (EOFError, BrokenPipeError):
            break
    distributed.destroy_process_group()


def _timed(trip: Trip, trips: int) -> float:
    """Seconds of half a trip."""
    for _ in range(min(_WARM_UP, trips)):
        trip()
    start = now_ns()
    for _ in range(trips):
        trip()
    return (now_ns() - start) / 2e9 / trips


def _trip(
    transport: str, number: int, message: torch.Tensor, rings: list[Ring], queues: list[Any]
) -> Trip:
    """The trip of one of the two workers; 0 begins."""
    other = 1 - number
    ways: Mapping[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "ring": (lambda: rings[number].send(0, [message]), rings[other].receive),
        # A message is a tensor of its own: what was sent once is in shared memory already.
        "queue": (lambda: queues[number].put(torch.zeros_like(message)), queues[other].get),
        "gloo": (
            lambda: distributed.send(message, other),
            lambda: distributed.recv(torch.empty_like(message), other),
        ),
    }

    def early() -> None:
        posted = distributed.irecv(torch.empty_like(message), other)
        assert posted is not None
        if number:
            posted.wait()
        distributed.send(message, other)
        if not number:
            posted.wait()

    def trip() -> None:
        send, receive = ways[transport]
        if number:
            receive()
        send()
        if not number:
            receive()

    return early if transport == "gloo-early" else trip


def threads_s(size: int, trips: int) -> float:
    """Mean seconds of a message between two threads of this process."""
    exchange, message = Exchange(), _message(size)
    to, fro = (LocalPort(exchange, Channel(name, ()), senders=1) for name in ("to", "fro"))

    def echo() -> None:
        while (received := to.receive()) is not None:
            fro.send(received.batch, received.payloads)

    def there_and_back() -> None:
        to.send(0, [message])
        fro.receive()

    thread = threading.Thread(target=echo, name="echo")
    thread.start()
    try:
        return _timed(there_and_back, trips)
    finally:
        to.close()
        thread.join()
