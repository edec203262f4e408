"""Versions of weights as docs/explanation/design.md says, for the naive engine."""

from collections import defaultdict
from typing import Any

from simcore import ops
from simcore.schedule import Schedule

__all__ = ["NaiveWeights"]


class NaiveWeights:
    """Who read which version, what is pending, and which snapshots have been made."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule, self.rules = schedule, schedule.weights
        self.versions: dict[tuple[int, int], int] = defaultdict(int)  # replica, block
        self.passes: dict[tuple[int, int], int] = defaultdict(int)
        self.read: dict[tuple[str, int, int], int] = {}  # first, forward, backward; block, batch
        self.pending: dict[tuple[int, int], list[int]] = defaultdict(list)  # worker, block
        self.copies: dict[tuple[int, int], int] = {}  # worker, block -> version
        self.snapshots: set[tuple[int, int]] = set()

    def cell(self, worker: int, block: int) -> tuple[int, int]:
        return self.schedule.workers[worker].replica, block

    def has(self, worker: int, block: int) -> bool:
        """Whether a round may average something of this worker."""
        return bool(self.pending[worker, block]) or (worker, block) in self.snapshots

    def begin(self, worker: int, operation: ops.Operation) -> int:
        """The version that the operation reads when it starts."""
        if not isinstance(operation, ops.Pass | ops.Snapshot):
            return -1
        block, batch = operation.block, getattr(operation, "batch", -1)
        cell = self.cell(worker, block)
        now, stash = self.versions[cell], self.rules.policy == "stash"
        first, forward, backward = (
            (name, block, batch) for name in ("first", "forward", "backward")
        )
        match operation:
            case ops.Snapshot() | ops.Evaluate():
                return now
            case ops.Forward() | ops.Tangent():
                if self.rules.buffer:
                    now = max(0, self.passes[cell] // self.rules.buffer - 1)
                    self.passes[cell] += 1
                self.read[first] = self.read[forward] = now
                return now
            case ops.Replay():
                self.read[forward] = self.read[forward] if stash else now
                return self.read[forward]
            case ops.Backward() | ops.BackwardInput():
                self.renew(worker, block)
                self.read[backward] = self.read[forward] if stash else now
                return self.read[backward]
            case ops.BackwardWeight():
                return self.read[backward]
            case ops.Project():
                self.read[backward] = self.read[forward]
                return self.read[backward]
        return -1

    def renew(self, worker: int, block: int) -> None:
        """A backward pass of a block starts: the worker may copy weights."""
        renewed = [block]
        if self.rules.refresh == "pass":
            last = block == self.schedule.blocks
            renewed = [*range(1, self.schedule.blocks + 1)] if last else []
        if self.rules.write == "assign":
            for each in renewed:
                self.copies[worker, each] = self.versions[self.cell(worker, each)]

    def end(self, worker: int, operation: Any) -> None:
        """An operation is over that raises no version."""
        match operation:
            case ops.Snapshot(block):
                self.snapshots.add((worker, block))
            case ops.Backward() | ops.BackwardWeight() | ops.Project():
                self.pending[worker, operation.block].append(operation.batch)

    def raised(self, worker: int, operation: ops.Update | ops.Merge) -> tuple[int, list[Any]]:
        """The version that is found and raised, and the gradients that are applied."""
        block = operation.block
        version = self.versions[self.cell(worker, block)]
        self.versions[self.cell(worker, block)] += 1
        if isinstance(operation, ops.Merge):
            self.snapshots.remove((worker, block))
            return version, []
        base = self.copies.get((worker, block), version)
        names = "first", "forward", "backward"
        return version, [
            (block, batch, *(self.read[name, block, batch] for name in names), version, base)
            for batch in self.pending.pop((worker, block), [])
        ]
