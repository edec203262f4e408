"""AsyncFGD, also over the time steps of sequences: times, gaps and lockings.

Letters as in `tests.theory.forward_gradients`.
"""

from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simcore.metrics import makespan_s, peak_in_flight, steady_batch_s
from simcore.ops import TangentStep
from simcore.schedules import build
from tests.theory.forward_gradients import (
    Times,
    durations,
    few,
    gaps_are,
    latencies,
    learn,
    modules_times,
    run,
)

# AsyncFGD: gap K-k, min(t, K-k) for batch t, and K-k+1 directions at most, whatever the times.


@few
@given(
    times=modules_times,
    latency_s=latencies,
    batches=st.integers(1, 10),
    lockstep=st.booleans(),
)
def test_asyncfgd_gaps_and_directions(
    times: list[Times], latency_s: Fraction, batches: int, lockstep: bool
) -> None:
    modules = len(times)
    trace = run("asyncfgd", times, latency_s, batches=batches, lockstep=lockstep)
    assert gaps_are(trace, [modules - k for k in range(1, modules + 1)])
    kept = peak_in_flight(trace)
    assert kept == tuple(min(batches, modules - k + 1) for k in range(1, modules + 1))


# AsyncFGD: seconds per batch. In module k, step s ends at R_k(s); A_k(s) is the end of its forward
# pass. Both come at timestamp s + k, and what they wait for is: A_k(s) for R_k(s - 1), one
# timestamp before, and for A_(k-1)(s), one before and d; R_k(s) for A_k(s), and for A_K(s - (K-k)),
# at the same timestamp and d. The loops are those within a module, T_k + P_k + U_k in one
# timestamp, and from the last one down to k and up again, in K - k + 1 of them.


def asyncfgd_s(times: list[Times], latency_s: Fraction) -> Fraction:
    within = [sum(map(Fraction, each)) for each in times]
    around = [
        (sum(Fraction(t) for t, _, _ in times[k:]) + each) / (len(times) - k) + latency_s
        for k, each in enumerate(learn(times)[:-1])
    ]
    return Fraction(max([*within, *around]))


@few
@given(times=modules_times, latency_s=latencies)
def test_asyncfgd_seconds_per_batch(times: list[Times], latency_s: Fraction) -> None:
    trace = run("asyncfgd", times, latency_s, batches=90)
    assert steady_batch_s(trace) == float(asyncfgd_s(times, latency_s))


@few
@given(times=modules_times)
def test_free_links_cost_asyncfgd_its_slowest_module(times: list[Times]) -> None:
    assert asyncfgd_s(times, Fraction(0)) == max(sum(map(Fraction, each)) for each in times)


@pytest.mark.parametrize("modules", [2, 3, 5])
@pytest.mark.parametrize("latency_s", [0, Fraction(1, 2), Fraction(3, 4), 1, 4])
def test_even_asyncfgd_hides_half_of_what_learning_takes(
    modules: int, latency_s: Fraction | int
) -> None:
    tangent, project, update = 3, Fraction(1, 2), 1
    trace = run("asyncfgd", [(tangent, project, update)] * modules, latency_s, batches=60)
    free = tangent + project + update
    assert steady_batch_s(trace) == free + max(0, latency_s - (project + update) / 2)


def test_where_asyncfgd_stops_to_hide_latency() -> None:
    # The smallest case: two equal modules whose updates take no time, and any latency at all.
    trace = run("asyncfgd", [(1, 0, 0)] * 2, Fraction(1, 100), batches=40)
    assert steady_batch_s(trace) == 1.01


@few
@given(
    module=st.tuples(st.integers(1, 6), durations, durations),
    modules=st.integers(1, 5),
    batches=st.integers(1, 8),
    lockstep=st.booleans(),
)
def test_asyncfgd_makespan_of_even_modules(
    module: Times, modules: int, batches: int, lockstep: bool
) -> None:
    # "N batches in N + K - 1 steps" of (T + P + U) / K each: the first K - 1 take only T / K.
    trace = run("asyncfgd", [module] * modules, batches=batches, lockstep=lockstep)
    tangent, project, update = module
    assert makespan_s(trace) == (batches + modules - 1) * tangent + batches * (project + update)


@few
@given(module=st.tuples(durations, durations, durations), batches=st.integers(1, 6))
def test_one_asyncfgd_module_is_fgd(module: Times, batches: int) -> None:
    # "When K = 1 the AsyncFGD is reduced to vanilla FGD": no delay, and no speedup either.
    one, other = (run(name, [module], batches=batches) for name in ("asyncfgd", "fgd"))
    assert makespan_s(one) == makespan_s(other) == batches * sum(module)
    np.testing.assert_array_equal(one.gradients, other.gradients)


# The paper's clock: N + K - 1 steps, and each takes as long as the module that is last to learn,
# which waits for the last module within the step.


@few
@given(times=modules_times, batches=st.integers(1, 6))
def test_lockstep_makespan(times: list[Times], batches: int) -> None:
    modules = len(times)
    trace = run("asyncfgd", times, batches=batches, lockstep=True)
    expected = Fraction(0)
    for timestamp in range(batches + modules - 1):
        active = [k for k in range(modules) if 0 <= timestamp - k < batches]
        tangents = {k: times[k][0] for k in active}
        if timestamp < modules - 1:
            expected += max(tangents.values())
        else:
            scalar = tangents[modules - 1]
            learned = enumerate(learn(times))
            expected += max(max(tangents.get(k, 0), scalar) + each for k, each in learned)
    assert makespan_s(trace) == expected
    joins = trace.of_kind("join")
    for worker in range(modules):
        assert (joins["worker"] == worker).sum() == batches + modules - 1


