"""Closed forms of the papers, computed here and compared with the simulator where they hold.

Letters as in the papers: K modules, L layers, N batches, M gradients per update, T and beta T the
forward and backward time of the whole network, U its update time, F and B forward and backward
threads; c is forward + backward + update time of a module.
"""

from fractions import Fraction
from math import ceil, floor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcore.cluster import Cluster
from simcore.engine import simulate
from simcore.metrics import makespan_s, sequential_s, speedup, steady_batch_s
from simcore.schedules import build, find
from simcore.staleness import gap_summaries, gap_table, steady_gap_summaries
from simcore.trace import Trace
from simcore.window import growth_per_batch
from simcore.workload import Layer, Workload

Times = tuple[int | Fraction, int | Fraction, int | Fraction]  # forward, backward, update

few = settings(deadline=None, max_examples=30)
durations = st.integers(0, 6)
forwards = st.integers(1, 6)
modules_times = st.lists(st.tuples(forwards, durations, durations), min_size=1, max_size=4)


def workload(times: list[Times]) -> Workload:
    layers = tuple(Layer("", Fraction(f), Fraction(b), Fraction(u)) for f, b, u in times)
    return Workload("uneven", layers)


def run(name: str, times: list[Times], latency_s: Fraction | int = 0, **options: Any) -> Trace:
    options[find(name).blocks_option] = len(times)
    schedule = build(name, **options)
    return simulate(schedule, workload(times), Cluster.private(latency_s))


def even(blocks: int, forward: Fraction, backward: Fraction, update: int = 0) -> list[Times]:
    """The times of each block, from those of the whole network."""
    return [(forward / blocks, backward / blocks, Fraction(update, blocks))] * blocks


def async_bp(name: str, layers: int, beta: Fraction, **options: Any) -> Trace:
    """Async BP over even layers without update time, T = 1."""
    return run(name, even(layers, Fraction(1), beta), **options)


# Sequential backpropagation: N (T + beta T + U), always.


@few
@given(times=modules_times, batches=st.integers(1, 6))
def test_backpropagation_takes_the_sum_of_all_times(times: list[Times], batches: int) -> None:
    expected = batches * sum(sum(each) for each in times)
    trace = run("bp", times, batches=batches)
    assert makespan_s(trace) == expected == sequential_s(workload(times), batches)
    assert speedup(trace, workload(times)) == 1.0


# Async BP: (N + beta) T and (1 + beta) N / (N + beta), for F = 1, B >= beta, U = 0, any split.


@few
@given(
    times=st.lists(st.tuples(forwards, durations, st.just(0)), min_size=1, max_size=3),
    batches=st.integers(1, 8),
    spare=st.integers(0, 2),
    name=st.sampled_from(["async-lu", "async-bu"]),
)
def test_async_bp_time_and_speedup(times: list[Times], batches: int, spare: int, name: str) -> None:
    forward, backward = sum(each[0] for each in times), sum(each[1] for each in times)
    beta = Fraction(backward, forward)
    threads = max(1, ceil(beta)) + spare
    trace = run(name, times, batches=batches, backward_threads=threads)
    assert makespan_s(trace) == (batches + beta) * forward
    assert speedup(trace, workload(times)) == float((1 + beta) * batches / (batches + beta))


