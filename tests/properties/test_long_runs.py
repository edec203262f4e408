"""Long runs against full simulations: whatever is said to be exact is equal to the last digit."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from simcore.cluster import Cluster
from simcore.cycle import cycle_time
from simcore.engine import simulate
from simcore.errors import InputError
from simcore.estimate import estimate
from simcore.event_lanes import NotStaticError
from simcore.faults import Pause
from simcore.metrics import busy_s, peak_in_flight
from simcore.schedule import Schedule
from simcore.schedules import SCHEDULES, build, rebuild
from simcore.staleness import gap_summaries, lost_updates
from simcore.steady import LongRun, long_run
from simcore.testing import clusters, schedules, workloads
from simcore.trace import Trace
from simcore.workload import Layer, Workload

every_schedule = pytest.mark.parametrize("name", SCHEDULES)


def check(found: LongRun, trace: Trace) -> None:
    """What a long run says, against the simulation of as many batches."""
    if found.how == "estimated":
        assert found.gaps is None
        assert found.peak_in_flight is None
        return
    tick_s = trace.header.tick_s
    assert found.makespan_s == (trace.end - trace.start) * tick_s
    assert found.busy_s is not None
    assert tuple(map(float, found.busy_s)) == busy_s(trace)
    assert found.updates == len(trace.of_kind("update"))
    if found.how == "max-plus":
        assert found.peak_in_flight is None
        return
    assert found.gaps == gap_summaries(trace)
    assert found.lost_updates == lost_updates(trace)
    assert found.peak_in_flight == peak_in_flight(trace)


MOST = 12_000


def compared(schedule: Schedule, blocks: Workload, cluster: Cluster, batches: int) -> LongRun:
    found = long_run(schedule, blocks, cluster, batches, most_events=MOST)
    check(found, simulate(rebuild(schedule, batches=batches), blocks, cluster))
    return found


def uneven(blocks: int) -> Workload:
    """Layers of few and simple ratios, the first the slowest and forward passes not the shortest:
    so no queue grows, and everything comes to a period, and soon.
    """
    layers = [
        Layer(
            "",
            Fraction(1 + k % 2 if k else 3),
            Fraction(1 + k % 3 if k else 3),
            Fraction(1, 2),
            *(8, 4, 2),
            project_s=Fraction(1),
            auxiliary_s=Fraction(k % 2),
            merge_s=Fraction(1),
        )
        for k in range(blocks)
    ]
    return Workload("uneven", tuple(layers), load_s=Fraction(1, 2))


@settings(deadline=None)
@given(data=st.data())
def test_long_runs_are_full_simulations(data: st.DataObject) -> None:
    schedule = data.draw(schedules(most_blocks=3))
    blocks = data.draw(workloads(schedule.blocks))
    cluster = data.draw(clusters(len(schedule.workers)))
    batches = data.draw(st.integers(150, 300))
    assume(len(schedule.workers) * schedule.micro_batches * batches < 4000)
    compared(schedule, blocks, cluster, batches)


@every_schedule
def test_every_schedule_has_a_period(name: str) -> None:
    # Processes with parts of different lengths meet again after very long.
    schedule = build(name, batches=10)
    if name == "lppsgd":
        schedule = rebuild(schedule, processes=1)
    blocks, cluster = uneven(schedule.blocks), Cluster.private(Fraction(1, 2), bytes_per_s=16)
    simulated = 150 if schedule.micro_batches == 1 else 60
    few = estimate(name, {"batches": simulated}).operations - 1
    found = long_run(schedule, blocks, cluster, simulated, most_events=4 * few)
    assert found.how == "periodic", found.ground
    check(found, simulate(rebuild(schedule, batches=simulated), blocks, cluster))
    # More periods add the same to everything that is counted.
    far = long_run(schedule, blocks, cluster, 10**9 + simulated, most_events=4 * few)
    assert found.batch_s is not None
    assert found.gaps is not None
    assert far.gaps is not None
    assert found.steady_gaps is not None
    added = 10**9 // found.period if found.period else 0
    assert 10**9 % (found.period or 1) or (
        far.makespan_s == found.makespan_s + 10**9 * found.batch_s
        and sum(far.gaps[0].histogram.values()) - sum(found.gaps[0].histogram.values())
        == added * sum(found.steady_gaps[0].histogram.values())
    )
    assert far.peak_in_flight == found.peak_in_flight


def test_cycle_times_are_those_of_periods() -> None:
    for name in ("fdg", "pipedream", "dsp", "1f1b", "zb-h1", "fr", "asyncfgd"):
        schedule = build(name, modules=3, batches=10)
        blocks, cluster = uneven(schedule.blocks), Cluster.private(Fraction(1, 3))
        found = long_run(schedule, blocks, cluster, 10**6)
        assert found.proved
        assert found.batch_s == cycle_time(schedule, blocks, cluster).batch_s


# Where there is no period, or none for long.


def slower_above(batches: int) -> tuple[Schedule, Workload]:
    """Nothing holds back module 1, so that the queue before module 2 grows for ever."""
    layers = (Layer("", Fraction(1), Fraction(1)), Layer("", Fraction(1), Fraction(2)))
    return build("dgl", modules=2, batches=batches), Workload("", layers)


def test_a_queue_that_grows_has_no_period_but_a_makespan() -> None:
    schedule, blocks = slower_above(10)
    found = long_run(schedule, blocks, batches=700, most_events=8000)
    assert found.how == "max-plus"
    assert "peaks are not known" in found.ground
    check(found, simulate(rebuild(schedule, batches=700), blocks))
    assert found.gaps is not None
    assert found.gaps[1].histogram == {0: 700}
    far = long_run(schedule, blocks, batches=10**9, most_events=8000)
    assert far.makespan_s == 1 + 3 * 10**9
    assert (far.peak_in_flight, far.peaks) == (None, None)


def test_workers_that_run_too_far_apart_are_estimated() -> None:
    schedule, blocks = slower_above(10)
    found = long_run(schedule, blocks, batches=10**18, most_events=8000)
    assert found.how == "estimated"
    assert "run apart by more than" in found.ground
    assert abs(found.makespan_s / (3 * 10**18) - 1) < Fraction(1, 1000)


def test_modules_that_differ_by_parts_per_million_have_no_short_period() -> None:
    # Module 1 is faster, and for 3 * 10^6 batches its window of 9 never fills up. Module 2 has
    # something to do from the first activation on; module 1 has the last backward pass.
    parts = Fraction(1, 10**6)
    layers = (Layer("", 1 - parts, 2 - parts), Layer("", Fraction(1), Fraction(2)))
    schedule, blocks = (
        build("pipedream", modules=2, batches=10, in_flight=(9, 1)),
        Workload("", layers),
    )
    found = long_run(schedule, blocks, batches=900, most_events=8000)
    assert found.how == "max-plus"
    check(found, simulate(rebuild(schedule, batches=900), blocks))
    far = long_run(schedule, blocks, batches=10**9, most_events=8000)
    assert far.makespan_s == (1 - parts) + 3 * 10**9 + (2 - parts)


def test_a_queue_of_threads_that_grows_is_estimated_and_says_so() -> None:
    schedule = build("async-lu", layers=2, batches=10, backward_threads=2)
    blocks = Workload.even(2, 1, 5)
    found = long_run(schedule, blocks, batches=3000, most_events=20_000)
    assert found.how == "estimated"
    assert "nothing was seen to repeat" in found.ground
    assert (found.gaps, found.peak_in_flight, found.batch_s) == (None, None, None)
    # The forward thread is done long before: 2.5 s for each batch, and 1 s for the first forward.
    assert abs(found.makespan_s / (Fraction(5, 2) * 3000 + 1) - 1) < Fraction(1, 1000)
    with pytest.raises(NotStaticError, match="simulate this schedule"):
        long_run(schedule, blocks, batches=3000, most_events=20_000, estimates=False)


def test_a_queue_that_fills_up_first_has_its_period_behind() -> None:
    schedule = build("async-lu", layers=2, batches=10, backward_threads=1, queue_capacity=25)
    blocks = Workload.even(2, 1, Fraction(3, 2))
    found = long_run(schedule, blocks, batches=600, most_events=14_000)
    assert found.how == "periodic"
    assert found.peak_in_flight is not None
    assert found.peak_in_flight[1] >= 25
    check(found, simulate(rebuild(schedule, batches=600), blocks))


def test_what_a_program_counts_to_is_waited_for() -> None:
    # In fewer than 200 batches there is no update, and everything would repeat without one.
    schedule = build("adl", modules=2, batches=10, accumulation=200)
    blocks = Workload.even(2, 1, 2, update_s=6)
    found = long_run(schedule, blocks, batches=3000, most_events=40_000)
    assert found.how == "periodic"
    assert found.period == 200
    check(found, simulate(rebuild(schedule, batches=3000), blocks))


def test_faults_and_own_schedules_are_refused() -> None:
    schedule, blocks = slower_above(10)
    cluster = replace(Cluster.private(), pauses=(Pause(0, Fraction(1), Fraction(1)),))
    with pytest.raises(InputError, match="faults is 1: happen once"):
        long_run(schedule, blocks, cluster, 10**9)
    own = replace(schedule, options={}, name="own")
    with pytest.raises(NotStaticError, match="was not built by its name"):
        long_run(own, blocks, batches=10**9)


def test_ticks_that_would_not_fit_64_bits() -> None:
    schedule = build("fdg", modules=2, batches=10)
    found = long_run(schedule, Workload.even(2, Fraction(10, 7)), batches=10**18)
    assert found.makespan_s.denominator in (1, 7)
    assert found.batch_s == Fraction(15, 7)
    assert found.makespan_s - 10**18 * found.batch_s < 5
