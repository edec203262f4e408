"""What became of each batch in each block: its passes, found in a trace and matched.

Weights belong to a replica: a block of one replica is a *cell*. A trace without replicas has as
many cells as blocks.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simcore.trace import KIND, Header, Trace

__all__ = ["NEVER", "Passes", "cells", "cells_of", "merges_before", "passes_of", "rows_of"]

# The end of what has not ended when the trace does.
NEVER = int(np.iinfo(np.int64).max)


@dataclass(frozen=True, slots=True)
class Passes:
    """The rows of `trace.spans` with the passes of each batch through each block; -1 for none.

    All are arrays of shape (passes,), sorted by block and batch.

    * `first`: the first pass up, be it with a graph, without, or along a tangent.
    * `maker`: the pass that made the graph: the last one forward, or its replay.
    * `through`: the pass that made the gradient of the block's input, the last to need the weights.
    * `last`: the pass that completed the gradient of the block's weights, or, where none was
      wanted, that of its input.
    """

    block: NDArray[np.int64]
    batch: NDArray[np.int64]
    first: NDArray[np.int64]
    maker: NDArray[np.int64]
    through: NDArray[np.int64]
    last: NDArray[np.int64]


def rows_of(trace: Trace, *kinds: str) -> NDArray[np.int64]:
    """The numbers of the rows of `trace.spans` that are of these kinds, ascending."""
    wanted = np.zeros(len(KIND), bool)
    wanted[[KIND[kind] for kind in kinds]] = True
    return np.flatnonzero(wanted[trace.spans["kind"]])


def cells(header: Header) -> int:
    """How many cells there are."""
    return (max(header.replicas, default=0) + 1) * header.blocks


def cells_of(
    trace: Trace, worker: NDArray[np.int64], block: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The cell of each block of a worker: replica x blocks + block - 1."""
    return trace.header.replica(worker) * trace.header.blocks + block - 1


def passes_of(trace: Trace) -> Passes:
    """All passes of a trace, one entry for each batch in each block that it went through."""
    spans, batches = trace.spans, trace.header.batches

    def where(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        found = np.full(trace.header.blocks * batches, -1)
        found[(spans["block"][rows] - 1) * batches + spans["batch"][rows]] = rows  # the last stays
        return found

    first = where(rows_of(trace, "forward", "evaluate", "tangent")[::-1])
    taken = np.flatnonzero(first >= 0)
    block, batch = np.divmod(taken, batches)
    return Passes(
        block + 1,
        batch,
        first[taken],
        where(rows_of(trace, "forward", "replay"))[taken],
        where(rows_of(trace, "backward", "backward_input", "backward_through"))[taken],
        where(rows_of(trace, "backward", "backward_weight", "backward_through", "project"))[taken],
    )


def merges_before(
    trace: Trace, cell: NDArray[np.int64], version: NDArray[np.int64]
) -> NDArray[np.int64]:
    """How many of the versions below each of these were made by merges of replicas, not updates."""
    merges = trace.of_kind("merge")
    if not len(merges):
        return np.zeros_like(version)
    most = int(max(version.max(initial=0), merges["version"].max())) + 1
    merged = np.zeros((cells(trace.header), most + 1), np.int64)
    merged[cells_of(trace, merges["worker"], merges["block"]), merges["version"] + 1] = 1
    counts: NDArray[np.int64] = np.cumsum(merged, axis=1)[cell, version]
    return counts
