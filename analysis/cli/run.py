"""`gradlag run`: train for real, by a schedule."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Final, cast

import typer

from analysis.cli.learning import OptimizerFlags
from analysis.cli.long_runs import TERMINATED, LongRun, LongRunFlags
from analysis.cli.options import Json, Out, Schedule, flag, read_options, with_flags
from analysis.cli.output import Bar, console, folder, note, print_json
from analysis.cli.ranks import Silent, follows, led
from analysis.cli.training import NetworkFlags, Setup, TrainingFlags
from analysis.cli.values import one_of
from executor.launched import launched, require_launch
from simcore.errors import InputError

if TYPE_CHECKING:
    from analysis.batch_metrics import Evaluation
    from analysis.experiment import Experiment
    from executor.run import Runtime
    from executor.training import RunResult, Training
    from simcore import schedule as schedules
    from simcore.trace import Trace

__all__ = ["EXAMPLES", "NAME", "command"]

NAME: Final = "run"
EXAMPLES: Final = """\
# Train on handwritten digits with two modules, each a process
gradlag run fdg --modules 2
# Three threads share the weights; losses, traces and plots go to a folder
gradlag run async-lu --epochs 2 --queue-capacity 2 --out out/async
# Sixteen workers in one process: real training with the predicted staleness
gradlag run adl --modules 16 --model mlp:16x32 --runtime replay
"""
_AUTOMATIC: Final = "auto"
_REPLAY: Final = "replay"
_TORCHRUN: Final = "torchrun"
_RUNTIMES: Final = (_AUTOMATIC, "threads", "processes", _TORCHRUN, _REPLAY)


@with_flags
@led
def command(
    schedule: Schedule,
    options: dict[str, str],
    network: NetworkFlags,
    optimizer_flags: OptimizerFlags,
    training_flags: TrainingFlags,
    long_run: LongRunFlags,
    runtime: Annotated[
        str,
        flag(
            "--runtime",
            "|".join(_RUNTIMES),
            "one process per worker (auto, where the schedule allows it; torchrun, where that "
            "started them), one thread per worker, or all workers in turn in the order of a trace",
            "Training",
        ),
    ] = _AUTOMATIC,
    trace: Annotated[
        str | None,
        flag("--trace", "FILE", "what replay follows (default: a simulation)", "Training"),
    ] = None,
    measure_memory: Annotated[
        bool,
        typer.Option(
            "--measure-memory",
            help="measure what each worker holds, beside what is predicted; this takes time",
            rich_help_panel="Training",
        ),
    ] = False,
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard",
            help="write metrics for TensorBoard, too, to --out",
            rich_help_panel="Training",
        ),
    ] = False,
    json: Json = False,
    out: Out = None,
) -> None:
    """Train a network by a schedule, and measure its time, staleness, loss and accuracy.

    Layers are cut into blocks that take about the same time, by a short measurement or by the
    times in --workload. Ctrl-C ends the training; what was measured so far is shown and written.
    With --checkpoints it can be gone on with later; SIGTERM saves it and ends it then, too.
    """
    given = read_options(schedule, options)
    batches = given.pop("batches", None)
    given = optimizer_flags.around(schedule, given)
    chosen = one_of(runtime, "--runtime", _RUNTIMES)
    if trace is not None and chosen != _REPLAY:
        raise InputError("--trace", trace, "is what --runtime replay follows", "leave it out")
    if launched() and chosen == _AUTOMATIC:
        chosen = _TORCHRUN
    if chosen == _TORCHRUN:
        require_launch()
    member = follows(chosen)
    if tensorboard:
        if out is None:
            raise InputError("--tensorboard", "given", "needs a folder", "give --out DIR as well")
        from analysis.metrics_files import check_events

        check_events()
    setup = Setup.read([(schedule, given)], batches, network, optimizer_flags, training_flags)
    long = long_run.read(setup.network.data.batches_per_epoch(setup.network.batch_size))

    from analysis.cli.run_result import FILES, Report
    from analysis.experiment import Wanted

    path = folder(out, FILES)
    with (Silent if member else Bar)(f"training by {schedule}") as bar:
        blocks = given.get("modules", given.get("layers"))
        even = member or (chosen != _REPLAY and blocks in (1, setup.network.layers))
        experiment = setup.experiment(bar, even=even)
        training = experiment.training(Wanted(schedule, given), bounds=long.bounds())
        training = replace(training, measure_memory=measure_memory)
        run = _Run(experiment, training, _runtime(training, chosen), trace, long, bar)
        result, failure, status = run.train()
    if failure is not None and not len(result.trace.spans):
        raise failure  # nothing was measured
    if member:
        if failure is not None:
            raise failure
        return
    report = Report.of(
        experiment, training, result, setup.settings, tensorboard, tuple(run.evaluations)
    )
    if path is not None:
        report.write(path)
    if json:
        print_json(report.document)
    else:
        report.show(console())
    if failure is not None:
        raise failure
    if status:
        raise typer.Exit(status)


def _runtime(training: "Training", chosen: str) -> "Runtime":
    from analysis.compare import runtime_for

    return runtime_for(training) if chosen == _AUTOMATIC else cast("Runtime", chosen)


@dataclass
class _Run:
    """A training in a runtime; `file` is the trace that a replay follows, None for a simulation."""

    experiment: "Experiment"
    training: "Training"
    runtime: "Runtime"
    file: str | None
    long: LongRun
    bar: Bar
    evaluations: "list[Evaluation]" = field(default_factory=list)

    def train(self) -> "tuple[RunResult, BaseException | None, int]":
        """The result, what ended the run early (Ctrl-C or a worker's failure), the exit status."""
        from executor.checkpoint import STOPPED
        from executor.failure import WorkerError
        from executor.run import run

        schedule = self.training.make_schedule()
        total, parts = schedule.blocks * schedule.batches, schedule.micro_batches
        about = f"training by {schedule.name}, {self.runtime}"
        self.bar.stage(about, total, schedule.blocks * parts)
        terminated = False
        try:
            if self.long.is_asked_for:
                batches = schedule.batches // parts
                result, terminated = self.long.train(
                    self.training, batches, self.runtime, self.followed, self.bar, self.evaluated
                )
            else:
                trace = self.followed(schedule) if self.runtime == _REPLAY else None
                result = run(self.training, self.runtime, trace=trace, progress=self.bar)
        except WorkerError as error:
            return cast("RunResult", error.partial), error, 1
        stopped = result.failure in (None, STOPPED)
        return result, None if stopped else KeyboardInterrupt(), TERMINATED if terminated else 0

    def followed(self, schedule: "schedules.Schedule") -> "Trace":
        """The trace that a replay follows: that of the file, or of a simulation."""
        from simcore.engine import simulate
        from simcore.partition import Partition, blocks_of
        from simcore.trace_file import load_trace

        if self.file is not None:
            return load_trace(self.file)
        blocks = blocks_of(self.experiment.layer_costs, Partition(self.training.bounds))
        return simulate(schedule, blocks)

    def evaluated(self, batches: int, result: "RunResult") -> None:
        """An epoch has come to its end, with nothing in flight."""
        from analysis.batch_metrics import Evaluation
        from simcore.metrics import makespan_s

        if result.state is None:
            return
        before_s = self.evaluations[-1].seconds if self.evaluations else 0.0
        accuracy = self.experiment.accuracy(result.state)
        seconds = before_s + makespan_s(result.trace)
        self.evaluations.append(Evaluation(batches, seconds, accuracy))
        note(f"{batches} batches: accuracy {accuracy:.1%}")
