"""The compiled engine's entrance: one function that numba compiles once for a machine and keeps."""

from collections.abc import Callable
from typing import Any

from simcore.compiled_cache import kept
from simcore.compiled_loop import loop
from simcore.compiled_memory import pointer
from simcore.compiled_tables import Ints

__all__ = ["run"]


def _made(digest: int) -> Any:
    def run(memory: Ints) -> int:
        return loop(pointer(memory)) if digest >= 0 else -1

    return run


run: Callable[[Ints], int] = kept(_made)
"""Run until it is over or something is needed; returns why (`simcore.compiled_layout`, X_)."""
