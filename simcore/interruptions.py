"""Pauses and losses as they happen in a simulation."""

import math
from collections import Counter
from collections.abc import Callable, Container, Mapping
from fractions import Fraction
from functools import partial
from typing import Any

from simcore.cluster import Cluster
from simcore.faults import Loss, Pause
from simcore.randomness import uniform
from simcore.schedule import Schedule
from simcore.ticks import Tick

__all__ = ["Interruptions", "moment_s"]


def moment_s(fault: Pause | Loss, number: int, seed: int) -> Fraction:
    """When a fault begins, in seconds; `number` tells the random faults of a worker apart."""
    if fault.at_s is not None:
        return fault.at_s
    assert fault.mean_s is not None
    # Those of durations are counted from 1.
    share = uniform(seed, fault.worker, -number)
    return fault.mean_s * Fraction(-math.log1p(-share))


class Interruptions:
    """Which workers stand still. `at(moment, action)` plans an action before that instant."""

    def __init__(
        self,
        cluster: Cluster,
        tick: Tick,
        seed: int,
        at: Callable[[int, Callable[[], None]], None],
    ) -> None:
        self.standing: Counter[int] = Counter()  # a worker may be in several pauses at once
        self.lost: dict[int, int] = {}
        self.due: list[tuple[int, int]] = []
        self.tick = tick
        for number, fault in enumerate(cluster.faults):
            moment = tick.ticks(moment_s(fault, number, seed))
            stop = partial(self._stop, fault, moment)
            if moment:
                at(moment, stop)
            else:
                stop()
            if isinstance(fault, Pause):
                at(moment + tick.ticks(fault.for_s), partial(self.due.append, (fault.worker, -1)))

    def _stop(self, fault: Pause | Loss, moment: int) -> None:
        self.due.append((fault.worker, 1))
        if isinstance(fault, Loss):
            self.lost.setdefault(fault.worker, moment)

    def stands(self, worker: int) -> bool:
        """Whether the worker is paused or lost."""
        return self.standing[worker] > 0

    def change(self) -> tuple[list[int], list[int]]:
        """Let begin and end what is due: the workers that now stop, and those that now go on."""
        workers = sorted({worker for worker, _ in self.due})
        before = [self.stands(worker) for worker in workers]
        for worker, step in self.due:
            self.standing[worker] += step
        self.due.clear()
        changed = [
            (worker, stood)
            for worker, stood in zip(workers, before, strict=True)
            if stood != self.stands(worker)
        ]
        return [w for w, stood in changed if not stood], [w for w, stood in changed if stood]

    def report(
        self, schedule: Schedule, ended: Container[int], waiting: Mapping[int, str]
    ) -> dict[str, Any]:
        """What a trace says of workers that were lost before they ended; nothing if none was.

        `lost` is when each was lost, in seconds, `waiting` what the others then still wait for.
        """
        names = [worker.name for worker in schedule.workers]
        lost = {worker: at for worker, at in self.lost.items() if worker not in ended}
        if not lost:
            return {}
        return {
            "lost": {names[worker]: self.tick.to_seconds(at) for worker, at in lost.items()},
            "waiting": {names[w]: what for w, what in waiting.items() if w not in lost},
        }
