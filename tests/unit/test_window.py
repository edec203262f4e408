from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcore.engine import simulate
from simcore.schedules import SCHEDULES, build
from simcore.trace import Trace
from simcore.window import (
    finish_times,
    growth_per_batch,
    mean_interval,
    steady_window,
    take_times,
)
from simcore.workload import Workload


def run(
    name: str, blocks: int = 2, ratio: Fraction | int = 2, update: int = 0, **options: Any
) -> Trace:
    options[SCHEDULES[name].blocks_option] = blocks
    return simulate(build(name, **options), Workload.even(blocks, blocks, ratio, blocks * update))


def test_batches_are_taken_and_finished_in_the_order_of_time() -> None:
    # 1 tick forward and 2 backward for each of 2 layers; two backward threads.
    trace = run("async-lu", batches=3)
    assert take_times(trace).tolist() == [0, 2, 4]
    assert finish_times(trace).tolist() == [6, 8, 10]
    assert finish_times(run("bp", batches=2)).tolist() == [6, 12]


def test_the_steady_window() -> None:
    # Batch 1 is the first that bp reads at version 1; its last update is at 12, and the last of 5
    # batches is taken at 24.
    assert steady_window(run("bp", batches=5)) == (12, 24)
    # Of 4 batches the last is taken at 18, when batch 2 updates; of 3 batches, at 12 already.
    assert steady_window(run("bp", batches=4)) == (12, 18)
    assert steady_window(run("bp", batches=3)) is None
    # Layer-wise, layer 2 has landed before batch 2 reads it at 5, layer 1 before batch 3 reads it
    # at 6; batch 3 updates layer 1 at 12, and the last batch is taken at 38.
    assert steady_window(run("async-lu", batches=20)) == (12, 38)


@pytest.mark.parametrize("name", ["bp", "fdg", "adl", "async-lu"])
def test_the_window_is_empty_while_there_are_few_batches(name: str) -> None:
    assert steady_window(run(name, batches=1)) is None
    assert steady_window(run(name, batches=2)) is None
    assert steady_window(run(name, batches=20)) is not None


# Growth: with T = 1 batches come at F a second and leave at B / beta a second at most.


@pytest.mark.parametrize(
    ("ahead", "behind", "beta"),
    [(1, 1, 2), (1, 2, 3), (1, 1, 10), (2, 3, 2), (3, 2, 1), (1, 3, Fraction(7, 2))],
)
def test_growth_where_backward_threads_are_too_few(
    ahead: int, behind: int, beta: Fraction | int
) -> None:
    trace = run("async-lu", 3, beta, batches=150, forward_threads=ahead, backward_threads=behind)
    assert growth_per_batch(trace) == float(1 - behind / (ahead * Fraction(beta)))
    assert steady_window(trace) is None


@pytest.mark.parametrize(
    ("ahead", "behind", "beta"),
    [(1, 2, 2), (1, 1, 1), (1, 3, 2), (2, 3, Fraction(3, 2)), (2, 4, 2), (3, 5, Fraction(5, 3))],
)
def test_no_growth_where_backward_threads_suffice(
    ahead: int, behind: int, beta: Fraction | int
) -> None:
    trace = run("async-bu", 3, beta, batches=150, forward_threads=ahead, backward_threads=behind)
    assert growth_per_batch(trace) is None
    assert steady_window(trace) is not None


def test_a_bounded_queue_does_not_grow_once_it_is_full() -> None:
    full = run("async-lu", 2, 2, batches=100, backward_threads=1, queue_capacity=3)
    assert growth_per_batch(full) is None
    assert steady_window(full) is not None
    # While it fills, its trace is that of a queue that grows.
    filling = run("async-lu", 2, 2, batches=100, backward_threads=1, queue_capacity=80)
    assert growth_per_batch(filling) == 0.5


@pytest.mark.parametrize("capacity", range(0, 60, 3))
def test_a_queue_that_fills_is_growing_or_bounded(capacity: int) -> None:
    # It holds one batch more with every second one taken, until it is full.
    trace = run("async-lu", 2, 2, batches=100, backward_threads=1, queue_capacity=capacity + 1)
    growth = growth_per_batch(trace)
    if capacity <= 20:
        assert growth is None
    if capacity >= 48:
        assert growth == 0.5
    assert growth is None or 0 < growth <= 0.5
    assert (growth is None) == (steady_window(trace) is not None)


def test_growth_when_nothing_more_is_finished() -> None:
    assert growth_per_batch(run("async-lu", 2, 60, batches=100, backward_threads=1)) == 1.0
    # Before the first batch is finished, nobody can say.
    assert growth_per_batch(run("async-lu", 2, 60, batches=50, backward_threads=1)) is None


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(["fdg", "adl", "bp"]),
    blocks=st.integers(1, 4),
    batches=st.integers(1, 60),
    ratio=st.fractions(0, 4, max_denominator=3),
)
def test_pipelines_never_grow(name: str, blocks: int, batches: int, ratio: Fraction) -> None:
    assert growth_per_batch(run(name, blocks, ratio, 1, batches=batches)) is None


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_jitter_alone_is_no_growth(seed: int) -> None:
    schedule = build("async-lu", layers=1, batches=100, backward_threads=3)
    trace = simulate(schedule, Workload.even(1), jitter=0.3, seed=seed)
    assert growth_per_batch(trace) is None


# Mean intervals


@settings(deadline=None)
@given(
    pattern=st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any),
    start=st.lists(st.integers(0, 9), max_size=6),
    cut=st.integers(0, 3),
)
def test_the_mean_of_a_periodic_regime_is_exact(
    pattern: list[int], start: list[int], cut: int
) -> None:
    repeated = pattern * 12
    times = np.cumsum([0, *start, *repeated[: len(repeated) - cut]])
    assert mean_interval(times) == Fraction(sum(pattern), len(pattern))


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([], None),
        ([5], None),
        ([5, 5], None),
        ([5, 8], 3),
        ([5, 5, 5, 9, 9, 9], Fraction(4, 3)),
        ([0, 1, 3, 7, 15], Fraction(15, 4)),
        ([0, 7, 7, 7, 7], Fraction(7, 4)),  # its second half alone would say 0
    ],
)
def test_the_mean_interval_otherwise(times: list[int], expected: Fraction | None) -> None:
    assert mean_interval(np.array(times, np.int64)) == expected
