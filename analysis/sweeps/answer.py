"""The answer of one configuration: what its simulation shows, or why there is none."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter
from typing import Any, Final, Literal

import numpy as np

from analysis.cli.costs import Costs, refuse_unfit
from analysis.cli.options import FLAGS
from analysis.sweeps.question import Configuration, Setting
from simcore import metrics
from simcore.cluster import Cluster
from simcore.errors import GradlagError, InputError
from simcore.estimate import estimate, refuse_if_too_large
from simcore.memory import memory_of
from simcore.options import Value
from simcore.schedule import Schedule
from simcore.schedules import SCHEDULES, build, find
from simcore.simulator import simulate
from simcore.staleness import gap_summaries, gaps
from simcore.trace import Trace
from simcore.window import growth_per_batch
from simcore.workload import Workload

__all__ = ["MEASURES", "Answer", "Measure", "answered"]


@dataclass(frozen=True, slots=True)
class Measure:
    """Something that an answer has a value of; `unit` is "" for a count or a ratio."""

    name: str
    title: str
    unit: str = ""


MEASURES: Final = {
    each.name: each
    for each in (
        Measure("workers", "workers"),
        Measure("operations", "operations simulated"),
        Measure("makespan_s", "makespan", "s"),
        Measure("speedup", "speedup over backpropagation"),
        Measure("equal_speedup", "speedup over backpropagation that updates as rarely"),
        Measure("steady_batch_s", "time of a batch in steady state", "s"),
        Measure("steady_speedup", "speedup in steady state"),
        Measure("growth_per_batch", "growth of the batches in flight", "per batch"),
        Measure("utilization", "utilization"),
        Measure("mean_gap", "mean gap", "updates"),
        Measure("max_gap", "largest gap", "updates"),
        Measure("peak_in_flight", "most batches in flight, summed over blocks"),
        Measure("peak_bytes", "most memory of a worker", "bytes"),
    )
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a configuration.

    `values` are the `MEASURES` of a simulation that is `done`, None where one does not exist. What
    its schedule or the memory limit `refused`, or `failed` in the simulator, has a `reason`.
    `block_gaps` are the mean gaps of the blocks, in updates. `seconds` is what it took.
    """

    state: Literal["done", "refused", "failed"]
    reason: str | None
    values: Mapping[str, int | float | None]
    block_gaps: tuple[float | None, ...]
    seconds: float


def answered(configuration: Configuration, setting: Setting) -> Answer:
    """Simulate one configuration."""
    begun = perf_counter()
    try:
        values, block_gaps = _values(configuration, setting)
    except GradlagError as error:
        state: Literal["refused", "failed"] = "failed"
        if isinstance(error, InputError):
            what = FLAGS.get(error.what, error.what)
            state, error = "refused", InputError(what, error.value, error.rule, error.remedy)
        reason = str(error).partition("\n")[0]
        return Answer(state, reason, {}, (), perf_counter() - begun)
    return Answer("done", None, values, block_gaps, perf_counter() - begun)


def _values(
    configuration: Configuration, setting: Setting
) -> tuple[dict[str, int | float | None], tuple[float | None, ...]]:
    entry, number = find(configuration.schedule), configuration.number
    forward, ratio, update = (number(f"{name}") for name in ("forward_time", "backward_ratio",
                                                             "update_time"))  # fmt: skip
    assert forward is not None
    assert ratio is not None
    assert update is not None
    costs = Costs(setting.workload_file, setting.workload, forward, ratio, update)
    given = costs.fitted(entry, configuration.options)
    refuse_if_too_large(estimate(entry.name, given), setting.memory_limit_bytes)
    built = _built(entry.name, given)
    blocks, cluster = costs.blocks(built.blocks), setting.cluster
    if cluster is None:
        cluster = Cluster.private(number("link_latency") or 0, number("link_bandwidth"))
    refuse_unfit(cluster, built, setting.cluster_file)
    jitter, seed = float(number("jitter") or 0), int(number("seed") or 0)
    trace = simulate(built, blocks, cluster, jitter=jitter, seed=seed)
    return _read(trace, built, blocks), tuple(each.mean for each in gap_summaries(trace))


def _built(name: str, options: Mapping[str, Any]) -> Schedule:
    """The schedule; that of the configuration before if they differ in numbers alone."""
    if name not in SCHEDULES:  # the file of a schedule of one's own may have changed
        return build(name, flags=FLAGS, **options)
    return _built_before(name, tuple(options.items()))


@lru_cache(maxsize=4)
def _built_before(name: str, options: tuple[tuple[str, Value], ...]) -> Schedule:
    return build(name, flags=FLAGS, **dict(options))


def _read(trace: Trace, schedule: Schedule, blocks: Workload) -> dict[str, int | float | None]:
    found = gaps(trace)
    memory = memory_of(trace, schedule, blocks)
    per_update = schedule.batches_per_update
    values: dict[str, Any] = {
        "workers": len(schedule.workers),
        "operations": len(trace.spans),
        "makespan_s": metrics.makespan_s(trace),
        "speedup": metrics.speedup(trace, blocks),
        "equal_speedup": metrics.speedup(trace, blocks, per_update),
        "steady_batch_s": metrics.steady_batch_s(trace),
        "steady_speedup": metrics.steady_speedup(trace, blocks),
        "growth_per_batch": growth_per_batch(trace),
        "utilization": metrics.utilization(trace),
        "mean_gap": int(np.sum(found)) / len(found) if len(found) else None,
        "max_gap": int(found.max()) if len(found) else None,
        "peak_in_flight": sum(metrics.peak_in_flight(trace)),
        "peak_bytes": memory and max(peak.bytes for peak in memory[1]),
    }
    assert values.keys() == MEASURES.keys()
    return values
