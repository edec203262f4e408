"""Flushed pipelines: times, bubbles and peaks of their papers, and where these stop to hold.

K modules, m micro-batches of each of N mini-batches; f, b the seconds of a micro-batch forward and
backward in a module, u those of its update. Times are of whole runs and exact.
"""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcore.cluster import Cluster
from simcore.engine import simulate
from simcore.errors import InputError
from simcore.memory import memory_of
from simcore.metrics import makespan_s, utilization
from simcore.schedule import Schedule
from simcore.schedules import build, find
from simcore.staleness import gaps
from simcore.trace import Trace
from simcore.validate import validate
from simcore.workload import Layer, Workload

Times = tuple[int, int, int]  # forward and backward of a micro-batch, update

few = settings(deadline=None, max_examples=40)
durations = st.integers(0, 6)
one_module = st.tuples(st.integers(1, 6), durations, durations)
some_modules = st.lists(one_module, min_size=1, max_size=4)
FLUSHED = ("bp-mp", "gpipe", "1f1b", "interleaved-1f1b", "zb-h1")


def workload(schedule: Schedule, times: list[Times]) -> Workload:
    """Layers that take so long, and one byte of graph, for each micro-batch."""
    m = schedule.micro_batches
    layers = (
        Layer("", Fraction(m * f), Fraction(m * b), Fraction(u), saved_bytes=m) for f, b, u in times
    )
    return Workload("by micro-batch", tuple(layers))


