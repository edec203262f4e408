"""What the workers of a real run hold in memory, measured after each of their operations.

Counted are tensors that are there, in the categories of `simcore.holdings` and those of
`executor.memory_rows`. Of what a worker holds, each storage counts once. What autograd saves for a
graph is seen by a hook when it is saved, and counts until autograd lets go of it. Where messages
pass by reference, as in threads, two workers may count the same tensor. What an operation needs
only while it runs is not seen; the peak of resident memory includes it.

While memory is measured, autograd does not notice weights that were changed in place between a
forward pass and its backward pass: its check does not see through hooks. What is computed stays
the same.
"""

import weakref
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch.autograd.graph import saved_tensors_hooks

from executor.clock import now_ns
from executor.held_tensors import Found, Key, Saved, Versions, tally, tensors_in
from executor.ports import LocalMeeting, LocalPort, Port
from executor.resident import (
    cuda_peaks,
    peak_resident_bytes,
    reset_cuda_peaks,
    reset_resident_peak,
)
from executor.ring_port import RingMeeting, RingPort
from executor.rounds import Meeting
from executor.tensors import Graph, WorkerTensors
from executor.weights import BlockWeights
from simcore.ops import Channel, Group
from simcore.schedule import Schedule

__all__ = ["Meter", "measuring"]

# What is counted where it was made, until somebody receives it.
_KEPT = ("graph", "weight_graph", "input", "tangent")


class _Ends(Protocol):
    ports: Mapping[Channel, Port]
    meetings: Mapping[Group, Meeting]


class Meter:
    """Measures the memory of the workers of one process."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.graphs: dict[int, Saved] = {}  # by the identity of the graph
        self._versions: dict[int, Versions] = {}
        self._watches: list[_Watch] = []
        self._devices: set[torch.device] = set()
        self.since = "measuring" if reset_resident_peak() else "the process began"

    @contextmanager
    def watching(
        self,
        number: int,
        tensors: WorkerTensors,
        ends: _Ends,
        between: Callable[[], None],
        done: int = 0,
    ) -> Iterator[Callable[[], None]]:
        """Measure what a worker holds now, and whenever what is given out is called.

        It calls `between`, too, and stands in its place. The passes of this thread are seen.
        `done` operations of the worker have come before.
        """
        watch = _Watch(self, number, tensors, ends, done)
        found = {p.device for module in tensors.modules.values() for p in module.parameters()}
        reset_cuda_peaks(found - self._devices)
        self._devices |= found
        self._watches.append(watch)
        watch.look()

        def measured() -> None:
            watch.look()
            between()

        with saved_tensors_hooks(watch.keep, lambda tensor: tensor):
            yield measured

    def versions_of(self, weights: BlockWeights) -> Versions:
        """The versions of a block's weights that workers of this process have met."""
        return self._versions.setdefault(id(weights), Versions(weights))

    def drain(self) -> "array[int]":
        """Take out the rows (`executor.memory_rows.MEMORY_COLUMNS`) since the last call."""
        rows = array("q")
        for watch in list(self._watches):
            taken, watch.rows = watch.rows, array("q")
            rows.extend(taken)
        return rows

    def peaks(self) -> dict[str, Any]:
        """Peaks of this process, in bytes: of resident memory, and of CUDA's allocator.

        `since` says from when on the first counts: where the system can start it anew, from when
        this meter was made.
        """
        found: dict[str, Any] = {"resident_bytes": peak_resident_bytes(), "since": self.since}
        cuda = cuda_peaks(self._devices)
        return found | ({"cuda": cuda} if cuda else {})


@contextmanager
def measuring(
    meter: Meter | None,
    number: int,
    tensors: WorkerTensors,
    ends: _Ends,
    between: Callable[[], None],
    done: int = 0,
) -> Iterator[Callable[[], None]]:
    """`Meter.watching`, if there is a meter; else `between` itself."""
    if meter is None:
        yield between
        return
    with meter.watching(number, tensors, ends, between, done) as measured:
        yield measured


