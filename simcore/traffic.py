"""Traffic of each link, read from a trace: messages, bytes, how many wait, how busy the wire is."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from simcore.cluster import Cluster
from simcore.costs import message_bytes
from simcore.holdings import has_sizes
from simcore.messages import mean_messages, messages_of, most_messages
from simcore.passes import rows_of
from simcore.schedule import Schedule
from simcore.trace import Trace
from simcore.window import steady_window
from simcore.workload import Workload

__all__ = ["Traffic", "traffic_of", "traffic_values"]


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went over the link of one channel or group.

    `bytes` is None where the workload gives no sizes, and `bytes_per_s` is their mean over the
    whole run. `utilization` is the share of the makespan for which this traffic keeps its wire
    busy, dimensionless; None for a wire of infinite bandwidth. Of channels that share a wire each
    has its own part.

    `most_messages` and `mean_messages` say how many messages of a channel are under way at once, on
    the link or in a queue, at the peak and on average over the run; `steady_mean_messages` over the
    steady window (see `simcore.window`), None without one. All three are None for groups.
    """

    link: str
    messages: int
    bytes: float | None
    bytes_per_s: float | None
    utilization: float | None
    most_messages: int | None = None
    mean_messages: Fraction | None = None
    steady_mean_messages: Fraction | None = None


def traffic_of(
    trace: Trace, schedule: Schedule, workload: Workload, cluster: Cluster | None = None
) -> tuple[Traffic, ...]:
    """The traffic of every channel between workers, then that of every group that averages.

    `workload` has a layer for each block; without a cluster links are free. Data that come from
    storage and what workers send to themselves travel over no link. In each round of r members of a
    group, each sends 2 (r - 1) messages of one r-th of the parameters, as a ring all-reduce does.
    """
    cluster = cluster or Cluster.private()
    messages = messages_of(trace)
    sent = np.bincount(messages.channel, minlength=len(schedule.channels)).tolist()
    most, mean = most_messages(trace, messages), mean_messages(trace, messages)
    window = steady_window(trace)
    steady = None if window is None else mean_messages(trace, messages, window)
    found = []
    for number, channel in enumerate(schedule.channels):
        if not channel.source and not schedule.is_local(channel):
            size = sent[number] * message_bytes(schedule, channel, workload)
            load = _load(channel.name, sent[number], size, size, trace, workload, cluster)
            later = None if steady is None else steady[number]
            queue = most[number], mean[number], later
            found.append(Traffic(*load, *queue))
    for number, group in enumerate(schedule.groups):
        if group.blocks:
            members = sum(group in worker.joins for worker in schedule.workers)
            rounds, averaged = _averaged_bytes(trace, number, workload)
            steps = 2 * (members - 1)
            count, size = steps * members * rounds, Fraction(steps * averaged)
            load = _load(group.name, count, size, size / members, trace, workload, cluster)
            found.append(Traffic(*load))
    return tuple(found)


def traffic_values(links: Sequence[Traffic]) -> list[dict[str, Any]]:
    """Traffic as JSON values, one entry for each link, with the keys of `Traffic`."""
    return [
        {
            key: float(value) if isinstance(value, Fraction) else value
            for key, value in asdict(link).items()
        }
        for link in links
    ]


def _load(
    link: str,
    messages: int,
    size: Fraction,
    on_one_wire: Fraction,
    trace: Trace,
    workload: Workload,
    cluster: Cluster,
) -> tuple[str, int, float | None, float | None, float | None]:
    """What is known of a link but its queue: the first fields of `Traffic`."""
    seconds = (trace.end - trace.start) * trace.header.tick_s
    bandwidth = cluster.link_of(link).bytes_per_s
    known, rate, busy = None, None, None
    if has_sizes(workload):
        known = int(size) if size.denominator == 1 else float(size)
        rate = float(size / seconds) if seconds else None
    if bandwidth is not None and seconds:
        busy = float(on_one_wire / Fraction(bandwidth) / seconds)
    return link, messages, known, rate, busy


def _averaged_bytes(trace: Trace, group: int, workload: Workload) -> tuple[int, int]:
    """How many rounds of a group averaged something, and the bytes that each member put in."""
    spans = trace.spans
    rows = rows_of(trace, "join")
    rows = rows[(spans["block"][rows] == group) & (spans["batch"][rows] > 0)]
    # Members that end early join fewer rounds than the others.
    joins = np.zeros((len(trace.header.workers), len(workload.layers) + 1), np.int64)
    np.add.at(joins, (spans["worker"][rows], spans["batch"][rows]), 1)
    rounds = joins.max(axis=0, initial=0)[1:].tolist()
    sizes = (layer.parameter_bytes for layer in workload.layers)
    return sum(rounds), sum(count * size for count, size in zip(rounds, sizes, strict=True))
