"""The F:B law beside what a trace of Async BP shows: whether it applies, and both in figures."""

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, Final, Literal

from simcore import laws
from simcore.cluster import Cluster
from simcore.costs import Costs, Delays
from simcore.laws import Threads
from simcore.messages import mean_messages, messages_of
from simcore.metrics import mean_in_flight, steady_batch_s
from simcore.schedule import Schedule
from simcore.staleness import steady_gap_summaries
from simcore.trace import Trace
from simcore.window import growth_per_batch, steady_window
from simcore.workload import Workload

__all__ = ["law_values", "threads_of"]

_UPDATES: Final[Mapping[str, Literal["layer", "block"]]] = {
    "async-lu": "layer",
    "async-bu": "block",
}


def threads_of(
    schedule: Schedule, blocks: Workload, cluster: Cluster | None = None
) -> Threads | None:
    """The case of the F:B law that a schedule is on this cluster; None where the law says nothing.

    It is one if `async-lu` or `async-bu` runs without workers that load, each worker at full speed
    and never stopped, over links that cost nothing; each layer takes time in both directions.
    """
    cluster = cluster or Cluster.private()
    updates = _UPDATES.get(schedule.name)
    if updates is None or schedule.options.get("loaders") or cluster.faults or cluster.stragglers:
        return None
    alone = cluster.placement == "private" and cluster.device(0).speed(1) == 1
    free = all(delays == Delays() for delays in Costs.of(schedule, blocks, cluster).delays)
    layers = blocks.layers
    if not (alone and free and all(layer.forward_s and layer.backward_s for layer in layers)):
        return None
    (losses,) = (channel for channel in schedule.channels if not channel.source)
    return Threads(
        schedule.blocks,
        len(schedule.senders[losses]),
        len(schedule.receivers[losses]),
        forward_s=sum((layer.forward_s for layer in layers), Fraction(0)),
        backward_s=sum((layer.backward_s for layer in layers), Fraction(0)),
        update_s=sum((layer.update_s for layer in layers), Fraction(0)),
        queue_capacity=losses.capacity,
        updates=updates,
        uneven=layers,
    )


def law_values(
    trace: Trace, schedule: Schedule, blocks: Workload, cluster: Cluster | None = None
) -> dict[str, Any] | None:
    """The law of a simulated run as JSON values, and under `measured` what its trace shows.

    Lists have an entry for each layer. None where durations are random or the law says nothing;
    values are None in the law where they grow for ever, and as measured without a steady window.
    Those are means over this window, which need not be whole periods: they may differ by a part of
    one.
    """
    about = trace.header.about
    threads = threads_of(schedule, blocks, cluster)
    if threads is None or about.get("jitter") or about.get("variation"):
        return None
    for_pace, for_no_wait = laws.backward_threads_needed(
        threads.backward_s / threads.forward_s,
        threads.forward_threads,
        threads.update_s / threads.forward_s,
    )
    every = range(1, threads.layers + 1)
    return {
        "batch_s": float(laws.batch_s(threads)),
        "growth_per_batch": float(laws.growth_per_batch(threads)),
        "queue_length": _float(laws.queue_length(threads)),
        "batches_in_flight": _floats(laws.batches_in_flight(threads, layer) for layer in every),
        "mean_gap": _floats(laws.mean_gap(threads, layer) for layer in every),
        "backward_threads_needed": {"for_pace": for_pace, "for_no_wait": for_no_wait},
        "measured": _measured(trace, schedule),
    }


def _measured(trace: Trace, schedule: Schedule) -> dict[str, Any]:
    window, gaps = steady_window(trace), steady_gap_summaries(trace)
    queue, in_flight = None, None
    if window is not None:
        (number,) = (n for n, channel in enumerate(schedule.channels) if not channel.source)
        queue = mean_messages(trace, messages_of(trace), window)[number]
        in_flight = mean_in_flight(trace, window)
    return {
        "batch_s": steady_batch_s(trace),
        "growth_per_batch": growth_per_batch(trace),
        "queue_length": _float(queue),
        "batches_in_flight": in_flight and _floats(in_flight),
        "mean_gap": gaps and [gap.mean for gap in gaps],
    }


def _float(value: Fraction | None) -> float | None:
    return None if value is None else float(value)


def _floats(values: Iterable[Fraction | None]) -> list[float] | None:
    """All of them; None if they are unknown, which they are together."""
    return [float(value) for value in values if value is not None] or None