class _Watch:
    """Looks at one worker."""

    def __init__(
        self, meter: Meter, number: int, tensors: WorkerTensors, ends: _Ends, done: int
    ) -> None:
        self.meter, self.number, self.tensors, self.ends = meter, number, tensors, ends
        self.rows = array("q")
        self._index = done - 1
        self._packed: list[torch.Tensor] = []
        self._known: dict[Key, tuple[int, int]] = {}
        self._mine: list[tuple[int, Saved]] = []
        schedule = meter.schedule
        self._received = [
            channel
            for channel in schedule.workers[number].receives
            if not channel.source
            and not schedule.is_local(channel)
            and number == min(schedule.receivers[channel])
        ]
        sent = schedule.workers[number].sends
        self._sent = [channel for channel in sent if schedule.receivers[channel]]

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        """What autograd saves; it keeps this very object."""
        self._packed.append(tensor)
        return tensor

    def look(self) -> None:
        """Measure, and note what has changed."""
        time = now_ns()
        self._note_graphs()
        found = tally(
            self.tensors, self.meter.versions_of, self._saved, self._queued(), self._contributed()
        )
        for channel in self._received:
            match self.ends.ports[channel]:
                case LocalPort() as port:
                    messages = [tensors_in(payloads) for _, payloads in list(port.arrived)]
                    for message in filter(None, messages):
                        found.add("messages", 0, message, count=1)
                case RingPort(ring=ring):
                    found.note("messages", 0, ring.slots * ring.slot_bytes, count=ring.slots)
        new = {key: (size, found.counts[key]) for key, size in found.sums.items()}
        for key in sorted(self._known.keys() | new.keys()):
            if new.get(key, (0, 0)) != self._known.get(key, (0, 0)):
                self.rows.extend((time, self.number, self._index, *key, *new.get(key, (0, 0))))
        self._known = new
        self._index += 1

    def _note_graphs(self) -> None:
        """Give what was saved since the last look to the graph that was made."""
        graphs, packed = self.meter.graphs, self._packed
        self._packed = []
        # Weakly: what autograd has let go of in the meantime is gone when `packed` is.
        saved = [(weakref.ref(tensor), tensor) for tensor in packed]
        for payload in list(self.tensors.held.values()):
            if isinstance(payload, Graph) and self._saved(payload) is None:
                graphs[id(payload)] = Saved(self.number, payload, saved)
                self._mine.append((id(payload), graphs[id(payload)]))
        for key, mine in [each for each in self._mine if each[1].is_gone()]:
            self._mine.remove((key, mine))
            if graphs.get(key) is mine:  # another worker's graph may have the same identity by now
                del graphs[key]

    def _saved(self, graph: Graph) -> Saved | None:
        saved = self.meter.graphs.get(id(graph))
        return saved if saved is not None and saved.is_of(graph) else None

    def _queued(self) -> list[Found]:
        """What this worker has sent and nobody has received, if it counts where it was made."""
        schedule, found = self.meter.schedule, []
        for channel in self._sent:
            port = self.ends.ports[channel]
            messages = list(port.arrived) if isinstance(port, LocalPort) else []
            for batch, payloads in messages:
                for item, payload in zip(channel.carries, payloads, strict=True):
                    if not schedule.is_local(channel) and item.kind not in _KEPT:
                        continue
                    saved = self._saved(payload) if isinstance(payload, Graph) else None
                    if saved is None or saved.worker == self.number:
                        found.append((item.kind, item.block, batch, payload))
        return found

    def _contributed(self) -> list[tuple[int, list[torch.Tensor]]]:
        """What waits in rounds that this worker has arrived for and not joined."""
        found: list[tuple[int, Sequence[torch.Tensor] | None]] = []
        for meeting in self.ends.meetings.values():
            match meeting:
                case LocalMeeting():
                    rounds, worker = meeting._rounds, self.number
                    for (block, at), given in list(rounds.given.items()):
                        if at >= rounds.joined[worker, block] and worker in given:
                            found.append((block, given[worker]))
                case RingMeeting():
                    found += [(block, own) for block, some in meeting._own.items() for own in some]
        return [(block, list(given)) for block, given in found if given is not None]
