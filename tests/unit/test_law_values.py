"""The F:B law beside what a trace shows."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from simcore.cluster import Cluster, Device, Link
from simcore.engine import simulate
from simcore.faults import Pause, Straggler
from simcore.law_values import law_values, threads_of
from simcore.laws import Threads
from simcore.schedules import build
from simcore.workload import Layer, Workload

UNEVEN = tuple(
    Layer("", Fraction(forward_s), Fraction(backward_s), Fraction(1, 4), activation_bytes=8)
    for forward_s, backward_s in ((1, 4), (3, 2), (2, 3))
)


def law(name: str, workload: Workload, batches: int = 200, **options: Any) -> dict[str, Any]:
    schedule = build(name, layers=len(workload.layers), batches=batches, **options)
    found = law_values(simulate(schedule, workload), schedule, workload)
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["async-lu", "async-bu"])
@pytest.mark.parametrize(
    "options",
    [
        {"backward_threads": 2},
        {"backward_threads": 1, "queue_capacity": 3},
        {"forward_threads": 2, "backward_threads": 3, "queue_capacity": 2},
        {"forward_threads": 3, "backward_threads": 7},
    ],
    ids=str,
)
@pytest.mark.parametrize("workload", [Workload("", UNEVEN), Workload.even(4, 1, "1.7")])
def test_law_and_measurement_agree(name: str, options: Any, workload: Workload) -> None:
    found = law(name, workload, **options)
    measured = found["measured"]
    assert measured["batch_s"] == pytest.approx(found["batch_s"], rel=1e-12)
    assert (found["growth_per_batch"], measured["growth_per_batch"]) == (0, None)
    # A window that is no whole number of periods: at most a period of some 200 batches is off.
    close = {"rel": 0.02, "abs": 0.02}
    assert measured["queue_length"] == pytest.approx(found["queue_length"], **close)
    assert measured["batches_in_flight"] == pytest.approx(found["batches_in_flight"], **close)
    assert measured["mean_gap"] == pytest.approx(found["mean_gap"], **close)


def test_a_period_of_one_batch_leaves_no_difference() -> None:
    # One forward thread: every batch finds the same. Whole numbers, so that windows are whole too.
    found = law("async-lu", Workload.even(4, 4, 2), backward_threads=2)
    measured = found.pop("measured")
    assert found == {
        "batch_s": 4,
        "growth_per_batch": 0,
        "queue_length": 0,
        "batches_in_flight": [3, 2.25, 1.5, 0.75],
        "mean_gap": [2, 2, 1, 0],
        "backward_threads_needed": {"for_pace": 2, "for_no_wait": 2},
    }
    del found["backward_threads_needed"]
    assert measured == found | {"growth_per_batch": None}


def test_growth() -> None:
    found = law("async-lu", Workload.even(2, 1, 3), backward_threads=2)
    unknown = ("queue_length", "batches_in_flight", "mean_gap")
    assert found["growth_per_batch"] == pytest.approx(1 / 3)
    assert found["measured"]["growth_per_batch"] == pytest.approx(1 / 3)
    for each in (found, found["measured"]):
        assert [each[key] for key in unknown] == [None] * 3
    assert found["batch_s"] == 1.5
    assert found["backward_threads_needed"] == {"for_pace": 3, "for_no_wait": 3}


def test_the_case_is_read_from_schedule_and_workload() -> None:
    schedule = build("async-bu", layers=3, forward_threads=2, queue_capacity=4)
    times = Fraction(6), Fraction(9), Fraction(3, 4)
    assert threads_of(schedule, Workload("", UNEVEN)) == Threads(
        3, 2, 2, *times, queue_capacity=4, updates="block", uneven=UNEVEN
    )


def test_where_the_law_says_nothing() -> None:
    schedule, blocks = build("async-lu", layers=3), Workload("", UNEVEN)
    free = Cluster.private()
    assert threads_of(schedule, blocks, free) is not None
    slow = Device("slow", speeds=(Fraction(1, 2),))
    for cluster in (
        Cluster.private(latency_s="1/9"),
        Cluster.private(bytes_per_s=1),
        replace(free, link=Link(receive_s=Fraction(1))),
        replace(free, links={"data": Link(receive_s=Fraction(1))}),
        Cluster.shared(Device("all", cores=9)),
        replace(free, devices=(slow,)),
        replace(free, stragglers=(Straggler(0, Fraction(2)),)),
        replace(free, pauses=(Pause(0, Fraction(1), None, Fraction(1)),)),
    ):
        assert threads_of(schedule, blocks, cluster) is None
    # A wire takes no time where there is nothing to carry.
    assert threads_of(schedule, Workload.even(3), Cluster.private(bytes_per_s=1)) is not None
    assert threads_of(build("async-lu", layers=3, loaders=1), blocks) is None
    assert threads_of(build("bp", modules=3), blocks) is None
    no_time = replace(UNEVEN[0], forward_s=Fraction(0))
    assert threads_of(schedule, Workload("", (no_time, *UNEVEN[1:]))) is None


def test_random_durations_have_no_law() -> None:
    schedule, blocks = build("async-lu", layers=3, batches=20), Workload("", UNEVEN)
    assert law_values(simulate(schedule, blocks, jitter=0.1), schedule, blocks) is None


def test_times_that_nearly_balance_take_no_longer() -> None:
    # The two sides differ by a part of 10^9: the pattern must not be looked for batch by batch.
    workload = Workload.even(2, 1, Fraction(10**9 + 1, 10**9) * 2)
    found = law("async-lu", workload, 20, backward_threads=2, queue_capacity=1)
    assert found["queue_length"] == 1
