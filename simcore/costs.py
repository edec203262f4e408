"""What each operation of a schedule costs on a cluster, in ticks."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from simcore.cluster import Cluster
from simcore.errors import InputError
from simcore.ops import Channel
from simcore.schedule import Schedule
from simcore.ticks import Tick, choose_tick
from simcore.workload import Workload

__all__ = ["Costs", "Delays", "message_bytes"]

# A factor that a random duration exceeds with no practical probability, for the estimate of the
# makespan that must fit into 62 bits.
_JITTER_HEADROOM: Final = 64
_NANOSECOND: Final = Fraction(1, 10**9)


@dataclass(frozen=True, slots=True)
class Delays:
    """One message of a channel, in ticks: work of the sender, wire, way, work of the receiver."""

    send: int = 0
    transmit: int = 0
    latency: int = 0
    receive: int = 0


@dataclass(frozen=True, slots=True)
class Costs:
    """Durations at full speed, in ticks: of each block's operations, and of each channel."""

    tick: Tick
    forward: tuple[int, ...]
    backward: tuple[int, ...]
    update: tuple[int, ...]
    delays: tuple[Delays, ...]

    @classmethod
    def of(
        cls, schedule: Schedule, blocks: Workload, cluster: Cluster, jitter: float = 0.0
    ) -> "Costs":
        """Costs of a schedule whose blocks cost what the layers of `blocks` do.

        Raises `InputError` if the workload does not have one layer for each block.
        """
        layers = blocks.layers
        if len(layers) != schedule.blocks:
            raise InputError(
                "number of layers in the workload",
                len(layers),
                f"must equal the {schedule.blocks} blocks of the schedule",
                "partition the workload first",
            )
        parts = [_link_seconds(schedule, channel, blocks, cluster) for channel in schedule.channels]
        times = [time for layer in layers for time in (layer.forward_s, layer.backward_s)]
        times += [layer.update_s for layer in layers]
        workers = len(schedule.workers)
        slowest = min(
            cluster.device(cluster.device_of(worker)).speed(workers) for worker in range(workers)
        )
        rounds = schedule.batches + 4 * schedule.blocks
        longest = rounds * (sum(times) / slowest + sum(sum(part) for part in parts))
        if jitter:
            tick = choose_tick([_NANOSECOND], longest * _JITTER_HEADROOM)
        else:
            tick = choose_tick([*times, *(time for part in parts for time in part)], longest)
        return cls(
            tick,
            tuple(tick.ticks(layer.forward_s) for layer in layers),
            tuple(tick.ticks(layer.backward_s) for layer in layers),
            tuple(tick.ticks(layer.update_s) for layer in layers),
            tuple(Delays(*(tick.ticks(time) for time in part)) for part in parts),
        )


def message_bytes(channel: Channel, blocks: Workload) -> int:
    """Bytes of one message: activations and gradients move, graphs are handed over in place."""
    outputs = [blocks.input_bytes, *(layer.activation_bytes for layer in blocks.layers)]
    return sum(outputs[item.block] for item in channel.carries if item.kind != "graph")


def _link_seconds(
    schedule: Schedule, channel: Channel, blocks: Workload, cluster: Cluster
) -> tuple[Fraction, Fraction, Fraction, Fraction]:
    nothing = Fraction(0)
    if channel.source:
        loading = (
            cluster.links[channel.name].receive_s if channel.name in cluster.links else nothing
        )
        return nothing, nothing, nothing, loading
    if schedule.is_local(channel):
        return (nothing,) * 4
    link = cluster.link_of(channel.name)
    wire = Fraction(0)
    if link.bytes_per_s is not None:
        wire = message_bytes(channel, blocks) / Fraction(link.bytes_per_s)
    return link.send_s, wire, link.latency_s, link.receive_s
