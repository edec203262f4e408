"""Collectives: rounds that all members of a group take part in."""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from simcore.ops import Group
from simcore.schedule import Schedule

__all__ = ["Finished", "Rounds"]

Key = tuple[int, int]  # the number of the group, and the block that is averaged, or 0


@dataclass(frozen=True, slots=True)
class Finished:
    """A round that is over: when its timed phase began, and who contributed something to it."""

    began: int
    contributors: frozenset[int]


@dataclass(slots=True)
class _Counts:
    """The rounds of a group over one block: how often each member has arrived, and joined."""

    arrived: Counter[int] = field(default_factory=Counter)
    joined: Counter[int] = field(default_factory=Counter)
    contributors: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    started: int = 0
    finished: list[Finished] = field(default_factory=list)


class Rounds:
    """All rounds of a schedule. A round is complete when every member that goes on has arrived.

    `duration(group, block)` is that of a round's phase, in ticks, and `at(moment, action)` plans
    an action; phases of one group do not overlap, and where nobody contributes anything there is
    nothing that takes time. `wake(worker)` is called for each worker that waited for a round which
    is now over.
    """

    def __init__(
        self,
        schedule: Schedule,
        duration: Callable[[int, int], int],
        at: Callable[[int, Callable[[], None]], None],
        wake: Callable[[int], None],
    ) -> None:
        self.duration, self.at, self.wake = duration, at, wake
        self.number = {group: n for n, group in enumerate(schedule.groups)}
        workers = list(enumerate(schedule.workers))
        self.members = {
            n: {w for w, worker in workers if group in worker.joins}
            for group, n in self.number.items()
        }
        self.free = dict.fromkeys(self.members, 0)
        self.counts: dict[Key, _Counts] = defaultdict(_Counts)
        self.waiting: dict[int, Key] = {}

    def arrive(self, worker: int, group: Group, block: int, contributes: bool, now: int) -> None:
        """A member arrives for its next round."""
        key = self.number[group], block
        counts = self.counts[key]
        if contributes:
            counts.contributors[counts.arrived[worker]].add(worker)
        counts.arrived[worker] += 1
        self._start(key, now)

    def has_arrived(self, worker: int, group: Group, block: int) -> bool:
        """Whether a member has arrived for a round that it has not yet joined."""
        counts = self.counts[self.number[group], block]
        return counts.arrived[worker] > counts.joined[worker]

    def join(self, worker: int, group: Group, block: int) -> Finished | None:
        """The round that a member joins next, if it is over; otherwise the member waits for it."""
        key = self.number[group], block
        counts = self.counts[key]
        if len(counts.finished) <= counts.joined[worker]:
            self.waiting[worker] = key
            return None
        counts.joined[worker] += 1
        return counts.finished[counts.joined[worker] - 1]

    def withdraw(self, worker: int) -> None:
        """Let a worker no longer wait for the round that it is to join."""
        self.waiting.pop(worker, None)

    def leave(self, worker: int, now: int) -> None:
        """A worker has ended: no round waits for it any more."""
        for number, members in self.members.items():
            if worker in members:
                members.remove(worker)
                for key in [key for key in self.counts if key[0] == number]:
                    self._start(key, now)

    def _start(self, key: Key, now: int) -> None:
        counts, members = self.counts[key], self.members[key[0]]
        while members and all(counts.arrived[member] > counts.started for member in members):
            began = max(now, self.free[key[0]])
            contributors = frozenset(counts.contributors.pop(counts.started, ()))
            ends = began + (self.duration(*key) if contributors else 0)
            self.free[key[0]] = ends
            counts.started += 1
            finish = partial(self._finish, key, Finished(began, contributors))
            if ends == now:
                finish()
            else:
                self.at(ends, finish)

    def _finish(self, key: Key, finished: Finished) -> None:
        counts = self.counts[key]
        counts.finished.append(finished)
        for worker in sorted(w for w, waits in self.waiting.items() if waits == key):
            if counts.joined[worker] < len(counts.finished):
                del self.waiting[worker]
                self.wake(worker)
