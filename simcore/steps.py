"""Counters for the loops of worker programs."""

from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Final

__all__ = ["COUNTERS", "steps"]

# What counts instead of a range, for an interpreter that runs programs in this context.
COUNTERS: Final[ContextVar[Callable[[int], Iterable[int]]]] = ContextVar("counters", default=range)


def steps(count: int) -> Iterable[int]:
    """Count 0, 1, ..., count - 1.

    Programs loop with `steps` and not with `range`, and use the counter only to compare it, to
    shift it by a constant and to take it modulo a constant. An interpreter that wants to reason
    about all iterations at once, instead of running them one by one, can then replace this one
    function.
    """
    return COUNTERS.get()(count)
