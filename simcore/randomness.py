"""Random numbers that depend on a counter, not on the order in which they are drawn.

Adaptive programs decide at run time which worker does what, so that durations cannot be drawn
ahead. The n-th timed operation of worker w therefore uses the quantile of a hash of (seed, w, n).
"""

__all__ = ["uniform"]

_MASK = 2**64 - 1


def _mixed(value: int) -> int:
    # The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every input bit flips half the output.
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def uniform(seed: int, worker: int, count: int) -> float:
    """A number in (0, 1), fixed by its arguments.

    >>> uniform(0, 1, 2) == uniform(0, 1, 2) != uniform(0, 2, 1)
    True
    """
    hashed = _mixed(_mixed(_mixed(seed & _MASK) ^ worker) ^ count)
    return ((hashed >> 12) + 0.5) / 2**52
