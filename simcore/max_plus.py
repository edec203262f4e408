"""Max-plus algebra in exact integers: the largest cycle ratio, and powers of a matrix.

Addition is the maximum and multiplication the sum. Libraries have cycle means in floating point at
most, and without the cycle; here ties decide, so everything is an integer or a fraction.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from simcore.bodies import Edge

__all__ = ["NOTHING", "Affine", "affine", "largest_cycle_ratio", "multiply", "raised"]

# Minus infinity, the zero of the algebra; what is below a half of it stands for it, too.
NOTHING: Final = -(2**61)


def largest_cycle_ratio(nodes: int, edges: Sequence[Edge]) -> tuple[Fraction, list[Edge]]:
    """The largest ratio of ticks to lags of a cycle, and the edges of one that has it.

    Howard's policy iteration (Cochet-Terrasson, Cohen, Gaubert, McGettrick and Quadrat, 1998), in
    each strongly connected component, in fractions. What it ends with proves itself: no edge of a
    component ends later than its potentials say, so that no cycle has a larger ratio. Every cycle
    must have a lag. 0 and no cycle, if there is none.
    """
    if not edges:
        return Fraction(0), []
    ends = [edge.before for edge in edges], [edge.after for edge in edges]
    matrix = coo_matrix((np.ones(len(edges)), ends), shape=(nodes, nodes))
    _, component = connected_components(matrix, directed=True, connection="strong")
    inner: dict[int, list[Edge]] = {}
    for edge in edges:
        if component[edge.before] == component[edge.after]:
            inner.setdefault(int(component[edge.before]), []).append(edge)
    found = [_howard(each) for each in inner.values()]
    return max(found, key=lambda each: each[0], default=(Fraction(0), []))


def _howard(edges: Sequence[Edge]) -> tuple[Fraction, list[Edge]]:
    """The largest ratio of a strongly connected component."""
    policy = {edge.after: edge for edge in edges}
    potentials: dict[int, Fraction] = {}
    while True:
        ratios, potentials, cycles = _evaluated(policy, potentials)
        better = {edge.after: edge for edge in edges if ratios[edge.before] > ratios[edge.after]}
        if not better:
            gains: dict[int, Fraction] = {}
            for edge in edges:
                ratio = ratios[edge.after]
                gain = edge.ticks - ratio * edge.lag + potentials[edge.before]
                if gain > gains.get(edge.after, potentials[edge.after]):
                    gains[edge.after], better[edge.after] = gain, edge
        if not better:
            best = max(ratios, key=lambda node: ratios[node])
            return ratios[best], cycles[ratios[best]]
        policy |= better


def _evaluated(
    policy: dict[int, Edge], old: dict[int, Fraction]
) -> tuple[dict[int, Fraction], dict[int, Fraction], dict[Fraction, list[Edge]]]:
    """Of each node, the ratio of the cycle that its policy comes from, and its potential.

    One node of each cycle keeps its old potential: without that, equal cycles could take turns.
    """
    ratios: dict[int, Fraction] = {}
    potentials: dict[int, Fraction] = {}
    cycles: dict[Fraction, list[Edge]] = {}
    for start in policy:
        way: list[int] = []
        seen: set[int] = set()
        node = start
        while node not in ratios and node not in seen:
            way.append(node)
            seen.add(node)
            node = policy[node].before
        if node not in ratios:  # a cycle that no other way has led to
            around = [policy[each] for each in way[way.index(node) :]][::-1]
            lag = sum(edge.lag for edge in around)
            assert lag, "what comes after itself in one iteration never happens"
            ratio = Fraction(sum(edge.ticks for edge in around), lag)
            cycles.setdefault(ratio, around)
            ratios[node], potentials[node] = ratio, old.get(node, Fraction(0))
        for each in reversed(way):
            if each not in ratios:
                edge = policy[each]
                ratio = ratios[edge.before]
                ratios[each] = ratio
                potentials[each] = potentials[edge.before] + edge.ticks - ratio * edge.lag
    return ratios, potentials, cycles


Affine = tuple[int, NDArray[np.int64]]  # ticks that are added to every entry, and the entries


def affine(entries: NDArray[np.int64], ticks: int = 0) -> Affine:
    """A matrix or vector, its entries relative to the largest.

    So their sums may be beyond 64 bits; raises `OverflowError` if entries lie too far apart.
    """
    known = entries > NOTHING
    if not known.any():
        return 0, np.full_like(entries, NOTHING)
    most, least = int(entries[known].max()), int(entries[known].min())
    if most - least > -NOTHING // 4:
        raise OverflowError("times lie further apart than 2**59 ticks")
    return ticks + most, np.where(known, entries - most, NOTHING)


def multiply(left: Affine, right: Affine) -> Affine:
    """The product of two matrices, or of a matrix and a vector."""
    a, b = left[1], right[1]
    columns = b[:, None] if b.ndim == 1 else b
    found = np.full((len(a), columns.shape[1]), 2 * NOTHING)
    for inner in range(len(columns)):
        np.maximum(found, a[:, inner, None] + columns[None, inner], out=found)
    return affine(found[:, 0] if b.ndim == 1 else found, left[0] + right[0])


def raised(matrix: Affine, power: int, vector: Affine) -> Affine:
    """The vector times the matrix, so many times."""
    while power:
        if power & 1:
            vector = multiply(matrix, vector)
        power >>= 1
        if power:
            matrix = multiply(matrix, matrix)
    return vector
