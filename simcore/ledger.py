"""The ledger: versions of the weights, who read which, and which gradients each update applied.

It is the one place of these rules. Interpreters tell it what happens, in the order in which it
happens; it knows no time and no tensor. Its lock guards counters alone, so that threads which
train without locks may share a ledger.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from threading import RLock
from typing import Any, Final, NamedTuple, Protocol

from simcore.errors import IllegalOperationError
from simcore.ops import (
    Backward,
    BackwardInput,
    BackwardThrough,
    BackwardWeight,
    Evaluate,
    Forward,
    Pass,
    Project,
    Replay,
    Snapshot,
    Tangent,
)
from simcore.rules import RULES
from simcore.schedule import WeightRules

__all__ = ["Applied", "Counts", "Ledger", "Update"]

# What a ledger knows of gradients that have not been applied yet.
_READ: Final = ("_first", "_forward", "_backward", "_pending", "_base")


class Counts(Protocol):
    """The versions of blocks 0..blocks of one replica: a list, or what processes share."""

    def __getitem__(self, block: int, /) -> int:
        """The version of a block."""

    def __setitem__(self, block: int, version: int, /) -> None:
        """Set the version of a block, in one piece."""


class Applied(NamedTuple):
    """One gradient that an update applied. Its gap is `version_applied - version_forward`.

    `version_first` is what the first forward pass read, where a replay read the weights again.
    """

    block: int
    batch: int
    version_first: int
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
    """Versions of blocks 1..blocks, all 0 at first, under the given rules for weights.

    `replicas` says which copy of the weights each worker uses; without it all use one. Processes
    that update the same blocks have a ledger each, with one store of `versions` (by replica, then
    block) and a lock `raising`, within which a version is read and raised. All else belongs to the
    worker that handles the batch.
    """

    def __init__(
        self,
        blocks: int,
        rules: WeightRules,
        replicas: Sequence[int] = (),
        versions: Sequence[Counts] | None = None,
        raising: AbstractContextManager[Any] | None = None,
    ) -> None:
        self.blocks = blocks
        self.rules = rules
        self.lock = RLock()
        self._raising = self.lock if raising is None else raising
        self._replica = replicas
        copies = range(max(replicas, default=0) + 1)
        own: list[Counts] = [[0] * (blocks + 1) for _ in copies]
        self._version = own if versions is None else versions
        self._passes = [[0] * (blocks + 1) for _ in copies]
        self._first: dict[tuple[int, int], int] = {}
        self._forward: dict[tuple[int, int], int] = {}
        self._backward: dict[tuple[int, int], int] = {}
        self._pending: dict[tuple[int, int], list[int]] = {}
        self._base: dict[tuple[int, int], int] = {}

    def version(self, block: int, worker: int = 0) -> int:
        """How many updates the block has had, in the replica of the worker."""
        return self._versions(worker)[block]

    def begin(self, worker: int, operation: Pass | Snapshot) -> int:
        """A computation starts: it reads the weights now. Returns their version; -1 for none."""
        match operation:
            case Snapshot(block) | Evaluate(block):
                return self.version(block, worker)
            case Forward(block, batch) | Tangent(block, batch):
                return self.forward(block, batch, worker)
            case Replay(block, batch):
                return self.replay(block, batch, worker)
            case Backward(block, batch) | BackwardInput(block, batch):
                return self.backward(worker, block, batch)
            case BackwardWeight(block, batch):
                return self._backward[block, batch]
            case Project(block, batch):
                return self.project(block, batch)
            case _:
                return -1

    def end(self, worker: int, operation: Pass | Snapshot) -> None:
        """A computation completes: what it has computed for an update is pending.

        What was read for a gradient that nobody wants is forgotten.
        """
        if RULES[type(operation)].pending:
            assert not isinstance(operation, Snapshot)
            self.computed(worker, operation.block, operation.batch)
        elif isinstance(operation, BackwardThrough):
            for read in (self._first, self._forward, self._backward):
                del read[operation.block, operation.batch]

    def forward(self, block: int, batch: int, worker: int = 0) -> int:
        """A forward pass reads the block's weights now. Returns v_f."""
        with self.lock:
            version = self._versions(worker)[block]
            if self.rules.buffer:
                version = self._buffered(block, worker, version)
            self._first[block, batch] = self._forward[block, batch] = version
            return version

    def replay(self, block: int, batch: int, worker: int = 0) -> int:
        """A forward pass is run again now. Returns the v_f that counts from now on.

        Under `stash` it uses the same weights again, otherwise those that it finds.
        """
        with self.lock:
            if self.rules.policy != "stash":
                self._forward[block, batch] = self._versions(worker)[block]
            return self._forward[block, batch]

    def backward(self, worker: int, block: int, batch: int) -> int:
        """A backward pass reads the block's weights now. Returns v_b."""
        with self.lock:
            if self.rules.write == "assign":
                self._renew_copy(worker, block)
            stashed = self.rules.policy == "stash"
            version = self._forward[block, batch] if stashed else self._versions(worker)[block]
            self._backward[block, batch] = version
            return version

    def project(self, block: int, batch: int) -> int:
        """A kept direction becomes a gradient, whatever the weights are now. Returns v_b = v_f."""
        with self.lock:
            self._backward[block, batch] = self._forward[block, batch]
            return self._backward[block, batch]

    def computed(self, worker: int, block: int, batch: int) -> None:
        """A gradient has been computed: it is pending at the worker."""
        self._pending.setdefault((worker, block), []).append(batch)

    def pending(self, worker: int, block: int) -> int:
        """How many gradients of the block the worker has computed and not yet applied."""
        return len(self._pending.get((worker, block), ()))

    def update(self, worker: int, block: int) -> Update:
        """An update lands now: raises the version and applies the worker's pending gradients."""
        with self.lock:
            version = self._raise(worker, block)
            base = self._base.get((worker, block), version)
            gradients = tuple(
                Applied(
                    block,
                    batch,
                    self._first.pop((block, batch)),
                    self._forward.pop((block, batch)),
                    self._backward.pop((block, batch)),
                )
                for batch in self._pending.pop((worker, block), ())
            )
            return Update(version, base, gradients)

    def merge(self, worker: int, block: int) -> int:
        """An average of replicas lands now: raises the version. Returns the version it found."""
        with self.lock:
            return self._raise(worker, block)

    def is_newest(self, worker: int, block: int, batch: int) -> bool:
        """Whether a block has not been updated since the batch's forward pass read its weights."""
        return self._forward[block, batch] == self.version(block, worker)

    def saved(self) -> dict[str, Any]:
        """All of it as plain containers; `restore` takes them back."""
        blocks = range(self.blocks + 1)
        return {
            "versions": [[versions[block] for block in blocks] for versions in self._version],
            "passes": [list(passes) for passes in self._passes],
            **{name: dict(getattr(self, name)) for name in _READ},
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from what another ledger of the same rules has `saved`."""
        for versions, found in zip(self._version, saved["versions"], strict=True):
            for block, version in enumerate(found):
                versions[block] = version
        self._passes = [list(passes) for passes in saved["passes"]]
        for name in _READ:
            setattr(self, name, dict(saved[name]))

    def _versions(self, worker: int) -> Counts:
        return self._version[self._replica[worker] if self._replica else 0]

    def _raise(self, worker: int, block: int) -> int:
        versions = self._versions(worker)
        with self._raising:
            found = versions[block]
            versions[block] = found + 1
        return found

    def _buffered(self, block: int, worker: int, newest: int) -> int:
        passes = self._passes[self._replica[worker] if self._replica else 0]
        wanted = max(0, passes[block] // self.rules.buffer - 1)
        passes[block] += 1
        if not newest - 1 <= wanted <= newest:
            raise IllegalOperationError(
                f"a forward pass of block {block} needs version {wanted} of its weights, and of "
                f"the two that are kept the newest is {newest}"
            )
        return wanted

    def _renew_copy(self, worker: int, block: int) -> None:
        versions = self._versions(worker)
        if self.rules.refresh == "layer":
            self._base[worker, block] = versions[block]
        elif block == self.blocks:
            for each in range(1, self.blocks + 1):
                self._base[worker, each] = versions[each]
