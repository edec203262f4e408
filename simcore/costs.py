"""What each operation of a schedule costs on a cluster, in ticks."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from simcore.cluster import Cluster, ring_all_reduce_s
from simcore.errors import InputError
from simcore.faults import refuse_strangers
from simcore.ops import Channel, Group
from simcore.schedule import Schedule
from simcore.ticks import Tick, choose_tick, total
from simcore.workload import Workload

__all__ = ["Costs", "Delays", "message_bytes"]

# A factor that a random duration exceeds with no practical probability, for the estimate of the
# makespan that must fit into 62 bits.
_JITTER_HEADROOM: Final = 64
_NANOSECOND: Final = Fraction(1, 10**9)
_NONE: Final = Fraction(0)
_FREE: Final = (_NONE,) * 4


@dataclass(frozen=True, slots=True)
class Delays:
    """One message of a channel, in ticks: work of the sender, wire, way, work of the receiver."""

    send: int = 0
    transmit: int = 0
    latency: int = 0
    receive: int = 0


@dataclass(frozen=True, slots=True)
class Costs:
    """Durations at full speed, in ticks.

    `compute[kind][block]` is that of an operation of this kind (see `simcore.ops.kind_of`), with
    block 0 for the data. `delays` are those of each channel, `rounds[group][block]` those of a
    group's rounds, with block 0 for a mere barrier.
    """

    tick: Tick
    compute: Mapping[str, tuple[int, ...]]
    delays: tuple[Delays, ...]
    rounds: tuple[Mapping[int, int], ...] = ()

    @classmethod
    def of(
        cls, schedule: Schedule, blocks: Workload, cluster: Cluster, random: bool = False
    ) -> "Costs":
        """Costs of a schedule whose blocks cost what the layers of `blocks` do.

        `random` says whether durations will vary, so that no tick can make them exact.

        Raises `InputError` if the workload does not have one layer for each block, or the cluster
        has faults of workers that there are not.
        """
        refuse_strangers((*cluster.stragglers, *cluster.faults), len(schedule.workers))
        layers = blocks.layers
        if len(layers) != schedule.blocks:
            raise InputError(
                "number of layers in the workload",
                len(layers),
                f"must equal the {schedule.blocks} blocks of the schedule",
                "partition the workload first",
            )
        parts = _channel_seconds(schedule, blocks, cluster)
        rounds = [_round_seconds(schedule, group, blocks, cluster) for group in schedule.groups]
        compute = _compute_seconds(schedule, blocks)
        # Many kinds have the same list, and many channels the same times: each is looked at once.
        lists = {id(times): times for times in compute.values()}
        totals = {key: total(times) for key, times in lists.items()}
        times = [time for seconds in lists.values() for time in seconds]
        different = {id(part): part for part in parts}
        often = Counter(map(id, parts))
        waits = [time for part in different.values() for time in part]
        waiting = sum(often[key] * total(part) for key, part in different.items())
        joining = [time for seconds in rounds for time in seconds.values()]
        workers = len(schedule.workers)
        slowest = min(
            cluster.device(cluster.device_of(worker)).speed(workers) for worker in range(workers)
        )
        factors = {Fraction(1), *(cluster.slowdown(worker) for worker in range(workers))}
        given = [fault.at_s for fault in cluster.faults if fault.at_s is not None]
        given += [pause.for_s for pause in cluster.pauses]
        rounds_of_batches = schedule.batches + 4 * schedule.blocks
        longest = sum(totals[id(times)] for times in compute.values()) * max(factors) / slowest
        longest = rounds_of_batches * (longest + waiting + total(joining))
        longest += sum(given)
        if random:
            tick = choose_tick([_NANOSECOND], longest * _JITTER_HEADROOM)
        elif any(fault.mean_s is not None for fault in cluster.faults):
            tick = choose_tick([_NANOSECOND], longest)
        else:
            # The factor 1 is always among them.
            slowed = [time * factor for time in times for factor in factors if factor != 1]
            tick = choose_tick([*times, *slowed, *waits, *joining, *given], longest)
        ticks = {key: tuple(map(tick.ticks, times)) for key, times in lists.items()}
        delays = {key: Delays(*map(tick.ticks, part)) for key, part in different.items()}
        return cls(
            tick,
            {kind: ticks[id(times)] for kind, times in compute.items()},
            tuple(delays[id(part)] for part in parts),
            tuple({k: tick.ticks(time) for k, time in each.items()} for each in rounds),
        )


def _compute_seconds(schedule: Schedule, blocks: Workload) -> dict[str, list[Fraction]]:
    """Seconds of each kind of computation, by block; a pass may be of a part of a mini-batch."""
    layers, micro_batches = blocks.layers, schedule.micro_batches
    tangents = schedule.weights.tangents

    def of_pass(times: list[Fraction], directions: int = 1) -> list[Fraction]:
        if directions != micro_batches:
            factor = Fraction(directions, micro_batches)
            times = [time * factor if time else time for time in times]
        return [_NONE, *times]

    forward = of_pass([layer.forward_s for layer in layers])
    auxiliary = of_pass([layer.auxiliary_s for layer in layers])
    merge = [_NONE, *(layer.merge_s for layer in layers)]
    seconds: dict[str, list[Fraction]] = {
        "forward": forward,
        "evaluate": forward,
        "replay": forward,
        "tangent": of_pass([layer.tangent_time_s for layer in layers], tangents),
        "backward": of_pass([layer.backward_s for layer in layers]),
        "project": of_pass([layer.project_s for layer in layers], tangents),
        "estimate": auxiliary,
        "refine": auxiliary,
        "update": [_NONE, *(layer.update_s for layer in layers)],
        "snapshot": merge,
        "merge": merge,
    }
    if schedule.split_backward:
        first = [layer.backward_input_time_s for layer in layers]
        rest = [layer.backward_s - half for layer, half in zip(layers, first, strict=True)]
        seconds["backward_input"] = seconds["backward_through"] = of_pass(first)
        seconds["backward_weight"] = of_pass(rest)
    return seconds | {"load": [blocks.load_s / micro_batches]}


def message_bytes(schedule: Schedule, channel: Channel, blocks: Workload) -> Fraction:
    """Bytes of one message, exact; of a part of a mini-batch where that is what passes.

    Activations, gradients and errors move, and a derivative for each direction of a forward
    gradient; graphs are handed over in place; a scalar has 4 bytes for each direction.
    """
    outputs = [blocks.input_bytes, *(layer.activation_bytes for layer in blocks.layers)]
    tangents = schedule.weights.tangents
    times = {"activation": 1, "gradient": 1, "error": 1, "derivative": tangents}
    moved = sum(outputs[item.block] * times.get(item.kind, 0) for item in channel.carries)
    scalars = sum(item.kind == "scalar" for item in channel.carries)
    return Fraction(moved, schedule.micro_batches) + 4 * scalars * tangents


def _channel_seconds(
    schedule: Schedule, blocks: Workload, cluster: Cluster
) -> list[tuple[Fraction, ...]]:
    """Seconds of each channel's messages: send, wire, way, receive; equal ones may be one tuple."""
    of_links: dict[int, tuple[Fraction, ...]] = {}
    found: list[tuple[Fraction, ...]] = []
    for channel in schedule.channels:
        if channel.source or schedule.is_local(channel):
            loads = channel.source and channel.name in cluster.links
            receive_s = cluster.links[channel.name].receive_s if loads else _NONE
            found.append((_NONE, _NONE, _NONE, receive_s) if loads else _FREE)
            continue
        link = cluster.link_of(channel.name)
        if link.bytes_per_s is not None:
            wire = message_bytes(schedule, channel, blocks) / link.bytes_per_s
            found.append((link.send_s, wire, link.latency_s, link.receive_s))
            continue
        if id(link) not in of_links:
            of_links[id(link)] = (link.send_s, _NONE, link.latency_s, link.receive_s)
        found.append(of_links[id(link)])
    return found


def _round_seconds(
    schedule: Schedule, group: Group, blocks: Workload, cluster: Cluster
) -> dict[int, Fraction]:
    """Seconds of a round of a group, by the block that it averages; a barrier takes no time."""
    members = sum(group in worker.joins for worker in schedule.workers)
    link = cluster.link_of(group.name)
    sizes = {block: blocks.layers[block - 1].parameter_bytes for block in group.blocks}
    rounds = {block: ring_all_reduce_s(link, members, size) for block, size in sizes.items()}
    return {0: Fraction(0)} | rounds
