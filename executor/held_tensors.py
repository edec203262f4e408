"""How many bytes of tensors a worker holds, by category and block, counting nothing twice."""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Final

import torch

from executor.memory_rows import HELD
from executor.tensors import Graph, Kept, WorkerTensors
from executor.tree import flat
from executor.weights import AUXILIARY, BlockWeights, Leaves
from simcore.ops import ItemKind

__all__ = ["Found", "Saved", "Versions", "tally"]

Found = tuple[ItemKind, int, int, Any]  # kind, block, batch, payload
Key = tuple[int, int, int]  # category, block, of_weights
_SEED_BYTES: Final = 8


class Saved:
    """What autograd saves for one graph: it is there as long as autograd holds on to it."""

    def __init__(self, worker: int, graph: Graph, tensors: Iterable[Any]) -> None:
        self.worker = worker
        self._output = weakref.ref(flat(graph.output)[0])
        self._parts = [(part, _memory(t), t.untyped_storage().nbytes()) for part, t in tensors]

    def is_of(self, graph: Graph) -> bool:
        """Whether it is what this graph saves."""
        return self._output() is flat(graph.output)[0]

    def is_gone(self) -> bool:
        """Whether the graph is no more."""
        return self._output() is None

    def storages(self) -> list[tuple[int, int]]:
        """Address and bytes of each storage that is still held."""
        return [(address, size) for part, address, size in self._parts if part() is not None]


class Versions:
    """All versions of a block's weights that somebody may still refer to."""

    def __init__(self, weights: BlockWeights) -> None:
        self._weights, self._lock = weights, Lock()
        self._used: list[Leaves] = []
        self._let_go: list[weakref.ref[torch.Tensor]] = []

    def look(self, seen: Iterable[Leaves]) -> tuple[list[Leaves], list[torch.Tensor]]:
        """Old versions that graphs use or the buffer keeps, and parameters that are merely there.

        `seen` are versions that some graph has been made with.
        """
        with self._lock:
            current, buffered = self._weights.current, list(self._weights.buffered.values())
            if not self._weights.rules.buffer:
                buffered = []
            for leaves in (current, *buffered, *seen):
                if all(leaves is not known for known in self._used):
                    self._used.append(leaves)
            needed = [
                each
                for each in self._used
                if each is current or each.graphs or any(each is one for one in buffered)
            ]
            for leaves in self._used:
                if all(leaves is not each for each in needed):
                    self._let_go += map(weakref.ref, leaves.parameters.values())
            self._used = needed
            self._let_go = [each for each in self._let_go if each() is not None]
            left = [tensor for each in self._let_go if (tensor := each()) is not None]
        return [leaves for leaves in needed if leaves is not current], left


@dataclass(slots=True)
class Tally:
    """Bytes and numbers of what was found, and where it lies."""

    sums: Counter[Key] = field(default_factory=Counter)
    counts: Counter[Key] = field(default_factory=Counter)
    storages: set[int] = field(default_factory=set)
    tensors: set[int] = field(default_factory=set)

    def note(
        self, category: str, block: int, size: int, count: int = 0, of_weights: bool = False
    ) -> None:
        """Add bytes that have not been counted."""
        key = HELD.index(category), block, int(of_weights)
        self.sums[key] += size
        self.counts[key] += count

    def add(
        self,
        category: str,
        block: int,
        tensors: Iterable[torch.Tensor],
        count: int = 0,
        of_weights: bool = False,
    ) -> None:
        """Add tensors, each unless it has been counted or is part of a storage that has been."""
        size = 0
        for tensor in tensors:
            if tensor.data_ptr() not in self.tensors and _memory(tensor) not in self.storages:
                self.tensors.add(tensor.data_ptr())
                size += tensor.nbytes
        self.note(category, block, size, count, of_weights)

    def add_storages(
        self, category: str, block: int, storages: Iterable[tuple[int, int]], count: int
    ) -> None:
        """Add whole storages, given by address and bytes, each unless it has been counted."""
        size = 0
        for address, nbytes in storages:
            if address not in self.storages:
                self.storages.add(address)
                size += nbytes
        self.note(category, block, size, count)

    def known(self, tensors: Iterable[torch.Tensor]) -> None:
        """What lies in the storages of these is not to be counted again."""
        self.storages |= {_memory(tensor) for tensor in tensors}


def tally(
    tensors: WorkerTensors,
    versions: Callable[[BlockWeights], Versions],
    saved: Callable[[Graph], Saved | None],
    queued: Sequence[Found],
    contributed: Sequence[tuple[int, list[torch.Tensor]]],
) -> Tally:
    """Count what a worker holds, and what is `queued` of what it has sent.

    `saved` tells what autograd keeps of a graph, `contributed` are (block, tensors) that wait in
    rounds.
    """
    found = Tally()
    held: list[Found] = [(*key, payload) for key, payload in tensors.held.items()]
    held = sorted([*held, *queued], key=lambda item: item[1:3])
    for block in tensors.modules:
        own = [payload for _, at, _, payload in held if at == block]
        _count_weights(found, tensors, block, versions(tensors.weights[block]), own)
    _count_kept(found, tensors, held, saved)
    for block in tensors.modules:
        parts = (tensors.pending, tensors.averaged)
        pending = [t for part in parts for t in part.get(block, [])]
        pending += [t for at, given in contributed if at == block for t in given]
        if block in tensors.snapshots:
            found.add("copies", block, tensors.snapshots[block], count=1)
            pending = [t for part in parts for t in part.get(block, [])]
        if pending:
            found.add("gradients", block, pending, count=1)
    for _, block, _, payload in held:
        match payload:
            case Graph() | (Graph(), _):
                graph = payload if isinstance(payload, Graph) else payload[0]
                found.add("gradients", block, graph.estimated)
                found.add("graph_inputs", block, [*flat(graph.inputs), graph.labels])
    for _, block, _, payload in held:
        found.add("in_hand", block, tensors_in(payload))
    for part in (tensors.means, tensors.states):
        for block, payload in part.items():
            found.add("in_hand", block, tensors_in(payload))
    for block, (_, directions) in tensors.directions.items():
        found.add("lingering", block, tensors_in(directions))
    return found


