"""A trace in figures: the JSON document of `gradlag simulate`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from typing import Any, Final

from simcore import metrics
from simcore.cluster import Cluster
from simcore.consistency import Spread, drift, fresh_fractions, inconsistency
from simcore.law_values import law_values
from simcore.memory import memory_of
from simcore.occupancy import occupancy_s
from simcore.schedule import Schedule
from simcore.sojourn import sojourn_law, sojourn_values
from simcore.staleness import (
    GapSummary,
    gap_summaries,
    gaps_by_phase,
    lost_updates,
    steady_gap_summaries,
    time_staleness,
)
from simcore.ties import examine_ties, tie_values
from simcore.trace import Trace
from simcore.traffic import traffic_of, traffic_values
from simcore.window import growth_per_batch, steady_window
from simcore.workload import Workload

__all__ = ["SCHEMA", "gap_values", "summarize"]

SCHEMA: Final = "gradlag.simulation/1"


def summarize(
    trace: Trace,
    workload_blocks: Workload,
    schedule: Schedule,
    cluster: Cluster | None = None,
    engine: str = "simpy",
) -> dict[str, Any]:
    """What a trace says, as JSON values; times in seconds, gaps in updates.

    `workload_blocks` has a layer for each block of the trace's `schedule`; without a cluster links
    are free. The steady values are None where there is no steady window, and then
    `growth_per_batch` says whether it is because the batches in flight grow. Keys of histograms are
    gaps. `equal_speedup` is over backpropagation that updates after as many mini-batches. Bytes and
    samples are None where the workload gives no sizes. If workers were lost, `lost` says when
    whom, in seconds, and `waiting` what the others wait for.
    """
    header = trace.header
    per_update, size = schedule.batches_per_update, workload_blocks.batch_size
    return {
        "schema": SCHEMA,
        "schedule": header.schedule,
        "options": dict(header.options),
        "makespan_s": metrics.makespan_s(trace),
        "sequential_s": metrics.sequential_s(workload_blocks, header.mini_batches),
        "speedup": metrics.speedup(trace, workload_blocks),
        "batches_per_update": per_update,
        "samples_per_update": size and size * per_update,
        "equal_speedup": metrics.speedup(trace, workload_blocks, per_update),
        "steady": "window",
        "steady_batch_s": metrics.steady_batch_s(trace),
        "steady_speedup": metrics.steady_speedup(trace, workload_blocks),
        "growth_per_batch": growth_per_batch(trace),
        "utilization": metrics.utilization(trace),
        "workers": len(header.workers),
        "updates": len(trace.of_kind("update")),
        "gaps": gap_values(gap_summaries(trace)),
        "steady_gaps": gap_values(steady_gap_summaries(trace)),
        **_staleness(trace),
        "sojourn": sojourn_values(sojourn_law(trace, schedule, workload_blocks, cluster)),
        "law": law_values(trace, schedule, workload_blocks, cluster),
        "peak_in_flight": list(metrics.peak_in_flight(trace)),
        **_memory(trace, schedule, workload_blocks),
        "traffic": traffic_values(traffic_of(trace, schedule, workload_blocks, cluster)),
        "occupancy": [
            {"worker": name, **{f"{state}_s": seconds for state, seconds in states.items()}}
            for name, states in zip(header.workers, occupancy_s(trace), strict=True)
        ],
        **tie_values(examine_ties(trace, schedule, workload_blocks, cluster)),
        "engine": engine,
        "seed": header.seed,
        **{key: header.about[key] for key in ("lost", "waiting") if key in header.about},
    }


def _staleness(trace: Trace) -> dict[str, Any]:
    """Beyond the gaps: over time, in seconds, and between the blocks."""
    window = steady_window(trace)
    phases = gaps_by_phase(trace)

    def steady(of_all: Any, of_window: Any) -> dict[str, Any]:
        return {"all": of_all, "steady": None if window is None else of_window}

    return {
        "gaps_by_phase": phases and {phase: gap_values(phases[phase]) for phase in phases},
        "time_staleness_s": [
            {"block": each.block, "mean": each.mean_s, "min": each.min_s, "max": each.max_s}
            for each in time_staleness(trace)
        ],
        "inconsistency": {
            "across_blocks": steady(
                _spread(inconsistency(trace)), _spread(inconsistency(trace, window))
            ),
            "forward_to_backward": steady(_spread(drift(trace)), _spread(drift(trace, window))),
        },
        "fresh_fraction": steady(
            _mean(fresh_fractions(trace)), _mean(fresh_fractions(trace, window))
        ),
        "lost_updates": list(lost_updates(trace)),
    }


def _memory(trace: Trace, schedule: Schedule, workload: Workload) -> dict[str, Any]:
    found = memory_of(trace, schedule, workload)
    if found is None:
        return {"peak_bytes": None, "memory": None}
    peaks = found[1]
    return {
        "peak_bytes": [peak.bytes for peak in peaks],
        "memory": [
            {
                "worker": name,
                "peak_s": float((peak.tick - trace.start) * trace.header.tick_s),
                "peak_bytes": peak.bytes,
                **{f"{category}_bytes": size for category, size in peak.categories.items()},
            }
            for name, peak in zip(trace.header.workers, peaks, strict=True)
        ],
    }


def gap_values(summaries: Sequence[GapSummary] | None) -> list[dict[str, Any]] | None:
    """The gaps of blocks as JSON values."""
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


def _spread(spread: Spread | None) -> Mapping[str, Any] | None:
    return None if spread is None else asdict(spread)


def _mean(fractions: Sequence[Fraction | None]) -> float | None:
    known = [fraction for fraction in fractions if fraction is not None]
    return float(sum(known, Fraction(0)) / len(known)) if known else None
