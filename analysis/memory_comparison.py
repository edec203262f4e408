"""Measured memory beside what the simulator says about the same run: counts, bytes, and why.

The prediction is that of `simcore.holdings`, made from the run's own trace: so both are of the same
moments, after each operation of each worker. What a worker holds only while it operates is in the
peak of `simcore.memory` and in that of resident memory, but in neither side here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from executor.memory_rows import HELD, Held, held_by
from simcore.holdings import CATEGORIES, holdings_of
from simcore.passes import NEVER
from simcore.schedule import Schedule
from simcore.trace import Trace
from simcore.workload import Workload

__all__ = ["REASONS", "MemoryRow", "compare_memory", "predicted_by"]

REASONS: Final[Mapping[str, str]] = {
    "weights": "parameters that have one storage are counted once",
    "optimizer": "the state begins with the first update; counts of steps and the states of "
    "auxiliary networks come to it",
    "gradients": "those of auxiliary networks come to it; a contribution to a round is held until "
    "the mean has come",
    "activations": "the last block keeps its output besides what autograd saves of the loss, and "
    "the loss; a backward pass in two halves needs the outputs of all children; a replay saves its "
    "copies of running statistics; a loss saves a number for each part of a mini-batch, and parts "
    "are not equally large",
    "inputs": "parts of a mini-batch are not equally large",
    "copies": "the versions of auxiliary networks are kept, too; own copies are made at the first "
    "update",
    "tangents": "only parameters that learn have directions",
    "messages": "labels travel with activations, and the gradient of a loss takes nothing; a "
    "message is in the queue before its sender is done with it; between processes a ring has room "
    "for all that can ever wait, and takes it at once",
    "auxiliary": "parts of replicas are counted where they are",
    "graph_inputs": "what a graph was given is not predicted: the simulator lets a message go when "
    "it has been received, but autograd keeps it, as its weights' gradients need it",
    "in_hand": "what waits to be used or sent is not predicted",
    "lingering": "weights that a model or a worker still refers to, and the last directions",
    "buffers": "running statistics and the matrices of feedback alignment are not predicted",
}


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """The most of a category that a worker held after any of its operations, on both sides.

    Counts are of graphs, inputs, versions, messages and so on; of `total` they are not given.
    """

    worker: str
    category: str
    predicted_bytes: int
    measured_bytes: int
    predicted_count: int
    measured_count: int
    why: str


def compare_memory(
    memory: NDArray[np.void], trace: Trace, schedule: Schedule, workload: Workload
) -> tuple[MemoryRow, ...]:
    """The peaks of every worker, by category, with the reason of each difference.

    `memory` and `trace` are those of one run, `workload` has a layer for each block. For each
    worker follow the peaks of all categories that are predicted (`total`), and of all that is held
    (`all`), which nothing is predicted for.
    """
    rows = []
    pairs = zip(predicted_by(trace, schedule, workload), held_by(memory, trace), strict=True)
    for worker, (predicted, measured) in zip(trace.header.workers, pairs, strict=True):
        for at, category in enumerate(HELD):
            expected, found = _peak(predicted, at), _peak(measured, at)
            if any(expected + found):
                why = "" if expected == found else REASONS[category]
                row = MemoryRow(worker, category, expected[0], found[0], expected[1], found[1], why)
                rows.append(row)
        known = len(CATEGORIES)
        one, other = (int(each.bytes[:, :known].sum(1).max()) for each in (predicted, measured))
        rows.append(MemoryRow(worker, "total", one, other, 0, 0, ""))
        rows.append(MemoryRow(worker, "all", 0, int(measured.bytes.sum(1).max()), 0, 0, ""))
    return tuple(rows)


def predicted_by(trace: Trace, schedule: Schedule, workload: Workload) -> tuple[Held, ...]:
    """What the simulator says that each worker holds after each operation of a real trace."""
    holdings = holdings_of(trace, schedule, workload)
    found = []
    for worker in range(len(trace.header.workers)):
        spans = trace.spans[trace.spans["worker"] == worker]
        ticks = np.sort(spans["end"])
        own = holdings[holdings["worker"] == worker]
        held = np.zeros((2, len(ticks) + 1, len(HELD)), np.int64)
        for category in range(len(CATEGORIES)):
            of_it = own[own["category"] == category]
            for part, values in enumerate((of_it["bytes"], np.ones(len(of_it), np.int64))):
                held[part, 1:, category] = _level(of_it, values, ticks)
                lasting = (of_it["start"] == trace.start) & (of_it["end"] == NEVER)
                held[part, 0, category] = values[lasting].sum()
        found.append(Held(np.append(trace.start, ticks), *held))
    return tuple(found)


def _peak(held: Held, category: int) -> tuple[int, int]:
    """The most bytes of a category, and the highest count."""
    return int(held.bytes[:, category].max()), int(held.count[:, category].max())


def _level(
    holdings: NDArray[np.void], values: NDArray[np.int64], ticks: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The sum of the values of what is held at each tick."""
    levels = np.zeros(len(ticks), np.int64)
    for column, sign in (("start", 1), ("end", -1)):
        order = np.argsort(holdings[column])
        sums = np.append(0, np.cumsum(values[order]))
        levels += sign * sums[np.searchsorted(holdings[column][order], ticks, "right")]
    return levels
