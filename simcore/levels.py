"""How much is held at once, when each amount is held from its start to its end.

At one tick, what ends is let go first; then what begins and ends at that very tick counts for a
moment; then what begins is taken. So whatever takes no time precedes whatever takes time.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["changes", "peaks"]


def changes(
    group: NDArray[np.int64], start: NDArray[np.int64], end: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The starts and ends of n intervals in the order in which they happen, group by group.

    Shape (2 n,): i is the start of interval i, and n + i its end.
    """
    # Small integers are sorted in linear time.
    lasts = end > start
    rank = np.concatenate([np.where(lasts, 3, 1), np.where(lasts, 0, 2)])
    groups = group.astype(np.int16) if len(group) and group.max() < 2**15 else group
    return np.lexsort((rank.astype(np.int8), np.concatenate([start, end]), np.tile(groups, 2)))


def peaks(
    group: NDArray[np.int64],
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    amount: NDArray[np.int64],
    groups: int,
) -> NDArray[np.int64]:
    """The most that each group holds at once, shape (groups,)."""
    order = changes(group, start, end)
    held = np.cumsum(np.concatenate([amount, -amount])[order])
    found = np.zeros(groups, np.int64)
    np.maximum.at(found, np.tile(group, 2)[order], held)
    return found
