"""Cycle times against the closed forms of the schedules, exact, and the cycle that is named.

K modules; f, b, u the seconds of a pass forward, backward, and of an update in a module; c = f + b.
"""

import re
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcore.cluster import Cluster, Link
from simcore.cycle import CycleTime, cycle_time
from simcore.event_lanes import NotStaticError
from simcore.schedules import build
from simcore.schedules.windows import windows
from simcore.workload import Layer, Workload

Times = tuple[int | Fraction, int | Fraction, int | Fraction]  # forward, backward, update
KINDS = ("forward", "backward", "update")

few = settings(deadline=None, max_examples=20)
durations = st.integers(0, 6)
one_module = st.tuples(st.integers(1, 6), durations, durations)
some_modules = st.lists(one_module, min_size=1, max_size=4)
latencies = st.fractions(0, 4, max_denominator=2)


def found(
    name: str, times: list[Times], latency_s: Fraction | int = 0, **options: Any
) -> CycleTime:
    schedule = build(name, modules=len(times), batches=8, **options)
    m = schedule.micro_batches
    layers = (Layer("", Fraction(m * f), Fraction(m * b), Fraction(u)) for f, b, u in times)
    return cycle_time(schedule, Workload("uneven", tuple(layers)), Cluster.private(latency_s))


@few
@given(times=some_modules)
def test_fdg_takes_its_slowest_module(times: list[Times]) -> None:
    assert found("fdg", times).batch_s == max(sum(each) for each in times)


@few
@given(times=some_modules)
def test_local_learning_takes_its_slowest_module(times: list[Times]) -> None:
    assert found("dgl", times).batch_s == max(sum(each) for each in times)


@few
@given(times=some_modules, accumulation=st.integers(1, 4))
def test_backpropagation_takes_all_modules(times: list[Times], accumulation: int) -> None:
    passes, updates = sum(f + b for f, b, _ in times), sum(u for _, _, u in times)
    batch_s = found("bp", times, accumulation=accumulation).batch_s
    assert batch_s == passes + Fraction(updates, accumulation)


@few
@given(times=some_modules, latency_s=latencies, data=st.data())
def test_pipedream(times: list[Times], latency_s: Fraction, data: st.DataObject) -> None:
    drawn = data.draw(st.lists(st.integers(1, 5), min_size=len(times), max_size=len(times)))
    in_flight = data.draw(st.sampled_from([None, tuple(sorted(drawn, reverse=True))]))
    own = windows(len(times), in_flight)

    def loop(j: int, top: int) -> Fraction:
        passes = sum(f + b for f, b, _ in times[j : top + 1])
        return Fraction(passes + times[j][2] + 2 * latency_s * (top - j)) / (own[j] - own[top] + 1)

    expected = max(loop(j, top) for top in range(len(times)) for j in range(top + 1))
    assert found("pipedream", times, latency_s, in_flight=in_flight).batch_s == expected


@few
@given(times=some_modules)
def test_features_replay(times: list[Times]) -> None:
    forward = sum(f for f, _, _ in times)
    rest = [f + b + u for f, b, u in times[:-1]] + [times[-1][1] + times[-1][2]]
    assert found("fr", times).batch_s == forward + max(rest)


@few
@given(times=one_module, modules=st.integers(1, 4), accumulation=st.integers(1, 5))
def test_accumulated_decoupled_learning(times: Times, modules: int, accumulation: int) -> None:
    f, b, u = times
    batch_s = found("adl", [times] * modules, accumulation=accumulation).batch_s
    assert batch_s == f + b + Fraction(u, accumulation)


@few
@given(times=one_module, modules=st.integers(1, 4), m=st.integers(4, 6))
def test_double_buffered_weights(times: Times, modules: int, m: int) -> None:
    f, b, u = times
    assert found("pipedream-2bw", [times] * modules, micro_batches=m).batch_s == m * (f + b) + u


@few
@given(times=some_modules, m=st.integers(1, 5))
def test_flushed_pipelines_of_even_modules(times: list[Times], m: int) -> None:
    # K - 1 passes up and down fill and empty the pipeline.
    f, b, u = times[0]
    even = [times[0]] * len(times)
    for name in ("gpipe", "1f1b"):
        batch_s = found(name, even, micro_batches=m).batch_s
        assert batch_s == (m + len(times) - 1) * (f + b) + u


@pytest.mark.parametrize(
    ("latency_s", "batch_s"), [(0, 3), (1, Fraction(7, 2)), (3, Fraction(11, 2))]
)
def test_latency_that_fdg_does_not_hide(latency_s: int, batch_s: Fraction) -> None:
    # As its docstring says for even modules: max(c, c - update / 2 + latency).
    assert found("fdg", [(1, 1, 1)] * 3, latency_s).batch_s == batch_s


