"""A long run in figures: the JSON document of `gradlag simulate` for more batches than fit."""

from typing import Any

from simcore.bodies import MOST_EVENTS
from simcore.cluster import Cluster
from simcore.cycle import bottleneck_values
from simcore.schedule import Schedule
from simcore.steady import LongRun
from simcore.summary import SCHEMA, gap_values
from simcore.workload import Workload

__all__ = ["found_values", "summarize_long"]

# What a document has of a trace, in its order; None where no trace was made.
_OF_A_TRACE = (
    "gaps_by_phase",
    "time_staleness_s",
    "inconsistency",
    "fresh_fraction",
    "sojourn",
    "law",
    "traffic",
    "occupancy",
    "tie_sensitive",
    "tie_range",
    "tie_examined",
)


def found_values(
    how: str,
    ground: str,
    period: int | None,
    schedule: Schedule,
    blocks: Workload,
    cluster: Cluster | None,
    most_events: int = MOST_EVENTS,
) -> dict[str, Any]:
    """How figures were found, and what bounds the schedule, as JSON values."""
    return {
        "how": how,
        "ground": ground,
        "period_batches": period,
        "bottleneck": bottleneck_values(schedule, blocks, cluster, most_events),
    }


def summarize_long(
    found: LongRun,
    schedule: Schedule,
    blocks: Workload,
    cluster: Cluster | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """What a long run comes to, as JSON values: the keys of `simcore.summary.summarize`.

    None is what only a trace can say, or what is not known. `schedule` is the one that was run
    for, with any number of batches, `blocks` has a layer for each of its blocks. The keys of
    `found_values` come behind. `seed` is told on, though nothing was random.
    """
    sequential = blocks.sequential_s(found.batches)
    per_update, size = schedule.batches_per_update, blocks.batch_size
    equal = blocks.sequential_s(found.batches, per_update)
    names = [worker.name for worker in schedule.workers]
    batch_s, makespan_s = found.batch_s, found.makespan_s
    whole = makespan_s * len(names)
    peaks = found.peaks
    return {
        "schema": SCHEMA,
        "schedule": schedule.name,
        "options": {**schedule.options, "batches": found.batches},
        "makespan_s": float(makespan_s),
        "sequential_s": float(sequential),
        "speedup": float(sequential / makespan_s) if makespan_s else None,
        "batches_per_update": per_update,
        "samples_per_update": size and size * per_update,
        "equal_speedup": float(equal / makespan_s) if makespan_s else None,
        "steady": "unknown" if batch_s is None else "proved" if found.proved else "window",
        "steady_batch_s": None if batch_s is None else float(batch_s),
        "steady_speedup": float(blocks.sequential_s(1) / batch_s) if batch_s else None,
        "growth_per_batch": None,
        "utilization": (
            None if found.busy_s is None else float(sum(found.busy_s) / whole) if whole else 0.0
        ),
        "workers": len(names),
        "updates": found.updates,
        "gaps": gap_values(found.gaps),
        "steady_gaps": gap_values(found.steady_gaps),
        **dict.fromkeys(_OF_A_TRACE[:4]),
        "lost_updates": None if found.lost_updates is None else list(found.lost_updates),
        **dict.fromkeys(_OF_A_TRACE[4:6]),
        "peak_in_flight": None if found.peak_in_flight is None else list(found.peak_in_flight),
        "peak_bytes": None if peaks is None else [peak.bytes for peak in peaks],
        "memory": None
        if peaks is None
        else [
            {
                "worker": name,
                "peak_s": None,
                "peak_bytes": peak.bytes,
                **{f"{category}_bytes": size for category, size in peak.categories.items()},
            }
            for name, peak in zip(names, peaks, strict=True)
        ],
        **dict.fromkeys(_OF_A_TRACE[6:]),
        "engine": found.engine,
        "seed": seed,
        **found_values(found.how, found.ground, found.period, schedule, blocks, cluster),
    }
