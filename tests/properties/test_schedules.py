"""What holds of every registered schedule: a schedule is tested here by being registered.

The invariants are those of `simcore.invariants`, each drawn simulation is checked for all of them.
"""

from dataclasses import fields, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simcore.cluster import Cluster
from simcore.costs import Costs
from simcore.invariants import check_trace, operations_of
from simcore.ops import Channel
from simcore.schedules import SCHEDULES, build
from simcore.testing import Simulation, schedules, simulations, workloads
from simcore.trace import GRADIENT_COLUMNS, KIND, SPAN_COLUMNS, Trace
from simcore.validate import validate
from simcore.workload import Workload

every_schedule = pytest.mark.parametrize("name", SCHEDULES)


@every_schedule
@given(st.data())
def test_every_trace_is_sound(name: str, data: st.DataObject) -> None:
    simulation = data.draw(simulations(schedules(name)))
    check_trace(simulation.schedule, simulation.run())


@every_schedule
@given(st.data())
def test_messages_take_their_time(name: str, data: st.DataObject) -> None:
    """A transfer waits for the one before it on the wire, then takes transmission and latency."""
    simulation = data.draw(simulations(schedules(name)))
    schedule, trace = simulation.schedule, simulation.run()
    costs = Costs.of(schedule, simulation.blocks, simulation.cluster, simulation.random)
    assert costs.tick.seconds == trace.header.tick_s
    for number, channel in enumerate(schedule.channels):
        delays = costs.delays[number]
        sends, receives = (rows_of(trace, kind, number) for kind in ("send", "receive"))
        # Longer than their work where other workers share the device.
        assert (sends["end"] - sends["start"] >= delays.send).all()
        assert (receives["end"] - receives["start"] >= delays.receive).all()
        starts = {int(row["batch"]): int(row["start"]) for row in receives}
        free = 0
        for row in sends[np.argsort(sends["end"], kind="stable")]:
            free = max(int(row["end"]), free) + delays.transmit
            # Transfers that depart in one instant may go in another order than that of this loop.
            tied = int((sends["end"] == row["end"]).sum()) - 1
            earliest = free - tied * delays.transmit + delays.latency
            assert starts.get(int(row["batch"]), earliest) >= earliest, channel.name


def rows_of(trace: Trace, kind: str, channel: int) -> Any:
    rows = trace.of_kind(kind)
    return rows[rows["block"] == channel]


@every_schedule
@given(st.data())
def test_computations_take_their_time(name: str, data: st.DataObject) -> None:
    """On a device of its own, each worker's computations last exactly as long as they cost."""
    simulation = data.draw(simulations(schedules(name), placed=False, random=False))
    trace = simulation.run()
    costs = Costs.of(simulation.schedule, simulation.blocks, simulation.cluster)
    for kind in ("forward", "backward", "update"):
        for row in trace.of_kind(kind):
            expected = costs.compute[kind][int(row["block"])]
            assert row["end"] - row["start"] == expected


@every_schedule
@given(st.data())
def test_validator_and_engine_agree(name: str, data: st.DataObject) -> None:
    """Where the verdict is conclusive, each worker does the same, whatever the times."""
    simulation = data.draw(simulations(schedules(name)))
    verdict = validate(simulation.schedule)
    found = operations_of(simulation.run())
    if verdict.conclusive:
        assert found == verdict.operations
    elif name != "lppsgd":  # where times decide who trains a part on which batch
        assert counted(found) == counted(verdict.operations)
    for channel, most in zip(simulation.schedule.channels, verdict.most_messages, strict=True):
        assert channel.capacity is None or most <= channel.capacity


def counted(workers: tuple[tuple[tuple[str, int, int], ...], ...]) -> list[tuple[str, int, int]]:
    return sorted(operation for worker in workers for operation in worker)


@every_schedule
@given(st.data())
def test_gaps_of_static_schedules_do_not_depend_on_times(name: str, data: st.DataObject) -> None:
    """Where every block belongs to one worker and the order is fixed, so are all versions."""
    schedule = data.draw(schedules(name))
    owners = [block for worker in schedule.workers for block in worker.blocks]
    if not validate(schedule).conclusive or len(set(owners)) < len(owners):
        return
    of_schedule = st.just(schedule)
    one, other = (data.draw(simulations(of_schedule)).run() for _ in range(2))
    assert gaps_of(one) == gaps_of(other)


def gaps_of(trace: Trace) -> dict[tuple[int, int], tuple[int, ...]]:
    columns = ("version_forward", "version_backward", "version_applied", "version_base")
    return {
        (int(row["block"]), int(row["batch"])): tuple(int(row[column]) for column in columns)
        for row in trace.gradients
    }


