"""The tables that the compiled engine works on."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ints", "Tables"]

Ints = NDArray[np.int64]


class Tables(NamedTuple):
    """Everything that changes or is looked up; columns are those of `simcore.compiled_layout`."""

    code: Ints
    listens: Ints  # (channel, where it goes on)
    effects: Ints  # (row of held, needed, taken, must not be there, given): bits of items
    workers: Ints
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
    messages: Ints  # (departure, channel, batch, next)
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
    touched: Ints
    spans: Ints
    gradients: Ints
    factors: NDArray[np.float64]  # (variation, worker, number)
    state: Ints
