"""Things that happen at the same tick and whose order may matter to a gap."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simcore.cluster import Cluster
from simcore.passes import cells_of, rows_of
from simcore.schedule import Schedule
from simcore.schedules import rebuild
from simcore.trace import Trace
from simcore.validate import validate

__all__ = ["coincides", "few_batches", "is_static"]

_BATCHES: Final = 40


def is_static(schedule: Schedule) -> bool:
    """Whether no gap depends on any duration.

    Each worker then does the same in the same order whatever the times (see
    `simcore.validate.Verdict.conclusive`), and no two workers compute with the same weights.
    """
    owned = [(worker.replica, block) for worker in schedule.workers for block in worker.blocks]
    if len(set(owned)) < len(owned):
        return False
    # Whether programs use Select shows within the first batches.
    return validate(rebuild(schedule, batches=few_batches(schedule)), orders=0).conclusive


def few_batches(schedule: Schedule) -> int:
    """So many batches show what a schedule does: 40, or all if it has fewer."""
    given, replicas = (int(str(schedule.options.get(name, 1))) for name in ("batches", "replicas"))
    return min(given, max(_BATCHES, replicas))


def coincides(trace: Trace, schedule: Schedule, cluster: Cluster) -> bool:
    """Whether things happen at the same tick whose order may matter to a gap.

    Looked for are, at one tick and by several workers: a read of weights and a rise of their
    version, or two rises; messages that depart on one channel or wire; turns at the messages of one
    channel, or at its free slots; arrivals for rounds of one group. A worker that takes from
    several channels may choose between them, and counts as a coincidence.
    """
    if any(len(worker.receives) > 1 for worker in schedule.workers):
        return True
    return any(_meet(*events) for events in _events(trace, schedule, cluster))


# Resource, tick and worker of each event, and whether it is one that must take part in a tie.
_Events = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]


def _events(trace: Trace, schedule: Schedule, cluster: Cluster) -> Iterator[_Events]:
    spans, worker = trace.spans, trace.spans["worker"]
    reads = rows_of(trace, "forward", "tangent", "replay")
    rises = rows_of(trace, "update", "merge")
    weights = np.concatenate([reads, rises])
    yield (
        cells_of(trace, worker[weights], spans["block"][weights]),
        np.concatenate([spans["start"][reads], spans["end"][rises]]),
        worker[weights],
        np.arange(len(weights)) >= len(reads),
    )
    sends, takes = rows_of(trace, "send"), rows_of(trace, "receive")
    wire = _wires(schedule, cluster)[spans["block"][sends]]
    yield wire, spans["end"][sends], worker[sends], np.ones_like(sends, bool)
    asked, first = _asked(trace)
    for rows in (sends, rows_of(trace, "arrive", "join")):
        # What workers want first of all, at the beginning, no duration can move.
        yield spans["block"][rows], asked[rows], worker[rows], ~first[rows]
    channel, free, taker, worked = _last_asked(trace, schedule)
    yield (
        np.concatenate([spans["block"][takes], channel]),
        np.concatenate([asked[takes], free]),
        np.concatenate([worker[takes], taker]),
        np.concatenate([~first[takes], worked]),
    )


def _wires(schedule: Schedule, cluster: Cluster) -> NDArray[np.int64]:
    """A number for the wire of each channel; channels whose links name one wire share it."""
    names = [
        link.wire if (link := cluster.link_of(channel.name)).wire is not None else number
        for number, channel in enumerate(schedule.channels)
    ]
    return np.array([names.index(name) for name in names], np.int64)


def _asked(trace: Trace) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """When each row's worker had done all before it, and whether there was nothing before it."""
    spans = trace.spans
    order = np.lexsort((spans["index"], spans["worker"]))
    before = np.roll(spans["end"][order], 1)
    first = np.append(True, np.diff(spans["worker"][order]) != 0)[: len(order)]
    asked, is_first = np.empty(len(order), np.int64), np.empty(len(order), bool)
    asked[order] = np.where(first, 0, before)
    is_first[order] = first
    return asked, is_first


def _last_asked(trace: Trace, schedule: Schedule) -> _Events:
    """The turn of each worker that found its channel at its end, which leaves no row."""
    number = {channel: n for n, channel in enumerate(schedule.channels)}
    ends = np.zeros(len(schedule.workers), np.int64)
    np.maximum.at(ends, trace.spans["worker"], trace.spans["end"])
    worked = np.isin(np.arange(len(ends)), trace.spans["worker"])
    turns = [(number[c], w) for w, each in enumerate(schedule.workers) for c in each.receives]
    channel, worker = np.array(turns, np.int64).reshape(-1, 2).T
    return channel, ends[worker], worker, worked[worker]


def _meet(
    resource: NDArray[np.int64],
    tick: NDArray[np.int64],
    worker: NDArray[np.int64],
    decisive: NDArray[np.bool_],
) -> bool:
    """Whether several workers meet at a resource at one tick, a decisive event among theirs."""
    if not len(tick):
        return False
    order = np.lexsort((worker, tick, resource))
    resource, tick, worker = resource[order], tick[order], worker[order]
    new = np.append(True, (np.diff(resource) != 0) | (np.diff(tick) != 0))
    start = np.flatnonzero(new)
    last = np.append(start[1:], len(order)) - 1
    decided = np.logical_or.reduceat(decisive[order], start)
    return bool((decided & (worker[start] != worker[last])).any())
