"""The compiled engine's entrance: one function that numba compiles once for a machine and keeps.

Numba notices that a file has changed only if a function that it keeps is in it. So this one, the
only one that is kept, has a digest of all files of the engine in its closure, which is part of what
it is looked up by.
"""

from collections.abc import Callable
from hashlib import sha256
from importlib.resources import files
from typing import Any

from numba import njit

from simcore.compiled_loop import loop
from simcore.compiled_memory import pointer
from simcore.compiled_tables import Ints

__all__ = ["run"]


def _digest() -> int:
    found = sha256()
    for each in sorted(files("simcore").iterdir(), key=lambda each: each.name):
        if each.name.startswith("compiled") and each.name.endswith(".py"):
            found.update(each.read_bytes())
    return int.from_bytes(found.digest()[:7])


def _made(digest: int) -> Any:
    def run(memory: Ints) -> int:
        return loop(pointer(memory)) if digest >= 0 else -1

    try:
        return njit(run, cache=True, nogil=True)
    except RuntimeError:  # there is no folder that could be written to
        return njit(run, nogil=True)


run: Callable[[Ints], int] = _made(_digest())
"""Run until it is over or something is needed; returns why (`simcore.compiled_layout`, X_)."""
