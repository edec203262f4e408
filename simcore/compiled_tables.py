"""The tables that the compiled engine works on: views of one piece of memory.

Compiled functions are given that one array of integers, in which the state comes first and says
where the tables begin: passing many arrays on would cost more than the work.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import simcore.compiled_layout as x

__all__ = ["Ints", "Tables", "packed"]

Ints = NDArray[np.int64]


class Tables(NamedTuple):
    """Everything that changes or is looked up; columns are those of `simcore.compiled_layout`."""

    workers: Ints  # the first, so that it is always in the same place
    code: Ints
    listens: Ints  # (channel, where it goes on)
    effects: Ints
    blocks: Ints  # of each worker
    channels: Ints
    rounds: Ints
    members: Ints
    devices: Ints
    ledger: Ints  # (block, batch, column)
    held: Ints  # (row, batch): bits of items
    versions: Ints
    passes: Ints
    registers: Ints
    counts: Ints  # how often each LOOP has been reached
    lines: Ints
    queues: Ints
    sends: Ints
    wires: Ints
    messages: Ints
    runnable: Ints
    done: Ints
    due: Ints
    starting: Ints
    times: Ints
    events: Ints
    groups: Ints  # when the last phase of a group is over
    memberships: Ints  # rows of members, by worker
    faults: Ints  # (worker, step), due
    speeds: Ints
    residents: Ints
    touched: Ints  # channels whose receivers have to be looked at
    ready: Ints  # devices that are due
    changed: Ints  # and those that have changed
    factors: Ints  # (variation, worker, number): the bits of floating-point numbers
    gradients: Ints
    spans: Ints
    memory: Ints  # all of them
    state: Ints


_SIZES = {
    "workers": x.S_WORKERS_SIZE,
    "devices": x.S_DEVICES_SIZE,
    "rounds": x.S_ROUNDS_SIZE,
    "spans": x.S_SPANS_SIZE,
    "gradients": x.S_GRADIENTS_SIZE,
}


_LINE = 8  # numbers


def _aligned(size: int) -> Ints:
    memory = np.empty(size + _LINE, np.int64)
    start = -(memory.ctypes.data // memory.itemsize) % _LINE
    return memory[start : start + size]


def packed(**given: Ints) -> Tables:
    """The tables in one piece of memory. What rows are not used yet at its end is not touched.

    Each begins at a line of the processor's cache.
    """
    state = given.pop("state")
    given.pop("memory", None)
    names = [name for name in Tables._fields if name in given]
    sizes = [given[name].size for name in names]
    memory = _aligned(x.S_COLUMNS + sum(size + -size % _LINE for size in sizes))
    memory[: x.S_COLUMNS] = state
    views = {"memory": memory, "state": memory[: x.S_COLUMNS]}
    used = {"spans": int(state[x.S_SPANS]), "gradients": int(state[x.S_GRADIENTS])}
    first = x.S_COLUMNS
    for name, size in zip(names, sizes, strict=True):
        table = given[name]
        view = memory[first : first + size].reshape(table.shape)
        rows = used.get(name, len(table))
        view[:rows] = table[:rows]
        memory[getattr(x, f"O_{name.upper()}")] = first
        if name in _SIZES:
            memory[_SIZES[name]] = len(table)
        views[name] = view
        first += size + -size % _LINE
    # What may be planned before anybody looks whether the calendar is full.
    at_once = sum(len(given[name]) for name in ("workers", "devices", "rounds")) + 8
    memory[x.S_TIMES_SIZE] = len(given["times"]) - at_once
    memory[x.S_REGISTERS] = given["registers"].shape[1]
    memory[x.S_CHUNK] = given["factors"].shape[2]
    return Tables(**views)
