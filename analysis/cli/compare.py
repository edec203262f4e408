"""`gradlag compare`: several schedules, predicted and really run, beside backpropagation."""

from typing import TYPE_CHECKING, Annotated, Final, cast

import typer

from analysis.cli.costs import WorkloadFile
from analysis.cli.options import FLAGS, Json, Out, Seed, flag
from analysis.cli.options import with_schedule_options as with_options
from analysis.cli.output import Bar, console, folder, note, print_json
from analysis.cli.run import Epochs, batches_of, layer_costs
from analysis.cli.sizes import MemoryLimit, refuse_if_too_large
from analysis.cli.training import (
    BatchSize,
    Data,
    LearningRate,
    Model,
    MomentumFactor,
    Optimizer,
    Threads,
    WeightDecay,
    make_network,
    read_optimizer,
    read_threads,
)
from analysis.cli.values import one_of, option_value
from simcore.errors import InputError

if TYPE_CHECKING:
    from analysis.experiment import Experiment, Wanted
    from executor.run import Runtime

__all__ = ["EXAMPLES", "NAME", "command"]

NAME: Final = "compare"
EXAMPLES: Final = """\
# Two modules on two cores: is what was predicted what happens?
gradlag compare fdg adl:accumulation=4 --modules 2
# More schedules, the convergence bound, and a report to read in a browser
gradlag compare fdg adl:accumulation=2 async-lu:queue_capacity=2 --modules 2 --bound --out out/all
# A larger network, in threads
gradlag compare fdg:modules=2 fdg:modules=3 --model mlp:6x512 --runtime threads --json > fdg.json
"""
_AUTOMATIC: Final = "auto"
_RUNTIMES: Final = (_AUTOMATIC, "threads", "processes")
_FIXED: Final = {"batches"}  # the same for all schedules


@with_options
def command(
    schedules: Annotated[
        list[str],
        typer.Argument(
            metavar="SCHEDULE[:OPTION=VALUE,...]...",
            help="Schedules, each with options of its own, such as adl:accumulation=4.",
        ),
    ],
    options: dict[str, str],
    model: Model = "mlp:8x512",
    data: Data = "digits",
    batch_size: BatchSize = "64",
    epochs: Epochs = None,
    optimizer: Optimizer = "sgd",
    learning_rate: LearningRate = None,
    momentum_factor: MomentumFactor = None,
    weight_decay: WeightDecay = "0",
    runtime: Annotated[
        str,
        flag(
            "--runtime",
            "|".join(_RUNTIMES),
            "one process per worker (auto, where the schedule allows it) or one thread",
            "Training",
        ),
    ] = _AUTOMATIC,
    threads: Threads = "1",
    workload: WorkloadFile = None,
    bound: Annotated[
        bool,
        typer.Option("--bound", help="add ADL's convergence bound", rich_help_panel="Common"),
    ] = False,
    memory_limit: MemoryLimit = "4GiB",
    seed: Seed = "0",
    json: Json = False,
    out: Out = None,
) -> None:
    """Train a network by several schedules, and compare what was measured with what was predicted.

    Each schedule is calibrated (its operations are timed alone and side by side), simulated with
    these costs, and run. So is plain backpropagation, on one thread and on all cores. An option
    that is given as a flag is that of every schedule that has it, unless it has its own. With
    --out an HTML report, traces and plots are written; those of a schedule as soon as it is done.
    """
    chosen = one_of(runtime, "--runtime", _RUNTIMES)
    cores = read_threads(threads)
    make_optimizer, settings = read_optimizer(
        optimizer, learning_rate, momentum_factor, weight_decay
    )
    wanted = _wanted(schedules, options)
    batches = batches_of(options, epochs)
    network = make_network(model, data, batch_size, seed)
