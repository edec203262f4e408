"""How much processor time other programs took while something was measured.

On a shared machine some phases of a measurement are disturbed; those are dropped or repeated, and
how many is printed with the result.
"""

import os
import time
from collections.abc import Iterable

__all__ = ["CpuWatch"]


class CpuWatch:
    """Watches a phase that begins when the watch is made.

    `pids` are the processes that are measured, with all their threads but without their children;
    by default the calling process alone.

    >>> watch = CpuWatch()
    >>> work = sum(range(1_000_000))
    >>> share = watch.other_share()  # a phase is dropped where this exceeds a few percent
    """

    def __init__(self, pids: Iterable[int] | None = None) -> None:
        self._pids = (os.getpid(),) if pids is None else tuple(pids)
        self._start_ns = time.monotonic_ns()
        self._machine = _machine_ticks()
        self._own = {pid: _process_ticks(pid) for pid in self._pids}

    def other_share(self) -> float | None:
        """Return the share of all cores that others took since the start, from 0 to 1.

        It is the machine's busy time less that of the watched processes, over wall time x cores.
        Time that a hypervisor gave to its other guests counts as taken. Linux counts in ticks,
        mostly of 10 ms: a phase should last a second for a resolution of one percent. Of a watched
        process that ended or began during the phase only what /proc still shows is known, the rest
        counts as other. None where there is no /proc.
        """
        now = _machine_ticks()
        if now is None or self._machine is None:
            return None
        (busy, cores), (busy_before, _) = now, self._machine
        own = sum(self._own_ticks(pid) for pid in self._pids)
        wall_s = (time.monotonic_ns() - self._start_ns) / 1e9
        possible = wall_s * os.sysconf("SC_CLK_TCK") * cores
        return min(1.0, max(0.0, (busy - busy_before - own) / possible))

    def _own_ticks(self, pid: int) -> int:
        before, after = self._own[pid], _process_ticks(pid)
        if after is None:
            return 0
        # A different birth is a different process under a number that was used again.
        same = before is not None and before[0] == after[0]
        return after[1] - before[1] if before is not None and same else after[1]


def _machine_ticks() -> tuple[int, int] | None:
    """Return the machine's busy clock ticks since boot, and its number of cores."""
    try:
        with open("/proc/stat") as lines:
            rows = [line.split() for line in lines if line.startswith("cpu")]
    except OSError:
        return None
    # Guest time is part of user time already; waiting for a disk (iowait) is idle.
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, rows[0][1:9])
    return user + nice + system + irq + softirq + steal, len(rows) - 1


def _process_ticks(pid: int) -> tuple[int, int] | None:
    """Return when a process was born and the clock ticks of its threads; None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in parentheses, may hold anything; the third field follows it.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return int(fields[19]), int(fields[11]) + int(fields[12])
