"""The sojourn law: gap = ceil(S / c) - 1, S from read to landing, c from landing to landing.

It is a theorem wherever landings are equally far apart and forward passes read the newest weights.
"""

from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from simcore.cluster import Cluster
from simcore.engine import simulate
from simcore.schedules import build, find
from simcore.sojourn import Sojourn, critical_path_s, sojourn_law
from simcore.staleness import steady_gap_summaries
from simcore.testing import Simulation, schedules, simulations
from simcore.workload import Layer, Workload

Times = tuple[int | Fraction, int | Fraction, int | Fraction]  # forward, backward, update


def laws(
    name: str, times: list[Times], latency_s: Fraction | int = 0, **options: Any
) -> tuple[Sojourn, ...]:
    options[find(name).blocks_option] = len(times)
    schedule = build(name, **options)
    layers = tuple(Layer("", Fraction(f), Fraction(b), Fraction(u)) for f, b, u in times)
    workload, cluster = Workload("uneven", layers), Cluster.private(latency_s)
    found = sojourn_law(simulate(schedule, workload, cluster), schedule, workload, cluster)
    assert found is not None
    return found


# The theorem, for whatever is registered, on any workload and cluster.


@settings(max_examples=80)
@given(simulations(schedules(most_batches=16)))
def test_gaps_follow_from_sojourn_and_cycle(simulation: Simulation) -> None:
    schedule, cluster = simulation.schedule, simulation.cluster
    found = sojourn_law(simulation.run(), schedule, simulation.blocks, cluster)
    for law in found or ():
        event(f"exact: {law.exact}")
        assert law.sojourn_s >= 0
        assert law.cycle_s > 0
        if law.exact:
            assert law.gap == law.gap_by_law


@settings(max_examples=40)
@given(simulations(schedules(most_batches=16), placed=False, random=False))
def test_no_gap_is_below_its_floor(simulation: Simulation) -> None:
    schedule, cluster = simulation.schedule, simulation.cluster
    found = sojourn_law(simulation.run(), schedule, simulation.blocks, cluster)
    for law in found or ():
        assert law.floor_s <= law.sojourn_s
        assert law.excess == law.gap - law.floor
        if law.exact:
            assert law.excess >= 0


# What the law says of the papers' schedules: how much of their staleness the times ask for.


times = st.tuples(st.integers(1, 6), st.integers(0, 6), st.integers(0, 6))


@given(times=times, modules=st.integers(1, 5))
def test_sojourns_of_even_fdg(times: Times, modules: int) -> None:
    # Backward, update, forward take c; the batch that module k reads at step t lands at the end of
    # the update of step t + 2(K-k), c apart. The critical path has the forward passes, backward
    # passes and updates of all modules from k on, but for the update of the last one above.
    forward, backward, update = (Fraction(time) for time in times)
    cycle = forward + backward + update
    for law in laws("fdg", [times] * modules, batches=40):
        above = modules - law.block
        assert law.exact
        assert law.cycle_s == cycle
        assert law.floor_s == (above + 1) * cycle - (update if above else 0)
        assert law.sojourn_s == (2 * above * cycle if above else cycle)
        assert law.gap == max(0, 2 * above - 1)
        assert law.floor == above
        assert law.excess == max(0, above - 1)


@given(times=times, modules=st.integers(1, 5))
def test_sojourns_of_even_adl(times: Times, modules: int) -> None:
    # Forward first: 2(K-k) steps later, and within the step forward, backward, update. Gradients go
    # down before the update, so only the module's own update is on its critical path.
    forward, backward, update = (Fraction(time) for time in times)
    cycle = forward + backward + update
    for law in laws("adl", [times] * modules, batches=40):
        above = modules - law.block
        assert law.exact
        assert law.sojourn_s == 2 * above * cycle + cycle
        assert law.floor_s == (above + 1) * (forward + backward) + update
        assert law.gap == 2 * above
        assert law.floor == ceil(law.floor_s / cycle) - 1 <= above


