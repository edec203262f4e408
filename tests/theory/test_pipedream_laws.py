"""Pipelines without flush: paces, gaps and peaks, exact for any modules, windows and latencies.

K modules; f, b the seconds of a pass forward and backward in a module (of a micro-batch in 2BW), u
those of its update; w_k the window of module k, c = f + b.
"""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcore.cluster import Cluster
from simcore.engine import simulate
from simcore.errors import DeadlockError, InputError
from simcore.metrics import makespan_s, peak_in_flight, steady_batch_s
from simcore.ops import Forward, Update
from simcore.schedule import Schedule
from simcore.schedules import build
from simcore.schedules.chain import Chain
from simcore.schedules.windows import alternating, windows
from simcore.staleness import gap_table
from simcore.trace import KIND, Trace
from simcore.validate import validate
from simcore.workload import Layer, Workload

Times = tuple[int, int, int]  # forward, backward, update

few = settings(deadline=None, max_examples=25)
durations = st.integers(0, 6)
one_module = st.tuples(st.integers(1, 6), durations, durations)
some_modules = st.lists(one_module, min_size=1, max_size=4)
latencies = st.fractions(0, 4, max_denominator=2)


def run(name: str, times: list[Times], latency_s: Fraction | int = 0, **options: Any) -> Trace:
    schedule = build(name, modules=len(times), **options)
    m = schedule.micro_batches
    layers = (Layer("", Fraction(m * f), Fraction(m * b), Fraction(u)) for f, b, u in times)
    workload = Workload("uneven", tuple(layers))
    return simulate(schedule, workload, Cluster.private(latency_s))


def gaps_of(trace: Trace, block: int) -> list[int]:
    found: list[int] = gap_table(trace, block)["gap"].tolist()
    return found


# PipeDream. Its order is static: a graph of events, of which the slowest loop, time over batches,
# sets the pace. A loop turns from forward to backward in an upper module l, which takes it back by
# w_l - 1 batches, and from backward to forward in a lower one j, which takes it on by w_j. A loop
# with more turns has the times and the batches of several with two.


def pipedream_s(times: list[Times], own: tuple[int, ...], latency_s: Fraction | int) -> Fraction:
    def loop(j: int, top: int) -> Fraction:
        passes = sum(f + b for f, b, _ in times[j : top + 1])
        hops = 2 * latency_s * (top - j)
        return Fraction(passes + times[j][2] + hops) / (own[j] - own[top] + 1)

    return max(loop(j, top) for top in range(len(times)) for j in range(top + 1))


@few
@given(times=some_modules, latency_s=latencies, data=st.data())
def test_pace_of_pipedream(times: list[Times], latency_s: Fraction, data: st.DataObject) -> None:
    drawn = data.draw(st.lists(st.integers(1, 5), min_size=len(times), max_size=len(times)))
    in_flight = data.draw(st.sampled_from([None, tuple(sorted(drawn, reverse=True))]))
    own = windows(len(times), in_flight)
    trace = run("pipedream", times, latency_s, batches=80, in_flight=in_flight)
    assert steady_batch_s(trace) == float(pipedream_s(times, own, latency_s))


@few
@given(times=some_modules)
def test_pipedream_takes_its_slowest_module_if_links_are_free(times: list[Times]) -> None:
    trace = run("pipedream", times, batches=60)
    assert steady_batch_s(trace) == max(sum(each) for each in times)


@few
@given(times=one_module, modules=st.integers(1, 5), batches=st.integers(1, 8))
def test_even_pipedream(times: Times, modules: int, batches: int) -> None:
    f, b, u = times
    trace = run("pipedream", [times] * modules, batches=batches)
    assert makespan_s(trace) == batches * (f + b + u) + (modules - 1) * (f + b)


def test_pipedream_hides_half_an_update_of_latency() -> None:
    # Even modules: the update of the lower one of a pair overlaps the way of the gradient.
    for latency_s, expected in ((1, 4.0), (2, 5.0), (Fraction(3, 2), 4.5)):
        assert steady_batch_s(run("pipedream", [(1, 1, 2)] * 2, latency_s, batches=60)) == expected
    # From module 1 of four to module 4 there are three hops each way, and one update.
    assert steady_batch_s(run("pipedream", [(1, 1, 2)] * 4, 2, batches=80)) == (8 + 2 + 12) / 4
    # Steps of two between the windows hide it; equal windows hide nothing, but take turns.
    wider = run("pipedream", [(1, 1, 2)] * 4, 2, batches=80, in_flight=7)
    assert steady_batch_s(wider) == 4
    equal = run("pipedream", [(1, 1, 2)] * 4, 2, batches=80, in_flight=(4, 4, 4, 4))
    assert steady_batch_s(equal) == 8 + 2 + 12


