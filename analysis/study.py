"""A study: several schedules on one experiment, with both baselines, as rows of a comparison."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from analysis.compare import DISTURBED, DRIFT, Outcome, measure
from analysis.comparison import Baselines, Comparison, Pair, Row
from analysis.experiment import Experiment, Wanted
from executor.machine import describe_machine
from executor.run import Runtime
from simcore.metrics import makespan_s
from simcore.schedules import build
from simcore.staleness import gaps
from simcore.trace import Trace

__all__ = ["Study", "study"]


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """The comparison, with what was predicted and measured for each of its rows."""

    comparison: Comparison
    outcomes: tuple[Outcome, ...]


def study(
    experiment: Experiment,
    wanted: Sequence[Wanted],
    *,
    runtime: Runtime | None = None,
    settings: dict[str, object] | None = None,
    told: Callable[[str], None] = lambda stage: None,
    progress: Callable[[int], None] | None = None,
    finished: Callable[[Outcome], None] = lambda outcome: None,
) -> Study:
    """Measure plain backpropagation on one thread and on all cores, then each wanted schedule.

    Backpropagation on one thread is measured at the beginning and at the end: the baseline is the
    mean of both, so that a machine that slows down on the way favours nobody. `finished` is given
    each outcome as it comes. `told` and `progress` are as for `measure`.
    """
    cores = os.cpu_count() or 1
    plain = Wanted("bp")

    def outcome_of(each: Wanted, threads: int | None) -> Outcome:
        found = measure(
            experiment, each, runtime=runtime, threads=threads, told=told, progress=progress
        )
        finished(found)
        return found

    baseline, all_cores = outcome_of(plain, 1), outcome_of(plain, cores)
    others = [outcome_of(each, experiment.threads) for each in wanted if each != plain]
    again = measure(experiment, plain, runtime=runtime, threads=1, told=told, progress=progress)
    outcomes = [baseline, all_cores, *others] if cores > 1 else [baseline, *others]

    known = [found for found in map(_measured_s, (baseline, again)) if found is not None]
    one_thread = Pair(
        fmean([_batch_s(baseline.predicted), _batch_s(again.predicted)]),
        fmean(known) if known else None,
    )
    whole_machine = Pair(_batch_s(all_cores.predicted), _measured_s(all_cores))
    rows = tuple(_row(experiment, each, one_thread, whole_machine) for each in outcomes)
    machine = describe_machine()
    drift = f"{known[1] / known[0] - 1:+.1%}" if len(known) == 2 else "a baseline failed"
    comparison = Comparison(
        rows,
        machine=f"{machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}",
        date=str(machine["date"]),
        settings={**(settings or {}), "baseline at the end against the beginning": drift},
        baselines=Baselines(one_thread.measured, whole_machine.measured),
    )
    return Study(comparison, tuple(outcomes))


def _row(experiment: Experiment, outcome: Outcome, one_thread: Pair, all_cores: Pair) -> Row:
    failure = outcome.result.failure
    batch_s = Pair(_batch_s(outcome.predicted), _measured_s(outcome))
    known = [gaps(outcome.predicted), gaps(outcome.measured)]
    notes = [f"failed: {failure}"] if failure else []
    if outcome.dropped:
        notes.append(f"measurements repeated: {outcome.dropped}")
    if outcome.drift > DRIFT:
        notes.append(f"the machine's speed drifted by {outcome.drift:.0%} during the measurement")
    if (outcome.other_cpu_share or 0.0) > DISTURBED:
        notes.append("disturbed: other programs were running")
    label = outcome.wanted.label
    if outcome.wanted == Wanted("bp"):
        label = f"bp, {outcome.threads} thread{'s' if outcome.threads > 1 else ''}"
    options: dict[str, Any] = experiment.options(outcome.wanted)
    per_update = build(outcome.wanted.name, **options).batches_per_update
    return Row(
        label=label,
        schedule=outcome.wanted.name,
        options=dict(outcome.wanted.options),
        workers=outcome.workers,
        runtime=outcome.runtime,
        samples_per_update=experiment.batch_size * per_update,
        batch_s=batch_s,
        speedup_one_thread=_speedup(one_thread, batch_s),
        speedup_all_cores=_speedup(all_cores, batch_s),
        gap_mean=Pair(*(float(found.mean()) if len(found) else None for found in known)),
        gap_max=Pair(*(float(found.max()) if len(found) else None for found in known)),
        final_loss=_final_loss(experiment, outcome),
        accuracy=outcome.accuracy,
        disturbed=outcome.other_cpu_share,
        notes=tuple(notes),
    )


def _batch_s(trace: Trace) -> float:
    """Seconds per batch of the whole run, start-up and drain included."""
    return makespan_s(trace) / trace.header.mini_batches


def _measured_s(outcome: Outcome) -> float | None:
    """Measured seconds per batch; None for a run that did not end, whose batches are fewer."""
    return None if outcome.result.failure else _batch_s(outcome.measured)


def _speedup(baseline: Pair, batch_s: Pair) -> Pair:
    return Pair(
        _ratio(baseline.predicted, batch_s.predicted), _ratio(baseline.measured, batch_s.measured)
    )


def _ratio(baseline_s: float | None, batch_s: float | None) -> float | None:
    return None if not baseline_s or not batch_s else baseline_s / batch_s


def _final_loss(experiment: Experiment, outcome: Outcome) -> float | None:
    """Mean training loss of the last epoch, or of all batches if there were fewer."""
    last = experiment.data.batches_per_epoch(experiment.batch_size)
    losses = [loss for _, loss, _ in outcome.result.losses[-last:]]
    return fmean(losses) if losses else None