def run(name: str, times: list[Times], latency_s: Fraction | int = 0, **options: Any) -> Trace:
    options = {"modules": len(times), "batches": 1, **options}
    schedule = build(name, **options)
    per_block = times * (schedule.blocks // len(times))
    return simulate(schedule, workload(schedule, per_block), Cluster.private(latency_s))


def peak_graphs(name: str, times: Times, **options: Any) -> list[int]:
    """The most graphs of micro-batches that each worker holds at once."""
    schedule = build(name, **options)
    layers = workload(schedule, [times] * schedule.blocks)
    found = memory_of(simulate(schedule, layers), schedule, layers)
    assert found is not None
    return [peak.categories["activations"] for peak in found[1]]


@pytest.mark.parametrize("name", FLUSHED)
@given(times=one_module, batches=st.integers(1, 3), data=st.data())
@few
def test_flushed_pipelines_have_no_gap(
    name: str, times: Times, batches: int, data: st.DataObject
) -> None:
    modules = data.draw(st.integers(1, 4))
    trace = run(name, [times] * modules, batches=batches)
    assert not gaps(trace).any()
    parts = trace.header.batches // batches
    updates = trace.of_kind("update")
    assert len(updates) == batches * trace.header.blocks
    assert len(trace.gradients) == len(updates) * parts


# GPipe, and model parallelism as GPipe with one micro-batch. Up and down are grids of a micro-batch
# and a module, whose longest path from module j goes once through all modules from j up, and waits
# m - 1 times at the slowest. A path from an update of j to its next one goes up from j and down.


def gpipe_s(times: list[Times], m: int, batches: int, latency_s: Fraction | int) -> Fraction:
    def way(j: int, part: int) -> Fraction:
        above = [each[part] for each in times[j:]]
        return sum(above) + (m - 1) * max(above) + latency_s * Fraction(len(above) - 1)

    every = range(len(times))
    each_next = max(way(j, 0) + way(j, 1) + times[j][2] for j in every)
    return way(0, 0) + (batches - 1) * each_next + max(way(j, 1) + times[j][2] for j in every)


@few
@given(
    times=some_modules,
    m=st.integers(1, 5),
    batches=st.integers(1, 4),
    latency_s=st.fractions(0, 4, max_denominator=2),
)
def test_gpipe_and_model_parallelism_of_any_modules(
    times: list[Times], m: int, batches: int, latency_s: Fraction
) -> None:
    trace = run("gpipe", times, latency_s, batches=batches, micro_batches=m)
    assert makespan_s(trace) == float(gpipe_s(times, m, batches, latency_s))
    trace = run("bp-mp", times, latency_s, batches=batches)
    assert makespan_s(trace) == float(gpipe_s(times, 1, batches, latency_s))


@few
@given(times=one_module, modules=st.integers(1, 5), m=st.integers(1, 6), batches=st.integers(1, 3))
def test_even_gpipe_and_1f1b(times: Times, modules: int, m: int, batches: int) -> None:
    f, b, u = times
    expected = batches * ((m + modules - 1) * (f + b) + u)
    for name in ("gpipe", "1f1b"):
        trace = run(name, [times] * modules, batches=batches, micro_batches=m)
        assert makespan_s(trace) == expected
        without_update = run(name, [(f, b, 0)] * modules, batches=batches, micro_batches=m)
        bubble = Fraction(modules - 1, m + modules - 1)
        assert utilization(without_update) == float(1 - bubble)


def test_only_the_update_of_the_first_module_holds_up_the_next_batch() -> None:
    # Two modules of f = b = 1: 4 seconds a batch, and 1 for the update of module 1. That of module
    # 2 overlaps three seconds of module 1: backward, update, and the next batch forward.
    for update, expected in ((3, 4 + 1), (4, 2 + 4)):
        five, six = (run("bp-mp", [(1, 1, 1), (1, 1, update)], batches=n) for n in (5, 6))
        assert makespan_s(six) - makespan_s(five) == expected


# 1F1B with flush: not slower than GPipe on free links, with fewer graphs at once.


@few
@given(times=some_modules, m=st.integers(1, 6), batches=st.integers(1, 3))
def test_1f1b_is_not_slower_than_gpipe_if_links_are_free(
    times: list[Times], m: int, batches: int
) -> None:
    trace = run("1f1b", times, batches=batches, micro_batches=m)
    assert makespan_s(trace) <= gpipe_s(times, m, batches, 0)


@few
@given(times=some_modules, m=st.integers(1, 6))
def test_a_mini_batch_of_1f1b(times: list[Times], m: int) -> None:
    both = [f + b for f, b, _ in times]
    at_most = sum(both) + (m - 1) * max(both)
    without_updates = [(f, b, 0) for f, b, _ in times]
    found = makespan_s(run("1f1b", without_updates, micro_batches=m))
    below = [sum(both[:j]) + m * both[j] for j in range(len(both))]
    assert max(below) <= found <= at_most
    if both[-1] == max(both):
        assert found == at_most


def test_where_1f1b_stops_to_reach_its_bound() -> None:
    # The smallest case: the first of two modules is slower. 2 + 1 + 2 seconds of all modules and
    # one wait of 2 would be 5, but module 1 is never without work: 4.
    assert makespan_s(run("1f1b", [(1, 1, 0), (1, 0, 0)], micro_batches=2)) == 4 < 3 + 2


def test_latency_costs_1f1b_more_than_gpipe() -> None:
    for m in (1, 2):
        found = [makespan_s(run(n, [(1, 1, 0)] * 2, 1, micro_batches=m)) for n in ("gpipe", "1f1b")]
        assert found == [2 * (m + 1) + 2] * 2
    # Module 1 has a window of two: the third micro-batch waits for the first to come back.
    assert makespan_s(run("gpipe", [(1, 1, 0)] * 2, 1, micro_batches=3)) == 2 * 4 + 2
    assert makespan_s(run("1f1b", [(1, 1, 0)] * 2, 1, micro_batches=3)) == 2 * 4 + 4
    # A wider window gives it back.
    wider = run("1f1b", [(1, 1, 0)] * 2, 1, micro_batches=3, in_flight=(3, 1))
    assert makespan_s(wider) == 2 * 4 + 2


@pytest.mark.parametrize(("modules", "m"), [(1, 3), (4, 8), (4, 2), (3, 3)])
def test_peaks_of_gpipe_and_1f1b(modules: int, m: int) -> None:
    sizes = {"modules": modules, "micro_batches": m, "batches": 2}
    assert peak_graphs("gpipe", (1, 2, 1), **sizes) == [m] * modules
    expected = [min(m, modules - k + 1) for k in range(1, modules + 1)]
    assert peak_graphs("1f1b", (1, 2, 1), **sizes) == expected
    assert peak_graphs("1f1b", (1, 2, 1), in_flight=(m,) * modules, **sizes) == [m] * modules


# Interleaved 1F1B. Published (Megatron-LM, section 2.2.2): a bubble of (K-1) / (V m) of the time of
# the computations; with it, 1 + (K-1) / (V K) times the graphs of 1F1B in the first worker.


@few
@given(
    times=one_module,
    modules=st.integers(1, 4),
    chunks=st.integers(1, 3),
    groups=st.integers(1, 3),
    batches=st.integers(1, 2),
)
def test_even_interleaved_1f1b(
    times: Times, modules: int, chunks: int, groups: int, batches: int
) -> None:
    f, b, u = times
    m = groups * modules
    options = {"micro_batches": m, "chunks": chunks, "batches": batches}
    trace = run("interleaved-1f1b", [times] * modules, **options)
    expected = batches * ((chunks * m + modules - 1) * (f + b) + chunks * u)
    assert makespan_s(trace) == expected
    without_update = run("interleaved-1f1b", [(f, b, 0)] * modules, **options)
    computing = batches * chunks * m * (f + b)
    bubble = Fraction(modules - 1, chunks * m) * computing
    assert makespan_s(without_update) == computing + bubble


@pytest.mark.parametrize(("modules", "m", "chunks"), [(4, 8, 2), (4, 4, 2), (3, 6, 3), (2, 2, 1)])
def test_peaks_of_interleaved_1f1b(modules: int, m: int, chunks: int) -> None:
    sizes = {"modules": modules, "micro_batches": m, "chunks": chunks, "batches": 2}
    found = peak_graphs("interleaved-1f1b", (1, 2, 1), **sizes)
    first = [2 * (modules - k) + (chunks - 1) * modules + 1 for k in range(1, modules + 1)]
    assert found == [min(each, m * chunks) for each in first]
    if m > modules:
        # A graph of 1F1B is as large as V of these.
        of_1f1b = peak_graphs("1f1b", (1, 2, 1), modules=modules, micro_batches=m, batches=2)[0]
        assert Fraction(found[0], chunks) == of_1f1b * (1 + Fraction(modules - 1, chunks * modules))


@pytest.mark.parametrize(("m", "modules"), [(1, 2), (6, 4)])
def test_interleaved_1f1b_needs_whole_groups(m: int, modules: int) -> None:
    with pytest.raises(InputError) as caught:
        build("interleaved-1f1b", modules=modules, micro_batches=m)
    assert str(caught.value) == (
        f"micro_batches is {m}: must be a multiple of the {modules} modules; "
        f"give one such as {2 * modules}"
    )


# ZB-H1. Published (Qi et al. 2023, table 1): a bubble of (K-1)(F + B - W), and the peak of 1F1B.


def zb_h1(f: int, b: int, w: int, modules: int, m: int) -> Trace:
    schedule = build("zb-h1", modules=modules, micro_batches=m, batches=1)
    layers = (
        replace(layer, backward_input_s=Fraction(m * b))
        for layer in workload(schedule, [(f, b + w, 0)] * modules).layers
    )
    return simulate(schedule, Workload("two halves", tuple(layers)))


@few
@given(
    f=st.integers(1, 6),
    b=st.integers(1, 6),
    w=st.integers(1, 6),
    modules=st.integers(1, 5),
    more=st.integers(0, 4),
)
def test_even_zb_h1(f: int, b: int, w: int, modules: int, more: int) -> None:
    m = modules + more
    bubble = makespan_s(zb_h1(f, b, w, modules, m)) - m * (f + b + w)
    assert bubble == (modules - 1) * max(f, b, f + b - w)
    published = (modules - 1) * (f + b - w)
    assert (bubble == published) == (modules == 1 or w <= min(f, b))
    # 1F1B has (K-1)(F + B + W): with equal parts, as published, it is a third of that.
    if f == b == w:
        assert 3 * bubble == (modules - 1) * (f + b + w)


def test_where_the_published_bubble_of_zb_h1_stops_to_hold() -> None:
    # The smallest cases, of two modules. Published: no bubble at all if W = F + B; but module 2
    # cannot start before a forward pass, nor module 1 go backward before module 2 has.
    assert makespan_s(zb_h1(1, 1, 2, modules=2, m=2)) == 2 * 4 + 1
    # With fewer micro-batches than modules, too few W: K (F + B) + W for one.
    assert makespan_s(zb_h1(1, 1, 1, modules=2, m=1)) == 2 * 2 + 1 > 3 + 1


@pytest.mark.parametrize(("modules", "m"), [(1, 2), (4, 8), (4, 2), (3, 3)])
def test_peaks_of_zb_h1(modules: int, m: int) -> None:
    found = peak_graphs("zb-h1", (1, 2, 1), modules=modules, micro_batches=m, batches=2)
    of_1f1b = peak_graphs("1f1b", (1, 2, 1), modules=modules, micro_batches=m, batches=2)
    assert max(found) == max(of_1f1b) == min(m, modules)
    assert found[0] == of_1f1b[0]


# What the compositions make of them, with the times of the papers' figures.


@pytest.mark.parametrize("name", FLUSHED)
def test_recomputing_adds_a_forward_pass_to_each_backward_pass(name: str) -> None:
    # As if backward passes were longer by a forward pass, in even modules; of ZB-H1 its first half.
    plain = run(name, [(1, 3, 1)] * 3)
    again = run(name, [(1, 2, 1)] * 3, recompute=True)
    if name != "zb-h1":
        assert makespan_s(again) == makespan_s(plain)
    assert len(again.of_kind("replay")) == len(again.of_kind("forward"))


@pytest.mark.parametrize("name", FLUSHED)
def test_replicas_and_loaders(name: str) -> None:
    assert find(name).compositions == ("recompute", "global_norm", "replicas", "loaders")
    alone = run(name, [(1, 2, 1)] * 2, batches=2)
    shared = run(name, [(1, 2, 1)] * 2, batches=4, replicas=2, loaders=1)
    assert makespan_s(shared) == makespan_s(alone)
    assert not gaps(shared).any()
    assert validate(build(name, modules=2, batches=4, replicas=2)).conclusive
