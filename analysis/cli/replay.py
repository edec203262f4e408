"""`gradlag replay`: train again, in one process, in the order of a trace."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from analysis.cli.learning import OptimizerFlags
from analysis.cli.options import Json, Out, with_flags
from analysis.cli.output import Bar, console, folder, print_json
from analysis.cli.training import NetworkFlags, Setup, TrainingFlags
from simcore.errors import InputError

__all__ = ["EXAMPLES", "NAME", "command"]

NAME: Final = "replay"
EXAMPLES: Final = """\
# A run that was recorded: are the weights the same?
gradlag run async-lu --layers 4 --model mlp:4x64 --out out/run
gradlag replay out/run
# Train with the staleness of 64 simulated workers, on one core
gradlag simulate fdg --modules 64 --out out/sixty-four
gradlag replay out/sixty-four --model mlp:64x32
"""
_TRACE, _WEIGHTS = "trace.jsonl", "weights.pt"


@with_flags
def command(
    trace: Annotated[
        str,
        typer.Argument(metavar="TRACE", help="a trace, or the folder of a run or simulation"),
    ],
    network: NetworkFlags,
    optimizer_flags: OptimizerFlags,
    training_flags: TrainingFlags,
    json: Json = False,
    out: Out = None,
) -> None:
    """Train a network again by the operations of a trace, with exactly its staleness.

    The trace of a real run says what was trained, and flags must not; that of a simulation does
    not, so that flags do. If the run left its weights, they are compared with those of the replay:
    they are the same to the last bit where nobody writes what another reads, and where weights are
    shared without locks the difference is what torn and lost writes did.
    """
    file = Path(trace)
    file = file / _TRACE if file.is_dir() else file

    from simcore.trace_file import load_trace

    followed = load_trace(file)
    recorded = followed.header.about.get("training")
    if recorded is not None:
        _refuse_flags(network, optimizer_flags, training_flags)
        network, optimizer_flags = flags_of(recorded)
    header, options = followed.header, dict(followed.header.options)
    batches = options.pop("batches", header.mini_batches)
    wanted = [(header.schedule, options)]
    setup = Setup.read(wanted, batches, network, optimizer_flags, training_flags)

    from analysis.cli.run_result import FILES, Report
    from analysis.experiment import Wanted
    from analysis.state_difference import state_difference
    from executor.replay import run_replay

    path = folder(out, FILES)
    with Bar(f"replaying {header.schedule}", header.blocks * header.batches) as bar:
        experiment = setup.experiment(bar, even=recorded is not None)
        bounds = None if recorded is None else recorded.get("bounds")
        training = experiment.training(Wanted(header.schedule, options), bounds=bounds)
        result = run_replay(training, followed, bar.told)
    schedule = training.make_schedule()
    report = Report.of(experiment, training, result, setup.settings)
    weights = file.parent / _WEIGHTS
    if result.state is not None and followed.header.origin == "real" and weights.exists():
        owners = Counter((w.replica, k) for w in schedule.workers for k in w.blocks)
        shared = max(owners.values()) > 1
        report = report.with_difference(state_difference(weights, result.state, lock_free=shared))
    if path is not None:
        report.write(path)
    if json:
        print_json(report.document)
    else:
        report.show(console())
    if result.failure is not None:
        raise KeyboardInterrupt


def _refuse_flags(
    network: NetworkFlags, optimizer: OptimizerFlags, training: TrainingFlags
) -> None:
    given = (network, NetworkFlags()), (optimizer, OptimizerFlags())
    for flags, usual in given:
        if flags != usual:
            rule = "must be left out for the trace of a real run, which says what was trained"
            raise InputError("flags of the training", "given", rule, "give the trace alone")


def flags_of(recorded: Mapping[str, Any]) -> tuple[NetworkFlags, OptimizerFlags]:
    """The flags that describe a recorded training; see `Setup.settings`."""

    def text(name: str) -> str | None:
        value = recorded.get(name)
        return None if value is None else str(value)

    network = NetworkFlags(
        model=str(recorded["model"]),
        data=str(recorded["data"]),
        data_dir=text("data_dir"),
        augment=bool(recorded.get("augment", False)),
        batch_size=text("batch_size"),
        seed=str(recorded["seed"]),
    )
    factor = recorded.get("momentum_factor")
    optimizer = OptimizerFlags(
        optimizer=text("optimizer"),
        optimizer_option=list(recorded.get("optimizer_options", [])) or None,
        learning_rate=text("learning_rate"),
        momentum_factor=str(factor) if factor else None,
        weight_decay=text("weight_decay"),
        rate_schedule=text("rate_schedule"),
        warm_up=text("warm_up"),
        alpha_ramp=text("alpha_ramp"),
        clip=text("clip"),
        precision=text("precision") or "float32",
    )
    return network, optimizer