@every_schedule
@given(st.data())
def test_the_same_seed_gives_the_same_trace(name: str, data: st.DataObject) -> None:
    simulation = data.draw(simulations(schedules(name)))
    options: dict[str, Any] = dict(simulation.schedule.options)
    again = replace(simulation, schedule=build(name, **options))
    assert_equal(simulation.run(), again.run())


def assert_equal(one: Trace, other: Trace) -> None:
    assert one.header == other.header
    np.testing.assert_array_equal(one.spans, other.spans)
    np.testing.assert_array_equal(one.gradients, other.gradients)


@every_schedule
@given(st.data(), st.integers(2, 1000))
def test_the_unit_of_time_does_not_matter(name: str, data: st.DataObject, factor: int) -> None:
    """All times a whole number of times longer: the same trace, that much longer, exactly.

    Not so for devices and bandwidths that are shared, where completions are rounded up to whole
    ticks.
    """
    simulation = data.draw(simulations(schedules(name), placed=False, random=False))
    link = replace(simulation.cluster.link, transfers="serial")
    simulation = replace(simulation, cluster=replace(simulation.cluster, link=link))
    one, other = simulation.run(), scaled(simulation, factor).run()
    for column in SPAN_COLUMNS:
        if column in ("start", "end"):
            left = [int(tick) * one.header.tick_s * factor for tick in one.spans[column]]
            right = [int(tick) * other.header.tick_s for tick in other.spans[column]]
            assert left == right
        else:
            np.testing.assert_array_equal(one.spans[column], other.spans[column])
    columns = [column for column in GRADIENT_COLUMNS if column != "time"]
    np.testing.assert_array_equal(one.gradients[columns], other.gradients[columns])


def scaled(simulation: Simulation, factor: int) -> Simulation:
    layers = tuple(
        replace(
            layer,
            **{
                field.name: getattr(layer, field.name) * factor
                for field in fields(layer)
                if field.name.endswith("_s") and getattr(layer, field.name) is not None
            },
        )
        for layer in simulation.blocks.layers
    )
    load_s = simulation.blocks.load_s * factor
    link = simulation.cluster.link
    slower = replace(
        link,
        latency_s=link.latency_s * factor,
        bytes_per_s=None if link.bytes_per_s is None else link.bytes_per_s / factor,
        send_s=link.send_s * factor,
        receive_s=link.receive_s * factor,
    )
    return replace(
        simulation,
        blocks=replace(simulation.blocks, layers=layers, load_s=load_s),
        cluster=replace(simulation.cluster, link=slower),
    )


@every_schedule
@given(st.data())
def test_nothing_is_faster_than_its_busiest_worker_and_its_longest_batch(
    name: str, data: st.DataObject
) -> None:
    """With free links on private devices: no idle start, and bounds of the makespan both ways."""
    schedule = data.draw(schedules(name))
    blocks: Workload = data.draw(workloads(schedule.blocks))
    trace = Simulation(schedule, blocks, Cluster.private()).run()
    makespan = trace.end * trace.header.tick_s
    assert trace.start == 0
    busy = [Fraction(0) for _ in schedule.workers]
    for row in trace.spans[trace.spans["kind"] != KIND["join"]]:
        busy[int(row["worker"])] += int(row["end"] - row["start"]) * trace.header.tick_s
    # Somebody is busy at any time.
    assert max(busy) <= makespan <= sum(busy)
    assert blocks.forward_s / schedule.micro_batches <= makespan


@given(simulations())
def test_rows_are_sorted_and_of_the_documented_schema(simulation: Simulation) -> None:
    schedule, trace = simulation.schedule, simulation.run()
    keys = [tuple(int(row[name]) for name in ("start", "worker", "index")) for row in trace.spans]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)
    assert (np.diff(trace.gradients["time"]) >= 0).all()
    for row in trace.spans:
        worker = schedule.workers[int(row["worker"])]
        kind = int(row["kind"])
        if kind in (KIND["arrive"], KIND["join"]):
            assert schedule.groups[int(row["block"])] in worker.joins
            continue
        if kind in (KIND["send"], KIND["receive"]):
            channel: Channel = schedule.channels[int(row["block"])]
            assert channel in (worker.sends if row["kind"] == KIND["send"] else worker.receives)
        else:
            assert row["block"] in (*worker.blocks, *([0] if kind == KIND["load"] else []))
        unversioned = ("send", "receive", "load", "estimate", "refine")
        assert (row["version"] == -1) == (kind in [KIND[each] for each in unversioned])
        assert (row["batch"] == -1) == (kind in [KIND[k] for k in ("update", "snapshot", "merge")])
