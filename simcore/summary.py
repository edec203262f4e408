"""A trace in figures: the JSON document of `gradlag simulate`."""

from collections.abc import Sequence
from typing import Any, Final

from simcore import metrics
from simcore.staleness import GapSummary, gap_summaries, steady_gap_summaries, tie_sensitive
from simcore.trace import Trace
from simcore.window import growth_per_batch
from simcore.workload import Workload

__all__ = ["SCHEMA", "summarize"]

SCHEMA: Final = "gradlag.simulation/1"


def summarize(trace: Trace, workload_blocks: Workload, engine: str = "simpy") -> dict[str, Any]:
    """What a trace says, as JSON values; times in seconds, gaps in updates.

    `workload_blocks` has a layer for each block of the trace's schedule. The steady values are None
    where there is no steady window, and then `growth_per_batch` says whether it is because the
    batches in flight grow. Keys of histograms are gaps.
    """
    header = trace.header
    held = metrics.peak_bytes(trace, workload_blocks)
    return {
        "schema": SCHEMA,
        "schedule": header.schedule,
        "options": dict(header.options),
        "makespan_s": metrics.makespan_s(trace),
        "sequential_s": metrics.sequential_s(workload_blocks, header.batches),
        "speedup": metrics.speedup(trace, workload_blocks),
        "steady": "window",
        "steady_batch_s": metrics.steady_batch_s(trace),
        "steady_speedup": metrics.steady_speedup(trace, workload_blocks),
        "growth_per_batch": growth_per_batch(trace),
        "utilization": metrics.utilization(trace),
        "workers": len(header.workers),
        "updates": len(trace.of_kind("update")),
        "gaps": _gaps(gap_summaries(trace)),
        "steady_gaps": _gaps(steady_gap_summaries(trace)),
        "peak_in_flight": list(metrics.peak_in_flight(trace)),
        "peak_bytes": None if held is None else list(held),
        "tie_sensitive": tie_sensitive(trace),
        "engine": engine,
        "seed": header.seed,
    }


def _gaps(summaries: Sequence[GapSummary] | None) -> list[dict[str, Any]] | None:
    if summaries is None:
        return None
    return [
        {
            "block": summary.block,
            "mean": summary.mean,
            "min": summary.min,
            "max": summary.max,
            "histogram": {str(gap): count for gap, count in summary.histogram.items()},
        }
        for summary in summaries
    ]
