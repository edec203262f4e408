"""FGD and its parallel forms without staleness: times, gaps, what is kept and what is sent.

Letters as in `tests.theory.forward_gradients`.
"""

from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simcore.cluster import Cluster, ring_all_reduce_s
from simcore.costs import message_bytes
from simcore.engine import simulate
from simcore.holdings import CATEGORIES, holdings_of
from simcore.metrics import makespan_s, steady_batch_s
from simcore.schedules import build
from tests.theory.forward_gradients import (
    Times,
    any_modules,
    counts,
    durations,
    few,
    gaps_are,
    latencies,
    learn,
    run,
    workload,
)

# FGD: N (T + P + U), with all directions of a batch counted in T and P; gaps 0. All always.


@few
@given(times=any_modules, batches=counts, tangents=st.integers(1, 3))
def test_fgd_takes_the_sum_of_all_times(times: list[Times], batches: int, tangents: int) -> None:
    trace = run("fgd", times, batches=batches, tangents=tangents)
    forward, project, update = (sum(each) for each in zip(*times, strict=True))
    assert makespan_s(trace) == batches * (tangents * (forward + project) + update)
    assert gaps_are(trace, [0] * len(times))


@few
@given(times=any_modules, batches=counts, replicas=st.integers(1, 3), latency_s=latencies)
def test_fgd_dp_adds_all_reduces_that_overlap_nothing(
    times: list[Times], batches: int, replicas: int, latency_s: Fraction
) -> None:
    replicas = min(replicas, batches)
    schedule = build("fgd-dp", modules=len(times), batches=batches, replicas=replicas)
    cluster = Cluster.private(latency_s, 7)
    trace = simulate(schedule, workload(times, size_bytes=5), cluster)
    rounds = len(times) * ring_all_reduce_s(cluster.link, replicas, 15)
    assert makespan_s(trace) == float(ceil(batches / replicas) * (total(times) + rounds))
    assert schedule.batches_per_update == replicas


def total(times: list[Times]) -> Fraction:
    return sum((Fraction(each) for module in times for each in module), Fraction(0))


# FGD-MP: T + (N - 1) X + max (P_k + U_k), X = max over k of (T_k + ... + T_K + P_k + U_k); hops
# add their latencies. Always: a batch starts from module k as soon as that has learned, and waits
# for the lower ones at most.


@few
@given(times=any_modules, batches=counts, latency_s=latencies)
def test_fgd_mp_takes_its_modules_in_turn(
    times: list[Times], batches: int, latency_s: Fraction
) -> None:
    trace = run("fgd-mp", times, latency_s, batches=batches)
    assert makespan_s(trace) == float(flushed(times, batches, latency_s, 1))
    assert gaps_are(trace, [0] * len(times))


def flushed(times: list[Times], batches: int, latency_s: Fraction, parts: int) -> Fraction:
    """Seconds of N mini-batches in m parts, which all modules let through before they learn."""

    def up(k: int) -> Fraction:
        tangents = [Fraction(tangent, parts) for tangent, _, _ in times[k:]]
        return sum(tangents) + (parts - 1) * max(tangents)

    last = len(times) - 1
    after = [each + (k < last) * latency_s for k, each in enumerate(learn(times))]
    batch = max(up(k) + each + (last - k) * latency_s for k, each in enumerate(after))
    return up(0) + last * latency_s + (batches - 1) * batch + max(after)


def test_fgd_mp_gains_only_what_updates_take() -> None:
    # Even modules: T + (P + U) / K instead of T + P + U. Here T = 12, P = 0 and U = 1.2, K = 4:
    # 13.2 / 12.3, 7 %; the paper measures 1 to 4 %.
    even: list[Times] = [(3, 0, Fraction(3, 10))] * 4
    assert steady_batch_s(run("fgd-mp", even, batches=20)) == 12.3
    assert steady_batch_s(run("fgd", even, batches=20)) == 13.2


# Synchronous pipeline: the same, and a mini-batch goes up in (T_k + ... + T_K) / m and (m - 1) / m
# of the slowest module more. P = 0: otherwise the first parts are multiplied while the last go up.


@few
@given(
    times=st.lists(st.tuples(durations, st.just(0), durations), min_size=1, max_size=4),
    batches=st.integers(1, 4),
    parts=st.integers(1, 4),
    latency_s=latencies,
)
def test_synchronous_pipeline(
    times: list[Times], batches: int, parts: int, latency_s: Fraction
) -> None:
    trace = run("fgd-pipeline", times, latency_s, batches=batches, micro_batches=parts)
    assert makespan_s(trace) == float(flushed(times, batches, latency_s, parts))
    assert gaps_are(trace, [0] * len(times))


@pytest.mark.parametrize(("modules", "parts"), [(4, 1), (4, 4), (3, 12), (1, 2)])
def test_bubble_of_the_synchronous_pipeline(modules: int, parts: int) -> None:
    even: list[Times] = [(parts, 0, 0)] * modules
    trace = run("fgd-pipeline", even, batches=12, micro_batches=parts)
    bubble = Fraction(modules - 1, parts + modules - 1)
    assert steady_batch_s(trace) == float(parts / (1 - bubble))


# What is sent and what is kept.


@pytest.mark.parametrize("tangents", [1, 3])
def test_an_activation_travels_with_its_derivatives(tangents: int) -> None:
    schedule = build("asyncfgd", modules=2, tangents=tangents)
    sizes = {
        channel.name: message_bytes(schedule, channel, workload([(1, 0, 0)] * 2, size_bytes=10))
        for channel in schedule.channels
    }
    assert sizes["activations[2]"] == 10 * (1 + tangents)
    assert sizes["scalars[1]"] == 4 * tangents


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("fgd-mp", {}, [1, 1, 1]),
        ("asyncfgd", {}, [3, 2, 1]),
        ("asyncfgd", {"tangents": 2}, [6, 4, 2]),
        # The parts of a mini-batch share its direction, and so do the steps of a sequence.
        ("fgd-pipeline", {"micro_batches": 5}, [1, 1, 1]),
        ("asyncfgd-recursive", {"time_steps": 2}, [2, 2, 1]),
        ("asyncfgd-recursive", {"time_steps": 1}, [3, 2, 1]),
    ],
)
@pytest.mark.parametrize(("keep", "size"), [("tangent", 30), ("seed", 8)])
def test_directions_that_are_kept(
    name: str, options: dict[str, Any], expected: list[int], keep: str, size: int
) -> None:
    schedule = build(name, modules=3, batches=10, keep=keep, **options)
    tangents = schedule.weights.tangents
    blocks = workload([(1, 0, 1)] * 3, size_bytes=10)
    trace = simulate(schedule, blocks, Cluster.private())
    found = holdings_of(trace, schedule, blocks)
    kept = found[found["category"] == CATEGORIES.index("tangents")]
    for worker, most in enumerate(expected):
        own = kept[kept["worker"] == worker]
        held = [own["bytes"][(own["start"] <= t) & (own["end"] > t)].sum() for t in own["start"]]
        # One seed stands for all directions of a mini-batch.
        assert max(held) == most * size // (tangents if keep == "seed" else 1)
