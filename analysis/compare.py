"""Predicted against measured: each schedule is calibrated, simulated and really run."""

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final, TypeVar

from analysis.experiment import Experiment, Wanted
from executor.calibrate import Calibration, between, calibrate
from executor.failure import WorkerError
from executor.processes import obstacle
from executor.run import Runtime, run
from executor.training import INTERRUPTED, RunResult, Training
from simcore.engine import simulate
from simcore.errors import InputError
from simcore.trace import Trace

__all__ = ["DISTURBED", "Outcome", "measure", "other_cpu_share", "runtime_for"]

Measured = TypeVar("Measured")

# A measurement during which other programs took more of the machine than this is repeated.
DISTURBED: Final = 0.05
# One that took longer than this is not: a machine that is that busy stays so for a while.
_PATIENCE_S: Final = 20.0


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """One schedule, predicted and measured. `dropped` measurements were disturbed and repeated."""

    wanted: Wanted
    runtime: Runtime
    threads: int
    workers: int
    calibration: Calibration
    predicted: Trace
    result: RunResult
    accuracy: float | None
    dropped: int

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
    """Calibrate, simulate and run one schedule.

    Calibration happens before and after the run, and the prediction is from the mean of both: a
    machine's speed may drift by more than a prediction's error. What is disturbed is repeated, once
    and if that does not take long; the less disturbed of both counts. A run that fails or diverges
    is kept as far as it came. `told` is given a word on each stage, `progress` the gradients
    applied. Raises `InputError` for the replay runtime, whose time is not that of any schedule,
    and `KeyboardInterrupt` after Ctrl-C.
    """
    training = experiment.training(wanted, threads)
    runtime = runtime or runtime_for(training)
    if runtime == "replay":
        rule = "must be one whose time is that of the schedule"
        raise InputError("runtime", runtime, rule, "use threads or processes")
    schedule = training.make_schedule()
    told(f"calibrating {wanted.label}")
    calibration, dropped = _undisturbed(
        lambda: calibrate(training, runtime), lambda found: found.other_cpu_share
    )
    told(f"running {wanted.label}")
    result, dropped_runs = _undisturbed(
        lambda: _run_or_partial(training, runtime, told, progress), other_cpu_share
    )
    if result.failure == INTERRUPTED:
        raise KeyboardInterrupt
    told(f"calibrating {wanted.label} again")
    again, dropped_again = _undisturbed(
        lambda: calibrate(training, runtime), lambda found: found.other_cpu_share
    )
    calibration = between(calibration, again)
    predicted = simulate(schedule, calibration.blocks, calibration.cluster)
    return Outcome(
        wanted,
        runtime,
        training.threads,
        len(schedule.workers),
        calibration,
        predicted,
        result,
        None if result.state is None else experiment.accuracy(result.state),
        dropped + dropped_runs + dropped_again,
    )


def _run_or_partial(
    training: Training,
    runtime: Runtime,
    told: Callable[[str], None],
    progress: Callable[[int], None] | None,
) -> RunResult:
    """The result of a run, or what was done before a worker failed: one failure is not all lost."""
    try:
        return run(training, runtime, progress=progress)
    except WorkerError as error:
        if not isinstance(error.partial, RunResult):
            raise
        told(f"{error}\n{error.traceback}".strip())
        return error.partial


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
