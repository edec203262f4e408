"""The form of measured memory: rows of changes, and what each worker held after each operation.

Besides the categories of `simcore.holdings`, which a simulation predicts, real runs hold:

* `graph_inputs`: the inputs and labels of graphs, where no other graph of the worker keeps them.
* `in_hand`: what was made or received and has not been used or sent yet.
* `lingering`: what nobody will use again, or only perhaps, but something still refers to.
* `buffers`: running statistics, and the fixed random matrices of feedback alignment.
"""

from array import array
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simcore.holdings import CATEGORIES
from simcore.trace import Trace, table

__all__ = ["BESIDES", "HELD", "MEMORY_COLUMNS", "Held", "held_by", "memory_table"]

BESIDES: Final = ("graph_inputs", "in_hand", "lingering", "buffers")
HELD: Final = (*CATEGORIES, *BESIDES)
# A row says what a worker holds of a block (0: of none) from the end of its operation `index` on
# (-1: before the first). What belongs to a block's weights (`of_weights`) is noted by each worker
# that uses them. `count` counts graphs, versions, messages and so on.
MEMORY_COLUMNS: Final = (
    "time",
    "worker",
    "index",
    "category",
    "block",
    "of_weights",
    "bytes",
    "count",
)


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """What a worker held: `bytes[i]` and `count[i]` after its first i operations.

    Both have shape (operations + 1, categories), in the order of `HELD`. `ticks[i]` is the tick at
    which operation i - 1 ended, the start of the trace for i = 0.
    """

    ticks: NDArray[np.int64]
    bytes: NDArray[np.int64]
    count: NDArray[np.int64]


def memory_table(rows: "array[int]", start: int) -> NDArray[np.void]:
    """Flat rows as a table with the columns `MEMORY_COLUMNS`; times count from `start`."""
    found = table(rows, MEMORY_COLUMNS)
    found["time"] -= start
    return found[np.lexsort((found["index"], found["worker"]))]


def held_by(memory: NDArray[np.void], trace: Trace) -> tuple[Held, ...]:
    """What each worker of a measured run held, after each of its operations.

    What belongs to a block's weights is held by the lowest-numbered worker that updates them, or
    else that uses them, as in `simcore.holdings`.
    """
    owners = _owners(memory, trace)
    found = []
    for worker in range(len(trace.header.workers)):
        spans = trace.spans[trace.spans["worker"] == worker]
        spans = spans[np.argsort(spans["index"])]
        own = memory[memory["worker"] == worker]
        replica = int(trace.header.replica(np.array([worker]))[0])
        kept = np.array(
            [not row["of_weights"] or owners[replica, int(row["block"])] == worker for row in own],
            bool,
        )
        sums = np.zeros((2, len(spans) + 1, len(HELD)), np.int64)
        last: dict[tuple[int, ...], tuple[int, int]] = {}
        for row in own[kept]:
            key = int(row["category"]), int(row["block"]), int(row["of_weights"])
            at = min(int(row["index"]) + 1, len(spans))
            for part, value in enumerate((int(row["bytes"]), int(row["count"]))):
                sums[part, at, key[0]] += value - last.get(key, (0, 0))[part]
            last[key] = int(row["bytes"]), int(row["count"])
        held, count = np.cumsum(sums, axis=1)
        found.append(Held(np.append(trace.start, spans["end"]), held, count))
    return tuple(found)


def _owners(memory: NDArray[np.void], trace: Trace) -> dict[tuple[int, int], int]:
    """The worker of each block's weights, by (replica, block)."""
    owners: dict[tuple[int, int], int] = {}
    updates = trace.of_kind("update")
    for rows in (memory[memory["of_weights"] == 1], updates):
        cells = np.unique(rows[["worker", "block"]])
        replicas = trace.header.replica(cells["worker"])
        # From the highest worker on, so that the lowest stays; who updates comes after who uses.
        for (worker, block), replica in zip(cells[::-1], replicas[::-1], strict=True):
            owners[int(replica), int(block)] = int(worker)
    return owners
