"""Processor sharing: several operations on one device slow each other down.

Everything is an integer, so that completion times do not depend on rounding: the remaining work of
an operation is its duration times the device's denominator, and an operation completes at the
first tick at which no work remains.
"""

from dataclasses import dataclass, field
from math import lcm

from simcore.cluster import Device

__all__ = ["SharedDevice"]


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

    def next_completion(self) -> int | None:
        """The tick at which the next operation completes if nothing else starts."""
        if not self.work:
            return None
        return self.now - (-min(self.work.values()) // self._speed())

    def _speed(self) -> int:
        return self.speeds[len(self.work) - 1]