@few
@given(times=some_modules, latency_s=latencies, data=st.data())
def test_gaps_of_pipedream(times: list[Times], latency_s: Fraction, data: st.DataObject) -> None:
    drawn = data.draw(st.lists(st.integers(1, 5), min_size=len(times), max_size=len(times)))
    in_flight = data.draw(st.sampled_from([None, tuple(sorted(drawn, reverse=True))]))
    trace = run("pipedream", times, latency_s, batches=12, in_flight=in_flight)
    own = windows(len(times), in_flight)
    for k, window in enumerate(own, 1):
        assert gaps_of(trace, k) == [min(t, window - 1) for t in range(12)]
    assert peak_in_flight(trace) == own


@few
@given(
    times=one_module,
    own=st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
)
def test_windows_that_grow_are_refused_and_would_deadlock(
    times: Times, own: tuple[int, ...]
) -> None:
    modules, chain = len(own), Chain.of(len(own))
    workers = chain.workers(lambda k: alternating(chain, k, own[k - 1], 8, 1))
    unchecked = Schedule(modules, 8, workers, name="by hand")
    if list(own) == sorted(own, reverse=True):
        validate(unchecked)
        for name in ("pipedream", "1f1b"):
            validate(build(name, modules=modules, batches=2, in_flight=own))
        return
    with pytest.raises(DeadlockError):
        validate(unchecked)
    for name in ("pipedream", "1f1b"):
        with pytest.raises(InputError, match="must not grow from a module to the next"):
            build(name, modules=modules, in_flight=own)


@pytest.mark.parametrize("name", ["pipedream", "1f1b", "async-1f1b"])
def test_windows_are_one_number_or_one_for_each_module(name: str) -> None:
    with pytest.raises(InputError) as caught:
        build(name, modules=3, in_flight=(2, 1))
    assert str(caught.value) == (
        "in_flight is '2,1': must be one number, or one for each of the 3 modules; give 3 numbers"
    )


@pytest.mark.parametrize(
    ("modules", "in_flight", "expected"),
    [
        (1, None, (1,)),
        (1, 5, (1,)),
        (3, None, (3, 2, 1)),
        (4, 4, (4, 3, 2, 1)),
        (4, 10, (10, 7, 4, 1)),
        (4, 2, (2, 2, 2, 1)),
        (3, 1, (1, 1, 1)),
        (3, (5, 5, 2), (5, 5, 2)),
    ],
)
def test_windows(modules: int, in_flight: Any, expected: tuple[int, ...]) -> None:
    assert windows(modules, in_flight) == expected


# PipeDream-2BW: the gap is 1 in every module, and no version but the newest two is ever read. The
# slowest way from an update of module l to its next one, m micro-batches on: up to a slower module
# i, where it stays, and down; or, after one turn in l, down to i, and up.


def two_buffered_s(times: list[Times], m: int) -> int:
    c = [f + b for f, b, _ in times]

    def way(lowest: int, i: int) -> int:
        if i >= lowest:
            return sum(c[lowest:i]) + (m - (i - lowest)) * c[i]
        return 2 * c[lowest] + sum(c[i + 1 : lowest]) + (m - (lowest - i) - 1) * c[i]

    every = range(len(times))
    return max(times[j][2] + way(j, i) for j in every for i in every if j - i <= m - 2 or i >= j)


@few
@given(
    times=st.lists(
        st.tuples(st.integers(1, 6), durations, st.integers(0, 12)), min_size=1, max_size=4
    ),
    more=st.integers(0, 4),
)
def test_pace_of_2bw(times: list[Times], more: int) -> None:
    m = len(times) + more
    trace = run("pipedream-2bw", times, batches=20, micro_batches=m)
    assert steady_batch_s(trace) == two_buffered_s(times, m)


@few
@given(times=one_module, modules=st.integers(1, 4), more=st.integers(0, 4))
def test_even_2bw(times: Times, modules: int, more: int) -> None:
    f, b, u = times
    m = modules + more
    trace = run("pipedream-2bw", [times] * modules, batches=12, micro_batches=m)
    assert steady_batch_s(trace) == m * (f + b) + u


def test_where_2bw_stops_to_take_its_slowest_module() -> None:
    # Module 1 updates as long as it computes, module 2 only computes: m = 2 micro-batches take 6
    # seconds in each. But after an update of module 1 its next micro-batch goes up, and module 2
    # computes two before the one that module 1 needs for its next update comes down: 2 + 2 + 3.
    times = [(1, 1, 2), (2, 1, 0)]
    slowest = max(2 * (f + b) + u for f, b, u in times)
    trace = run("pipedream-2bw", times, batches=20, micro_batches=2)
    assert slowest == 6
    assert steady_batch_s(trace) == 7


