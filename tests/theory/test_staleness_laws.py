"""Closed forms of what staleness does between the layers, and in seconds.

Letters as in the papers: K modules, L layers, M gradients per update, T = 1 and beta the forward
and backward time of the whole network, F and B forward and backward threads.
"""

from fractions import Fraction
from math import ceil, floor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcore.consistency import fresh_fractions, inconsistency
from simcore.engine import simulate
from simcore.schedule import Schedule
from simcore.schedules import build, find
from simcore.staleness import time_staleness
from simcore.trace import Trace
from simcore.window import steady_window
from simcore.workload import Layer, Workload

few = settings(deadline=None, max_examples=20)
forwards, durations = st.integers(1, 6), st.integers(0, 6)
modules_times = st.lists(st.tuples(forwards, durations, durations), min_size=1, max_size=4)
betas = st.fractions(Fraction(1, 4), 5, max_denominator=6)


def schedule_of(name: str, blocks: int, **options: Any) -> Schedule:
    return build(name, **{find(name).blocks_option: blocks, **options})


def async_bp(name: str, layers: int, beta: Fraction, batches: int = 40) -> Trace:
    """One forward thread, as many backward threads as keep up, no update time, even layers."""
    schedule = schedule_of(name, layers, batches=batches, backward_threads=max(1, ceil(beta)))
    return simulate(schedule, Workload.even(layers, 1, beta))


# Async BP, section 3.2: "On average, we can expect that the second half of the layers use a new set
# of parameters." Batch i reads layer l at i + (l - 1) / L; layer-wise, batch i - 1 updates it at
# i + beta (L - l + 1) / L. So those see the update for which l - 1 >= beta L / (1 + beta), the
# last 1 / (1 + beta) of the layers: the second half only if a backward pass takes as long as a
# forward pass, and the last third if it takes twice as long. Block-wise the update is at i + beta:
# no layer, unless beta < 1.


@few
@given(layers=st.integers(1, 8), beta=betas)
def test_layers_that_see_the_batch_before_layer_wise(layers: int, beta: Fraction) -> None:
    trace = async_bp("async-lu", layers, beta)
    window = steady_window(trace)
    assert window is not None
    fresh = floor(layers / (1 + beta))
    assert fresh_fractions(trace, window) == (0,) * (layers - fresh) + (1,) * fresh


@few
@given(layers=st.integers(1, 8), beta=betas)
def test_layers_that_see_the_batch_before_block_wise(layers: int, beta: Fraction) -> None:
    trace = async_bp("async-bu", layers, beta)
    fresh = max(0, floor((1 - beta) * layers))
    assert fresh_fractions(trace, steady_window(trace)) == (0,) * (layers - fresh) + (1,) * fresh


@pytest.mark.parametrize(("beta", "share"), [(1, Fraction(1, 2)), (2, Fraction(1, 3))])
def test_the_second_half_is_new_if_both_ways_take_as_long(beta: int, share: Fraction) -> None:
    trace = async_bp("async-lu", 12, Fraction(beta))
    assert sum(filter(None, fresh_fractions(trace, steady_window(trace)))) / 12 == share


# Ages of the weights of one batch. Async BP: batch i finds all updates but the gap of the layer,
# which is largest in the first and smallest in the last. FDG: module k < K has seen all batches but
# the last 2(K-k) - 1, module K all. ADL: the modules update at the same iterations, when module k
# has all batches but the last 2(K-k), whatever M.


@few
@given(layers=st.integers(1, 6), beta=betas)
def test_ages_within_a_batch_of_async_bp(layers: int, beta: Fraction) -> None:
    for name, depth in (("async-lu", Fraction(1, layers)), ("async-bu", Fraction(1))):
        trace = async_bp(name, layers, beta)
        last = max(0, ceil(beta * depth - Fraction(layers - 1, layers)))
        spread = inconsistency(trace, steady_window(trace))
        assert spread is not None
        assert (spread.min, spread.max) == (ceil(beta) - last,) * 2


@few
@given(times=modules_times, m=st.integers(1, 4))
def test_ages_within_a_batch_of_pipelines(times: list[tuple[int, int, int]], m: int) -> None:
    modules = len(times)
    layers = tuple(Layer("", Fraction(f), Fraction(b), Fraction(u)) for f, b, u in times)
    fdg, adl = max(0, 2 * modules - 3), 2 * (modules - 1)
    for name, options, expected in (("fdg", {}, fdg), ("adl", {"accumulation": m}, adl)):
        trace = simulate(schedule_of(name, modules, batches=40, **options), Workload("", layers))
        spread = inconsistency(trace, steady_window(trace))
        assert spread is not None
        assert (spread.min, spread.max) == (expected, expected)
        *below, last = fresh_fractions(trace, steady_window(trace))
        assert below == [0] * (modules - 1)
        assert last == 1 or name == "adl"


# Seconds from a gradient to its update: in ADL the j-th of M waits for M - 1 - j more of c seconds.


@few
@given(forward=forwards, backward=durations, modules=st.integers(1, 3), m=st.integers(1, 4))
def test_gradients_wait_for_the_rest_of_their_window(
    forward: int, backward: int, modules: int, m: int
) -> None:
    workload = Workload.even(modules, forward * modules, Fraction(backward, forward))
    trace = simulate(schedule_of("adl", modules, batches=12 * m, accumulation=m), workload)
    period = forward + backward
    for delay in time_staleness(trace, steady_window(trace)):
        assert (delay.min_s, delay.max_s) == (0, (m - 1) * period)
        assert delay.mean_s == (m - 1) * period / 2
