"""Long runs against full simulations: whatever is said to be exact is equal to the last digit."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from simcore.cluster import Cluster
from simcore.engine import simulate
from simcore.metrics import busy_s, peak_in_flight
from simcore.schedule import Schedule
from simcore.schedules import SCHEDULES, rebuild
from simcore.staleness import gap_summaries, lost_updates
from simcore.steady import LongRun, long_run
from simcore.testing import clusters, schedules, workloads
from simcore.trace import Trace
from simcore.workload import Workload

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


def compared(schedule: Schedule, blocks: Workload, cluster: Cluster, batches: int) -> LongRun:
    found = long_run(schedule, blocks, cluster, batches, most_events=20000)
    check(found, simulate(rebuild(schedule, batches=batches), blocks, cluster))
    return found


@every_schedule
@settings(deadline=None, max_examples=6)
@given(data=st.data())
def test_long_runs_are_full_simulations(name: str, data: st.DataObject) -> None:
    schedule = data.draw(schedules(name, most_blocks=3))
    blocks = data.draw(workloads(schedule.blocks))
    cluster = data.draw(clusters(len(schedule.workers)))
    batches = data.draw(st.integers(300, 500))
    assume(len(schedule.workers) * schedule.micro_batches * batches < 8000)
    compared(schedule, blocks, cluster, batches)