@pytest.mark.parametrize("latency_s", [0, Fraction(1, 2), 3])
def test_lockstep_pays_every_latency(latency_s: Fraction | int) -> None:
    trace = run("asyncfgd", [(2, 0, 1)] * 3, latency_s, batches=40, lockstep=True)
    assert steady_batch_s(trace) == 3 + latency_s


def test_a_module_that_learns_slowly_costs_more_under_the_clock() -> None:
    # Module 1 takes 2 s to learn, module 2 takes 2 s to go forward: 2 s a batch each, but within
    # one step they come after each other.
    times: list[Times] = [(0, 0, 2), (2, 0, 0)]
    assert steady_batch_s(run("asyncfgd", times, batches=40)) == 2
    assert steady_batch_s(run("asyncfgd", times, batches=40, lockstep=True)) == 4


# Lockings: under AsyncFGD modules go forward at the same time, under FGD-MP never.


def test_only_asyncfgd_goes_forward_in_several_modules_at_once() -> None:
    even: list[Times] = [(2, 0, 1)] * 3
    for name, most in (("fgd-mp", 1), ("asyncfgd", 3)):
        rows = run(name, even, batches=8).of_kind("tangent")
        together = [((rows["start"] <= t) & (rows["end"] > t)).sum() for t in rows["start"]]
        assert max(together) == most


# Recursive: sequences of n steps. Lag and gap are ceil((K-k) / n) sequences, whatever the times,
# and all steps of a sequence read the same weights.


@few
@given(
    times=modules_times,
    latency_s=latencies,
    batches=st.integers(1, 6),
    time_steps=st.integers(1, 4),
)
def test_recursive_gaps(
    times: list[Times], latency_s: Fraction, batches: int, time_steps: int
) -> None:
    modules = len(times)
    options = {"batches": batches, "time_steps": time_steps}
    trace = run("asyncfgd-recursive", times, latency_s, **options)
    assert gaps_are(trace, [ceil((modules - k) / time_steps) for k in range(1, modules + 1)])
    assert len(trace.of_kind("update")) == modules * batches
    rows = trace.of_kind("tangent")
    for sequence in range(batches):
        of_sequence = rows[rows["batch"] // time_steps == sequence]
        for k in range(1, modules + 1):
            assert len(np.unique(of_sequence["version"][of_sequence["block"] == k])) == 1


@few
@given(times=modules_times, latency_s=latencies, batches=st.integers(1, 8))
def test_sequences_of_one_step_are_those_of_asyncfgd(
    times: list[Times], latency_s: Fraction, batches: int
) -> None:
    one = run("asyncfgd", times, latency_s, batches=batches)
    other = run("asyncfgd-recursive", times, latency_s, batches=batches, time_steps=1)
    np.testing.assert_array_equal(one.spans, other.spans)
    np.testing.assert_array_equal(one.gradients, other.gradients)


def recursive_s(
    module: Times, modules: int, time_steps: int, latency_s: Fraction | int
) -> Fraction:
    """Seconds per mini-batch of sequences, for even modules; with latency only for P = 0.

    The loop from the last module down by r and up again goes through r + n time steps and one end
    of a sequence, in 1 + ceil(r / n) sequences.
    """
    tangent, project, update = map(Fraction, module)
    found = [tangent + project + update]
    for r in range(1, modules):
        once = tangent * (time_steps + r) / time_steps + update + (r + 1) * latency_s
        found.append(once / (1 + ceil(Fraction(r, time_steps))))
    return max(found)


@few
@given(
    module=st.tuples(st.integers(1, 6), durations, durations),
    modules=st.integers(1, 4),
    time_steps=st.integers(1, 5),
    latency_s=st.just(Fraction(0)) | latencies,
)
def test_recursive_seconds_per_sequence(
    module: Times, modules: int, time_steps: int, latency_s: Fraction
) -> None:
    if latency_s:
        module = (module[0], 0, module[2])
    options = {"batches": 40, "time_steps": time_steps}
    trace = run("asyncfgd-recursive", [module] * modules, latency_s, **options)
    expected = recursive_s(module, modules, time_steps, latency_s)
    assert steady_batch_s(trace) == pytest.approx(float(expected), rel=1e-12)
    assert recursive_s(module, modules, time_steps, 0) == sum(map(Fraction, module))


def test_uneven_recursive_modules_may_take_more_than_the_slowest() -> None:
    # Module 1 only learns, 4 s a sequence; the others only go forward, 2 s a step: 4 s each. But
    # from module 1 up and back to it are 4 + (2 + 2 + 2) s in two sequences.
    times: list[Times] = [(0, 0, 4), (4, 0, 0), (4, 0, 0)]
    trace = run("asyncfgd-recursive", times, batches=40, time_steps=2)
    assert steady_batch_s(trace) == 5


def test_time_steps_are_told_from_other_passes() -> None:
    schedule = build("asyncfgd-recursive", modules=2, batches=1, time_steps=3)
    operations = list(schedule.workers[0].program())[:2]
    assert type(operations[1]) is TangentStep
    assert (schedule.batches, schedule.micro_batches, schedule.weights.reduce) == (3, 3, "sum")
