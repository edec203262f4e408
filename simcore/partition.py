"""Layers become blocks here, and nowhere else."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate, pairwise
from math import lcm

from simcore.errors import InputError
from simcore.workload import Layer, Workload

__all__ = ["Partition", "blocks_of", "partition"]


@dataclass(frozen=True, slots=True)
class Partition:
    """A cut of layers into blocks: block k is layers `bounds[k - 1]` to `bounds[k] - 1`, from 0.

    >>> Partition((0, 2, 5)).blocks
    (range(0, 2), range(2, 5))
    """

    bounds: tuple[int, ...]

    @property
    def blocks(self) -> tuple[range, ...]:
        """The layers of each block, counted from 0, block by block from the data."""
        return tuple(range(first, end) for first, end in pairwise(self.bounds))


def partition(workload: Workload, modules: int) -> Partition:
    """Cut the layers into so many non-empty runs that the slowest takes the least time.

    A layer's time is forward + backward + update; if all are zero, layers are counted instead.
    Among the best cuts it takes the most even one, with the least sum of squared times, and among
    those the one with the latest first cut, then the latest second one, and so on. The arithmetic
    is exact.

    >>> partition(Workload.even(10), 4).bounds
    (0, 3, 6, 8, 10)

    Raises:
        InputError: fewer modules than 1 or more than layers.
    """
    layers = len(workload.layers)
    if not 1 <= modules <= layers:
        rule = f"must be between 1 and the number of layers, {layers}"
        raise InputError("modules", modules, rule, "give fewer modules or more layers")
    ends = list(accumulate(_weights(workload), initial=0))
    limit = _least_limit(ends, modules)
    earliest, latest = _windows(ends, modules, limit)
    # cost[first]: least sum of squares of layers first.. in as many blocks as were handled so far.
    cost = {layers: 0}
    choices: list[dict[int, int]] = []
    for block in reversed(range(modules)):
        rows = range(earliest[block], latest[block] + 1)
        cost, choice = _best_ends(ends, limit, rows, cost)
        choices.append(choice)
    bounds = [0]
    for choice in reversed(choices):
        bounds.append(choice[bounds[-1]])
    return Partition(tuple(bounds))


def _weights(workload: Workload) -> list[int]:
    """The layers' times as integers, in the unit that makes them so."""
    times = [layer.forward_s + layer.backward_s + layer.update_s for layer in workload.layers]
    if not any(times):
        return [1] * len(times)
    unit = lcm(*(time.denominator for time in times))
    return [int(time * unit) for time in times]


def _least_limit(ends: list[int], modules: int) -> int:
    """The least possible time of the slowest block.

    Nicol's search (Journal of Parallel and Distributed Computing 23, 1994): either the first block
    is the slowest, and then it takes the least time that suffices as a limit; or it ends one layer
    earlier, and the same holds for the next block.
    """
    best, first = ends[-1], 0
    for _ in range(modules):
        limits = [end - ends[first] for end in ends[first:]]
        found = bisect_left(limits, True, key=lambda limit: _suffices(ends, modules, limit))
        if found == len(limits):
            break
        best = min(best, limits[found])
        first += found - 1
    return best


def _suffices(ends: list[int], modules: int, limit: int) -> bool:
    """Whether so many blocks, none of which takes more than the limit, hold all layers."""
    first = 0
    for _ in range(modules):
        first = bisect_right(ends, ends[first] + limit) - 1
    return first == len(ends) - 1


def _windows(ends: list[int], modules: int, limit: int) -> tuple[list[int], list[int]]:
    """The earliest and the latest place of every cut, if no block takes more than the limit."""
    layers = len(ends) - 1
    latest = [0]
    for block in range(1, modules + 1):
        full = bisect_right(ends, ends[latest[-1]] + limit) - 1
        latest.append(min(full, layers - (modules - block)))
    earliest = [layers]
    for _ in range(modules):
        earliest.append(bisect_left(ends, ends[earliest[-1]] - limit))
    return earliest[::-1], latest


def _best_ends(
    ends: list[int], limit: int, rows: range, cost: dict[int, int]
) -> tuple[dict[int, int], dict[int, int]]:
    """For blocks that start at each of the rows: the least cost with what follows, and their end.

    Squares of sums satisfy the quadrangle inequality, so the best end never decreases with the
    start. Solving the middle row first therefore halves the ends that the others must try: this is
    the divide and conquer optimisation of dynamic programming.
    """
    best: dict[int, int] = {}
    choice: dict[int, int] = {}
    pending = [(rows.start, rows.stop, min(cost), max(cost))]
    while pending:
        start, stop, lowest, highest = pending.pop()
        if start == stop:
            continue
        first = (start + stop) // 2
        begin = ends[first]
        reach = bisect_right(ends, begin + limit) - 1
        tries = range(max(lowest, first + 1), min(highest, reach) + 1)
        # Negated, because of equal costs the latest end is wanted.
        least, negated = min(((ends[end] - begin) ** 2 + cost[end], -end) for end in tries)
        best[first], choice[first] = least, -negated
        pending.append((start, first, lowest, -negated))
        pending.append((first + 1, stop, -negated, highest))
    return best, choice


def blocks_of(workload: Workload, partition: Partition) -> Workload:
    """The workload with one layer per block: times, parameters and saved bytes are summed.

    What a block sends on is the output of its last layer.

    >>> merged = blocks_of(Workload.even(5), Partition((0, 1, 5)))
    >>> [layer.name for layer in merged.layers]
    ['layer1', 'layer2..layer5']
    """
    merged = (_merge(workload.layers[block.start : block.stop]) for block in partition.blocks)
    return replace(workload, layers=tuple(merged))


def _merge(layers: tuple[Layer, ...]) -> Layer:
    first, last = layers[0], layers[-1]
    if first is last:
        return first

    def total(part: Callable[[Layer], Fraction]) -> Fraction:
        return sum(map(part, layers), Fraction(0))

    # What no layer states stays at its default.
    tangents = any(layer.tangent_s is not None for layer in layers)
    parts = any(layer.backward_input_s is not None for layer in layers)
    return Layer(
        name=f"{first.name}..{last.name}",
        forward_s=total(lambda layer: layer.forward_s),
        backward_s=total(lambda layer: layer.backward_s),
        update_s=total(lambda layer: layer.update_s),
        activation_bytes=last.activation_bytes,
        parameter_bytes=sum(layer.parameter_bytes for layer in layers),
        saved_bytes=sum(layer.saved_bytes for layer in layers),
        tangent_s=total(lambda layer: layer.tangent_time_s) if tangents else None,
        backward_input_s=total(lambda layer: layer.backward_input_time_s) if parts else None,
        project_s=total(lambda layer: layer.project_s),
        auxiliary_s=total(lambda layer: layer.auxiliary_s),
        auxiliary_bytes=sum(layer.auxiliary_bytes for layer in layers),
        merge_s=total(lambda layer: layer.merge_s),
    )