@few
@given(times=some_modules, latency_s=latencies, more=st.integers(0, 3))
def test_gaps_of_2bw(times: list[Times], latency_s: Fraction, more: int) -> None:
    m = len(times) + more
    trace = run("pipedream-2bw", times, latency_s, batches=5, micro_batches=m)
    for k in range(1, len(times) + 1):
        assert gaps_of(trace, k) == [0] * m + [1] * (4 * m)
        # Nobody reads version v any more once version v + 2 is there.
        newest = 0
        for row in trace.spans[trace.spans["worker"] == k - 1]:
            if row["kind"] == KIND["update"]:
                newest += 1
            elif row["kind"] in (KIND["forward"], KIND["backward"]):
                assert newest - 1 <= row["version"] <= newest


def test_2bw_needs_as_many_micro_batches_as_modules() -> None:
    with pytest.raises(InputError) as caught:
        build("pipedream-2bw", modules=4, micro_batches=3)
    assert str(caught.value) == (
        "micro_batches is 3: must be at least the 4 modules, as the paper asks; "
        "give more micro-batches or fewer modules"
    )


@pytest.mark.parametrize("modules", [3, 4, 6])
def test_two_versions_are_enough_for_one_micro_batch_less(modules: int) -> None:
    # The paper asks for m >= K. Module 1 is the one that waits longest for its gradients: its n-th
    # pass reads version max(0, n // m - 1), which is there for m = K - 1, and not for K - 2.
    assert reads_what_is_there(modules, parts=modules)
    assert reads_what_is_there(modules, parts=modules - 1)
    assert not reads_what_is_there(modules, parts=modules - 2)


def reads_what_is_there(modules: int, parts: int) -> bool:
    versions = passes = 0
    for operation in alternating(Chain.of(modules), 1, modules, 5 * parts, per_update=parts):
        if isinstance(operation, Forward):
            if versions < passes // parts - 1:
                return False
            passes += 1
        versions += isinstance(operation, Update)
    return passes == 5 * parts


# 1F1B as it comes.


@few
@given(times=some_modules, latency_s=latencies, data=st.data())
def test_windows_bound_1f1b_as_it_comes(
    times: list[Times], latency_s: Fraction, data: st.DataObject
) -> None:
    own = tuple(data.draw(st.lists(st.integers(1, 5), min_size=len(times), max_size=len(times))))
    trace = run("async-1f1b", times, latency_s, batches=60, in_flight=own)
    for k, window in enumerate(own, 1):
        at_most = 0 if k == len(own) else min(own[:k]) - 1
        assert max(gaps_of(trace, k)) <= at_most < window
    held = peak_in_flight(trace)
    assert list(held) == sorted(held, reverse=True)
    assert all(most <= window for most, window in zip(held, own, strict=True))
    # No faster than its slowest module, nor than one batch after another through each window.
    for k, window in enumerate(own):
        around = sum(f + b for f, b, _ in times[k:]) + times[k][2]
        around_s = around + 2 * latency_s * (len(own) - 1 - k)
        assert makespan_s(trace) >= around_s * (60 // window)
    assert makespan_s(trace) >= 60 * max(sum(each) for each in times)


@pytest.mark.parametrize("modules", [1, 2, 4])
def test_even_1f1b_as_it_comes_is_pipedream(modules: int) -> None:
    static, adaptive = (
        run(name, [(1, 2, 1)] * modules, batches=20) for name in ("pipedream", "async-1f1b")
    )
    assert makespan_s(adaptive) == makespan_s(static)
    for k in range(1, modules + 1):
        assert gaps_of(adaptive, k) == gaps_of(static, k)


def test_wide_windows_hide_any_latency_only_if_no_order_is_fixed() -> None:
    # Equal windows: PipeDream's static order then takes turns, one batch at a time.
    options: dict[str, Any] = {"batches": 100, "in_flight": (8, 8)}
    assert steady_batch_s(run("pipedream", [(1, 1, 1)] * 2, 5, **options)) == 2 * 2 + 1 + 2 * 5
    assert steady_batch_s(run("async-1f1b", [(1, 1, 1)] * 2, 5, **options)) == 3
    assert steady_batch_s(run("pipedream", [(1, 1, 1)] * 2, 5, batches=100, in_flight=8)) == 3


def test_1f1b_as_it_comes_uses_the_weights_that_it_finds() -> None:
    trace = run("async-1f1b", [(1, 1, 1)] * 2, batches=20)
    rows = trace.gradients
    assert (rows["version_backward"] == rows["version_applied"]).all()
    stashed = run("pipedream", [(1, 1, 1)] * 2, batches=20).gradients
    assert (stashed["version_backward"] == stashed["version_forward"]).all()
