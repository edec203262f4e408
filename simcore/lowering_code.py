"""What lowered programs are written in: rows of integers, and which operation is which."""

from dataclasses import replace
from typing import Any, Final

from simcore.lowering_symbols import Batch, Counter, Residue, Unliftable
from simcore.ops import Operation
from simcore.rules import RULES

__all__ = [
    "CLASSES",
    "CODES",
    "END",
    "JUMP",
    "LOOP",
    "MOVE",
    "UNEXPLORED",
    "UNTESTED",
    "concrete",
    "register_of",
]

# An instruction is (code, a, b, register, target). The code is a place in CLASSES, or one of these.
CLASSES: Final[tuple[type[Any], ...]] = tuple(RULES)
CODES: Final = {kind: number for number, kind in enumerate(CLASSES)}
MOVE, LOOP, JUMP, END = range(len(CLASSES), len(CLASSES) + 4)
UNEXPLORED, UNTESTED = -1, -2  # of targets

# Which fields of an operation are numbers.
_FIELDS: Final = {
    kind: tuple(name for name in kind.__match_args__ if name in ("block", "batch"))
    for kind in CLASSES
}


def concrete(operation: Operation) -> Operation:
    """The operation with the number of a block that was computed from a counter."""
    names = _FIELDS.get(type(operation))
    if names is None:
        raise Unliftable(f"{operation!r} is no operation")
    counted: dict[str, int] = {}
    for name in names:
        value = getattr(operation, name)
        kind = type(value)
        if kind is int:
            continue
        if kind is Counter or kind is Residue:
            counted[name] = value.number()
        elif name == "block" and issubclass(kind, Batch):
            raise Unliftable("it takes a batch for a block")
        elif not issubclass(kind, int | Batch):
            raise Unliftable(f"{type(operation).__name__} has a {name} that is no number")
    if counted:
        values: dict[str, Any] = {**counted}
        return replace(operation, **values)
    return operation


def register_of(batch: int | Batch) -> int:
    """Where a batch is: its register, or -1 - batch for one that is named."""
    if not isinstance(batch, int):
        return batch.register
    if batch < 0:
        raise Unliftable(f"there is no batch {batch}")
    return -1 - batch
