"""The main thread of a run whose workers are threads: it waits, and sees who hangs."""

import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from time import monotonic

from executor.failure import GRACE_S, WorkerError
from executor.watchdog import LOOK_S, Hang, Watchdog

__all__ = ["WorkerThread", "left_behind", "supervise"]


class WorkerThread(threading.Thread):
    """A thread that works for a run.

    Python cannot end a thread from outside: one that hangs is left behind (see `left_behind`).
    """

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        # Not `join` alone: before Python 3.13, when Ctrl-C interrupts it, it takes a thread that
        # still works for ended.
        self.ended = threading.Event()

    def run(self) -> None:
        """Work, and say when it is over."""
        try:
            self._work()
        finally:
            self.ended.set()


def left_behind() -> list[str]:
    """The names of threads that hang in this process, left behind by runs that have ended.

    They go with it. A process that has one should end by `os._exit`: while Python takes itself
    down, a thread that comes back from a library may abort the process.
    """
    return [each.name for each in threading.enumerate() if isinstance(each, WorkerThread)]


def supervise(
    threads: Sequence[WorkerThread],
    watchdog: Watchdog,
    failures: list[WorkerError],
    names: Sequence[str],
    tick: Callable[[], None],
    stop: Callable[[], None],
) -> bool:
    """Start threads and wait until all have ended, one has added to `failures`, or one hangs.

    A hang is added to `failures` under the name of its worker: `names` are those of the workers
    whose pulses the watchdog sees; with fewer threads than workers, the last thread does the rest.
    `tick` is called now and then. In the end `stop` must make every worker end that still can;
    those that do not are left behind, and a note of the failure says so. Returns whether Ctrl-C
    ended it.
    """
    hang: Hang | None = None
    interrupted = False
    try:
        for thread in threads:
            thread.start()
        while hang is None and not failures and not all(each.ended.is_set() for each in threads):
            for each in threads:
                each.ended.wait(LOOK_S / len(threads))
            tick()
            hang = watchdog.look()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        stop()
    stuck = None
    # A thread that ended or failed during the last look does not hang.
    if hang is not None and not failures:
        stuck = threads[min(hang.worker, len(threads) - 1)]
        failures.append(WorkerError(names[hang.worker], hang.reason, stack_of(stuck)))
    _wait(threads, stuck)
    left = [each.name for each in threads if each.ident is not None and not each.ended.is_set()]
    if left and failures:
        failures[0].add_note(f"Threads cannot be ended: left behind in this process: {left}")
    return interrupted


def _wait(threads: Sequence[WorkerThread], stuck: WorkerThread | None) -> None:
    """Wait for the threads that have started, but not for the one that hangs."""
    deadline = monotonic() + GRACE_S
    for thread in threads:
        if thread.ident is None or thread is stuck:  # Ctrl-C may come before all have started
            continue
        if thread.ended.wait(max(0.0, deadline - monotonic())):
            thread.join()


def stack_of(thread: threading.Thread) -> str:
    """Where a thread of this process is now, like a traceback; empty if it has ended."""
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None:
        return ""
    return "".join(["Stack (most recent call last):\n", *traceback.format_stack(frame)])
