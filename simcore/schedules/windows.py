"""How many batches each module of a pipeline may hold: its window, and 1F1B within it."""

from collections.abc import Sequence
from itertools import pairwise

from simcore.errors import InputError
from simcore.ops import Program, Update
from simcore.schedules.chain import Chain
from simcore.steps import steps

__all__ = ["InFlight", "alternating", "refuse_growing", "windows"]

InFlight = int | tuple[int, ...] | None


def windows(modules: int, in_flight: InFlight) -> tuple[int, ...]:
    """The window of each module: the most batches that it has taken forward and not yet backward.

    One number is that of the first module; the others step down evenly, to 1 at the last. Without
    one it is K-k+1 in module k, as in the papers.

    >>> windows(4, None), windows(4, 7), windows(4, (4, 4, 2, 1))
    ((4, 3, 2, 1), (7, 5, 3, 1), (4, 4, 2, 1))

    Raises `InputError` for a list that does not have one number for each module.
    """
    if isinstance(in_flight, tuple):
        if len(in_flight) != modules:
            raise InputError(
                "in_flight",
                _listed(in_flight),
                f"must be one number, or one for each of the {modules} modules",
                f"give {modules} numbers",
            )
        return in_flight
    first = modules if in_flight is None else in_flight
    hops = max(1, modules - 1)
    return tuple(1 - (1 - first) * (modules - k) // hops for k in range(1, modules + 1))


def refuse_growing(own: Sequence[int]) -> None:
    """Raise `InputError` for windows that grow from a module to the next.

    The upper module would wait for a batch that the lower one may not take yet, and the lower one
    for a gradient of the upper.
    """
    if any(above > below for below, above in pairwise(own)):
        raise InputError(
            "in_flight",
            _listed(own),
            "must not grow from a module to the next, or both would wait for ever",
            "give each module at least the number of the next one",
        )


def alternating(chain: Chain, k: int, window: int, batches: int, per_update: int) -> Program:
    """1F1B: one forward pass, one backward pass, with `window` batches in flight between them.

    Module k goes forward `window - 1` times, then forward and backward in turn, then only backward,
    and updates after each `per_update` gradients.
    """
    lag = window - 1
    for step in steps(batches + lag):
        if step < batches:
            yield from chain.forward(k)
        if step >= lag:
            yield from chain.backward(k)
            if (step - lag + 1) % per_update == 0:
                yield Update(k)


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(str(number) for number in numbers)
