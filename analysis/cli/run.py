"""`gradlag run`: train for real, by a schedule."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

from analysis.cli.costs import WorkloadFile, fitted
from analysis.cli.options import Json, Out, Schedule, Seed, flag, read_options
from analysis.cli.options import with_schedule_options as with_options
from analysis.cli.output import Bar, console, folder, print_json
from analysis.cli.sizes import MemoryLimit, refuse_if_too_large
from analysis.cli.training import (
    BatchSize,
    Data,
    LearningRate,
    Model,
    MomentumFactor,
    Network,
    Optimizer,
    Threads,
    WeightDecay,
    make_network,
    measured_costs,
    read_optimizer,
    read_threads,
)
from analysis.cli.values import one_of, whole
from simcore.errors import InputError
from simcore.schedules import find

if TYPE_CHECKING:
    from executor.run import Runtime
    from executor.training import RunResult, Training
    from executor.weights import MakeOptimizer
    from simcore.trace import Trace
    from simcore.workload import Workload

__all__ = ["EXAMPLES", "NAME", "command"]

NAME: Final = "run"
EXAMPLES: Final = """\
# Train on handwritten digits with two modules, each a process
gradlag run fdg --modules 2 --model mlp:8x512
# Three threads share the weights; losses, traces and plots go to a folder
gradlag run async-lu --epochs 2 --queue-capacity 2 --out out/async
# Sixteen workers on one core: real training with the predicted staleness
gradlag run adl --modules 16 --accumulation 4 --model mlp:16x32 --runtime replay
"""
_RUNTIMES: Final = ("threads", "processes", "replay")
_AUTOMATIC: Final = "auto"

Runtimes = Annotated[
    str,
    flag(
        "--runtime",
        "|".join((_AUTOMATIC, *_RUNTIMES)),
        "one process per worker (auto, where the schedule allows it), one thread per worker, or "
        "all workers in turn in the order of a trace",
        "Training",
    ),
]
Epochs = Annotated[
    str | None, flag("--epochs", "E", "passes through the data, in place of --batches", "Training")
]


@with_options
def command(
    schedule: Schedule,
    options: dict[str, str],
    model: Model = "mlp:8x512",
    data: Data = "digits",
    batch_size: BatchSize = "64",
    epochs: Epochs = None,
    optimizer: Optimizer = "sgd",
    learning_rate: LearningRate = None,
    momentum_factor: MomentumFactor = None,
    weight_decay: WeightDecay = "0",
    runtime: Runtimes = _AUTOMATIC,
    threads: Threads = "1",
    workload: WorkloadFile = None,
    trace: Annotated[
        str | None,
        flag("--trace", "FILE", "what replay follows (default: a simulation)", "Training"),
    ] = None,
    memory_limit: MemoryLimit = "4GiB",
    seed: Seed = "0",
    json: Json = False,
    out: Out = None,
) -> None:
    """Train a network by a schedule, and measure its time, staleness, loss and accuracy.

    Layers are cut into blocks that take about the same time, by a short measurement or by the
    times in --workload. Ctrl-C ends the training; what was measured so far is shown and written.
    """
    given = read_options(schedule, options)
    chosen = one_of(runtime, "--runtime", (_AUTOMATIC, *_RUNTIMES))
    if trace is not None and chosen != "replay":
        raise InputError("--trace", trace, "is what --runtime replay follows", "leave it out")
    cores = read_threads(threads)
    make_optimizer, settings = read_optimizer(
        optimizer, learning_rate, momentum_factor, weight_decay
    )
    if epochs is not None and "batches" in given:
        raise InputError("--epochs", epochs, "must not be given with --batches", "leave one out")
    epoch_count = None if epochs is None else whole(epochs, "--epochs")
    refuse_if_too_large(schedule, given, memory_limit)
    network = make_network(model, data, batch_size, seed)
    if epoch_count is not None:
        batches = epoch_count * network.data.batches_per_epoch(network.batch_size)
        given["batches"] = batches
    refuse_if_too_large(schedule, given, memory_limit)
    given = fitted(find(schedule), given, network.layers, f"of {model}")

    from analysis.cli.run_result import FILES, Report
    from analysis.experiment import Experiment, Wanted

    wanted = Wanted(schedule, given)
    path = folder(out, FILES)
    with Bar(f"training by {schedule}") as bar:
        costs = _costs(workload, network, given, chosen, make_optimizer, cores, bar)
        experiment = Experiment(
            network.model,
            network.data,
            costs,
            network.batch_size,
            cast(int, given.get("batches", find(schedule).defaults["batches"])),
            make_optimizer,
            network.seed,
            cores,
        )
        training = experiment.training(wanted)
        followed = _followed(trace, training, costs) if chosen == "replay" else None
        result, failure = _train(training, chosen, followed, bar)
    about = {"model": model, "data": data, "batch_size": network.batch_size, **settings}
    report = Report.of(experiment, training, result, {**about, "seed": network.seed})
    if path is not None:
        report.write(path)
    if json:
        print_json(report.document)
    else:
        report.show(console())
    if failure is not None:
        raise failure


def _costs(
    file: str | None,
    network: Network,
    given: Mapping[str, object],
    runtime: str,
    make_optimizer: "MakeOptimizer",
    threads: int,
    bar: Bar,
) -> "Workload":
    """The layers' costs; where there is only one way to cut them, even ones will do."""
    from simcore.workload import Workload, load_workload

    if file is not None:
        found = load_workload(file)
        if len(found.layers) != network.layers:
            rule = f"must have the {network.layers} layers of {network.spec}, not "
            rule += f"{len(found.layers)}"
            raise InputError("--workload", file, rule, "profile this network")
        return found
    blocks = given.get("modules", given.get("layers"))
    if runtime != "replay" and blocks in (1, network.layers):
        return Workload.even(network.layers)
    return measured_costs(network, make_optimizer, threads, bar)


def _followed(file: str | None, training: "Training", costs: "Workload") -> "Trace":
    """The trace that a replay follows: that of the file, or of a simulation."""
    from simcore.engine import simulate
    from simcore.partition import Partition, blocks_of
    from simcore.trace_file import load_trace

    if file is not None:
        return load_trace(file)
    return simulate(training.make_schedule(), blocks_of(costs, Partition(training.bounds)))


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
