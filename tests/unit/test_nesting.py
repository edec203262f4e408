"""Traces with a period put in, and whether the run is in the same state before and behind it."""

from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest

from simcore.engine import simulate
from simcore.nesting import likely_period, nesting, recurs
from simcore.schedules import build
from simcore.trace import Trace
from simcore.workload import Layer, Workload

LAYERS = (Layer("", Fraction(1), Fraction(2)), Layer("", Fraction(2), Fraction(3)))


def traced(name: str, batches: int, layers: tuple[Layer, ...] = LAYERS, **options: Any) -> Trace:
    return simulate(build(name, batches=batches, **options), Workload("", layers))


def test_a_period_put_in() -> None:
    short, longer = (traced("fdg", batches, modules=2) for batches in (20, 22))
    found = nesting(short, longer)
    assert found is not None
    assert found.ticks == longer.end - short.end
    assert found.ticks * short.header.tick_s == 2 * 5  # the slow module takes 5 s
    assert found.length == len(longer.spans) - len(short.spans)
    again = longer.spans[found.since + found.length : found.until + found.length]
    assert (again["start"] == longer.spans["start"][found.since : found.until] + found.ticks).all()
    assert recurs(longer, found)


def test_what_passes_through_for_long_must_be_seen_for_as_long() -> None:
    """With 6 modules 10 batches are under way at once: fewer that are alike prove nothing."""
    layers = (LAYERS[1], *[LAYERS[0]] * 5)
    traces = [traced("fdg", batches, layers, modules=6) for batches in range(10, 40)]
    found = [(nesting(*pair), pair[1]) for pair in pairwise(traces)]
    proved = [nests is not None and recurs(longer, nests) for nests, longer in found]
    nested = [nests is not None for nests, _ in found]
    assert (nested[0], proved[0]) == (False, False)
    assert (nested[-1], proved[-1]) == (True, True)
    # Each comes to stay, and to be proved needs more.
    assert nested == sorted(nested)
    assert proved == sorted(proved)
    assert proved.index(True) >= nested.index(True) + 5


@pytest.mark.parametrize("batches", [20, 60])
def test_a_queue_that_grows_has_no_period(batches: int) -> None:
    """Rows of the slow module fit in at the end, but what they wait for is not seen twice."""
    short, longer = (traced("dgl", n, modules=2) for n in (batches, batches + 1))
    found = nesting(short, longer)
    assert found is not None
    assert not recurs(longer, found)


def test_what_happens_in_every_third_batch_has_a_period_of_three() -> None:
    assert likely_period(traced("adl", 40, modules=2, accumulation=3)) == 3
    traces = {n: traced("adl", n, modules=2, accumulation=3) for n in (40, 41, 42, 43)}
    assert nesting(traces[40], traces[41]) is nesting(traces[40], traces[42]) is None
    found = nesting(traces[40], traces[43])
    assert found is not None
    assert recurs(traces[43], found)


def test_traces_of_something_else_do_not_nest() -> None:
    slower = (LAYERS[0], Layer("", Fraction(2), Fraction(4)))
    assert nesting(traced("fdg", 20, modules=2), traced("fdg", 21, slower, modules=2)) is None
    assert nesting(traced("fdg", 20, modules=2), traced("fdg", 10, modules=2)) is None


def test_too_short_for_a_period() -> None:
    assert likely_period(traced("fdg", 3, modules=2)) is None
