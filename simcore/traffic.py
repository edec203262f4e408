"""Traffic of each link, read from a trace: messages, bytes, and how busy the wire is."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from simcore.cluster import Cluster
from simcore.costs import message_bytes
from simcore.holdings import has_sizes
from simcore.passes import rows_of
from simcore.schedule import Schedule
from simcore.trace import Trace
from simcore.workload import Workload

__all__ = ["Traffic", "traffic_of"]


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went over the link of one channel or group.

    `bytes` is None where the workload gives no sizes, and `bytes_per_s` is their mean over the
    whole run. `utilization` is the share of the makespan for which this traffic keeps its wire
    busy, dimensionless; None for a wire of infinite bandwidth. Of channels that share a wire each
    has its own part.
    """

    link: str
    messages: int
    bytes: float | None
    bytes_per_s: float | None
    utilization: float | None


def traffic_of(
    trace: Trace, schedule: Schedule, workload: Workload, cluster: Cluster | None = None
) -> tuple[Traffic, ...]:
    """The traffic of every channel between workers, then that of every group that averages.

    `workload` has a layer for each block; without a cluster links are free. Data that come from
    storage and what workers send to themselves travel over no link. In each round of r members of a
    group, each sends 2 (r - 1) messages of one r-th of the parameters, as a ring all-reduce does.
    """
    cluster = cluster or Cluster.private()
    sent = np.bincount(trace.spans["block"][rows_of(trace, "send")], minlength=1).tolist()
    loads = []
    for number, channel in enumerate(schedule.channels):
        if not channel.source and not schedule.is_local(channel):
            messages = sent[number] if number < len(sent) else 0
            size = messages * message_bytes(schedule, channel, workload)
            loads.append((channel.name, messages, size, size))
    for number, group in enumerate(schedule.groups):
        if group.blocks:
            members = sum(group in worker.joins for worker in schedule.workers)
            averaged = _averaged_bytes(trace, number, workload)
            messages = 2 * (members - 1) * members * averaged[0]
            size = Fraction(2 * (members - 1) * averaged[1])
            loads.append((group.name, messages, size, size / members))
    seconds = (trace.end - trace.start) * trace.header.tick_s
    found = []
    for name, messages, size, on_one_wire in loads:
        bandwidth = cluster.link_of(name).bytes_per_s
        known, rate = None, None
        if has_sizes(workload):
            known = int(size) if size.denominator == 1 else float(size)
            rate = float(size / seconds) if seconds else None
        busy = None
        if bandwidth is not None and seconds:
            busy = float(on_one_wire / Fraction(bandwidth) / seconds)
        found.append(Traffic(name, messages, known, rate, busy))
    return tuple(found)


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
