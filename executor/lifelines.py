"""What a worker's process shares with its parent, so that each sees whether the other lives.

The parent sees the worker's pulse, and may ask a process that hangs where it is: Python writes the
stack from within the handler of a signal, even if the worker is deep in a library. The kernel ends
the worker with its parent, even if the worker hangs.
"""

import ctypes
import faulthandler
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from executor.handles import Descriptor, Stopped
from executor.shared_numbers import SharedNumbers
from executor.watchdog import Pulse

__all__ = ["Lifeline", "Lifelines"]

_ASK: Final = signal.SIGUSR1
_ANSWER_S: Final = 1.0  # a process that has not begun to answer by then never will
_STEP_S: Final = 0.02
_PARENT_DEATH_SIGNAL: Final = 1  # prctl's PR_SET_PDEATHSIG


class Lifeline:
    """A worker's end; an argument of `Process`."""

    def __init__(self, worker: int, pulses: SharedNumbers, stack: Descriptor) -> None:
        self.worker, self._pulses, self._stack = worker, pulses, stack

    def __reduce__(self) -> tuple[Any, ...]:
        return Lifeline, (self.worker, self._pulses, self._stack)

    def hold(self) -> Pulse:
        """Hold on to it, in the worker's process. Raises `Stopped` if the parent has gone."""
        faulthandler.register(_ASK, file=self._stack.number, all_threads=True)
        # Another C library may not have it; who waits for others sees the parent go all the same.
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            raise Stopped("the parent process has died")
        pulse = Pulse(self._pulses.part(0, self._pulses.count), self.worker)
        pulse.start()
        return pulse


class Lifelines:
    """The parent's ends. `pulses` are the numbers that the workers write."""

    def __init__(self, workers: int) -> None:
        self._numbers = SharedNumbers.create("pulses", workers)
        self.pulses: Sequence[int] = self._numbers.part(0, workers)
        self._stacks = [Descriptor(os.memfd_create("gradlag-stack")) for _ in range(workers)]

    def of(self, worker: int) -> Lifeline:
        """The end of a worker."""
        return Lifeline(worker, self._numbers, self._stacks[worker])

    def stack_of(self, worker: int, pid: int) -> str:
        """Where a worker's process is now; empty if it does not answer within a second."""
        if not self.pulses[worker]:
            return ""  # it has not begun, and would die of the signal
        file, size = self._stacks[worker].number, 0
        before = os.fstat(file).st_size
        try:
            os.kill(pid, _ASK)
        except OSError:
            return ""
        deadline = time.monotonic() + _ANSWER_S
        while time.monotonic() < deadline:
            time.sleep(_STEP_S)
            written = os.fstat(file).st_size
            if written > before and written == size:  # it has come to its end
                break
            size = written
        return os.pread(file, size - before, before).decode(errors="replace")
