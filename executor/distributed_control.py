"""What the ranks of a run tell each other besides tensors: the leader, rank 0, and its members.

Small things go through a group of their own, so that no large message keeps a sign of life waiting.
"""

import pickle
from array import array
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, NamedTuple

import torch

from executor.distributed_streams import CLOSED, Incoming, Network, Outgoing

__all__ = [
    "LEADER",
    "Answer",
    "Beat",
    "Bye",
    "Events",
    "Explain",
    "Failed",
    "Finished",
    "Go",
    "Halt",
    "Lost",
    "Over",
    "Post",
    "Question",
    "Ready",
    "Rows",
    "Signal",
]

LEADER: Final = 0
_PACKET_BYTES: Final = 2**12

Events = SimpleQueue[tuple[int, Any]]  # a rank, and what it tells or what is known of it


class Ready(NamedTuple):
    """A worker is warmed up; on which machine, under which number (see `distributed_clock`)."""

    machine: str
    process: int


class Question(NamedTuple):
    """What does your clock show?"""


class Answer(NamedTuple):
    """It shows this (ns)."""

    now_ns: int


class Go(NamedTuple):
    """All are ready."""


class Beat(NamedTuple):
    """A sign of life, with the worker's pulse (see `executor.watchdog`)."""

    pulse: int = 0


class Rows(NamedTuple):
    """Rows of the trace and losses since the last report, and how many gradients they applied."""

    spans: "array[int]"
    gradients: "array[int]"
    losses: list[tuple[int, float, int]]
    applied: int


class Finished(NamedTuple):
    """A worker's program has ended; the state of its blocks."""

    state: Mapping[str, torch.Tensor]


class Failed(NamedTuple):
    """A worker failed."""

    reason: str
    traceback: str


class Lost(NamedTuple):
    """The connection to a rank has broken."""

    rank: int


class Signal(NamedTuple):
    """A process was told to end by Ctrl-C or SIGTERM."""


class Explain(NamedTuple):
    """You hang, for this reason: fail, and say where."""

    reason: str


class Halt(NamedTuple):
    """The run is over because of this worker, or, without one, because a user ended it."""

    worker: str
    reason: str
    traceback: str


class Bye(NamedTuple):
    """Nothing more comes from this rank."""


class Over(NamedTuple):
    """All have finished."""


class Post:
    """Objects between the leader and its members; what comes in goes to `events`.

    Ranks must trust each other: objects are pickled. A `Question` is answered at once, by `now`,
    and the number in an `Answer` goes to `answers`.
    """

    def __init__(
        self, network: Network, peers: Iterable[int], events: Events, now: Callable[[], int]
    ) -> None:
        self._events, self._now = events, now
        self.answers: SimpleQueue[int] = SimpleQueue()
        self._to = {peer: Outgoing(network, peer, 0, _PACKET_BYTES) for peer in peers}
        self.incoming = [
            Incoming(network, peer, 0, _PACKET_BYTES, partial(self._take, peer))
            for peer in self._to
        ]

    def tell(self, rank: int, message: Any) -> None:
        """Put an object on its way to a rank."""
        content = bytearray(pickle.dumps(message))
        self._to[rank].send(0, [torch.frombuffer(content, dtype=torch.uint8)])

    def tell_all(self, message: Any) -> None:
        """Put an object on its way to every rank at the other end."""
        for rank in self._to:
            self.tell(rank, message)

    def close(self) -> None:
        """Nothing more is told."""
        for stream in self._to.values():
            stream.close()

    def _take(self, rank: int, batch: int, tensors: list[torch.Tensor]) -> None:
        if batch == CLOSED:
            return
        message = pickle.loads(tensors[0].numpy().data)
        if isinstance(message, Question):
            self.tell(rank, Answer(self._now()))
        elif isinstance(message, Answer):
            self.answers.put(message.now_ns)
        else:
            self._events.put((rank, message))