def tensors_in(payload: Any) -> list[torch.Tensor]:
    """All tensors of a payload, except what graphs keep."""
    if isinstance(payload, torch.Tensor):
        return [payload]
    if isinstance(payload, Kept):
        return [*flat(payload.inputs), payload.labels]
    if isinstance(payload, tuple | list):
        return [tensor for part in payload for tensor in tensors_in(part)]
    return []


def _count_weights(
    found: Tally, tensors: WorkerTensors, block: int, versions: Versions, own: Sequence[Any]
) -> None:
    """Weights, their versions, what learns with them, and what optimisers keep of them."""
    module, weights, extras = tensors.modules[block], tensors.weights[block], tensors.extras[block]
    old, left = versions.look([leaves for each in own if (leaves := _leaves_of(each)) is not None])
    current = weights.current.parameters
    frozen = [p for p in module.parameters() if not p.requires_grad]
    main = [p for name, p in current.items() if not name.startswith(AUXILIARY)]
    found.add("weights", block, [*main, *frozen], count=1, of_weights=True)
    for leaves in old:
        found.add("copies", block, leaves.parameters.values(), count=1, of_weights=True)
    states = dict(weights._optimizers)
    for owner, copy in list(weights._copies.items()):
        states[owner] = copy.optimizer
        if weights.rules.write == "assign" and owner in (tensors.worker, -1):
            found.add("copies", block, copy.parameters, count=1, of_weights=owner < 0)
    for owner, optimizer in states.items():
        if owner in (tensors.worker, -1):
            kept = _states(optimizer)
            found.add("optimizer", block, kept, count=int(bool(kept)), of_weights=owner < 0)
    if extras.optimizer is not None:
        found.add("optimizer", block, _states(extras.optimizer), of_weights=True)
    learned: list[torch.Tensor] = [p for name, p in current.items() if name.startswith(AUXILIARY)]
    if extras.synthesizer is not None:
        learned += extras.synthesizer.parameters()
        gradients = [p.grad for p in extras.synthesizer.parameters() if p.grad is not None]
        found.add("lingering", block, gradients)
    if extras.matrix is not None:
        learned.append(extras.matrix)
    if learned:
        found.add("auxiliary", block, learned, count=1, of_weights=True)
    found.add("lingering", block, left, of_weights=True)
    # What `executor.auxiliary.align` gives to layers is no buffer of theirs.
    aligned = [vars(part).get("feedback") for part in module.modules()]
    buffers = [*module.buffers(), *(each for each in aligned if isinstance(each, torch.Tensor))]
    found.add("buffers", block, buffers, of_weights=True)
    found.known([*buffers, *frozen, *current.values(), *learned, *left])
    found.known(p for leaves in old for p in leaves.parameters.values())


def _count_kept(
    found: Tally,
    tensors: WorkerTensors,
    held: Sequence[Found],
    saved: Callable[[Graph], Saved | None],
) -> None:
    """What passes leave behind: inputs to be replayed, graphs, directions."""
    parts = tensors.settings.micro_batches
    directed: set[tuple[int, int]] = set()
    for kind, block, batch, payload in held:
        match payload:
            case Kept(inputs=inputs):
                found.add("inputs", block, flat(inputs), count=1)
            case Graph():
                _count_graph(found, block, payload, saved(payload))
            case (Graph() as graph, _):
                _count_graph(found, block, graph, saved(graph))
            case _ if kind == "tangent":
                fresh = (block, batch // parts) not in directed
                directed.add((block, batch // parts))
                found.add("tangents", block, tensors_in(payload), count=int(fresh))
                found.note("tangents", block, _SEED_BYTES * (fresh and isinstance(payload, int)))


def _count_graph(found: Tally, block: int, graph: Graph, saved: Saved | None) -> None:
    """A graph: what autograd saved and what was given out, without what was given to it."""
    given = {_memory(tensor) for tensor in (*flat(graph.inputs), graph.labels)}
    outputs = [*flat(graph.output), *flat(graph.features)]
    outputs += [tensor for value in graph.inner for tensor in flat(value)]
    storages = [] if saved is None else saved.storages()
    storages += [(_memory(tensor), tensor.untyped_storage().nbytes()) for tensor in outputs]
    storages = [(address, size) for address, size in storages if address not in given]
    found.add_storages("activations", block, storages, count=1)


def _leaves_of(payload: Any) -> Leaves | None:
    if isinstance(payload, tuple) and payload and isinstance(payload[0], Graph):
        payload = payload[0]
    return payload.leaves if isinstance(payload, Graph | Kept) else None


def _states(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    states = list(optimizer.state.values())
    return [value for state in states for value in state.values() if torch.is_tensor(value)]


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
