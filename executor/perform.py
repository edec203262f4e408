"""What operations do to tensors: one table, shared by all runtimes."""

from collections.abc import Callable
from typing import Any, Final

from executor import averaging, backpropagation, estimates, forward_gradients
from executor.finiteness import CHECKED, check_item
from executor.tensors import Done, WorkerTensors
from simcore.errors import IllegalOperationError
from simcore.ops import (
    Backward,
    BackwardInput,
    BackwardStop,
    BackwardThrough,
    BackwardWeight,
    Estimate,
    Evaluate,
    Feedback,
    Forward,
    ForwardError,
    Item,
    Load,
    Merge,
    Operation,
    Pass,
    Play,
    Project,
    Refine,
    Replay,
    Snapshot,
    Synthesize,
    Tangent,
    TangentStep,
    Update,
)
from simcore.rules import made, shown

__all__ = ["TABLE", "Computation", "perform"]

Computation = (
    Forward
    | Evaluate
    | Tangent
    | Replay
    | Backward
    | BackwardInput
    | BackwardWeight
    | Project
    | Estimate
    | Refine
    | Update
    | Snapshot
    | Merge
    | Load
)


def perform(tensors: WorkerTensors, operation: Operation) -> Done:
    """Do a computation on a worker's tensors.

    Raises `IllegalOperationError` for what is none, or breaks a rule, and `RunError` for a loss
    or another result that is not finite.
    """
    action = TABLE.get(type(operation))
    if action is None:
        raise IllegalOperationError(f"{shown(operation)} is no computation on tensors")
    done = action(tensors, operation)
    if tensors.settings.check_finite and isinstance(operation, Pass):
        for kind, block in made(operation, tensors.blocks):
            # The data are not computed, and a loss has no gradient.
            if block and kind in CHECKED and (kind, block, operation.batch) in tensors.held:
                payload = tensors.held[kind, block, operation.batch]
                check_item(kind, block, operation.batch, payload)
    return done


def _load(tensors: WorkerTensors, operation: Load) -> Done:
    [number] = tensors.take([Item("sample", 0)], operation.batch)
    data = Item("activation", 0)
    tensors.give([data], operation.batch, [tensors.settings.passes.payload(data, number)])
    return Done()


TABLE: Final[dict[type[Any], Callable[[WorkerTensors, Any], Done]]] = {
    Forward: backpropagation.forward,
    ForwardError: backpropagation.forward,
    Play: backpropagation.play,
    Evaluate: backpropagation.evaluate,
    Replay: backpropagation.replay,
    Backward: backpropagation.backward,
    BackwardStop: backpropagation.backward,
    BackwardInput: backpropagation.backward_input,
    BackwardThrough: backpropagation.backward_input,
    BackwardWeight: backpropagation.backward_weight,
    Tangent: forward_gradients.tangent,
    TangentStep: forward_gradients.tangent,
    Project: forward_gradients.project,
    Estimate: estimates.estimate,
    Synthesize: estimates.synthesize,
    Feedback: estimates.feed_back,
    Refine: estimates.refine,
    Update: averaging.update,
    Snapshot: averaging.snapshot,
    Merge: averaging.merge,
    Load: _load,
}
