"""How compiled functions are kept from one run of Python to the next.

Numba notices that a file has changed only if a function that it keeps is in it. So those that are
kept have a digest of all files of the engine in their closure, which is part of what they are
looked up by.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.resources import files
from typing import Any

from numba import njit
from numba.core import event

__all__ = ["compilations", "kept"]


def _digest() -> int:
    found = sha256()
    for each in sorted(files("simcore").iterdir(), key=lambda each: each.name):
        if each.name.startswith("compiled") and each.name.endswith(".py"):
            found.update(each.read_bytes())
    return int.from_bytes(found.digest()[:7])


def kept(made: Callable[[int], Any]) -> Any:
    """The function that `made` makes for the digest, compiled; it must have that in its closure."""
    function = made(_digest())
    try:
        return njit(function, cache=True, nogil=True)
    except RuntimeError:  # there is no folder that could be written to
        return njit(function, nogil=True)


class _Listener(event.Listener):
    def __init__(self, begun: Callable[[], None]) -> None:
        self.begun = begun

    def on_start(self, event: Any) -> None:
        self.begun()

    def on_end(self, event: Any) -> None:
        """Whoever listens sees what comes next."""


@contextmanager
def compilations(begun: Callable[[], None] | None) -> Iterator[None]:
    """Call `begun` when something is compiled, and not where it is found as it was kept."""
    if begun is None:
        yield
        return
    with event.install_listener("numba:compile", _Listener(begun)):
        yield
