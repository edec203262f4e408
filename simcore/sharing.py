"""Processor sharing: several operations on one device slow each other down.

Everything is an integer, so that completion times do not depend on rounding: the remaining work of
an operation is its duration times the device's denominator, and an operation completes at the
first tick at which no work remains.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import lcm

from simcore.cluster import Cluster, Device

__all__ = ["Devices", "SharedDevice"]


@dataclass(slots=True)
class SharedDevice:
    """The operations that are active on a device, each with its remaining work.

    `speeds[c - 1]` is the speed of each operation when c are active, over `denominator`.
    """

    speeds: tuple[int, ...]
    denominator: int
    now: int = 0
    work: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, device: Device, workers: int) -> "SharedDevice":
        """The device, for at most so many operations at once."""
        speeds = [device.speed(active) for active in range(1, workers + 1)]
        denominator = lcm(*(speed.denominator for speed in speeds))
        return cls(tuple(int(speed * denominator) for speed in speeds), denominator)

    def advance(self, now: int) -> list[int]:
        """Let the time pass until `now`; takes out and returns the workers that are done."""
        if self.work:
            done = (now - self.now) * self._speed()
            self.work = {worker: left - done for worker, left in self.work.items()}
        self.now = now
        finished = [worker for worker, left in self.work.items() if left <= 0]
        for worker in finished:
            del self.work[worker]
        return finished

    def start(self, worker: int, duration: int) -> None:
        """Start an operation of `duration` ticks at full speed, now."""
        self.work[worker] = duration * self.denominator

    def suspend(self, worker: int) -> int | None:
        """Take out the worker's operation: the work that is left of it, None if it has none."""
        return self.work.pop(worker, None)

    def next_completion(self) -> int | None:
        """The tick at which the next operation completes if nothing else starts."""
        if not self.work:
            return None
        return self.now - (-min(self.work.values()) // self._speed())

    def _speed(self) -> int:
        return self.speeds[len(self.work) - 1]


class Devices:
    """The devices of a cluster with what its workers do on them. `at` plans a later action."""

    def __init__(
        self, cluster: Cluster, workers: int, at: Callable[[int, Callable[[], None]], None]
    ) -> None:
        self.at = at
        self.placement = [cluster.device_of(worker) for worker in range(workers)]
        self.devices = {
            number: SharedDevice.of(cluster.device(number), self.placement.count(number))
            for number in self.placement
        }
        self.due: set[int] = set()
        self.changed: set[int] = set()
        self.wake_up: dict[int, int] = {}
        self.suspended: dict[int, int] = {}

    def complete(self, now: int) -> list[int]:
        """The workers whose operations are over now, by number."""
        done = [worker for number in self.due for worker in self.devices[number].advance(now)]
        self.changed |= self.due
        self.due.clear()
        return sorted(done)

    def start(self, worker: int, duration: int, now: int) -> None:
        """Start an operation that takes so many ticks when nothing shares its device."""
        self._present(worker, now).start(worker, duration)

    def suspend(self, worker: int, now: int) -> None:
        """Let the worker's operation, if it is at one, make no progress from now on."""
        left = self._present(worker, now).suspend(worker)
        if left is not None:
            self.suspended[worker] = left

    def resume(self, worker: int, now: int) -> bool:
        """Let what was suspended go on; whether there was anything."""
        if worker not in self.suspended:
            return False
        self._present(worker, now).work[worker] = self.suspended.pop(worker)
        return True

    def plan(self) -> None:
        """Plan the completions that are next, now that operations have started or stopped."""
        for number in self.changed:
            moment = self.devices[number].next_completion()
            if moment is not None and moment != self.wake_up.get(number):
                self.wake_up[number] = moment
                self.at(moment, partial(self.due.add, number))
        self.changed.clear()

    def _present(self, worker: int, now: int) -> SharedDevice:
        """The worker's device, brought up to now, about to change."""
        number = self.placement[worker]
        self.changed.add(number)
        self.devices[number].advance(now)
        return self.devices[number]
