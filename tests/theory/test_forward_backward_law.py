"""The F:B law of Async BP: any threads, any times, any queue; compared with the simulator.

F forward threads take T a batch, B backward threads D = beta T + U. Exact for free links and a
device for each thread, over even and uneven layers. Tests look at whole periods of the steady
state: F batches if the forward threads are the slower side, B if they outrun the backward threads.
"""

from dataclasses import replace
from fractions import Fraction
from math import ceil
from typing import Literal

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from simcore.engine import simulate
from simcore.laws import (
    Threads,
    backward_threads_needed,
    batch_s,
    batches_in_flight,
    growth_per_batch,
    held_bytes,
    mean_gap,
    queue_length,
)
from simcore.metrics import makespan_s, peak_in_flight, steady_batch_s
from simcore.schedules import build
from simcore.staleness import gap_table
from simcore.trace import Trace
from simcore.window import growth_per_batch as measured_growth
from simcore.workload import Layer, Workload

some = settings(max_examples=60)
PERIODS = 3
NAMES = {"layer": "async-lu", "block": "async-bu"}


def options(threads: Threads, batches: int) -> dict[str, object]:
    return {
        "layers": threads.layers,
        "batches": batches,
        "forward_threads": threads.forward_threads,
        "backward_threads": threads.backward_threads,
        "queue_capacity": threads.queue_capacity,
    }


def run(threads: Threads, batches: int) -> Trace:
    return simulate(build(NAMES[threads.updates], **options(threads, batches)), workload(threads))


def workload(threads: Threads) -> Workload:
    if threads.uneven:
        return Workload("uneven", threads.uneven)
    ratio = threads.backward_s / threads.forward_s
    return Workload.even(threads.layers, threads.forward_s, ratio, threads.update_s)


def turn(threads: Threads) -> int:
    """Batches of one period."""
    return threads.backward_threads if threads.outrun else threads.forward_threads


def settled(threads: Threads) -> int:
    """Batches after which the steady state has come, and before the data run out again.

    A queue of outrun backward threads must have filled: Q and the threads' own batches, and as many
    again for the phases of the start, at `lead` in each batch.
    """
    size = threads.forward_threads + threads.backward_threads + (threads.queue_capacity or 0)
    lead = growth_per_batch(replace(threads, queue_capacity=None)) or Fraction(1)
    return 3 * size + ceil(2 * size / lead)


@st.composite
def laws(draw: st.DrawFn, *, bounded: bool = False) -> Threads:
    threads = Threads(
        layers=draw(st.integers(1, 4)),
        forward_threads=draw(st.integers(1, 4)),
        backward_threads=draw(st.integers(1, 5)),
        forward_s=Fraction(draw(st.integers(1, 3))),
        backward_s=draw(st.fractions(Fraction(1, 4), 8, max_denominator=4)),
        update_s=draw(st.sampled_from([Fraction(0), Fraction(1, 4), Fraction(1)])),
        queue_capacity=draw(st.sampled_from([1, 2, 5] if bounded else [None, 1, 2, 5])),
        updates=draw(st.sampled_from(["layer", "block"])),
    )
    assume(settled(threads) < 150)  # not so close to F / T = B / D that it takes long to settle
    if draw(st.booleans()):
        return replace(threads, uneven=draw(uneven_layers(threads)))
    return threads


@st.composite
def uneven_layers(draw: st.DrawFn, threads: Threads) -> tuple[Layer, ...]:
    """Layers whose shares of each time are 1 to 4 parts."""
    parts = st.lists(st.integers(1, 4), min_size=threads.layers, max_size=threads.layers)
    times = threads.forward_s, threads.backward_s, threads.update_s
    shares = [
        [time * Fraction(each, sum(drawn)) for each in drawn]
        for time in times
        for drawn in [draw(parts)]
    ]
    return tuple(Layer("", *of_layer) for of_layer in zip(*shares, strict=True))


def measured(threads: Threads) -> tuple[Trace, NDArray[np.int64]]:
    """A trace, and the numbers of the batches of some whole periods in its steady state."""
    whole, many = PERIODS * turn(threads), settled(threads)
    return run(threads, many + whole + settled(threads)), np.arange(many, many + whole)


