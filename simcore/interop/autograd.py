"""Which layer the records of PyTorch's autograd in a trace belong to.

Each operation of a forward pass that makes a node of the graph carries a sequence number, and the
function of the backward pass that uses the node carries the same. An operation that makes no node
carries the number of the next node: so the last operation with a number has made the node.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from simcore.interop.slices import Slice, outermost

__all__ = ["ACCUMULATE", "FUNCTION", "Autograd", "Mark"]

ACCUMULATE = "torch::autograd::AccumulateGrad"
FUNCTION = "autograd::engine::evaluate_function: "
_NONE = -1  # no sequence number


@dataclass(frozen=True, slots=True)
class Mark:
    """Time that a layer took for `forward`, `backward` or `update`; without a name, all layers."""

    kind: str
    layer: str
    slice: Slice


@dataclass(frozen=True, slots=True)
class Autograd:
    """The nodes of the graph: which operation made them, by sequence number.

    `forwards` are the marked forward passes of layers, all on one thread, by start.
    """

    made: Mapping[int, Slice]
    forwards: Sequence[Mark]
    starts: Sequence[float]

    @classmethod
    def of(cls, slices: Iterable[Slice], forwards: Sequence[Mark]) -> "Autograd":
        """The nodes that the thread of the forward passes has made."""
        thread = forwards[0].slice.thread
        made = {_number(each): each for each in slices if each.thread == thread if _forward(each)}
        return cls(made, forwards, [mark.slice.start for mark in forwards])

    def layer_of(self, function: Slice, *, inside: bool = False) -> str | None:
        """The layer that a backward function belongs to, if it is one whose operation is known.

        An operation outside of marked slices belongs to the layer before it; with `inside` to none.
        """
        operation = self.made.get(_number(function))
        if operation is None or _forward(function):
            return None
        mark = self._mark_before(operation)
        return mark.layer if not inside or operation.start < mark.slice.end else None

    def functions(self, slices: Iterable[Slice]) -> list[Mark]:
        """The backward functions with their layers, and their accumulating of gradients."""
        found: list[Mark] = []
        layer: str | None = None
        for function in slices:
            if not function.name.startswith(FUNCTION):
                continue
            # Accumulating follows the function that computed the gradients, and has no number.
            if not function.name.endswith(ACCUMULATE):
                layer = self.layer_of(function)
            if layer is not None:
                found.append(Mark("backward", layer, function))
        return found

    def unmarked(self, slices: Iterable[Slice], functions: Iterable[Mark]) -> list[Mark]:
        """Operations outside of marked slices, such as the loss, that made nodes for a function."""
        used = {_number(function.slice) for function in functions} - {_NONE}
        thread = self.forwards[0].slice.thread
        outside = outermost(
            each
            for each in slices
            if each.thread == thread
            and _forward(each)
            and each.start >= self._mark_before(each).slice.end
        )
        return [
            Mark("forward", self._mark_before(each).layer, each)
            for each in outside
            if (number := _number(each)) in used
            and each.start <= self.made[number].start < each.end
        ]

    def _mark_before(self, operation: Slice) -> Mark:
        """The marked slice that an operation is in, or else the last one before it."""
        return self.forwards[max(0, bisect_right(self.starts, operation.start) - 1)]


def _number(slice: Slice) -> int:
    return int(slice.arguments.get("Sequence number", _NONE))


def _forward(slice: Slice) -> bool:
    """Whether it is of a forward pass: a backward function names a thread, from 1 on."""
    return _number(slice) != _NONE and not slice.arguments.get("Fwd thread id")
