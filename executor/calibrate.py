"""Calibration: what each operation and message of a schedule costs in the runtime that will run it.

Costs are means, not medians: what happens now and then takes its time in the run as well. An
operation costs the time from its start to the start of the next in its worker, so that what the
runtime does between the two is counted.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any, Final

from torch import nn
from torch.optim import Optimizer

from executor.isolated import Isolated, isolate, isolated_schedule
from executor.run import Runtime, run
from executor.templates import TemplateSource
from executor.timings import Timings
from executor.training import INTERRUPTED, Training
from executor.tree import bytes_of
from executor.weights import MakeOptimizer
from simcore.cluster import Cluster, Device, Link
from simcore.ops import Channel, Group
from simcore.schedule import Schedule
from simcore.workload import Layer, Workload

__all__ = ["Calibration", "between", "calibrate"]

_TIMES: Final = (
    *("forward_s", "backward_s", "update_s", "tangent_s", "backward_input_s"),
    *("project_s", "auxiliary_s", "merge_s"),
)


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
    batches = rounds + len(schedule.workers)  # as many more as it takes to fill a pipeline
    isolated = isolate(schedule, batches)
    templates = TemplateSource(training, schedule)
    timing = replace(
        training,
        make_schedule=partial(isolated_schedule, training.make_schedule, batches),
        source=templates,
        make_optimizer=partial(_standing_still, training.make_optimizer),
    )
    result = run(timing, runtime, progress=progress)
    if result.failure == INTERRUPTED:  # half of a timing run says nothing
        raise KeyboardInterrupt
    trace = result.trace
    timings = Timings(isolated, trace)
    layers = tuple(_layer(schedule, timings, templates, k) for k in range(1, schedule.blocks + 1))
    speeds = timings.speeds()
    links = {channel.name: timings.link(probed) for channel, probed in _probed(schedule, isolated)}
    for channel, source in _sources(schedule, isolated):
        links[channel.name] = Link(receive_s=timings.loading(source))
    for group in isolated.rounds:
        links[group.name] = _ring(isolated, group, timings.round(group), layers)
    cluster = Cluster((Device(runtime, speeds=speeds),), "shared", links=links)
    data = bytes_of(templates.codec.outputs[0]) * schedule.micro_batches
    loading = (timings.seconds(0, "load") or Fraction(0)) * schedule.micro_batches
    blocks = Workload("calibrated", layers, input_bytes=data, load_s=loading)
    share = trace.header.about.get("other_cpu_share")
    return Calibration(blocks, cluster, tuple(map(float, speeds)), share)


def _layer(schedule: Schedule, timings: Timings, templates: TemplateSource, block: int) -> Layer:
    """What a block costs for a whole mini-batch: a pass may be of a part of it."""
    parts, none = schedule.micro_batches, Fraction(0)

    def seconds(*kinds: str) -> Fraction | None:
        found = timings.seconds(block, *kinds)
        return None if found is None else found * parts

    tangents = schedule.weights.tangents
    tangent, project = seconds("tangent"), seconds("project")
    tangent = None if tangent is None else tangent / tangents
    forward = seconds("forward", "replay", "evaluate")
    half, rest = seconds("backward_input", "backward_through"), seconds("backward_weight")
    whole = seconds("backward")
    if whole is None:
        whole = (half or none) + (rest or none)
    elif half is not None:
        whole = max(whole, half)  # what the halves cost beside whole passes is not told apart
    return Layer(
        f"block {block}",
        (tangent or none) if forward is None else forward,
        whole,
        timings.seconds(block, "update") or none,
        activation_bytes=bytes_of(templates.codec.outputs[block]) * parts,
        parameter_bytes=templates.parameter_bytes[block - 1],
        tangent_s=tangent,
        backward_input_s=half,
        project_s=(project or none) / tangents,
        auxiliary_s=seconds("estimate", "refine") or none,
        merge_s=timings.seconds(block, "snapshot", "merge") or none,
    )


def _probed(schedule: Schedule, isolated: Isolated) -> list[tuple[Channel, Channel]]:
    """The schedule's channels that were probed, with those of the short one that stood for them."""
    names = {channel.name: channel for channel in isolated.probes}
    return [(c, names[c.name]) for c in schedule.channels if c.name in names]


def _sources(schedule: Schedule, isolated: Isolated) -> list[tuple[Channel, Channel]]:
    names = {channel.name: channel for channel in isolated.loads}
    return [(c, names[c.name]) for c in schedule.channels if c.name in names]


def _ring(isolated: Isolated, group: Group, round_s: Fraction, layers: Sequence[Layer]) -> Link:
    """The link of a group over which a ring all-reduce takes as long as a round did."""
    members = sum(group.name in {g.name for g in w.joins} for w in isolated.members)
    size = layers[isolated.rounds[group][1] - 1].parameter_bytes
    steps = 2 * (members - 1)
    if round_s <= 0 or not steps:
        return Link()
    return Link(bytes_per_s=Fraction(steps * size, members) / round_s)


def between(first: Calibration, second: Calibration) -> Calibration:
    """The mean of two calibrations of the same schedule in the same runtime."""
    layers = tuple(
        _mean_layer(one, two)
        for one, two in zip(first.blocks.layers, second.blocks.layers, strict=True)
    )
    [device], [other] = first.cluster.devices, second.cluster.devices
    speeds = tuple((one + two) / 2 for one, two in zip(device.speeds, other.speeds, strict=True))
    links = {
        name: Link(
            latency_s=(one.latency_s + two.latency_s) / 2,
            send_s=(one.send_s + two.send_s) / 2,
            receive_s=(one.receive_s + two.receive_s) / 2,
            bytes_per_s=_middle(one.bytes_per_s, two.bytes_per_s),
        )
        for name, one in first.cluster.links.items()
        for two in [second.cluster.links[name]]
    }
    shares = [each.other_cpu_share for each in (first, second)]
    known = [share for share in shares if share is not None]
    return Calibration(
        replace(
            first.blocks,
            layers=layers,
            load_s=(first.blocks.load_s + second.blocks.load_s) / 2,
        ),
        replace(first.cluster, devices=(replace(device, speeds=speeds),), links=links),
        tuple(map(float, speeds)),
        max(known) if known else None,
    )


def _mean_layer(one: Layer, two: Layer) -> Layer:
    times: dict[str, Any] = {
        name: _middle(getattr(one, name), getattr(two, name)) for name in _TIMES
    }
    return replace(one, **times)


def _middle(one: Fraction | None, two: Fraction | None) -> Fraction | None:
    return None if one is None or two is None else (one + two) / 2


def _standing_still(make_optimizer: MakeOptimizer, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The same optimiser with learning rate 0: gradients from nowhere must not move the weights."""
    optimizer = make_optimizer(parameters)
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * 0
    return optimizer
