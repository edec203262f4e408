"""What processes that only work for another one have to do with it."""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from typing import Final

__all__ = ["deaf", "follow"]

_PARENT_DEATH_SIGNAL: Final = 1  # prctl's PR_SET_PDEATHSIG


@contextmanager
def deaf() -> Iterator[None]:
    """Processes that are started within never hear Ctrl-C, this one only afterwards.

    `follow` comes too late for a process that is still importing.
    """
    resource_tracker.ensure_running()  # started later, it would lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def follow(parent: int) -> None:
    """Leave Ctrl-C to the process that started this one, and go when it goes, however it goes.

    Does nothing in the process `parent` itself.
    """
    if os.getpid() == parent:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Another C library may not have it; then a worker without work ends by itself after a while.
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
