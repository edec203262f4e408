"""What keeps a schedule from running in processes."""

from typing import Final

from executor.shared_weights import shared_blocks
from simcore.ops import ItemKind, Synthesize
from simcore.schedule import Schedule
from simcore.validate import operations_used

__all__ = ["obstacle"]

# What cannot leave its process.
_BOUND: Final[dict[ItemKind, str]] = {
    "graph": "autograd graphs",
    "weight_graph": "autograd graphs",
    "input": "inputs that are bound to weights",
    "tangent": "random directions",
    "synthesizer": "what a model learns from",
    "sample": "what has not been loaded",
}


def obstacle(schedule: Schedule) -> str | None:
    """Why a schedule cannot run in processes; None if it can."""
    for channel in schedule.channels:
        kinds = {item.kind for item in channel.carries} & _BOUND.keys()
        if kinds and not channel.source and not schedule.is_local(channel):
            return f"{channel.name} hands over {_BOUND[min(kinds)]}"
    for blocks in shared_blocks(schedule).values():
        sharing = f"several workers share the weights of block {blocks[0]}"
        if schedule.weights.policy == "stash":
            return f"{sharing}, and old versions (weights=stash) cannot be kept for all of them"
        if schedule.weights.momentum == "shared":
            return f"{sharing}, and an optimiser's state (momentum=shared) stays in its process"
        if Synthesize in operations_used(schedule):
            return f"{sharing}, and what guesses its gradients stays in its process"
    return None
