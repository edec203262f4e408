"""Counters for the loops of worker programs."""

__all__ = ["steps"]


def steps(count: int) -> range:
    """Count 0, 1, ..., count - 1.

    Programs loop with `steps` and not with `range`, and use the counter only to compare it, to
    shift it by a constant and to take it modulo a constant. An interpreter that wants to reason
    about all iterations at once, instead of running them one by one, can then replace this one
    function.
    """
    return range(count)
