"""Calibration: what it reads from a timing run, and that it leaves the network alone."""

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from faulty_layers import network, training
from test_methods import PLAIN, VARIANTS, Case, shown, training_of

from executor.calibrate import calibrate
from executor.isolated import isolate
from executor.timings import Timings
from simcore.cluster import Cluster, Device, Link
from simcore.engine import simulate
from simcore.schedules import build
from simcore.validate import validate
from simcore.workload import Layer, Workload

MS = Fraction(1, 1000)
COUNTED = (
    *("forward", "backward", "update", "evaluate", "tangent", "replay", "load", "estimate"),
    *("backward_input", "backward_weight", "backward_through", "project", "refine"),
)


def uneven(blocks: int) -> Workload:
    """A workload whose every time is different, in whole milliseconds."""
    layers = (
        Layer(f"{k}", 2 * k * MS, (5 * k + 1) * MS, (k + 3) * MS) for k in range(1, blocks + 1)
    )
    return Workload("uneven", tuple(layers))


@pytest.mark.parametrize("case", [*PLAIN, *VARIANTS], ids=shown)
def test_the_timing_schedule_is_legal_and_does_what_the_schedule_does(case: Case) -> None:
    """In every phase that a worker is active in, it does its operations of the schedule once."""
    name, options = case
    schedule = build(name, batches=6, **options)
    isolated = isolate(schedule, 6)
    done = validate(isolated.schedule, orders=0, every_batch=False).operations
    blocks = schedule.blocks
    trace = simulate(schedule, Workload.even(blocks, blocks, 1, blocks))
    for number, operations in enumerate(done):
        phases = sum(number in active for active in isolated.active)
        for kind in COUNTED:
            own = int((trace.of_kind(kind)["worker"] == number).sum())
            # Who is handed graphs has to make them.
            if kind != "forward" or not name.startswith("async-"):
                assert sum(each == kind for each, _, _ in operations) == phases * own, kind


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bp", {"modules": 2}),
        ("fdg", {"modules": 3}),
        ("adl", {"modules": 2}),
        ("async-lu", {"layers": 3, "forward_threads": 2}),
    ],
)
@pytest.mark.parametrize("slow", [False, True])
def test_timings_find_the_costs_that_were_put_in(
    name: str, options: dict[str, Any], slow: bool
) -> None:
    """A simulated timing run has known costs: reading it must give them back."""
    schedule = build(name, batches=5, **options)
    workers = len(schedule.workers)
    isolated = isolate(schedule, 20)
    speeds = (Fraction(1), Fraction(4, 5), Fraction(3, 5), Fraction(1, 2))[:workers]
    speeds = speeds if slow else (Fraction(1),) * workers
    costs = {
        channel: Link(latency_s=Fraction(number, 7) * MS, send_s=MS / 4, receive_s=MS / 3)
        for number, channel in enumerate(isolated.probes, start=1)
    }
    cluster = Cluster(
        (Device("cpu", speeds=speeds),),
        "shared",
        links={isolated.probes[channel].name: link for channel, link in costs.items()},
    )
    workload = uneven(schedule.blocks)
    trace = simulate(isolated.schedule, workload, cluster)
    # A timing run reads a clock of nanoseconds, from 0.
    for column in ("start", "end"):
        trace.spans[column] = trace.spans[column] * trace.header.tick_s * 10**9
    timings = Timings(isolated, trace)
    for block, layer in enumerate(workload.layers, start=1):
        for kind in ("forward", "backward", "update"):
            assert timings.seconds(block, kind) == getattr(layer, f"{kind}_s")
    assert {timings.loading(source) for source in isolated.loads} == {0}
    # Speeds are thousandths; workers that start a message or end are alone for a moment.
    for found, known in zip(timings.speeds(), speeds, strict=True):
        assert abs(found - known) <= Fraction(2, 100)
    # On a device that slows down, a message's sender and receiver slow each other down.
    for channel, link in () if slow else costs.items():
        found_link = timings.link(channel)
        for part in ("latency_s", "send_s", "receive_s"):
            assert abs(getattr(found_link, part) - getattr(link, part)) <= MS / 1000


@pytest.mark.parametrize(
    ("name", "options", "bounds"),
    [("adl", {"modules": 2}, (0, 2, 4)), ("async-lu", {"layers": 4}, (0, 1, 2, 3, 4))],
    ids=["adl", "async-lu"],
)
def test_calibration_of_a_real_network(
    name: str, options: dict[str, Any], bounds: tuple[int, ...]
) -> None:
    asked = training(name, bounds, network(4), batches=6, **options)
    before = {key: value.clone() for key, value in asked.model.state_dict().items()}
    random_state = torch.get_rng_state()
    found = calibrate(asked, "threads", rounds=3)
    schedule = asked.make_schedule()
    assert len(found.speeds) == len(schedule.workers)
    assert found.speeds[0] == 1
    for layer in found.blocks.layers:
        assert layer.forward_s > 0
        assert layer.backward_s > 0
        assert layer.update_s > 0
    simulated = simulate(schedule, found.blocks, found.cluster)
    assert simulated.end > 0
    between = {c.name for c in schedule.channels if not schedule.is_local(c)}
    assert found.cluster.links.keys() == between
    assert all(torch.equal(before[key], value) for key, value in asked.model.state_dict().items())
    assert torch.equal(random_state, torch.get_rng_state())


@pytest.mark.parametrize("case", PLAIN, ids=shown)
def test_every_schedule_is_calibrated(case: Case) -> None:
    asked = training_of(case)
    schedule = asked.make_schedule()
    found = calibrate(asked, "threads", rounds=3)
    assert all(layer.forward_s > 0 and layer.update_s > 0 for layer in found.blocks.layers)
    used = {kind for each in validate(schedule, orders=0).operations for kind, _, _ in each}
    times = {
        "tangent": "tangent_s",
        "project": "project_s",
        "backward": "backward_s",
        "backward_input": "backward_input_s",
    }
    for kind in used & times.keys():
        assert all(getattr(layer, times[kind]) > 0 for layer in found.blocks.layers), kind
    assert any(layer.auxiliary_s > 0 for layer in found.blocks.layers) == ("estimate" in used)
    assert any(layer.merge_s > 0 for layer in found.blocks.layers) == ("snapshot" in used)
    for group in schedule.groups:
        if group.blocks:
            assert (found.cluster.links[group.name].bytes_per_s or 0) > 0
    assert simulate(schedule, found.blocks, found.cluster).end > 0