def of_batch(trace: Trace, kind: str, column: str, block: int) -> NDArray[np.int64]:
    """A column of the spans of one block (or channel), in the order of the batches."""
    spans = trace.of_kind(kind)
    rows = np.sort(spans[spans["block"] == block], order="batch")
    found: NDArray[np.int64] = rows[column]
    return found


# Throughput: min(F / T, B / D), for every queue.


@some
@given(
    threads=laws(),
    shares=st.lists(st.integers(0, 3), min_size=1, max_size=3).filter(any),
)
def test_time_of_a_batch(threads: Threads, shares: list[int]) -> None:
    assume(threads.queue_capacity is not None or not threads.outrun)
    layers = tuple(  # uneven: only the sums matter
        Layer(
            "",
            threads.forward_s * Fraction(share, sum(shares)),
            threads.backward_s * Fraction(other, sum(shares)),
            threads.update_s / len(shares),
        )
        for share, other in zip(shares, reversed(shares), strict=True)
    )
    threads = replace(threads, layers=len(layers), uneven=())
    many, whole = settled(threads), PERIODS * turn(threads)
    schedule = build(NAMES[threads.updates], **options(threads, many + whole + 20))
    trace = simulate(schedule, Workload("uneven", layers))
    started = of_batch(trace, "receive", "start", trace.header.channels.index("losses"))
    length = int(started[many + whole] - started[many]) * trace.header.tick_s
    assert length / whole == batch_s(threads)


@some
@given(threads=laws(bounded=True), batches=st.integers(1, 25))
def test_a_bound_on_the_queue_delays_no_update(threads: Threads, batches: int) -> None:
    bounded = run(threads, batches)
    unbounded = run(replace(threads, queue_capacity=None), batches)
    assert makespan_s(bounded) == makespan_s(unbounded)
    for block in range(1, threads.layers + 1):
        landings = [gap_table(trace, block)["time"].tolist() for trace in (bounded, unbounded)]
        assert landings[0] == landings[1]
        gaps = [gap_table(trace, block)["gap"].sum() for trace in (bounded, unbounded)]
        assert gaps[0] <= gaps[1]


# Growth.


@some
@given(threads=laws())
def test_an_unbounded_queue_grows_if_the_forward_threads_are_faster(threads: Threads) -> None:
    threads = replace(threads, queue_capacity=None)
    growth = growth_per_batch(threads)
    assert (growth > 0) is threads.outrun
    # The window sees a growth of about four batches within a half of the batches.
    batches = 60 if not growth else 30 + ceil(12 * sum(turns(threads)) / growth)
    assume(batches < 700)
    found = measured_growth(run(threads, batches))
    assert found is None if growth == 0 else found == pytest.approx(float(growth), rel=1e-9)


def turns(threads: Threads) -> tuple[int, int]:
    return threads.forward_threads, threads.backward_threads


@pytest.mark.parametrize("updates", ["layer", "block"])
def test_gaps_of_an_outrun_unbounded_queue_grow_as_the_queue(
    updates: Literal["layer", "block"],
) -> None:
    # 1 - B T / (F D) more with each batch: 1 - 2 / 5 here, so 3 with every 5 batches.
    threads = Threads(2, 1, 2, Fraction(1), Fraction(5), updates=updates)
    assert growth_per_batch(threads) == Fraction(3, 5)
    assert mean_gap(threads, 1) is queue_length(threads) is batches_in_flight(threads, 1) is None
    assert held_bytes(threads, [1, 1]) is None
    for layer in (1, 2):
        rows = np.sort(gap_table(run(threads, 100), layer), order="batch")
        grown = rows["gap"][20:90:10]
        assert np.diff(grown).tolist() == [6] * 6


# Queue, memory and gap.


@some
@given(threads=laws())
def test_queue_length(threads: Threads) -> None:
    assume(queue_length(threads) is not None)
    trace, steady = measured(threads)
    channel = trace.header.channels.index("losses")
    waits = of_batch(trace, "receive", "start", channel) - of_batch(trace, "send", "end", channel)
    mean = int(waits[steady].sum()) * trace.header.tick_s / (len(steady) * batch_s(threads))
    assert mean == queue_length(threads)


