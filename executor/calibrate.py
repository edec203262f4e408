"""Calibration: what each operation and message of a schedule costs in the runtime that will run it.

Costs are means, not medians: what happens now and then takes its time in the run as well. An
operation costs the time from its start to the start of the next in its worker, so that what the
runtime does between the two is counted.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
from torch import nn
from torch.optim import Optimizer

from executor.isolated import isolate, isolated_schedule
from executor.run import Runtime, run
from executor.timings import Timings
from executor.training import INTERRUPTED, DataSource, TemplateSource, Training
from executor.tree import bytes_of
from executor.weights import MakeOptimizer
from simcore.cluster import Cluster, Device, Link
from simcore.engine import simulate
from simcore.schedule import Schedule
from simcore.validate import validate
from simcore.workload import Layer, Workload

__all__ = ["Calibration", "between", "calibrate"]

_MOST_IN_FLIGHT: Final = 4  # more no longer changes what the caches hold


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measured costs: of blocks with one worker active, and the cluster that slows them down.

    `speeds` are those of the cluster's device, for 1, 2, ... active workers. `other_cpu_share` is
    the share of the machine that other programs took meanwhile, None if unknown.
    """

    blocks: Workload
    cluster: Cluster
    speeds: tuple[float, ...]
    other_cpu_share: float | None


def calibrate(
    training: Training,
    runtime: Runtime,
    rounds: int = 20,
    progress: Callable[[int], None] | None = None,
) -> Calibration:
    """Time the operations and messages of a training's schedule in a runtime.

    Workers are timed alone, then two at once, three, and so on, `rounds` batches each time.
    Raises what the runtime raises, and `KeyboardInterrupt` after Ctrl-C.
    """
    schedule = training.make_schedule()
    shape = _depths(schedule), _updates_at_once(schedule), rounds
    isolated = isolate(schedule, *shape)
    assert isinstance(training.source, DataSource)
    templates = TemplateSource(training.model, training.bounds, training.source)
    timing = replace(
        training,
        make_schedule=partial(isolated_schedule, training.make_schedule, *shape),
        source=templates,
        make_optimizer=partial(_standing_still, training.make_optimizer),
    )
    result = run(timing, runtime, progress=progress)
    if result.failure == INTERRUPTED:  # half of a timing run says nothing
        raise KeyboardInterrupt
    trace = result.trace
    timings = Timings(isolated, trace)
    layers = tuple(
        Layer(
            f"block {block}",
            timings.seconds("forward", block),
            timings.seconds("backward", block),
            timings.seconds("update", block),
            activation_bytes=bytes_of(templates.outputs[block]),
        )
        for block in range(1, schedule.blocks + 1)
    )
    speeds = timings.speeds()
    links = {channel.name: timings.link(channel) for channel in isolated.probes}
    for channel in schedule.channels:
        if channel.source:
            links[channel.name] = Link(receive_s=timings.loading())
    cluster = Cluster((Device(runtime, speeds=speeds),), "shared", links=links)
    blocks = Workload("calibrated", layers, input_bytes=bytes_of(templates.outputs[0]))
    share = trace.header.about.get("other_cpu_share")
    return Calibration(blocks, cluster, tuple(map(float, speeds)), share)


def between(first: Calibration, second: Calibration) -> Calibration:
    """The mean of two calibrations of the same schedule in the same runtime."""
    layers = tuple(
        replace(
            one,
            forward_s=(one.forward_s + two.forward_s) / 2,
            backward_s=(one.backward_s + two.backward_s) / 2,
            update_s=(one.update_s + two.update_s) / 2,
        )
        for one, two in zip(first.blocks.layers, second.blocks.layers, strict=True)
    )
    [device], [other] = first.cluster.devices, second.cluster.devices
    speeds = tuple((one + two) / 2 for one, two in zip(device.speeds, other.speeds, strict=True))
    links = {
        name: Link(
            latency_s=(one.latency_s + two.latency_s) / 2,
            send_s=(one.send_s + two.send_s) / 2,
            receive_s=(one.receive_s + two.receive_s) / 2,
        )
        for name, one in first.cluster.links.items()
        for two in [second.cluster.links[name]]
    }
    shares = [each.other_cpu_share for each in (first, second)]
    known = [share for share in shares if share is not None]
    return Calibration(
        replace(first.blocks, layers=layers),
        replace(first.cluster, devices=(replace(device, speeds=speeds),), links=links),
        tuple(map(float, speeds)),
        max(known) if known else None,
    )


def _standing_still(make_optimizer: MakeOptimizer, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The same optimiser with learning rate 0: gradients from nowhere must not move the weights."""
    optimizer = make_optimizer(parameters)
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * 0
    return optimizer


def _depths(schedule: Schedule) -> list[int]:
    """How many batches each worker keeps in flight if all operations take the same time."""
    trace = simulate(schedule, Workload.even(schedule.blocks, schedule.blocks, 1, schedule.blocks))
    depths = []
    for worker in schedule.workers:
        at_most = 1
        for block in worker.blocks:
            begun, ended = (
                np.sort(rows[rows["block"] == block]["start"])
                for rows in (trace.of_kind("forward"), trace.of_kind("backward"))
            )
            alive = np.arange(1, len(begun) + 1) - np.searchsorted(ended, begun, side="left")
            at_most = max(at_most, int(alive.max()))
        depths.append(min(at_most, _MOST_IN_FLIGHT))
    return depths


def _updates_at_once(schedule: Schedule) -> list[bool]:
    """Whether a backward pass is followed by the update of its block before the next block's."""
    found = []
    for done in validate(schedule, orders=0).operations:
        kinds = [kind for kind, _, _ in done if kind in ("backward", "update")]
        found.append(kinds[:2] == ["backward", "update"])
    return found