def in_turn(batches: int, ahead: int, behind: int, beta: Fraction) -> Fraction:
    """Makespan with T = 1, U = 0: batches come F at a time to B servers, first come, first served.

    Holds for any F, B and beta: every T each forward thread hands over a batch; a backward thread
    takes beta T, so that the i-th batch gets the thread that had batch i - B.
    """
    ends: list[Fraction] = []
    for batch in range(batches):
        free = ends[batch - behind] if batch >= behind else Fraction(0)
        ends.append(max(Fraction(batch // ahead + 1), free) + beta)
    return max(ends)


@few
@given(
    batches=st.integers(1, 12),
    ahead=st.integers(1, 3),
    behind=st.integers(1, 4),
    beta=st.fractions(Fraction(1, 2), 4, max_denominator=4),
)
def test_async_bp_time_for_any_number_of_threads(
    batches: int, ahead: int, behind: int, beta: Fraction
) -> None:
    options = {"batches": batches, "forward_threads": ahead, "backward_threads": behind}
    trace = async_bp("async-lu", 2, beta, **options)
    assert makespan_s(trace) == float(in_turn(batches, ahead, behind, beta))


def test_async_bp_time_needs_as_many_backward_threads_as_beta() -> None:
    # With one thread too few the second batch waits already: 1 + 2 beta instead of 2 + beta.
    trace = async_bp("async-lu", 1, Fraction(2), batches=2, backward_threads=1)
    assert makespan_s(trace) == 1 + 2 * 2 > 2 + 2
    # In general, for F = 1 and B < beta, with N - 1 = q B + r: (r + 1) T + (q + 1) beta T.
    for batches in range(1, 12):
        q, r = divmod(batches - 1, 2)
        trace = async_bp("async-lu", 1, Fraction(3), batches=batches, backward_threads=2)
        assert makespan_s(trace) == (r + 1) + (q + 1) * 3


def test_async_bp_time_needs_updates_without_duration() -> None:
    # An update is part of a backward thread's pass: beta T + U takes the place of beta T.
    trace = run("async-lu", [(1, 2, 1)], batches=4, backward_threads=3)
    assert makespan_s(trace) == 4 + 2 + 1 > 4 + 2
    # Threads that suffice for beta = 2 then do not: the third batch waits for the first thread.
    trace = run("async-lu", [(1, 2, 1)], batches=3, backward_threads=2)
    assert makespan_s(trace) == in_turn(3, 1, 2, Fraction(3)) > 3 + 2 + 1


def test_several_forward_threads_wait_although_the_queue_is_bounded() -> None:
    # The queue is bounded if B >= beta F; but batches come F at a time, and none of them waits
    # only if floor(B / F) >= beta. Between the two, times grow by a constant.
    options = {"forward_threads": 2, "backward_threads": 3}
    beta, batches = Fraction(3, 2), 48
    trace = async_bp("async-lu", 1, beta, batches=batches, **options)
    assert makespan_s(trace) == batches / 2 + beta + Fraction(1, 2)
    assert growth_per_batch(trace) is None


# Async BP: gaps in versions, for F = 1, B >= beta, U = 0 and even layers. Batch i reads layer l at
# (i + (l - 1) / L) T. Its update lands at (i + 1 + beta (L - l + 1) / L) T, layer-wise, or at
# (i + 1 + beta) T, block-wise. What lands at the moment of a read is seen by it.


def async_gap(name: str, layers: int, layer: int, beta: Fraction, batch: int) -> int:
    depth = Fraction(layers - layer + 1, layers) if name == "async-lu" else 1
    behind = ceil(beta * depth - Fraction(layer - 1, layers))
    return min(batch, max(0, behind))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # L = 2, beta = 2, T = 2: layer 1 is read at 2i, layer 2 at 2i + 1. Batch i updates layer 2
        # at 2i + 4 and layer 1 at 2i + 6. So batch 2, at 4, finds no update of layer 1, and one of
        # layer 2 at 5, that of batch 0; batch 3 finds at 6 the first of layer 1.
        ("async-lu", [[0, 1, 2, 2, 2], [0, 1, 1, 1, 1]]),
        # Block-wise, both layers are updated at 2i + 6: batch 3 is the first that sees one.
        ("async-bu", [[0, 1, 2, 2, 2], [0, 1, 2, 2, 2]]),
    ],
)
def test_async_bp_gaps_by_hand(name: str, expected: list[list[int]]) -> None:
    trace = async_bp(name, 2, Fraction(2), batches=5)
    assert [gap_table(trace, layer)["gap"].tolist() for layer in (1, 2)] == expected


@few
@given(
    layers=st.integers(1, 5),
    beta=st.fractions(Fraction(1, 4), 5, max_denominator=6),
    name=st.sampled_from(["async-lu", "async-bu"]),
)
def test_async_bp_gaps(layers: int, beta: Fraction, name: str) -> None:
    trace = async_bp(name, layers, beta, batches=10, backward_threads=max(1, ceil(beta)))
    for layer in range(1, layers + 1):
        rows = gap_table(trace, layer)
        expected = [async_gap(name, layers, layer, beta, batch) for batch in rows["batch"]]
        assert rows["gap"].tolist() == expected
    assert max(summary.max or 0 for summary in gap_summaries(trace)) <= ceil(beta)


# Async BP: from a gradient to its use. Block-wise, (l - 1) beta T / L seconds for even layers and
# U = 0; layer-wise, none.


@pytest.mark.parametrize(("layers", "beta"), [(1, 2), (4, 2), (5, 3)])
def test_block_updates_wait_for_the_layers_below(layers: int, beta: int) -> None:
    block_wise, layer_wise = (
        delays_s(async_bp(name, layers, Fraction(beta), batches=6, backward_threads=beta))
        for name in ("async-bu", "async-lu")
    )
    assert layer_wise == [0] * layers
    assert block_wise == [Fraction((layer - 1) * beta, layers) for layer in range(1, layers + 1)]
    # The mean over layers is beta T (L - 1) / 2L. The paper's tau = beta T (L - 1) / 2 is the sum,
    # over l = 0..L-1; over the printed range 1..L it would be beta T (L + 1) / 2.
    assert sum(block_wise) / layers == Fraction(beta * (layers - 1), 2 * layers)
    assert sum(block_wise) == Fraction(beta * (layers - 1), 2)
    over_printed_range = sum(Fraction(beta, layers) * layer for layer in range(1, layers + 1))
    assert over_printed_range == Fraction(beta * (layers + 1), 2)


def delays_s(trace: Trace) -> list[Fraction]:
    """For each block, seconds from the end of a backward pass to its update, the same always."""
    found = []
    for block in range(1, trace.header.blocks + 1):
        backward = np.sort(trace.of_kind("backward"), order="batch")
        available = backward["end"][backward["block"] == block]
        applied = np.sort(gap_table(trace, block), order="batch")["time"]
        (delay,) = np.unique(applied - available).tolist()
        found.append(delay * trace.header.tick_s)
    return found


# FDG: gap max(0, 2(K-k) - 1) for every batch t >= 2(K-k), before that t; whatever the times.


@few
@given(times=modules_times, latency_s=st.integers(0, 3))
def test_fdg_gaps(times: list[Times], latency_s: int) -> None:
    trace = run("fdg", times, latency_s, batches=12)
    modules = len(times)
    for k in range(1, modules + 1):
        rows = gap_table(trace, k)
        steady = max(0, 2 * (modules - k) - 1)
        expected = [steady if t >= 2 * (modules - k) else t for t in rows["batch"]]
        assert rows["gap"].tolist() == expected


@few
@given(times=modules_times)
def test_fdg_steady_gaps(times: list[Times]) -> None:
    summaries = steady_gap_summaries(run("fdg", times, batches=20))
    assert summaries is not None
    modules = len(times)
    expected = [max(0, 2 * (modules - k) - 1) for k in range(1, modules + 1)]
    assert [(each.min, each.mean, each.max) for each in summaries] == [(g, g, g) for g in expected]


# FDG: seconds per batch. Its programs are a graph of events, of which the slowest loop, time over
# iterations, sets the pace. Going up a hop takes no iteration and going down takes two, but for
# the last hop: the last module's step lags by one, so it takes one. A loop that computes n_k times
# forward, backward and update in module k spans at least sum n_k iterations, hence never more than
# max c over them without latency; with latency the loop over the last hop is the tightest, two
# iterations for both modules and both ways.


@few
@given(times=modules_times)
def test_fdg_takes_its_slowest_module_if_links_are_free(times: list[Times]) -> None:
    assert steady_batch_s(run("fdg", times, batches=60)) == max(sum(each) for each in times)


@few
@given(
    times=st.lists(st.tuples(forwards, durations, durations), min_size=2, max_size=2),
    latency_s=st.fractions(0, 8, max_denominator=2),
)
def test_two_fdg_modules_with_latency(times: list[Times], latency_s: Fraction) -> None:
    # The last module's gradient departs before its update, that of others after theirs.
    first, last = (Fraction(sum(each)) for each in times)
    expected = max(first, last, (first + last - times[1][2]) / 2 + latency_s)
    assert steady_batch_s(run("fdg", times, latency_s, batches=80)) == float(expected)


@pytest.mark.parametrize("modules", [2, 3, 5])
@pytest.mark.parametrize("latency_s", [Fraction(1, 2), 3])
def test_even_fdg_modules_hide_half_an_update_of_latency(modules: int, latency_s: Fraction) -> None:
    trace = run("fdg", [(1, 1, 1)] * modules, latency_s, batches=60)
    assert steady_batch_s(trace) == max(3, Fraction(5, 2) + latency_s)


def test_where_fdg_stops_to_take_its_slowest_module() -> None:
    # Two modules of c = 4 and c = 2 hide a latency of (4 - 2) / 2, and none above.
    uneven: list[Times] = [(2, 2, 0), (1, 1, 0)]
    assert steady_batch_s(run("fdg", uneven, 1, batches=40)) == 4
    assert steady_batch_s(run("fdg", uneven, Fraction(3, 2), batches=40)) == 4.5
    # The smallest case: two equal modules, any latency at all.
    trace = run("fdg", [(1, 0, 0)] * 2, Fraction(1, 100), batches=40)
    assert steady_batch_s(trace) == 1.01


# ADL: seconds per batch, max over modules of forward + backward + update / M, for even modules;
# with M = 1 and M = 2 for uneven ones too.


@few
@given(
    times=st.tuples(forwards, durations, durations),
    modules=st.integers(1, 4),
    accumulation=st.integers(1, 4),
)
def test_adl_shares_an_update_among_the_gradients(
    times: Times, modules: int, accumulation: int
) -> None:
    forward, backward, update = times
    options = {"batches": 24 + 12 * accumulation, "accumulation": accumulation}
    expected = forward + backward + Fraction(update, accumulation)
    assert steady_batch_s(run("adl", [times] * modules, **options)) == float(expected)


@few
@given(times=modules_times, accumulation=st.integers(1, 2))
def test_uneven_adl_takes_its_slowest_module_up_to_two_gradients(
    times: list[Times], accumulation: int
) -> None:
    trace = run("adl", times, batches=60, accumulation=accumulation)
    expected = max(each[0] + each[1] + Fraction(each[2], accumulation) for each in times)
    assert steady_batch_s(trace) == float(expected)


@pytest.mark.parametrize(("accumulation", "expected"), [(2, Fraction(1)), (3, Fraction(4, 3))])
def test_where_uneven_adl_stops_to_take_its_slowest_module(
    accumulation: int, expected: Fraction
) -> None:
    # Module 1 only updates, M seconds each time; module 2 only computes, one second a batch: each
    # takes one second a batch. But in the M iterations from one update of module 1 to the next,
    # a loop can also go up, pass M - 2 times through module 2, and come back two iterations later:
    # (M + M - 2) / M seconds a batch.
    times: list[Times] = [(0, 0, accumulation), (0, 1, 0)]
    trace = run("adl", times, batches=20 * accumulation, accumulation=accumulation)
    assert expected == Fraction(2 * accumulation - 2, accumulation)
    assert steady_batch_s(trace) == float(expected)


def test_adl_hides_latency_that_fdg_does_not() -> None:
    # Forward first: the loop over a hop spans three iterations, and the gradient departs before the
    # update: (2c - update + 2 latency) / 3 for two even modules.
    c, update = 3, 1
    for latency_s in (Fraction(1), Fraction(2), Fraction(3), Fraction(5)):
        trace = run("adl", [(1, 1, update)] * 2, latency_s, batches=60)
        expected = max(Fraction(c), (2 * c - update + 2 * latency_s) / 3)
        assert steady_batch_s(trace) == float(expected)


# ADL: gaps, whatever the times. Equation 17: the j-th gradient of window s has gap
# s - floor((M s + j - 2(K-k)) / M), from the first window of which all batches were read on.


def equation_17(modules: int, k: int, accumulation: int, window: int, position: int) -> int:
    read = accumulation * window + position - 2 * (modules - k)
    return window - floor(Fraction(read, accumulation))


def steady_adl_gaps(trace: Trace, k: int) -> list[tuple[int, int, int]]:
    """Window, position and gap of every gradient that was read after the first window of reads.

    The pass of batch t through module k is in iteration t, its gradient in iteration t + 2(K-k);
    windows are cut every M iterations. The last one may be shorter and close early.
    """
    accumulation = int(str(trace.header.options["accumulation"]))
    delay = 2 * (trace.header.blocks - k)
    found = []
    for _, batch, _, _, gap in gap_table(trace, k).tolist():
        window, position = divmod(batch + delay, accumulation)
        if batch // accumulation >= delay // accumulation:
            found.append((window, position, gap))
    return found


@few
@given(times=modules_times, accumulation=st.integers(1, 5), latency_s=st.integers(0, 2))
def test_adl_gaps_are_those_of_equation_17(
    times: list[Times], accumulation: int, latency_s: int
) -> None:
    modules = len(times)
    trace = run("adl", times, latency_s, batches=20, accumulation=accumulation)
    for k in range(1, modules + 1):
        gaps = steady_adl_gaps(trace, k)
        assert len(gaps) >= 20 - 6 - accumulation
        for window, position, gap in gaps:
            assert gap == equation_17(modules, k, accumulation, window, position)
            assert 0 <= gap <= 2 * (modules - k)


@few
@given(
    times=modules_times,
    accumulation=st.integers(1, 5),
    counted=st.sampled_from(["batch", "gradient"]),
    order=st.sampled_from(["forward-first", "update-first"]),
)
def test_adl_mean_gap(times: list[Times], accumulation: int, counted: str, order: str) -> None:
    # Forward first, 2(K-k) / M exactly (equation 19); update first, one iteration less.
    modules = len(times)
    trace = run("adl", times, batches=40, accumulation=accumulation, order=order, window=counted)
    summaries = steady_gap_summaries(trace)
    assert summaries is not None
    for k, summary in enumerate(summaries, 1):
        delay = 2 * (modules - k)
        delay = delay if order == "forward-first" else max(0, delay - 1)
        assert summary.mean == delay / accumulation
        assert (summary.min, summary.max) == (delay // accumulation, ceil(delay / accumulation))


def test_the_worked_example_of_adl() -> None:
    assert [equation_17(3, 2, 4, 1, position) for position in range(4)] == [1, 1, 0, 0]
    trace = run("adl", [(1, 1, 1)] * 3, batches=24, accumulation=4)
    windows = steady_adl_gaps(trace, 2)
    assert [gap for window, _, gap in windows if window == 3] == [1, 1, 0, 0]


@pytest.mark.parametrize(("accumulation", "mean"), [(1, 14), (4, 3.5)])
def test_figure_2_of_adl(accumulation: int, mean: float) -> None:
    # "From 16 to 4" for module 1 of K = 8: it is 2(K-k) / M with k = 1, so from 14 to 3.5. The
    # reduction by 75 % stands.
    trace = run("adl", [(1, 1, 0)] * 8, batches=48, accumulation=accumulation)
    summaries = steady_gap_summaries(trace)
    assert summaries is not None
    assert summaries[0].mean == mean == 2 * (8 - 1) / accumulation
