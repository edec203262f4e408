"""Many replicas of one simulation with random times, and the quantiles of what comes out.

Replica i is the simulation with seed `seed + i`, tick for tick. Where the order of operations does
not depend on times, all replicas are computed at once (`simcore.static_times`); otherwise they are
simulated one after the other, on several cores where that pays.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from simcore.cluster import Cluster
from simcore.costs import Costs
from simcore.draws import computations, drawn
from simcore.durations import Variations, chosen
from simcore.engines import Engine
from simcore.errors import InputError
from simcore.processes import deaf, follow
from simcore.schedule import Schedule
from simcore.simulator import simulate
from simcore.staleness import gap_summaries
from simcore.static_times import NotStaticError, obstacle, static_times
from simcore.trace import Trace
from simcore.workload import Workload

__all__ = ["QUANTILES", "Replicas", "monte_carlo", "replica_values"]

QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
_AT_ONCE: Final = 1024
_HELD: Final = 2**25  # times that a channel may hold at once: batches x replicas
# Operations beyond which further processes are started, each of which takes about a second to come.
_WORTH_PROCESSES: Final = 200_000
_GROUPS: Final = 16  # of replicas for each process: progress is told after each

Progress = Callable[[int], None]
Gaps = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, slots=True, eq=False)
class Replicas:
    """What came out of each replica; arrays of shape (replicas,), or (replicas, blocks) for gaps.

    * `seeds`: replica i was simulated with `seeds[i]`;
    * `makespan_s`: first start to last end of an operation, in seconds;
    * `batches_per_s`: mini-batches over the makespan;
    * `speedup`: time of plain backpropagation on one worker, not random, over the makespan;
    * `mean_gap`, `max_gap`: of each block's gradients, in updates; nan for a block without.

    * `lost`: whether a worker was lost, so that not all mini-batches were done; rates are nan then.

    `obstacle` says why replicas were not computed at once, None if they were.
    """

    seeds: range
    makespan_s: NDArray[np.float64]
    batches_per_s: NDArray[np.float64]
    speedup: NDArray[np.float64]
    mean_gap: NDArray[np.float64]
    max_gap: NDArray[np.float64]
    lost: NDArray[np.bool_]
    obstacle: str | None

    def quantiles(self, shares: Sequence[float] = QUANTILES) -> Mapping[str, NDArray[np.float64]]:
        """Quantiles of each quantity, shape (shares,) or (shares, blocks); nan is left out.

        Between two replicas they are interpolated linearly.
        """
        return {
            "makespan_s": _quantiles(self.makespan_s, shares),
            "batches_per_s": _quantiles(self.batches_per_s, shares),
            "speedup": _quantiles(self.speedup, shares),
            "mean_gap": _quantiles(self.mean_gap, shares),
            "max_gap": _quantiles(self.max_gap, shares),
        }


def monte_carlo(
    schedule: Schedule,
    blocks: Workload,
    cluster: Cluster | None = None,
    *,
    runs: int = 1000,
    engine: Engine = "compiled",
    jitter: float = 0.0,
    variation: Variations | None = None,
    seed: int = 0,
    first: Trace | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Replicas:
    """Simulate so many replicas, whose seeds are `seed`, `seed + 1` and so on.

    All else is as for `simcore.engines.simulate`. `first` is the trace of the first one, if it is
    there already. `jobs` is the number of processes that simulate what cannot be computed at once;
    None: as many as pay, at most one for each core. `progress` is told how many more are done.

    >>> from simcore.schedules import build
    >>> schedule = build("fdg", modules=2, batches=20)
    >>> found = monte_carlo(schedule, Workload.even(2), runs=100, jitter=0.2)
    >>> [round(float(makespan), 1) for makespan in found.quantiles()["makespan_s"]]
    [32.0, 32.9, 33.6, 34.3, 35.1]

    Raises:
        InputError: less than one run, nothing that is random, or as `simulate`.
        GradlagError: as `simulate`.
    """
    cluster = cluster or Cluster.private()
    variations = chosen(jitter, variation)
    if runs < 1:
        raise InputError("runs", runs, "must be at least 1", "give 1 or more")
    if runs > 1 and not variations.random and all(f.mean_s is None for f in cluster.faults):
        rule = "needs something that is random"
        raise InputError("runs", runs, rule, "give jitter or a variation, or simulate once")
    tell = progress or (lambda count: None)
    seeds = range(seed, seed + runs)
    if first is None:
        first = simulate(
            schedule, blocks, cluster, engine=engine, jitter=jitter, variation=variation, seed=seed
        )
    costs = Costs.of(schedule, blocks, cluster, variations.random)
    reason = _shared_weights(schedule) or obstacle(schedule, costs, cluster)
    if reason is None:
        try:
            spans = _at_once(schedule, costs, cluster, variations, seeds, first, tell)
            means, most = (np.tile(each, (runs, 1)) for each in _gaps(first))
            return _replicas(seeds, spans, (means, most), np.zeros(runs, bool), first, blocks, None)
        except (NotStaticError, OverflowError) as error:
            reason = str(error)
    one = partial(
        _simulated, schedule=schedule, blocks=blocks, cluster=cluster, engine=engine,
        jitter=jitter, variation=variation, parent=os.getpid(),
    )  # fmt: skip
    rows = [_row(first), *_one_by_one(one, seeds[1:], len(first.spans), jobs, tell)]
    ticks, lost, means, most = zip(*rows, strict=True)
    gaps = np.array(means), np.array(most)
    return _replicas(seeds, ticks, gaps, np.array(lost), first, blocks, reason)


def _shared_weights(schedule: Schedule) -> str | None:
    """Why gaps may depend on times: then what one replica found does not stand for all."""
    owned = [(worker.replica, block) for worker in schedule.workers for block in worker.blocks]
    if len(set(owned)) < len(owned):
        return "several workers compute with the same weights"
    return None


def _at_once(
    schedule: Schedule,
    costs: Costs,
    cluster: Cluster,
    variations: Variations,
    seeds: range,
    first: Trace,
    tell: Progress,
) -> list[int]:
    """The makespan of each replica, in ticks. Raises as `static_times` and `drawn`."""
    computed = computations(first, costs, cluster)
    operations = sum(len(each.ticks) for each in computed)
    step = max(1, min(_AT_ONCE, _HELD // max(1, schedule.batches)))
    found: list[int] = []
    for begin in range(0, len(seeds), step):
        part = seeds[begin : begin + step]
        durations = [drawn(each, variations, part, operations) for each in computed]
        start, end = static_times(schedule, costs, durations, len(part))
        if not found and (int(start[0]), int(end[0])) != (first.start, first.end):
            raise NotStaticError("workers do something else in another run")
        found += (end - start).tolist()
        tell(len(part))
    return found


# Ticks of the makespan, whether a worker was lost, and for each block mean and largest gap.
_Row = tuple[int, bool, NDArray[np.float64], NDArray[np.float64]]


def _row(trace: Trace) -> _Row:
    return trace.end - trace.start, "lost" in trace.header.about, *_gaps(trace)


def _gaps(trace: Trace) -> Gaps:
    summaries = gap_summaries(trace)
    means = [np.nan if each.mean is None else each.mean for each in summaries]
    most = [np.nan if each.max is None else each.max for each in summaries]
    return np.array(means, np.float64), np.array(most, np.float64)


def _simulated(
    seeds: Sequence[int],
    schedule: Schedule,
    blocks: Workload,
    cluster: Cluster,
    engine: Engine,
    jitter: float,
    variation: Variations | None,
    parent: int,
) -> list[_Row]:
    follow(parent)
    run = partial(
        simulate, schedule, blocks, cluster, engine=engine, jitter=jitter, variation=variation
    )
    return [_row(run(seed=seed)) for seed in seeds]


def _one_by_one(
    one: Callable[[Sequence[int]], list[_Row]],
    seeds: range,
    operations: int,
    jobs: int | None,
    tell: Progress,
) -> list[_Row]:
    """The rows of all seeds, in their order; in several processes if that pays."""
    if jobs is None:
        pays = operations * len(seeds) > _WORTH_PROCESSES
        jobs = min(os.cpu_count() or 1, len(seeds)) if pays else 1
    tell(1)
    step = max(1, len(seeds) // (_GROUPS * max(1, jobs)))
    groups = [seeds[begin : begin + step] for begin in range(0, len(seeds), step)]
    found: list[_Row] = []
    for rows in _in_processes(one, groups, jobs) if jobs > 1 else map(one, groups):
        found += rows
        tell(len(rows))
    return found


def _in_processes(
    one: Callable[[Sequence[int]], list[_Row]], groups: Sequence[Sequence[int]], jobs: int
) -> Any:
    # Imported here, because few need it.
    from joblib import Parallel, delayed

    parallel = Parallel(n_jobs=jobs, return_as="generator", batch_size=1)
    with deaf():  # it is called, and with it starts processes, before the first answer is asked for
        return parallel(delayed(one)(group) for group in groups)


def _replicas(
    seeds: range,
    ticks: Sequence[int],
    gaps: Gaps,
    lost: NDArray[np.bool_],
    first: Trace,
    blocks: Workload,
    reason: str | None,
) -> Replicas:
    header = first.header
    makespan = np.array([float(each * header.tick_s) for each in ticks])
    sequential = float(blocks.sequential_s(header.mini_batches))
    rated = np.where(~lost & (makespan > 0), makespan, np.nan)
    return Replicas(
        seeds, makespan, header.mini_batches / rated, sequential / rated, *gaps, lost, reason
    )


def _quantiles(values: NDArray[np.float64], shares: Sequence[float]) -> NDArray[np.float64]:
    rows = values.reshape(len(values), -1)
    found = np.full((len(shares), rows.shape[1]), np.nan)
    for column, each in enumerate(rows.T):
        known = each[~np.isnan(each)]
        if len(known):
            found[:, column] = np.quantile(known, shares)
    return found.reshape(len(shares), *values.shape[1:])


def replica_values(replicas: Replicas, shares: Sequence[float] = QUANTILES) -> dict[str, Any]:
    """Replicas as JSON values: quantiles by percent, those of gaps for each block."""
    found = replicas.quantiles(shares)

    def named(values: NDArray[np.float64]) -> dict[str, float | None]:
        known = [None if np.isnan(value) else float(value) for value in values]
        return {f"{share * 100:g}": value for share, value in zip(shares, known, strict=True)}

    return {
        "runs": len(replicas.seeds),
        "seeds": [replicas.seeds[0], replicas.seeds[-1]],
        "lost": int(replicas.lost.sum()),
        "at_once": replicas.obstacle is None,
        "obstacle": replicas.obstacle,
        **{key: named(found[key]) for key in ("makespan_s", "batches_per_s", "speedup")},
        "gaps": [
            {
                "block": block + 1,
                "mean": named(found["mean_gap"][:, block]),
                "max": named(found["max_gap"][:, block]),
            }
            for block in range(found["mean_gap"].shape[1])
        ],
    }
