"""What the tests of readers of traces share: any simulation, and its rows as one reads them."""

from collections import defaultdict
from dataclasses import replace
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st

from simcore.schedule import Schedule
from simcore.schedules import SCHEDULES
from simcore.testing import Simulation, schedules, simulations
from simcore.trace import KIND, Trace
from tests.properties.odd_schedules import ODD_SCHEDULES

__all__ = ["NAMES", "Row", "drawn", "few", "passes_by_batch", "rows"]

NAMES = (*SCHEDULES, *ODD_SCHEDULES)
KIND_NAMES = list(KIND)

# Every definition is checked for every schedule, so a few examples of each do.
few = settings(max_examples=settings().max_examples // 6)


def drawn(data: st.DataObject, name: str) -> Simulation:
    if name in SCHEDULES:
        found: Simulation = data.draw(simulations(schedules(name)))
    else:
        schedule = ODD_SCHEDULES[name](2 * data.draw(st.integers(1, 5)))
        found = data.draw(simulations(st.just(schedule)))
    layers = tuple(replace(layer, auxiliary_bytes=3) for layer in found.blocks.layers)
    states = data.draw(st.integers(0, 2))
    return replace(found, blocks=replace(found.blocks, layers=layers, optimizer_states=states))


class Row(NamedTuple):
    start: int
    end: int
    worker: int
    at: int
    kind: str
    block: int
    batch: int
    version: int
    cell: tuple[int, int] = (0, 0)


def rows(schedule: Schedule, trace: Trace, *kinds: str) -> list[Row]:
    """Rows in the order of each worker's program, with the replica and block of each."""
    found = [Row(*values)._replace(kind=KIND_NAMES[values[4]]) for values in trace.spans.tolist()]
    found = [row._replace(cell=(schedule.workers[row.worker].replica, row.block)) for row in found]
    found.sort(key=lambda row: (row.worker, row.at))
    return [row for row in found if row.kind in kinds or not kinds]


def passes_by_batch(schedule: Schedule, trace: Trace) -> dict[tuple[int, int], list[Row]]:
    kinds = ("forward", "evaluate", "tangent", "replay")
    down = ("backward", "backward_input", "backward_through", "backward_weight", "project")
    found: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for row in sorted(
        rows(schedule, trace, *kinds, *down), key=lambda row: (row.start, row.end, row.worker)
    ):
        found[row.block, row.batch].append(row)
    order = [*kinds, *down]
    return {key: sorted(each, key=lambda row: order.index(row.kind)) for key, each in found.items()}
