"""Backpropagation without the weights: times, gaps and lockings, against closed forms.

F_k is the forward time of module k of K, C_k that of its projection, backward pass and update; d is
the latency of every link, N the number of batches.
"""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcore.cluster import Cluster
from simcore.engine import simulate
from simcore.invariants import check_trace
from simcore.metrics import makespan_s, peak_in_flight, steady_batch_s
from simcore.ops import BackwardStop, Estimate, Feedback, ForwardError, Pass
from simcore.schedules import SCHEDULES, build
from simcore.trace import Trace
from simcore.validate import validate
from simcore.window import growth_per_batch
from simcore.workload import Layer, Workload

Times = tuple[int, int, int, int]  # forward, projection, backward, update

few = settings(deadline=None, max_examples=30)
durations = st.integers(0, 6)
any_modules = st.lists(
    st.tuples(durations, durations, durations, durations), min_size=1, max_size=4
)
latencies = st.fractions(0, 8, max_denominator=2)
counts = st.integers(1, 6)
directly = pytest.mark.parametrize("name", ["dfa", "sdfa"])


def run(name: str, times: list[Times], latency_s: Fraction | int = 0, **options: Any) -> Trace:
    layers = tuple(
        Layer("", Fraction(f), Fraction(b), Fraction(u), auxiliary_s=Fraction(a))
        for f, a, b, u in times
    )
    schedule = build(name, modules=len(times), **options)
    trace = simulate(schedule, Workload("uneven", layers), Cluster.private(latency_s))
    check_trace(schedule, trace)
    return trace


def learn(times: list[Times]) -> list[int]:
    """C_k of each module; the last one needs no projection, its gradient comes from the loss."""
    last = len(times) - 1
    return [(k < last) * a + b + u for k, (_, a, b, u) in enumerate(times)]


# Gaps are 0 in all of them, and no module ever holds more than one batch, always.


@few
@given(
    times=any_modules,
    batches=counts,
    latency_s=latencies,
    name=st.sampled_from(["fa", "dfa", "sdfa", "drtp"]),
)
def test_gaps_and_memory(times: list[Times], batches: int, latency_s: Fraction, name: str) -> None:
    trace = run(name, times, latency_s, batches=batches)
    rows = trace.gradients
    assert (rows["version_applied"] == rows["version_forward"]).all()
    assert peak_in_flight(trace) == (1,) * len(times)


# FA: what backpropagation does and when, through other weights.


@few
@given(times=any_modules, batches=counts)
def test_feedback_alignment_is_backpropagation_in_time(times: list[Times], batches: int) -> None:
    one, other = (run(name, times, batches=batches) for name in ("bp", "fa"))
    np.testing.assert_array_equal(one.spans, other.spans)
    assert makespan_s(other) == batches * sum(f + b + u for f, _, b, u in times)
    assert build("fa").weights.feedback == "random"
    assert build("bp").weights.feedback == "weights"


# DFA and sDFA: T + (N - 1) X + max C_k, X = max over k of (F_k + ... + F_K + C_k); hops add their
# latencies. Always: module k goes on when it has learned.


@directly
@few
@given(times=any_modules, batches=counts, latency_s=latencies)
def test_direct_feedback_makespan(
    name: str, times: list[Times], batches: int, latency_s: Fraction
) -> None:
    trace = run(name, times, latency_s, batches=batches)
    last = len(times) - 1
    after = [each + (k < last) * latency_s for k, each in enumerate(learn(times))]
    forward = [sum(f for f, *_ in times[k:]) + (last - k) * latency_s for k in range(last + 1)]
    batch = max(f + each for f, each in zip(forward, after, strict=True))
    assert makespan_s(trace) == float(forward[0] + (batches - 1) * batch + max(after))


@directly
def test_even_modules_learn_at_once(name: str) -> None:
    # T + (beta T + U) / K: DDG's law, without its gaps. Here T = 4, beta = 2, U = 4, K = 4.
    assert steady_batch_s(run(name, [(1, 0, 2, 1)] * 4, batches=20)) == 4 + (8 + 4) / 4
    # A projection of 1 s in each module, and none in the last, is waited for as well.
    assert steady_batch_s(run(name, [(1, 1, 2, 1)] * 4, batches=20)) == 4 + (4 + 8 + 4) / 4


