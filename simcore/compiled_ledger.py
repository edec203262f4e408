"""Rules of the compiled engine: items, versions, gradients, and how long computations take.

What `simcore.rules`, `simcore.ledger` and `simcore.timing` do, on masks of items by batch and on a
table of what each batch has read of each block.
"""

import numpy as np

import simcore.compiled_layout as x
from simcore.compiled_memory import (
    LARGEST,
    Memory,
    block_row,
    compiled,
    inlined,
    instruction_row,
    read_row,
    worker_row,
)

__all__ = ["batch_of", "begin", "change_items", "compute", "forget", "raise_version", "update"]

_NO = -1


@inlined
def batch_of(m: Memory, number: int, row: int) -> int:
    """The batch of a worker's operation."""
    register = m[row + x.I_REGISTER]
    if register < 0:
        return -1 - register
    return m[m[x.O_REGISTERS] + number * m[x.S_REGISTERS] + register]


@compiled
def change_items(m: Memory, first: int, end: int, batch: int) -> bool:
    """Take and make items of a batch, by these rows; whether that is legal."""
    for place in range(first, end):
        effect = m[x.O_EFFECTS] + place * x.E_COLUMNS
        held = m[x.O_HELD] + m[effect + x.E_ROW] * m[x.S_BATCHES] + batch
        mask = m[held]
        if (mask & m[effect + x.E_NEEDED]) != m[effect + x.E_NEEDED]:
            return False
        mask &= ~m[effect + x.E_TAKEN]
        if mask & m[effect + x.E_ABSENT]:
            return False
        m[held] = mask | m[effect + x.E_GIVEN]
    return True


# How long


@inlined
def _factor(m: Memory, variation: int, number: int, place: int) -> float:
    """A random factor: the integer has its bits."""
    row = (variation * m[x.S_WORKERS_SIZE] + number) * m[x.S_CHUNK] + place
    return np.int64(m[m[x.O_FACTORS] + row]).view(np.float64)


@compiled
def compute(m: Memory, number: int, row: int) -> int:
    """Take what a computation needs. Returns its ticks, or -2 - X_."""
    worker, ticks = worker_row(m, number), m[row + x.I_TICKS]
    random, drawn = m[row + x.I_VARIATION] >= 0 and ticks > 0, 0
    if random:
        drawn = m[worker + x.W_COUNT] - m[worker + x.W_BASE]
        if drawn >= m[x.S_CHUNK]:
            return -2 - x.X_FACTORS
    if not _is_legal(m, number, row):
        return -2 - x.X_ILLEGAL
    m[worker + x.W_COUNT] += 1
    if not random:
        return ticks
    long = np.rint(ticks * _factor(m, m[row + x.I_VARIATION], number, drawn))
    return max(1, int(long)) if long < LARGEST else -2 - x.X_LIMIT


@compiled
def _is_legal(m: Memory, number: int, row: int) -> bool:
    """Whether a computation may be done; changes what the worker holds."""
    action, slot = m[row + x.I_ACTION], m[row + x.I_SLOT]
    worker = worker_row(m, number)
    if action == x.A_PASS or action == x.A_LOAD:
        batch = batch_of(m, number, row)
        first, end = m[row + x.I_EFFECTS], m[row + x.I_EFFECTS_END]
        if batch < 0 or not change_items(m, first, end, batch):
            return False
        m[worker + x.W_HELD] += m[row + x.I_HELD]
        if m[row + x.I_END] == x.END_PENDING:
            _append(m, worker, slot, m[row + x.I_A], batch)
        return True
    block = block_row(m, slot)
    if action == x.A_UPDATE:
        if m[block + x.B_CONTRIBUTED] and not m[block + x.B_SNAPSHOT]:
            return False
        if m[block + x.B_COUNT] == 0 and not m[block + x.B_JOINED]:
            return False
        m[block + x.B_JOINED] = 0
    elif action == x.A_SNAPSHOT:
        if m[block + x.B_SNAPSHOT] > 0:
            return False
        m[block + x.B_SNAPSHOT] = 1
        m[worker + x.W_SNAPSHOTS] += 1
    else:
        if m[block + x.B_SNAPSHOT] != 2:
            return False
        m[block + x.B_SNAPSHOT] = 0
        m[worker + x.W_SNAPSHOTS] -= 1
    return True


@compiled
def _append(m: Memory, worker: int, slot: int, of: int, batch: int) -> None:
    """A gradient is pending: the last of a chain through the table of what batches have read."""
    block = block_row(m, slot)
    m[read_row(m, of, batch) + x.L_NEXT] = _NO
    if m[block + x.B_COUNT] == 0:
        m[block + x.B_HEAD] = batch
    else:
        m[read_row(m, of, m[block + x.B_TAIL]) + x.L_NEXT] = batch
    m[block + x.B_TAIL] = batch
    m[block + x.B_COUNT] += 1
    m[worker + x.W_PENDING] += 1


