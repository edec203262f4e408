"""Max-plus algebra: cycle ratios against every cycle there is, powers against steps one by one."""

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcore.bodies import Edge
from simcore.max_plus import NOTHING, affine, largest_cycle_ratio, multiply, raised

NODES = 5


@st.composite
def graphs(draw: st.DrawFn) -> list[Edge]:
    """Edges between nodes 0..4; those that go down or stay have a lag, so that every cycle has."""
    found = []
    for _ in range(draw(st.integers(0, 12))):
        before, after = draw(st.integers(0, NODES - 1)), draw(st.integers(0, NODES - 1))
        lag = draw(st.integers(0 if before < after else 1, 3))
        found.append(Edge(before, after, draw(st.integers(0, 9)), lag))
    return found


def by_enumeration(edges: list[Edge]) -> Fraction:
    """The largest ratio over all simple cycles, each tried."""
    best = Fraction(0)
    between: dict[tuple[int, int], list[Edge]] = {}
    for edge in edges:
        between.setdefault((edge.before, edge.after), []).append(edge)

    def walk(way: list[int], ticks: int, lag: int) -> None:
        nonlocal best
        for (before, after), each in between.items():
            if before != way[-1]:
                continue
            for edge in each:
                if after == way[0]:
                    best = max(best, Fraction(ticks + edge.ticks, lag + edge.lag))
                elif after > way[0] and after not in way:
                    walk([*way, after], ticks + edge.ticks, lag + edge.lag)

    for node in range(NODES):
        walk([node], 0, 0)
    return best


@settings(deadline=None, max_examples=200)
@given(edges=graphs())
def test_largest_ratio_is_that_of_a_cycle_and_of_no_larger_one(edges: list[Edge]) -> None:
    ratio, cycle = largest_cycle_ratio(NODES, edges)
    assert ratio == by_enumeration(edges)
    for edge, following in zip(cycle, [*cycle[1:], *cycle[:1]], strict=True):
        assert edge in edges
        assert edge.after == following.before
    if cycle:
        lag = sum(edge.lag for edge in cycle)
        assert ratio == Fraction(sum(edge.ticks for edge in cycle), lag)


entries = st.integers(-9, 9) | st.just(NOTHING)


@settings(deadline=None, max_examples=100)
@given(
    matrix=st.lists(st.lists(entries, min_size=3, max_size=3), min_size=3, max_size=3),
    vector=st.lists(entries, min_size=3, max_size=3),
    power=st.integers(0, 40),
)
def test_powers_are_steps(matrix: list[list[int]], vector: list[int], power: int) -> None:
    now = [entry if entry > NOTHING else None for entry in vector]
    for _ in range(power):
        now = [
            max(
                (a + b for a, b in zip(row, now, strict=True) if a > NOTHING and b is not None),
                default=None,
            )
            for row in matrix
        ]
    offset, found = raised(affine(np.array(matrix)), power, affine(np.array(vector)))
    assert [offset + int(x) if x > NOTHING else None for x in found] == now


def test_powers_go_beyond_64_bits() -> None:
    matrix = affine(np.array([[10**12, NOTHING], [0, 10**12 - 1]]))
    offset, found = raised(matrix, 10**15, affine(np.array([0, 0])))
    assert offset + int(found[0]) == 10**27
    assert offset + int(found[1]) == max(10**27 - 10**15, 10**27 - 10**12)


def test_entries_that_lie_too_far_apart_are_refused() -> None:
    matrix = affine(np.array([[10**12, NOTHING], [NOTHING, 0]]))
    with pytest.raises(OverflowError, match="further apart"):
        raised(matrix, 10**9, affine(np.array([0, 0])))


def test_product_of_nothing_is_nothing() -> None:
    nothing = affine(np.full((2, 2), NOTHING))
    offset, found = multiply(nothing, nothing)
    assert offset == 0
    assert (found == NOTHING).all()


def test_permutations_come_back_after_their_order() -> None:
    for order in permutations(range(3)):
        matrix = np.full((3, 3), NOTHING)
        for row, column in enumerate(order):
            matrix[row, column] = 7
        offset, found = raised(affine(matrix), 6, affine(np.array([0, 1, 2])))
        assert [offset + int(x) for x in found] == [42, 43, 44]
