"""`gradlag run`: train for real, by a schedule."""

from typing import TYPE_CHECKING, Annotated, Final, cast

from analysis.cli.learning import OptimizerFlags
from analysis.cli.options import Json, Out, Schedule, flag, read_options, with_flags
from analysis.cli.output import Bar, console, folder, print_json
from analysis.cli.ranks import Silent, follows, led
from analysis.cli.training import NetworkFlags, Setup, TrainingFlags
from analysis.cli.values import one_of
from executor.launched import launched, require_launch
from simcore.errors import InputError

if TYPE_CHECKING:
    from analysis.experiment import Experiment
    from executor.run import Runtime
    from executor.training import RunResult, Training
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
    json: Json = False,
    out: Out = None,
) -> None:
    """Train a network by a schedule, and measure its time, staleness, loss and accuracy.

    Layers are cut into blocks that take about the same time, by a short measurement or by the
    times in --workload. Ctrl-C ends the training; what was measured so far is shown and written.
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
    setup = Setup.read([(schedule, given)], batches, network, optimizer_flags, training_flags)

    from analysis.cli.run_result import FILES, Report
    from analysis.experiment import Wanted

    path = folder(out, FILES)
    with (Silent if member else Bar)(f"training by {schedule}") as bar:
        blocks = given.get("modules", given.get("layers"))
        even = member or (chosen != _REPLAY and blocks in (1, setup.network.layers))
        experiment = setup.experiment(bar, even=even)
        training = experiment.training(Wanted(schedule, given))
        followed = _followed(trace, experiment, training) if chosen == _REPLAY else None
        result, failure = _train(training, chosen, followed, bar)
    if failure is not None and not len(result.trace.spans):
        raise failure  # nothing was measured
    if member:
        if failure is not None:
            raise failure
        return
    report = Report.of(experiment, training, result, setup.settings)
    if path is not None:
        report.write(path)
    if json:
        print_json(report.document)
    else:
        report.show(console())
    if failure is not None:
        raise failure


def _followed(file: str | None, experiment: "Experiment", training: "Training") -> "Trace":
    """The trace that a replay follows: that of the file, or of a simulation."""
    from simcore.engine import simulate
    from simcore.partition import Partition, blocks_of
    from simcore.trace_file import load_trace

    if file is not None:
        return load_trace(file)
    blocks = blocks_of(experiment.layer_costs, Partition(training.bounds))
    return simulate(training.make_schedule(), blocks)


def _train(
    training: "Training", runtime: str, followed: "Trace | None", bar: Bar
) -> "tuple[RunResult, BaseException | None]":
    """The result, and what ended the run early: Ctrl-C or a worker's failure."""
    from analysis.compare import runtime_for
    from executor.failure import WorkerError
    from executor.run import run

    schedule = training.make_schedule()
    chosen = runtime_for(training) if runtime == _AUTOMATIC else cast("Runtime", runtime)
    bar.stage(f"training by {schedule.name}, {chosen}", schedule.blocks * schedule.batches)
    try:
        result = run(training, chosen, trace=followed, progress=bar.told)
    except WorkerError as error:
        return cast("RunResult", error.partial), error
    return result, KeyboardInterrupt() if result.failure else None
