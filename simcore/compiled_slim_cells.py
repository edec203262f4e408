"""The ledger of the slim variant: versions, gaps and batches in flight of a block of one worker.

As `simcore.ledger`, for a worker that shares the block with no other.
"""

import simcore.compiled_slim_layout as x
from simcore.compiled_memory import Memory, compiled
from simcore.compiled_slim_tables import longer

__all__ = ["pass_through", "update"]


@compiled
def update(cells: Memory, pool: Memory, s: Memory, b: int) -> int:
    """Apply pending gradients and raise the version; not 0 if it must not, or has no room."""
    version = cells[b + x.B_VERSION]
    count = cells[b + x.B_COUNT]
    if count == 0:
        return x.X_ILLEGAL
    while count > 0:
        pending = cells[b + x.B_PENDING] + count
        gap = version - pool[pending - 2]
        if gap >= cells[b + x.B_LONGEST]:
            cells[b + x.B_COUNT] = count
            if not longer(pool, s, cells, b, x.B_GAPS, x.B_LONGEST):
                return x.X_POOL
        else:
            pool[cells[b + x.B_GAPS] + gap] += pool[pending - 1]
            count -= 2
    cells[b + x.B_COUNT] = 0
    cells[b + x.B_VERSION] = version + 1
    return 0


@compiled
def _pend(cells: Memory, pool: Memory, s: Memory, b: int, version: int) -> bool:
    """A gradient is pending. Those in a row that have read the same version are counted."""
    count = cells[b + x.B_COUNT]
    last = cells[b + x.B_PENDING] + count - 2
    if count > 0 and pool[last] == version:
        pool[last + 1] += 1
        return True
    if count == cells[b + x.B_ROOM] and not longer(pool, s, cells, b, x.B_PENDING, x.B_ROOM):
        return False
    last = cells[b + x.B_PENDING] + count
    pool[last], pool[last + 1] = version, 1
    cells[b + x.B_COUNT] = count + 2
    return True


@compiled
def pass_through(action: int, cells: Memory, pool: Memory, s: Memory, b: int, entry: int) -> int:
    """What a pass reads and leaves in its cell."""
    read = entry + cells[b + x.B_PLACE]
    if action == x.A_PENDING:
        cells[b + x.B_HELD] -= 1
        return 0 if _pend(cells, pool, s, b, pool[read]) else x.X_POOL
    if action == x.A_FORGET:
        cells[b + x.B_HELD] -= 1
        return 0
    version = cells[b + x.B_VERSION]
    if action == x.A_REPLAY:
        if not s[x.S_STASH]:
            pool[read] = version
        return 0
    held = cells[b + x.B_HELD] + 1
    if held > cells[b + x.B_PEAK]:
        cells[b + x.B_PEAK] = held
    if action == x.A_EVALUATE:
        return 0
    if action == x.A_BUFFERED:
        done = cells[b + x.B_PASSES]
        wanted = max(0, done // s[x.S_BUFFER] - 1)
        if not version - 1 <= wanted <= version:
            return x.X_ILLEGAL
        cells[b + x.B_PASSES] = done + 1
        version = wanted
    pool[read] = version
    cells[b + x.B_HELD] = held
    return 0
