"""Predicted against measured: each schedule is calibrated, simulated and really run."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final, TypeVar

from analysis.experiment import Experiment, Wanted
from executor.calibrate import Calibration, between, calibrate
from executor.failure import WorkerError
from executor.obstacles import obstacle
from executor.run import Runtime, run
from executor.training import INTERRUPTED, RunResult, Training
from simcore.engine import simulate
from simcore.errors import InputError
from simcore.metrics import makespan_s
from simcore.trace import Trace

__all__ = ["DISTURBED", "DRIFT", "Outcome", "measure", "other_cpu_share", "runtime_for"]

Measured = TypeVar("Measured")

# A measurement during which other programs took more of the machine than this is repeated.
DISTURBED: Final = 0.05
# One that took longer than this is not: a machine that is that busy stays so for a while.
_PATIENCE_S: Final = 20.0
# If what calibrations before and after a run predict differs by more, all three are repeated.
DRIFT: Final = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """One schedule, predicted and measured. `dropped` measurements were disturbed and repeated.

    `drift` is by how much the predictions of the calibrations before and after differ, relative.
    """

    wanted: Wanted
    runtime: Runtime
    threads: int
    workers: int
    calibration: Calibration
    predicted: Trace
    result: RunResult
    accuracy: float | None
    dropped: int
    drift: float

    @property
    def measured(self) -> Trace:
        """The trace of the real run."""
        return self.result.trace

    @property
    def other_cpu_share(self) -> float | None:
        """The larger share of the machine that others took, of calibration and run."""
        shares = [self.calibration.other_cpu_share, other_cpu_share(self.result)]
        known = [share for share in shares if share is not None]
        return max(known) if known else None


def runtime_for(training: Training) -> Runtime:
    """Processes where the schedule can run in them, else threads."""
    return "threads" if obstacle(training.make_schedule()) else "processes"


def measure(
    experiment: Experiment,
    wanted: Wanted,
    *,
    runtime: Runtime | None = None,
    threads: int | None = None,
    told: Callable[[str], None] = lambda stage: None,
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Calibrate, run, calibrate again and simulate one schedule.

    The prediction is from the mean of both calibrations. If they differ by more than `DRIFT`, the
    machine changed its speed meanwhile, and all is done once more; the steadier of both counts.
    What is disturbed by other programs is repeated too, once and if that does not take long. A run
    that fails or diverges is kept as far as it came. `told` is given a word on each stage,
    `progress` the gradients applied. Raises `InputError` for the runtimes replay, whose time is not
    that of any schedule, and torchrun, which others start; and `KeyboardInterrupt` after Ctrl-C.
    """
    training = experiment.training(wanted, threads)
    runtime = runtime or runtime_for(training)
    if runtime in ("replay", "torchrun"):
        rule = "must be one that can time the schedule by itself"
        raise InputError("runtime", runtime, rule, "use threads or processes")
    first = _measure_once(experiment, wanted, training, runtime, told, progress)
    if first.drift <= DRIFT:
        return first
    second = _measure_once(experiment, wanted, training, runtime, told, progress)
    steadier = min(first, second, key=lambda outcome: outcome.drift)
    return replace(steadier, dropped=first.dropped + second.dropped + 1)


def _measure_once(
    experiment: Experiment,
    wanted: Wanted,
    training: Training,
    runtime: Runtime,
    told: Callable[[str], None],
    progress: Callable[[int], None] | None,
) -> Outcome:
    schedule = training.make_schedule()

    def timed(stage: str) -> tuple[Calibration, Trace, int]:
        told(stage)
        found, dropped = _undisturbed(
            lambda: calibrate(training, runtime), lambda each: each.other_cpu_share
        )
        return found, simulate(schedule, found.blocks, found.cluster), dropped

    before, predicted_before, dropped = timed(f"calibrating {wanted.label}")
    told(f"running {wanted.label}")
    result, dropped_runs = _undisturbed(
        lambda: _run_or_partial(training, runtime, told, progress), other_cpu_share
    )
    after, predicted_after, dropped_after = timed(f"calibrating {wanted.label} again")
    calibration = between(before, after)
    return Outcome(
        wanted,
        runtime,
        training.threads,
        len(schedule.workers),
        calibration,
        simulate(schedule, calibration.blocks, calibration.cluster),
        result,
        None if result.state is None else experiment.accuracy(result.state),
        dropped + dropped_runs + dropped_after,
        abs(makespan_s(predicted_after) / makespan_s(predicted_before) - 1),
    )


def _run_or_partial(
    training: Training,
    runtime: Runtime,
    told: Callable[[str], None],
    progress: Callable[[int], None] | None,
) -> RunResult:
    """The result of a run, or what was done before a worker failed: one failure is not all lost."""
    try:
        result = run(training, runtime, progress=progress)
    except WorkerError as error:
        if not isinstance(error.partial, RunResult):
            raise
        told(f"{error}\n{error.traceback}".strip())
        return error.partial
    if result.failure == INTERRUPTED:  # here, before anybody repeats it as disturbed
        raise KeyboardInterrupt
    return result


def other_cpu_share(result: RunResult) -> float | None:
    """Share of the machine that other programs took during a run, 0 to 1; None if unknown."""
    share: float | None = result.trace.header.about.get("other_cpu_share")
    return share


def _undisturbed(
    measure_once: Callable[[], Measured], share_of: Callable[[Measured], float | None]
) -> tuple[Measured, int]:
    """A measurement, or the less disturbed of two; and how many were dropped."""
    begin = monotonic()
    first = measure_once()
    if (share_of(first) or 0.0) <= DISTURBED or monotonic() - begin > _PATIENCE_S:
        return first, 0
    return min(first, measure_once(), key=lambda found: share_of(found) or 0.0), 1
