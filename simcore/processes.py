"""What processes that only work for another one have to do with it."""

import ctypes
import os
import signal
from contextlib import suppress
from typing import Final

__all__ = ["follow"]

_PARENT_DEATH_SIGNAL: Final = 1  # prctl's PR_SET_PDEATHSIG


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
