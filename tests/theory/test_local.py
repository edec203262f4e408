"""DGL and DNI: closed forms, computed here and compared with the simulator.

Times of a module: forward, backward, update, auxiliary (a local loss, or a guess of a gradient, or
learning to guess); the last module has no auxiliary work. All times are exact.
"""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcore.cluster import Cluster
from simcore.engine import simulate
from simcore.metrics import makespan_s, peak_in_flight, steady_batch_s
from simcore.schedules import SCHEDULES, build
from simcore.trace import Trace
from simcore.window import growth_per_batch
from simcore.workload import Layer, Workload

Times = tuple[int, int, int, int]  # forward, backward, update, auxiliary

few = settings(deadline=None, max_examples=20)
durations = st.integers(0, 6)
modules_times = st.lists(
    st.tuples(st.integers(1, 6), durations, durations, durations), min_size=1, max_size=4
)
latencies = st.fractions(0, 8, max_denominator=2)
LOCAL = ("dgl", "dni")


def run(name: str, times: list[Times], latency_s: Fraction | int = 0, batches: int = 12) -> Trace:
    layers = tuple(
        Layer("", Fraction(f), Fraction(b), Fraction(u), auxiliary_s=Fraction(a))
        for f, b, u, a in times
    )
    schedule = build(name, modules=len(times), batches=batches)
    return simulate(schedule, Workload("uneven", layers), Cluster.private(latency_s))


def spans(trace: Trace, kind: str, k: int) -> list[tuple[Fraction, Fraction]]:
    """Start and end, in seconds, of each operation of a kind in module k, in its order."""
    rows = trace.of_kind(kind)
    tick_s = trace.header.tick_s
    own = rows[rows["block"] == k]
    return [(int(row["start"]) * tick_s, int(row["end"]) * tick_s) for row in own]


def auxiliary(times: list[Times], k: int) -> int:
    return times[k - 1][3] if k < len(times) else 0


# DGL: a line of queues in which a batch goes on before its service ends, c = forward + auxiliary +
# backward + update. Batch b starts in module k once it has come up and batch b - 1 is done with.


def starts_of_dgl(times: list[Times], latency: Fraction, batches: int) -> list[list[Fraction]]:
    came = [Fraction(0)] * batches
    found = []
    for k, (forward, backward, update, _) in enumerate(times, 1):
        free, own = Fraction(0), []
        for batch in range(batches):
            own.append(max(came[batch], free))
            free = own[-1] + forward + auxiliary(times, k) + backward + update
        found.append(own)
        came = [start + forward + latency for start in own]
    return found


@few
@given(times=modules_times, latency=latencies)
def test_every_start_of_dgl(times: list[Times], latency: Fraction) -> None:
    trace = run("dgl", times, latency)
    starts = starts_of_dgl(times, latency, 12)
    for k in range(1, len(times) + 1):
        assert [start for start, _ in spans(trace, "forward", k)] == starts[k - 1]


@few
@given(times=modules_times, latency=latencies)
def test_dgl_takes_its_slowest_module_or_grows(times: list[Times], latency: Fraction) -> None:
    costs = [sum(each[:3]) + auxiliary(times, k) for k, each in enumerate(times, 1)]
    trace = run("dgl", times, latency, batches=80)
    # Nothing holds the first module back: what it takes on more than others can finish, waits.
    if max(costs) == costs[0]:
        assert steady_batch_s(trace) == costs[0]
        assert growth_per_batch(trace) is None
    elif Fraction(costs[0], max(costs)) < Fraction(4, 5):
        assert steady_batch_s(trace) is None
        assert growth_per_batch(trace) == float(1 - Fraction(costs[0], max(costs)))
    done = [end for k in range(1, len(times) + 1) for _, end in spans(trace, "update", k)]
    assert makespan_s(trace) == max(done)


@pytest.mark.parametrize("modules", [2, 3, 5])
def test_even_dgl(modules: int) -> None:
    # N batches: the last leaves module K-1 at (K-1) f + (N-1) c, and is learnt from once more.
    forward, backward, update, aside = 2, 3, 1, 1
    c, batches = forward + backward + update + aside, 7
    trace = run("dgl", [(forward, backward, update, aside)] * modules, batches=batches)
    last = (modules - 1) * forward + forward + backward + update
    assert makespan_s(trace) == (batches - 1) * c + last
    assert steady_batch_s(run("dgl", [(2, 3, 1, 1)] * modules, batches=40)) == c


# DNI: c = forward + 2 auxiliary + backward + update. Module k takes batch b + 2 once it has learnt
# from what batch b gave in module k + 1, so that a hop up and down spans two batches.