# DRTP: nothing comes back, so that a batch takes max c_k and no latency costs anything.


@few
@given(times=any_modules, batches=counts, latency_s=latencies)
def test_target_projection_makespan(times: list[Times], batches: int, latency_s: Fraction) -> None:
    trace = run("drtp", times, latency_s, batches=batches)
    after = learn(times)
    whole = [f + each for (f, *_), each in zip(times, after, strict=True)]
    expected = max(
        sum(f for f, *_ in times[: k + 1])
        + (batches - 1) * max(whole[: k + 1])
        + after[k]
        + k * latency_s
        for k in range(len(times))
    )
    assert makespan_s(trace) == float(expected)


@pytest.mark.parametrize("latency_s", [0, 3])
def test_target_projection_takes_its_slowest_module(latency_s: int) -> None:
    trace = run("drtp", [(1, 1, 2, 1), (1, 0, 1, 1), (1, 0, 2, 1)], latency_s, batches=40)
    assert steady_batch_s(trace) == 5
    assert growth_per_batch(trace) is None


def test_faster_modules_run_away_from_slower_ones_above() -> None:
    # Module 1 takes a batch every 3 s and module 2 one every 4 s: of four, one is left over.
    trace = run("drtp", [(1, 0, 1, 1), (1, 0, 2, 1)], batches=60)
    assert steady_batch_s(trace) is None
    assert growth_per_batch(trace) == 0.25


# Lockings. Backward: a module learns before those above it have. Update: a module learns before
# those above it have gone forward.


def starts(trace: Trace, kind: str) -> dict[tuple[int, int], int]:
    rows = trace.of_kind(kind)
    return {(int(r["block"]), int(r["batch"])): int(r["start"]) for r in rows}


def ends(trace: Trace, kind: str) -> dict[tuple[int, int], int]:
    rows = trace.of_kind(kind)
    return {(int(r["block"]), int(r["batch"])): int(r["end"]) for r in rows}


@pytest.mark.parametrize(
    ("name", "backward", "update"),
    [("fa", False, False), ("dfa", True, False), ("sdfa", True, False), ("drtp", True, True)],
)
def test_lockings_that_are_broken(name: str, backward: bool, update: bool) -> None:
    # Backward passes of upper modules take longer than those of lower ones, so that these could
    # begin first.
    trace = run(name, [(2, 1, 2, 1), (2, 1, 6, 1), (2, 1, 9, 1)], batches=4)
    begun, done = starts(trace, "backward"), ends(trace, "backward")
    passed = ends(trace, "forward")
    pairs = [(k, batch) for k in (1, 2) for batch in range(4)]
    assert backward == any(begun[k, batch] < done[k + 1, batch] for k, batch in pairs)
    assert update == any(begun[k, batch] < passed[3, batch] for k, batch in pairs)
    said = SCHEDULES[name].lockings_broken
    assert ("backward" in said, "update" in said) == (backward, update)


# What modules do, beyond what a trace shows.


@pytest.mark.parametrize(
    ("name", "guess", "feedback"),
    [("dfa", Feedback, "error"), ("sdfa", Feedback, "sign"), ("drtp", Estimate, "target")],
)
def test_modules_guess_their_gradients(name: str, guess: type[Pass], feedback: str) -> None:
    schedule = build(name, modules=3, batches=1)
    assert schedule.weights.feedback == feedback
    assert validate(schedule).conclusive
    done = [[type(op) for op in worker.program()] for worker in schedule.workers]
    for module in done[:-1]:
        assert module.index(guess) < module.index(BackwardStop)
    assert guess not in done[-1]
    assert (ForwardError in done[-1]) == (guess is Feedback)


def test_errors_are_as_large_as_the_output() -> None:
    layers = (Layer("", Fraction(1), Fraction(1), activation_bytes=100),) * 2
    layers += (Layer("", Fraction(1), Fraction(1), activation_bytes=10),)
    schedule = build("dfa", modules=3, batches=1)
    trace = simulate(schedule, Workload("sizes", layers), Cluster.private(0, 10))
    # Up: 1 + 10 + 1 + 10 + 1 s; then the error takes 1 s on each of two wires, and modules 1 s.
    assert makespan_s(trace) == 23 + 1 + 1
