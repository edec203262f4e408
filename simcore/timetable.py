"""Drawn timetables: who does what at which tick."""

from dataclasses import replace
from fractions import Fraction

import numpy as np

from simcore.cluster import Cluster
from simcore.engine import simulate
from simcore.grid import LETTERS, aligned, label
from simcore.schedule import Schedule
from simcore.trace import Trace
from simcore.workload import Workload

__all__ = ["draw", "timetable"]


def draw(trace: Trace) -> str:
    """Draw a short trace as a table of workers and ticks: `F2:5` is block 2 forward, batch 5."""
    lines = [["", *(str(tick) for tick in range(trace.end))]]
    for number, worker in enumerate(trace.header.workers):
        cells = ["." for _ in range(trace.end)]
        own = trace.spans[trace.spans["worker"] == number]
        for row in own[np.isin(own["kind"], list(LETTERS))]:
            for tick in range(row["start"], row["end"]):
                cells[tick] = label(int(row["kind"]), int(row["block"]), int(row["batch"]))
        lines.append([worker, *cells])
    return aligned(lines)


def timetable(
    schedule: Schedule, forward: int = 1, backward: int = 1, update: int = 1, auxiliary: int = 0
) -> str:
    """The timetable of a schedule with the given ticks for each block's operations, free links."""
    blocks = schedule.blocks
    total = forward * blocks
    even = Workload.even(blocks, total, backward / forward if forward else 0, update * blocks)
    layers = (replace(layer, auxiliary_s=Fraction(auxiliary)) for layer in even.layers)
    workload = replace(even, layers=tuple(layers))
    return draw(simulate(schedule, workload, Cluster.private()))
