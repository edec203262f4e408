"""Rounds of groups within one process: who has arrived, and what they have contributed."""

from collections import Counter, defaultdict
from typing import Protocol

import torch

from executor.averaging import Contribution

__all__ = ["LocalRounds", "Meeting"]

Key = tuple[int, int]  # a block, and the number of its round


class Meeting(Protocol):
    """One worker's end of a group."""

    def arrive(self, block: int, contribution: Contribution) -> None:
        """Contribute to the next round of a block, or of none (0), and go on."""

    def has_arrived(self, block: int) -> bool:
        """Whether this worker has arrived for a round that it has not joined."""

    def join(self, block: int) -> tuple[int, list[list[torch.Tensor]]]:
        """Wait for the round's end.

        Returns the instant (ns) at which waiting ended, and what was contributed, in the order of
        the members.
        """

    def leave(self) -> None:
        """The worker's program has ended: no round waits for it."""


class LocalRounds:
    """The rounds of one group; a round is over when all members that go on have arrived."""

    def __init__(self, members: set[int]) -> None:
        self.members, self.left = frozenset(members), set[int]()
        self.arrived: Counter[tuple[int, int]] = Counter()  # (worker, block) -> rounds
        self.joined: Counter[tuple[int, int]] = Counter()
        self.given: defaultdict[Key, dict[int, Contribution]] = defaultdict(dict)
        self.taken: Counter[Key] = Counter()

    def arrive(self, worker: int, block: int, contribution: Contribution) -> None:
        """A member arrives for its next round of a block."""
        self.given[block, self.arrived[worker, block]][worker] = contribution
        self.arrived[worker, block] += 1

    def has_arrived(self, worker: int, block: int) -> bool:
        """Whether a member has arrived for a round that it has not joined."""
        return self.arrived[worker, block] > self.joined[worker, block]

    def is_over(self, worker: int, block: int) -> bool:
        """Whether the round that a member joins next is over."""
        number = self.joined[worker, block]
        going_on = self.members - self.left
        return all(self.arrived[member, block] > number for member in going_on)

    def take(self, worker: int, block: int) -> list[list[torch.Tensor]]:
        """Join a round that is over: what was contributed, in the order of the members."""
        key = block, self.joined[worker, block]
        self.joined[worker, block] += 1
        given = self.given[key]
        self.taken[key] += 1
        if self.taken[key] == len(given):  # nobody else will ask
            del self.given[key], self.taken[key]
        return [found for worker in sorted(given) if (found := given[worker]) is not None]

    def leave(self, worker: int) -> None:
        """A member's program has ended."""
        self.left.add(worker)