# What is on the cycle matters, and nothing else does.


def on_cycle(cycle: CycleTime) -> set[tuple[int, int]]:
    """Modules and places in `KINDS` that a cycle names."""
    named = [re.fullmatch(r"module (\d+): (.*)", part) for part in cycle.cycle]
    return {
        (int(part[1]) - 1, KINDS.index(kind))
        for part in named
        if part
        for kind in part[2].split(", ")
    }


@settings(deadline=None, max_examples=8)
@given(
    name=st.sampled_from(["fdg", "pipedream", "fr", "dsp", "1f1b", "gpipe", "ddg"]),
    times=st.lists(st.tuples(*[st.integers(1, 6)] * 3), min_size=2, max_size=3),
    latency_s=latencies,
)
def test_only_what_is_on_the_cycle_matters(
    name: str, times: list[Times], latency_s: Fraction
) -> None:
    little = Fraction(1, 1000)
    before = found(name, times, latency_s)
    named = on_cycle(before)
    assert named

    def changed(module: int, kind: int, by: Fraction) -> CycleTime:
        other: list[list[int | Fraction]] = [list(each) for each in times]
        other[module][kind] += by
        return found(name, [(f, b, u) for f, b, u in other], latency_s)

    for module in range(len(times)):
        for kind in range(3):
            faster = changed(module, kind, -little)
            if (module, kind) not in named:
                assert faster.batch_s == before.batch_s
                continue
            slower = changed(module, kind, little)
            assert slower.batch_s > before.batch_s
            # Unless another cycle takes as long.
            assert faster.batch_s < before.batch_s or (module, kind) not in on_cycle(faster)


def test_the_slow_module_is_named() -> None:
    slow = found("fdg", [(1, 2, 1), (1, 2, 1), (2, 4, 1), (1, 2, 1)])
    assert slow.cycle == ("module 3: forward, backward, update",)
    assert slow.text == "module 3: forward, backward, update bounds this schedule"
    assert slow.batch_s == 7
    assert slow.batches == 1


def test_messages_on_the_cycle_are_named() -> None:
    late = found("pipedream", [(1, 1, 0), (1, 1, 0)], latency_s=10)
    assert late.batch_s == (4 + 20) / Fraction(2)
    assert "message activations[2]" in late.cycle
    assert "message gradients[1]" in late.cycle
    assert late.batches == 2
    assert late.text.endswith("bound this schedule, once around in 2 batches")


def test_a_narrow_link_is_named() -> None:
    schedule = build("dgl", modules=2, batches=8)
    layer = Layer("", Fraction(1), Fraction(1), activation_bytes=100)
    cluster = Cluster.private(bytes_per_s=10)
    narrow = cycle_time(schedule, Workload("", (layer, layer)), cluster)
    assert narrow.batch_s == 10
    assert narrow.text == "wire of activations[2] bounds this schedule"


def test_room_in_a_channel_is_named() -> None:
    schedule = build("fdg", modules=1, batches=8, loaders=1, prefetch=1)
    workload = Workload("", (Layer("", Fraction(1), Fraction(1)),), load_s=Fraction(2))
    slow_link = Cluster.private(latency_s=3)
    found = cycle_time(schedule, workload, slow_link)
    # A slot is taken when a message departs; the next one is loaded meanwhile.
    assert "room in loaded data" in found.cycle
    assert found.batch_s == 3


@pytest.mark.parametrize(
    ("name", "cluster", "reason"),
    [
        ("async-1f1b", None, "whichever message is there first"),
        ("async-lu", None, "has 2 receivers"),
        ("fdg", Cluster.shared(Cluster.private().devices[0]), "is shared by 4 workers"),
        (
            "fdg",
            Cluster(
                Cluster.private().devices, "private", Link(bytes_per_s=Fraction(1), wire="bus")
            ),
            "is shared by 6 channels",
        ),
        (
            "fdg",
            Cluster(
                Cluster.private().devices,
                "private",
                Link(bytes_per_s=Fraction(1), transfers="shared"),
            ),
            "transfers that share its bandwidth",
        ),
    ],
)
def test_what_is_not_static_is_refused_with_its_reason(
    name: str, cluster: Cluster | None, reason: str
) -> None:
    schedule = build(name, batches=8)
    layer = Layer("", Fraction(1), Fraction(1), activation_bytes=8)
    workload = Workload("", (layer,) * schedule.blocks)
    with pytest.raises(NotStaticError, match=reason):
        cycle_time(schedule, workload, cluster)
