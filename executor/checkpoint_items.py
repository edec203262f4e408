"""What workers hold, as plain containers of tensors, and back.

Autograd graphs cannot be saved. Their inputs can, and the weights that they were made with: the
forward pass is run again when the checkpoint is loaded, and running statistics do not count it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from executor.backpropagation import graph_of
from executor.tensors import Graph, Kept, WorkerTensors, untouched
from executor.weights import BlockWeights, Leaves
from simcore.errors import RunError
from simcore.ops import Item
from simcore.schedule import Schedule
from simcore.validate import operations_used

__all__ = ["Key", "Versions", "obstacle_to_carry", "packed", "plain", "unpacked"]

Key = tuple[int, int]  # a replica, and one of its blocks


def obstacle_to_carry(schedule: Schedule) -> str | None:
    """Why what is in flight cannot be saved; None if it can."""
    rules, graphs = (
        schedule.weights,
        any(
            kind.__name__ in ("Forward", "ForwardError", "Play")
            for kind in operations_used(schedule)
        ),
    )
    if rules.policy == "mixed" and graphs:
        return "activations belong to weights that updates have overwritten (weights=mixed)"
    owners = [(w.replica, block) for w in schedule.workers for block in w.blocks]
    if rules.policy != "stash" and len(owners) > len(set(owners)):
        return "several workers overwrite the weights that a pass has read"
    return None


class Versions:
    """Numbers the versions of every block's weights that something still needs; 0 is the newest."""

    def __init__(self, weights: Mapping[Key, BlockWeights]) -> None:
        self.found = {key: [each.current] for key, each in weights.items()}

    def number(self, key: Key, leaves: Leaves) -> int:
        """The number of a version."""
        known = self.found[key]
        for number, each in enumerate(known):
            if each is leaves:
                return number
        known.append(leaves)
        return len(known) - 1


def plain(value: Any) -> Any:
    """A copy of containers of tensors and numbers, in which no tensor is part of a larger one."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, tuple):
        return tuple(plain(each) for each in value)
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if value is None or isinstance(value, int | float | str):
        return value
    raise RunError(f"a checkpoint cannot hold a {type(value).__name__}")


def packed(versions: Versions, replica: int, item: Item, payload: Any) -> Any:
    """What is held under an item, as plain containers."""
    if payload is None:
        return None
    if item.kind == "graph":
        return _packed_graph(versions, (replica, item.block), payload)
    if item.kind == "weight_graph":
        graph, found = payload
        return {
            "graph": _packed_graph(versions, (replica, item.block), graph),
            "found": plain(found),
        }
    if item.kind == "input":
        assert isinstance(payload, Kept)
        leaves = payload.leaves
        return {
            "inputs": plain(payload.inputs),
            "labels": plain(payload.labels),
            "version": None if leaves is None else versions.number((replica, item.block), leaves),
        }
    return plain(payload)


def _packed_graph(versions: Versions, key: Key, graph: Graph) -> dict[str, Any]:
    return {
        "inputs": plain(graph.inputs),
        "labels": plain(graph.labels),
        "estimated": plain(graph.estimated),
        "version": versions.number(key, graph.leaves),
    }


def unpacked(
    tensors: WorkerTensors,
    item: Item,
    batch: int,
    saved: Any,
    leaves: Mapping[Key, Sequence[Leaves]],
) -> Any:
    """What a worker is to hold under an item; a graph is made again, by its forward pass."""
    if saved is None:
        return None
    kept = leaves.get((tensors.replica, item.block), ())
    if item.kind == "graph":
        return _graph(tensors, item.block, batch, saved, kept)
    if item.kind == "weight_graph":
        graph = _graph(tensors, item.block, batch, saved["graph"], kept)
        return graph, list(saved["found"])
    if item.kind == "input":
        number = saved["version"]
        version = None if number is None else kept[number]
        if version is not None:
            version.graphs += 1
        return Kept(saved["inputs"], saved["labels"], version)
    return saved


def _graph(
    tensors: WorkerTensors,
    block: int,
    batch: int,
    saved: Mapping[str, Any],
    kept: Sequence[Leaves],
) -> Graph:
    leaves = kept[saved["version"]]
    leaves.graphs += 1
    with untouched(tensors.modules[block]):
        graph = graph_of(tensors, block, batch, saved["inputs"], saved["labels"], leaves)
    graph.estimated = list(saved["estimated"])
    return graph
