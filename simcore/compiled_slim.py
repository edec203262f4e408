"""The entrance of the compiled engine's slim variant: the function that is compiled and kept."""

from typing import Any

from simcore.compiled_cache import kept
from simcore.compiled_memory import pointer
from simcore.compiled_slim_loop import loop
from simcore.compiled_tables import Ints

__all__ = ["run"]


def _made(digest: int) -> Any:
    def run(
        code: Ints,
        workers: Ints,
        channels: Ints,
        cells: Ints,
        registers: Ints,
        sends: Ints,
        pool: Ints,
        queue: Ints,
        state: Ints,
    ) -> int:
        if digest < 0:
            return -1
        return loop(
            pointer(code),
            pointer(workers),
            pointer(channels),
            pointer(cells),
            pointer(registers),
            pointer(sends),
            pointer(pool),
            pointer(queue),
            pointer(state),
        )

    return run


run = kept(_made)
"""Run until it is over or something is needed; returns why (`simcore.compiled_slim_layout`, X_)."""
