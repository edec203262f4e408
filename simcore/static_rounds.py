"""Rounds of groups, with arrays of times: as `simcore.rounds`, for programs of a fixed order."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from simcore.ops import Group
from simcore.schedule import Schedule

__all__ = ["FinishedRound", "NotStaticError", "StaticRounds"]

Times = NDArray[np.int64]
Key = tuple[int, int]  # the number of the group, and the block that is averaged, or 0


class NotStaticError(Exception):
    """The order of operations, or which they are, may depend on times; says why."""


@dataclass(frozen=True, slots=True)
class FinishedRound:
    """When a round's timed phase began and ended in each replica, and who contributed."""

    began: Times
    ends: Times
    contributors: frozenset[int]


@dataclass(slots=True)
class _Counts:
    """A group's rounds over one block.

    `arrived` holds for each member when it did, its place among all arrivals of the member in the
    group, and whether it contributed.
    """

    arrived: dict[int, list[tuple[Times, int, bool]]]
    joined: dict[int, int]
    finished: list[FinishedRound] = field(default_factory=list)


class StaticRounds:
    """All rounds of a schedule; `durations[group][block]` are those of their phases, in ticks.

    Phases of one group do not overlap. Where they take time their order must therefore be fixed,
    and it is if all members arrive for the same rounds in the same order.
    """

    def __init__(self, schedule: Schedule, durations: Sequence[Mapping[int, int]]) -> None:
        self.durations = durations
        self.number = {group: n for n, group in enumerate(schedule.groups)}
        self.members = [
            tuple(w for w, worker in enumerate(schedule.workers) if group in worker.joins)
            for group in schedule.groups
        ]
        self.counts: dict[Key, _Counts] = {}
        self.arrivals: dict[tuple[int, int], int] = defaultdict(int)
        self.begun = [0] * len(self.members)
        self.free: list[Times | None] = [None] * len(self.members)
        self.left: dict[int, Times] = {}

    def _of(self, group: Group, block: int) -> _Counts:
        key = self.number[group], block
        if key not in self.counts:
            members = self.members[key[0]]
            self.counts[key] = _Counts({each: [] for each in members}, dict.fromkeys(members, 0))
        return self.counts[key]

    def has_arrived(self, worker: int, group: Group, block: int) -> bool:
        """Whether a member has arrived for a round that it has not yet joined."""
        counts = self._of(group, block)
        return len(counts.arrived[worker]) > counts.joined[worker]

    def arrive(
        self, worker: int, group: Group, block: int, contributes: bool, clock: Times
    ) -> None:
        """A member arrives for its next round."""
        counts, number = self._of(group, block), self.number[group]
        counts.arrived[worker].append((clock, self.arrivals[number, worker], contributes))
        self.arrivals[number, worker] += 1
        self._start(number, block)

    def join(self, worker: int, group: Group, block: int) -> FinishedRound | None:
        """The round that a member joins next, if its times are known."""
        counts = self._of(group, block)
        if len(counts.finished) <= counts.joined[worker]:
            return None
        counts.joined[worker] += 1
        return counts.finished[counts.joined[worker] - 1]

    def leave(self, worker: int, clock: Times) -> None:
        """A worker has ended: rounds for which it has not arrived do not wait any longer."""
        self.left[worker] = clock
        for number, block in list(self.counts):
            if worker in self.members[number]:
                self._start(number, block)

    def _start(self, number: int, block: int) -> None:
        counts, members = self.counts[number, block], self.members[number]
        while True:
            this = len(counts.finished)
            there = [member for member in members if len(counts.arrived[member]) > this]
            gone = [member for member in members if member in self.left and member not in there]
            if not there or len(there) + len(gone) < len(members):
                return
            arrivals = [counts.arrived[member][this] for member in there]
            times = [clock for clock, _, _ in arrivals] + [self.left[member] for member in gone]
            began = ends = np.max(times, axis=0)
            contributors = frozenset(
                member
                for member, (_, _, contributes) in zip(there, arrivals, strict=True)
                if contributes
            )
            if any(self.durations[number].values()):
                places = {place for _, place, _ in arrivals}
                if gone or places != {self.begun[number]}:
                    raise NotStaticError("members of a group arrive for rounds in several orders")
                free = self.free[number]
                began = began if free is None else np.maximum(began, free)
                ends = began + (self.durations[number][block] if contributors else 0)
                self.free[number] = ends
                self.begun[number] += 1
            counts.finished.append(FinishedRound(began, ends, contributors))