# Versions


@compiled
def begin(m: Memory, number: int, now: int) -> int:
    """The operation starts: versions are read. Returns 0, or why it must not (X_)."""
    worker = worker_row(m, number)
    row = instruction_row(m, worker)
    m[worker + x.W_STARTED] = now
    action, what = m[row + x.I_ACTION], m[row + x.I_BEGIN]
    if action != x.A_PASS and action != x.A_SNAPSHOT:
        return 0
    if what == x.BEGIN_NOTHING:
        m[worker + x.W_VERSION] = _NO
        return 0
    version = m[m[x.O_VERSIONS] + m[row + x.I_VERSION]]
    if what == x.BEGIN_VERSION:
        m[worker + x.W_VERSION] = version
        return 0
    read = read_row(m, m[row + x.I_A], batch_of(m, number, row))
    if what == x.BEGIN_FORWARD:
        if m[read + x.L_FORWARD] >= 0:
            return x.X_TWICE
        if m[x.S_BUFFER] > 0:
            version = _buffered(m, m[row + x.I_VERSION], version)
            if version < 0:
                return x.X_ILLEGAL
        m[read + x.L_FIRST] = version
        m[read + x.L_FORWARD] = version
        m[worker + x.W_VERSION] = version
        return 0
    if m[read + x.L_FORWARD] < 0 or (what == x.BEGIN_WEIGHT and m[read + x.L_BACKWARD] < 0):
        return x.X_TWICE
    if what == x.BEGIN_REPLAY:
        if not m[x.S_STASH]:
            m[read + x.L_FORWARD] = version
        m[worker + x.W_VERSION] = m[read + x.L_FORWARD]
        return 0
    if what == x.BEGIN_BACKWARD:
        if m[x.S_ASSIGN]:
            _renew_copy(m, worker, row, version)
        m[read + x.L_BACKWARD] = m[read + x.L_FORWARD] if m[x.S_STASH] else version
    elif what == x.BEGIN_PROJECT:
        m[read + x.L_BACKWARD] = m[read + x.L_FORWARD]
    m[worker + x.W_VERSION] = m[read + x.L_BACKWARD]
    return 0


@compiled
def _buffered(m: Memory, place: int, newest: int) -> int:
    """The version that a forward pass needs, of the two that are kept; -1 if it is neither."""
    passes = m[x.O_PASSES] + place
    wanted = max(0, m[passes] // m[x.S_BUFFER] - 1)
    m[passes] += 1
    return wanted if newest - 1 <= wanted <= newest else _NO


@compiled
def _renew_copy(m: Memory, worker: int, row: int, version: int) -> None:
    if not m[x.S_REFRESH_ALL]:
        m[block_row(m, m[row + x.I_SLOT]) + x.B_BASE] = version
    elif m[row + x.I_A] == m[x.S_BLOCKS]:
        for slot in range(m[worker + x.W_SLOTS], m[worker + x.W_SLOTS_END]):
            block = block_row(m, slot)
            m[block + x.B_BASE] = m[m[x.O_VERSIONS] + m[block + x.B_VERSION]]


@compiled
def raise_version(m: Memory, row: int) -> int:
    """An update or average lands: raise the version. Returns the one that it found."""
    place = m[x.O_VERSIONS] + m[row + x.I_VERSION]
    version = m[place]
    m[place] = version + 1
    return version


@compiled
def update(m: Memory, number: int, now: int, row: int, version: int) -> None:
    """Apply the worker's pending gradients of a block, which it found at this version."""
    slot, of = block_row(m, m[row + x.I_SLOT]), m[row + x.I_A]
    base = m[slot + x.B_BASE] if m[slot + x.B_BASE] >= 0 else version
    batch, gradient = m[slot + x.B_HEAD], m[x.O_GRADIENTS] + m[x.S_GRADIENTS] * 9
    count = m[slot + x.B_COUNT]
    for _ in range(count):
        read = read_row(m, of, batch)
        m[gradient] = now
        m[gradient + 1] = number
        m[gradient + 2] = of
        m[gradient + 3] = batch
        m[gradient + 4] = m[read + x.L_FIRST]
        m[gradient + 5] = m[read + x.L_FORWARD]
        m[gradient + 6] = m[read + x.L_BACKWARD]
        m[gradient + 7] = version
        m[gradient + 8] = base
        m[read + x.L_FORWARD] = _NO
        m[read + x.L_BACKWARD] = _NO
        batch = m[read + x.L_NEXT]
        gradient += 9
    m[x.S_GRADIENTS] += count
    m[worker_row(m, number) + x.W_PENDING] -= count
    m[slot + x.B_COUNT] = 0


@compiled
def forget(m: Memory, block: int, batch: int) -> None:
    """What was read for a gradient that nobody wants is forgotten."""
    read = read_row(m, block, batch)
    m[read + x.L_FORWARD] = _NO
    m[read + x.L_BACKWARD] = _NO
