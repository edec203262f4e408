"""The ledger: versions of the weights, who read which, and which gradients each update applied.

It is the one place of these rules. Interpreters tell it what happens, in the order in which it
happens; it knows no time and no tensor. Its lock guards counters alone, so that threads which
train without locks may share a ledger.
"""

from dataclasses import dataclass
from threading import RLock
from typing import NamedTuple

from simcore.schedule import WeightRules

__all__ = ["Applied", "Ledger", "Update"]


class Applied(NamedTuple):
    """One gradient that an update applied. Its gap is `version_applied - version_forward`."""

    block: int
    batch: int
    version_forward: int
    version_backward: int


@dataclass(frozen=True, slots=True)
class Update:
    """What an update found and did: it raised `version` by one.

    `base` is the version that the written weights stem from: `version` itself, but for
    `write=assign`, where `version - base` updates of others were overwritten.
    """

    version: int
    base: int
    gradients: tuple[Applied, ...]


class Ledger:
    """Versions of blocks 1..blocks, all 0 at first, under the given rules for weights."""

    def __init__(self, blocks: int, rules: WeightRules) -> None:
        self.blocks = blocks
        self.rules = rules
        self.lock = RLock()
        self._version = [0] * (blocks + 1)
        self._forward: dict[tuple[int, int], int] = {}
        self._backward: dict[tuple[int, int], int] = {}
        self._pending: dict[tuple[int, int], list[int]] = {}
        self._base: dict[tuple[int, int], int] = {}

    def version(self, block: int) -> int:
        """How many updates the block has had."""
        return self._version[block]

    def forward(self, block: int, batch: int) -> int:
        """A forward pass reads the block's weights now. Returns v_f."""
        with self.lock:
            version = self._version[block]
            self._forward[block, batch] = version
            return version

    def backward(self, worker: int, block: int, batch: int) -> int:
        """A backward pass reads the block's weights now. Returns v_b."""
        with self.lock:
            if self.rules.write == "assign":
                self._renew_copy(worker, block)
            stashed = self.rules.policy == "stash"
            version = self._forward[block, batch] if stashed else self._version[block]
            self._backward[block, batch] = version
            return version

    def computed(self, worker: int, block: int, batch: int) -> None:
        """A backward pass has ended: its gradient is pending at the worker."""
        self._pending.setdefault((worker, block), []).append(batch)

    def pending(self, worker: int, block: int) -> int:
        """How many gradients of the block the worker has computed and not yet applied."""
        return len(self._pending.get((worker, block), ()))

    def update(self, worker: int, block: int) -> Update:
        """An update lands now: raises the version and applies the worker's pending gradients."""
        with self.lock:
            version = self._version[block]
            self._version[block] = version + 1
            base = self._base.get((worker, block), version)
            gradients = tuple(
                Applied(
                    block,
                    batch,
                    self._forward.pop((block, batch)),
                    self._backward.pop((block, batch)),
                )
                for batch in self._pending.pop((worker, block))
            )
            return Update(version, base, gradients)

    def _renew_copy(self, worker: int, block: int) -> None:
        if self.rules.refresh == "layer":
            self._base[worker, block] = self._version[block]
        elif block == self.blocks:
            for each in range(1, self.blocks + 1):
                self._base[worker, each] = self._version[each]