@some
@given(threads=laws(bounded=True))
def test_the_queue_of_outrun_threads_is_full(threads: Threads) -> None:
    assume(threads.outrun)
    assert queue_length(threads) == threads.queue_capacity


@some
@given(threads=laws())
def test_mean_gap(threads: Threads) -> None:
    assume(mean_gap(threads, 1) is not None)
    trace, steady = measured(threads)
    for layer in range(1, threads.layers + 1):
        found = np.sort(gap_table(trace, layer), order="batch")["gap"][steady]
        assert Fraction(int(found.sum()), len(found)) == mean_gap(threads, layer)


@some
@given(threads=laws())
def test_memory_is_littles_law(threads: Threads) -> None:
    saved = [3, 1, 4, 1][: threads.layers]
    assume(held_bytes(threads, saved) is not None)
    trace, steady = measured(threads)
    received = of_batch(trace, "receive", "start", trace.header.channels.index("losses"))
    after = int(received[steady[0]])
    length = batch_s(threads) * len(steady) / trace.header.tick_s
    total = Fraction(0)
    for layer, size in enumerate(saved, 1):
        starts = of_batch(trace, "forward", "start", layer)
        ends = of_batch(trace, "backward", "end", layer)
        within = np.minimum(ends, after + int(length)) - np.maximum(starts, after)
        held = Fraction(int(within[within > 0].sum())) / length  # a time average
        assert held == batches_in_flight(threads, layer)
        total += held * size
    assert total == held_bytes(threads, saved)


# What the paper needs of B, and its F = 1.


@given(
    forward_threads=st.integers(1, 4),
    ratio=st.fractions(Fraction(1, 4), 4, max_denominator=4),
    update=st.sampled_from([Fraction(0), Fraction(1, 2)]),
)
def test_backward_threads_needed(forward_threads: int, ratio: Fraction, update: Fraction) -> None:
    for_pace, for_no_wait = backward_threads_needed(ratio, forward_threads, update)
    one = Fraction(1)
    for count in range(1, for_no_wait + 2):
        threads = Threads(1, forward_threads, count, one, ratio, update)
        assert (batch_s(threads) == one / forward_threads) is (count >= for_pace)
        assert (queue_length(threads) == 0) is (count >= for_no_wait)


@pytest.mark.parametrize("updates", ["layer", "block"])
def test_one_forward_thread_and_its_closed_forms(updates: Literal["layer", "block"]) -> None:
    # LU: ceil((beta (L-l+1) - (l-1)) / L), BU: ceil(beta - (l-1) / L), both at least 0.
    layers = 4
    for beta in (Fraction(1, 2), Fraction(1), Fraction(2), Fraction(5, 2)):
        needed, _ = backward_threads_needed(beta)
        threads = Threads(layers, 1, needed, Fraction(1), beta, updates=updates)
        for layer in range(1, layers + 1):
            above, below = layers - layer + 1, Fraction(layer - 1)
            behind = beta * above / layers if updates == "layer" else beta
            assert mean_gap(threads, layer) == max(0, ceil(behind - below / layers))


@pytest.mark.parametrize("queue_capacity", [None, 1])
def test_most_batches_in_flight_if_none_waits(queue_capacity: int | None) -> None:
    # F batches start together every T, and layer l holds each for whole and part multiples of T.
    threads = Threads(3, 2, 6, Fraction(1), Fraction(5, 2), queue_capacity=queue_capacity)
    assert queue_length(threads) == 0
    means = [batches_in_flight(threads, layer) for layer in (1, 2, 3)]
    assert means == [7, Fraction(14, 3), Fraction(7, 3)]
    most = [
        threads.forward_threads * ceil(mean / threads.forward_threads) for mean in means if mean
    ]
    assert list(peak_in_flight(run(threads, 40))) == most


def test_the_best_queue_is_the_shortest() -> None:
    # Smallest case: backward threads that are outrun, and each loss that waits adds one to the gap.
    for capacity in (1, 2, 7):
        threads = Threads(1, 1, 1, Fraction(1), Fraction(2), queue_capacity=capacity)
        assert mean_gap(threads, 1) == capacity + 1
        trace = run(threads, 40)
        assert steady_batch_s(trace) == batch_s(threads) == 2
        assert gap_table(trace, 1)["gap"][-10:].tolist() == [capacity + 1] * 10
