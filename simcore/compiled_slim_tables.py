"""What the slim variant's tables do as they fill: more room, and workers that can go on."""

import simcore.compiled_slim_layout as x
from simcore.compiled_memory import Memory, compiled

__all__ = ["longer", "more_entries", "wake", "widen"]


@compiled
def _room(pool: Memory, s: Memory, size: int) -> int:
    """So many more numbers of the pool, all 0; their place, -1 if there are none."""
    first = s[x.S_USED]
    if size > s[x.S_POOL] - first:
        return -1
    s[x.S_USED] = first + size
    for place in range(first, first + size):
        pool[place] = 0
    return first


@compiled
def more_entries(workers: Memory, pool: Memory, s: Memory, w: int) -> bool:
    """Give a worker entries for twice as many batches."""
    ring, mask, stride = workers[w + x.W_RING], workers[w + x.W_MASK], workers[w + x.W_STRIDE]
    larger = 2 * mask + 1
    place = _room(pool, s, (larger + 1) * stride)
    if place < 0:
        return False
    items = (1 << s[x.S_SHIFT]) - 1
    for old in range(ring, ring + (mask + 1) * stride, stride):
        if pool[old] & items == 0:
            continue
        new = place + ((pool[old] >> s[x.S_SHIFT]) & larger) * stride
        for column in range(stride):
            pool[new + column] = pool[old + column]
    workers[w + x.W_RING], workers[w + x.W_MASK] = place, larger
    return True


@compiled
def longer(pool: Memory, s: Memory, cells: Memory, b: int, first: int, size: int) -> bool:
    """Make a list of a cell twice as long; `first` and `size` are its columns."""
    old, count = cells[b + first], cells[b + size]
    place = _room(pool, s, 2 * count)
    if place < 0:
        return False
    for n in range(count):
        pool[place + n] = pool[old + n]
    cells[b + first], cells[b + size] = place, 2 * count
    return True


@compiled
def wake(queue: Memory, s: Memory, worker: int) -> None:
    """A worker can go on; it stands at the end of the queue."""
    place = s[x.S_FIRST] + s[x.S_QUEUED]
    if place >= s[x.S_WORKERS]:
        place -= s[x.S_WORKERS]
    queue[place] = worker
    s[x.S_QUEUED] += 1


@compiled
def widen(channels: Memory, pool: Memory, queue: Memory, s: Memory) -> int:
    """Nobody can go on: give rings that are full twice the room."""
    found = False
    for c in range(0, s[x.S_CHANNELS] * x.C_COLUMNS, x.C_COLUMNS):
        head, mask, ring = channels[c + x.C_HEAD], channels[c + x.C_MASK], channels[c + x.C_RING]
        if not channels[c + x.C_SENDER_WAITS] or channels[c + x.C_TAIL] - head <= mask:
            continue
        larger = 2 * mask + 1
        place = _room(pool, s, 2 * (larger + 1))
        if place < 0:
            return x.X_POOL
        for n in range(head, channels[c + x.C_TAIL]):
            pool[place + 2 * (n & larger)] = pool[ring + 2 * (n & mask)]
            pool[place + 2 * (n & larger) + 1] = pool[ring + 2 * (n & mask) + 1]
        channels[c + x.C_RING], channels[c + x.C_MASK] = place, larger
        channels[c + x.C_SENDER_WAITS] = 0
        wake(queue, s, channels[c + x.C_SENDER])
        found = True
    return x.X_BLOCKED if found else x.X_DEADLOCK
