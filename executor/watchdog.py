"""Is every worker alive? A pulse for each worker, and the watchdog that looks at all of them.

A worker writes a number whenever it begins something: what kind of thing, and a count. So the
watchdog needs no clock of the worker's. It adds up the time between its own looks: if the whole
machine stood still, or the watchdog itself got no turn, that time does not count.
"""

import time
from collections.abc import MutableSequence, Sequence
from typing import Final, NamedTuple

from simcore.errors import InputError
from simcore.ops import Arrive, Join, Load, Operation, Receive, Select, Send

__all__ = ["LOOK_S", "NO_PULSE", "Hang", "Pulse", "Watchdog"]

LOOK_S: Final = 0.2  # how often whoever starts a run looks at its workers
# What counts at most of the time between two looks.
_MOST_BETWEEN_S: Final = 1.0
# Without a timeout of the training's own: computing may take the longer of these two, ...
_LIMIT_S, _TIMES_LONGEST = 5.0, 20
# ... and what waits for disks and networks may take this long; starting, with any timeout.
_PATIENT_S: Final = 60.0

_WAITING, _STARTING, _PATIENT, _WARMING, _COMPUTING = range(5)
_STATES: Final = 5
_SHOWN: Final = {
    _STARTING: "starting",
    _PATIENT: "loading, saving or reporting",
    _WARMING: "a pass to warm up",
    _COMPUTING: "one operation",
}
_ENDED: Final = -1
_NOT_STARTED: Final = 0


class Pulse:
    """What one worker tells of itself: a number that only it writes, and others may read."""

    __slots__ = ("_beats", "_values", "_worker")

    def __init__(self, values: "MutableSequence[int] | memoryview[int]", worker: int) -> None:
        self._values, self._worker, self._beats = values, worker, 0

    def enter(self, operation: Operation) -> None:
        """It begins an operation of its program."""
        if isinstance(operation, Receive):
            self._beat(_PATIENT if operation.channel.source else _WAITING)
        elif isinstance(operation, Send | Select | Arrive | Join):
            self._beat(_WAITING)
        else:
            self._beat(_PATIENT if isinstance(operation, Load) else _COMPUTING)

    def wait(self) -> None:
        """It begins to wait for others."""
        self._beat(_WAITING)

    def start(self) -> None:
        """It imports and builds, which nobody can hurry."""
        self._beat(_STARTING)

    def be_patient(self) -> None:
        """It begins what may take long: loading, saving, reporting."""
        self._beat(_PATIENT)

    def warm_up(self) -> None:
        """It begins a pass that tells how long computing takes."""
        self._beat(_WARMING)

    def end(self) -> None:
        """It has nothing more to do."""
        self._values[self._worker] = _ENDED

    def _beat(self, state: int) -> None:
        self._beats += 1
        self._values[self._worker] = self._beats * _STATES + state


NO_PULSE: Final = Pulse([0], 0)  # of a worker that nobody watches


class Hang(NamedTuple):
    """A worker that makes no progress, and why that is known."""

    worker: int
    reason: str
    waits: bool = False  # so do all others


class Watchdog:
    """Finds the worker that hangs.

    `values` are the numbers that the workers' pulses write. `timeout_s` is the longest that a
    worker may take for one operation, waiting for others not counted, and that all workers
    together may wait. None: 5 s, or 20 times the longest computation so far if that is longer; and
    60 s for loading data and saving. Until its first pass, to warm up, a worker has 60 s for each
    step, or the timeout if that is longer: it may have to import torch on a busy machine. Raises
    `InputError` for a timeout that is none.
    """

    def __init__(self, values: Sequence[int], timeout_s: float | None = None) -> None:
        if timeout_s is not None and not 0 < timeout_s < float("inf"):
            rule, remedy = "must be above 0 and finite", "give seconds, or None to go by measure"
            raise InputError("timeout_s", timeout_s, rule, remedy)
        self._values, self._timeout_s = values, timeout_s
        self._last = list(values)
        self._still_s = [0.0 for _ in self._last]
        self._looked_s = time.monotonic()
        self._longest_s = 0.0

    def look(self, now_s: float | None = None) -> Hang | None:
        """Look at all workers once; `now_s` is the time of `time.monotonic`."""
        now_s = time.monotonic() if now_s is None else now_s
        passed_s = min(now_s - self._looked_s, _MOST_BETWEEN_S)
        self._looked_s = now_s
        for worker, value in enumerate(self._values):
            before, still_s = self._last[worker], self._still_s[worker] + passed_s
            if value != before:
                if before > 0 and before % _STATES in (_WARMING, _COMPUTING):
                    self._longest_s = max(self._longest_s, still_s)
                self._last[worker], still_s = value, 0.0
            self._still_s[worker] = still_s
        return self._busy() or self._waiting()

    def _busy(self) -> Hang | None:
        """The worker that has been busy with one thing for the longest, if for too long."""
        busy = [
            (self._still_s[worker], worker)
            for worker, value in enumerate(self._last)
            if value == _NOT_STARTED or (value > 0 and value % _STATES != _WAITING)
        ]
        for still_s, worker in sorted(busy, reverse=True):
            value = self._last[worker]
            if still_s > (limit_s := self._limit_s(value)):
                what = _SHOWN[value % _STATES if value else _STARTING]
                return Hang(worker, f"hangs: {what} has not ended after {limit_s:g} s")
        return None

    def _waiting(self) -> Hang | None:
        """The first worker, if all that have not ended wait, and have done so for too long."""
        left = [worker for worker, value in enumerate(self._last) if value != _ENDED]
        if any(not value or value % _STATES for value in (self._last[w] for w in left)):
            return None
        limit_s = self._limit_s(_COMPUTING)
        if left and min(self._still_s[worker] for worker in left) > limit_s:
            reason = f"waits, as all workers do, and nothing has come in {limit_s:g} s"
            return Hang(left[0], reason, waits=True)
        return None

    def _limit_s(self, value: int) -> float:
        if value == _NOT_STARTED or value % _STATES == _STARTING:
            return max(_PATIENT_S, self._timeout_s or 0.0)
        if self._timeout_s is not None:
            return self._timeout_s
        least_s = _LIMIT_S if value % _STATES == _COMPUTING else _PATIENT_S
        return max(least_s, _TIMES_LONGEST * self._longest_s)