@given(
    times=times,
    modules=st.integers(1, 4),
    accumulation=st.integers(2, 4),
)
def test_the_mean_gap_of_accumulated_gradients(
    times: Times, modules: int, accumulation: int
) -> None:
    # The sum over i of ceil((x + i) / M) is ceil(x) + M - 1 (Hermite): so the mean gap of the M
    # gradients of an update is (ceil(S / c) - 1) / M, S the sojourn of the last, c that of a batch.
    for last in (Fraction(1, 2), Fraction(3), Fraction(9, 2)):  # in units of c
        gaps = [ceil((last + earlier) / accumulation) - 1 for earlier in range(accumulation)]
        assert Fraction(sum(gaps), accumulation) == Fraction(ceil(last) - 1, accumulation)
    for law in laws("adl", [times] * modules, batches=60, accumulation=accumulation):
        assert law.gap_by_law == law.gap == Fraction(2 * (modules - law.block), accumulation)


@given(
    times=st.lists(times, min_size=2, max_size=4),
    latency_s=st.fractions(0, 6, max_denominator=2),
    name=st.sampled_from(["fdg", "adl"]),
)
def test_times_that_keep_gaps_stretch_sojourns_with_cycles(
    times: list[Times], latency_s: Fraction, name: str
) -> None:
    # Static pipelines: gaps do not depend on times, so S / c stays within (gap, gap + 1].
    for law in laws(name, times, latency_s, batches=60):
        if law.exact:
            assert law.gap < law.sojourn_s / law.cycle_s <= law.gap + 1


@pytest.mark.parametrize("name", ["async-lu", "async-bu"])
def test_async_bp_has_no_excess_if_no_batch_waits(name: str) -> None:
    # Nothing waits for B >= beta: all of its staleness is what the times ask for.
    even: list[Times] = [(1, Fraction(5, 2), Fraction(1, 4))] * 4
    for law in laws(name, even, batches=40, backward_threads=3):
        assert law.exact
        assert law.sojourn_s == law.floor_s
        assert law.excess == 0
    # A queue makes excess. Smallest case: one thread each, and one loss waits.
    options = {"batches": 40, "backward_threads": 1}
    for capacity in (1, 2):
        (law,) = laws(name, [(1, 2, 0)], queue_capacity=capacity, **options)
        assert (law.floor, law.excess) == (1, capacity)


def test_backpropagation_has_no_gap() -> None:
    for law in laws("bp", [(1, 2, 3), (3, 2, 1)], batches=12):
        assert (law.gap, law.floor, law.excess) == (0, 0, 0)
        assert law.cycle_s == 12


# Where it does not hold: landings that are not equally far apart.


def test_landings_at_uneven_intervals_break_the_law() -> None:
    # Two forward threads hand over two batches at a time: two updates land together, and nothing
    # for the rest of the cycle. S = 3, c = 1/2: the law says 5, and the gaps are 4 and 5.
    (law,) = laws("async-lu", [(1, 2, 0)], batches=60, forward_threads=2, backward_threads=4)
    assert not law.exact
    assert (law.sojourn_s, law.cycle_s) == (3, Fraction(1, 2))
    assert (law.gap_by_law, law.gap) == (5, Fraction(9, 2))


def test_a_tie_is_seen() -> None:
    # S / c is a whole number: the landing at the tick of the read counts as read, one gap less.
    (law,) = laws("async-lu", [(1, 2, 0)], batches=40)
    assert law.sojourn_s / law.cycle_s == 3
    assert law.gap == law.gap_by_law == 2
    (later,) = laws("async-lu", [(1, 2 + Fraction(1, 10**6), 0)], batches=40, backward_threads=3)
    assert later.gap == 3


def test_the_means_are_those_of_the_steady_window() -> None:
    schedule, workload = build("fdg", modules=3, batches=40), Workload.even(3)
    trace = simulate(schedule, workload)
    found, summaries = sojourn_law(trace, schedule, workload), steady_gap_summaries(trace)
    assert found is not None
    assert summaries is not None
    assert [float(law.gap) for law in found] == [summary.mean for summary in summaries]
    assert [law.floor_s for law in found] == list(critical_path_s(schedule, workload))