def slowest_of_dni(times: list[Times], latency: Fraction) -> Fraction:
    modules = len(times)
    found = []
    for k, (forward, backward, update, _) in enumerate(times, 1):
        own = auxiliary(times, k)
        found.append(Fraction(forward + 2 * own + backward + update))
        if k < modules:
            above = times[k][0] + auxiliary(times, k + 1) + times[k][1]
            found.append((forward + own + above + 2 * latency) / 2)
    return max(found)


@few
@given(times=modules_times, latency=latencies)
def test_dni_takes_its_slowest_module_or_hop(times: list[Times], latency: Fraction) -> None:
    trace = run("dni", times, latency, batches=80)
    assert steady_batch_s(trace) == float(slowest_of_dni(times, latency))


@few
@given(times=modules_times)
def test_dni_takes_its_slowest_module_if_links_are_free(times: list[Times]) -> None:
    costs = [sum(each[:3]) + 2 * auxiliary(times, k) for k, each in enumerate(times, 1)]
    assert steady_batch_s(run("dni", times, batches=80)) == max(costs)
    assert slowest_of_dni(times, Fraction(0)) == max(costs)


def test_where_dni_stops_to_hide_latency() -> None:
    # Two modules of (f, b, u, a) = (1, 2, 1, 1): c1 = 6, and a hop of (1 + 1 + 3)/2 + latency.
    times: list[Times] = [(1, 2, 1, 1)] * 2
    expected = {Fraction(7, 2): 6.0, Fraction(4): 6.5}
    found = {latency: steady_batch_s(run("dni", times, latency, 80)) for latency in expected}
    assert found == expected


@few
@given(times=modules_times, latency=latencies)
def test_dni_is_two_batches_ahead_at_most(times: list[Times], latency: Fraction) -> None:
    trace = run("dni", times, latency)
    for k in range(1, len(times)):
        below, above = spans(trace, "forward", k), spans(trace, "backward", k + 1)
        learnt = spans(trace, "refine", k)
        assert len(learnt) == len(below) == 12
        for batch in range(10):
            assert above[batch][1] + latency <= learnt[batch][0]
            assert learnt[batch][1] <= below[batch + 2][0]
    assert not spans(trace, "refine", len(times))
    assert not spans(trace, "estimate", len(times))


# Both: gap 0, nothing locked, extra parameters, and what moves.


@few
@given(times=modules_times, latency=latencies, name=st.sampled_from(LOCAL))
def test_local_gaps_are_0(times: list[Times], latency: Fraction, name: str) -> None:
    rows = run(name, times, latency).gradients
    assert len(rows) == 12 * len(times)
    for column in ("version_first", "version_forward", "version_backward"):
        assert (rows[column] == rows["version_applied"]).all()


@pytest.mark.parametrize("name", LOCAL)
def test_local_modules_are_updated_before_the_batch_is_through(name: str) -> None:
    # Update and backward locking: module 1 has been updated before the last has seen the batch.
    # Forward locking: it takes the next batch before that. Module 1 is short, module 2 slow.
    trace = run(name, [(1, 1, 1, 0), (9, 1, 1, 0), (1, 1, 1, 0)])
    last = spans(trace, "forward", 3)[0][0]
    assert spans(trace, "update", 1)[0][1] < last
    assert spans(trace, "forward", 1)[1][0] < last


@pytest.mark.parametrize("name", LOCAL)
def test_local_modules_hold_one_graph(name: str) -> None:
    trace = run(name, [(1, 2, 1, 1)] * 4)
    assert peak_in_flight(trace) == (1, 1, 1, 1)


def carried(name: str, modules: int) -> dict[str, set[Any]]:
    channels = build(name, modules=modules, batches=3).channels
    return {channel.name: {item.kind for item in channel.carries} for channel in channels}


def test_only_activations_of_dgl_move() -> None:
    assert set.union(*carried("dgl", 4).values()) == {"activation"}
    assert len(carried("dgl", 4)) == 4


def test_gradients_of_dni_go_down_one_module() -> None:
    kinds = carried("dni", 3)
    assert {name for name in kinds if "gradient" in kinds[name]} == {"gradients[1]", "gradients[2]"}
    trace = run("dni", [(1, 1, 1, 1)] * 3, batches=3)
    assert len(trace.of_kind("send")) == 2 * 2 * 3


@pytest.mark.parametrize("name", LOCAL)
def test_one_local_module_is_backpropagation(name: str) -> None:
    trace = run(name, [(2, 3, 1, 5)], batches=4)
    assert makespan_s(trace) == 4 * (2 + 3 + 1)


def test_who_has_extra_parameters() -> None:
    # FDG's Table 1: DNI and DGL have, DDG and FDG have not.
    names = ("ddg", "fr", "fdg", "adl", "dsp", *LOCAL)
    having = [name for name in names if SCHEDULES[name].extra_parameters != "none"]
    assert having == [*LOCAL]
