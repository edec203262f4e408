"""What really runs so far. All else is simulated only, and refused before anything starts."""

from typing import Any, Final

from simcore.errors import IllegalOperationError, InputError
from simcore.ops import Backward, Forward, Operation, Receive, Select, Send, Update
from simcore.rules import shown
from simcore.schedule import Schedule
from simcore.validate import operations_used

__all__ = ["check_supported", "refuse_unsupported"]

_OPERATIONS: Final[frozenset[type[Any]]] = frozenset(
    (Forward, Backward, Update, Send, Receive, Select)
)
_POLICIES: Final = ("stash", "mixed")


def refuse_unsupported(schedule: Schedule) -> Schedule:
    """The schedule. Raises `InputError` for one that no runtime can train with so far."""
    if reason := _obstacle(schedule):
        rule = f"is simulated only so far, as {reason}"
        raise InputError("schedule", schedule.name, rule, "use `gradlag simulate`")
    return schedule


def _obstacle(schedule: Schedule) -> str | None:
    weights = schedule.weights
    if schedule.micro_batches > 1:
        return "its mini-batches are split into micro-batches"
    if max(schedule.replicas, default=0):
        return "it has replicas of the weights"
    if schedule.groups:
        return "its workers wait for each other (lockstep) or average what they have"
    if weights.policy not in _POLICIES or weights.buffer:
        return "it keeps or reads versions of the weights in a way of its own"
    if weights.feedback != "weights":
        return "its gradients do not come down through the weights"
    if any(source.stride != 1 for source in schedule.channels if source.source):
        return "its sources share the batches out"
    used = {kind.__name__ for kind in operations_used(schedule) - _OPERATIONS}
    return f"its programs use {', '.join(sorted(used))}" if used else None


def check_supported(operation: Operation) -> None:
    """Raise `IllegalOperationError` for what only later in a program turns out not to run."""
    if type(operation) not in _OPERATIONS:
        raise IllegalOperationError(f"{shown(operation)} is simulated only so far")
