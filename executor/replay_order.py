"""What a trace says about order: each worker's operations, and who reads which weights."""

from collections import Counter, deque
from typing import Any, Final

from simcore.ops import (
    Backward,
    BackwardInput,
    BackwardThrough,
    Evaluate,
    Forward,
    Replay,
    Snapshot,
    Tangent,
    kind_of,
)
from simcore.schedule import Schedule
from simcore.trace import KIND, Trace

__all__ = ["Reads", "Version", "rows_of"]

Version = tuple[int, int, int]  # of a replica's block
_READING: Final = (Forward, Evaluate, Tangent, Snapshot)


def rows_of(trace: Trace, worker: int) -> deque[tuple[int, int, int, int]]:
    """(kind, block, batch, version) of a worker's operations, in its program's order."""
    own = trace.spans[trace.spans["worker"] == worker]
    own = own[own["index"].argsort(kind="stable")]
    columns = (own[name].tolist() for name in ("kind", "block", "batch", "version"))
    return deque(zip(*columns, strict=True))


class Reads:
    """Which versions of the weights each operation of a trace reads."""

    def __init__(self, schedule: Schedule, trace: Trace) -> None:
        self.schedule, self.rules = schedule, schedule.weights
        # (worker, block, batch) -> the version that a worker's own copy stems from.
        self.bases: dict[tuple[int, int, int], int] = {}
        if self.rules.write == "assign":
            columns = ("worker", "block", "batch", "version_base")
            rows = zip(*(trace.gradients[name].tolist() for name in columns), strict=True)
            self.bases = {(worker, block, batch): base for worker, block, batch, base in rows}

    def of(
        self, worker: int, kind: type[Any], block: int, batch: int, version: int
    ) -> list[Version]:
        """What an operation reads; what a stash has kept for it does not count."""
        replica, rules = self.schedule.replicas[worker], self.rules
        if issubclass(kind, _READING):
            return [(replica, block, version)]
        if rules.policy == "stash" or not issubclass(kind, (Replay, Backward, BackwardInput)):
            return []
        found = [(replica, block, version)]
        whole = rules.write == "assign" and rules.refresh == "pass"
        if whole and issubclass(kind, Backward) and block == self.schedule.blocks:
            for each in range(1, block):
                if (base := self.bases.get((worker, each, batch))) is not None:
                    found.append((replica, each, base))
        return found

    def count(self, trace: Trace) -> Counter[Version]:
        """How often each version of each block is read in the trace."""
        readers: Counter[Version] = Counter()
        kinds = (*_READING, Replay, Backward, BackwardInput, BackwardThrough)
        for kind in kinds:
            rows = trace.spans[trace.spans["kind"] == KIND[kind_of(kind)]]
            columns = (rows[name].tolist() for name in ("worker", "block", "batch", "version"))
            for worker, block, batch, version in zip(*columns, strict=True):
                readers.update(self.of(worker, kind, block, batch, version))
        return readers
