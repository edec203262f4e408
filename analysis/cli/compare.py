"""`gradlag compare`: several schedules, predicted and really run, beside backpropagation."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from analysis.cli.learning import OptimizerFlags
from analysis.cli.options import FLAGS, Json, Out, flag, parsed, with_flags
from analysis.cli.output import Bar, console, folder, print_json
from analysis.cli.training import NetworkFlags, Setup, TrainingFlags
from analysis.cli.values import one_of, option_value
from simcore.errors import InputError, RunError
from simcore.options import OPTIONS
from simcore.schedules import check_together, find

if TYPE_CHECKING:
    from executor.run import Runtime

__all__ = ["EXAMPLES", "NAME", "command"]

NAME: Final = "compare"
EXAMPLES: Final = """\
# Two modules on two cores: does what was predicted happen?
gradlag compare fdg adl:accumulation=4 --modules 2
# The same for Async BP, with a convergence bound and a report for the browser
gradlag compare async-lu:queue_capacity=2 --model conv:4x16 --bound --out out/conv
# The same schedule twice, in threads, for a script
gradlag compare fdg:modules=2 fdg:modules=3 --runtime threads --json > fdg.json
"""
_AUTOMATIC: Final = "auto"
_RUNTIMES: Final = (_AUTOMATIC, "threads", "processes")
_BASELINE: Final = "bp"
_ACCUMULATIONS: Final = (1, 2, 4)

Choice = tuple[str, dict[str, object]]  # a schedule's name and the options that were asked for


@with_flags
def command(
    schedules: Annotated[
        list[str],
        typer.Argument(
            metavar="SCHEDULE[:OPTION=VALUE,...]...",
            help="Schedules, with options of their own, such as adl:accumulation=4,modules=2.",
        ),
    ],
    options: dict[str, str],
    network: NetworkFlags,
    optimizer_flags: OptimizerFlags,
    training_flags: TrainingFlags,
    runtime: Annotated[
        str,
        flag(
            "--runtime",
            "|".join(_RUNTIMES),
            "one process per worker (auto, where the schedule allows it) or one thread",
            "Training",
        ),
    ] = _AUTOMATIC,
    bound: Annotated[
        bool,
        typer.Option(
            "--bound", help="add ADL's convergence bound, measured", rich_help_panel="Common"
        ),
    ] = False,
    json: Json = False,
    out: Out = None,
) -> None:
    """Train a network by several schedules, and compare what was measured with what was predicted.

    Each schedule is calibrated (its operations are timed alone and side by side), simulated with
    these costs, and run. So is plain backpropagation, on one thread and on all cores. A schedule's
    option that is given as a flag counts for every schedule that has it and has not its own. With
    --out, an HTML report, traces and plots are written, those of a schedule as soon as it is done.
    """
    chosen = one_of(runtime, "--runtime", _RUNTIMES)
    batches = None
    if "batches" in options:
        batches = option_value(OPTIONS["batches"], options["batches"], FLAGS["batches"])
    choices = [
        (name, optimizer_flags.around(name, found))
        for name, found in _choices(schedules, {k: v for k, v in options.items() if k != "batches"})
    ]
    # Plain backpropagation is always measured, in as many modules as are its default.
    checked = [*choices, (_BASELINE, {})]
    setup = Setup.read(checked, batches, network, optimizer_flags, training_flags)

    from analysis.cli.compare_result import FILES, Results, measured
    from analysis.experiment import Wanted

    wanted = [Wanted(name, found) for name, found in choices]
    results = Results(folder(out, FILES))
    curves = _curves(choices, setup.network.seed) if bound else []
    with Bar("comparing", log=True) as bar:
        experiment = setup.experiment(bar)
        named = None if chosen == _AUTOMATIC else cast("Runtime", chosen)
        study = measured(experiment, wanted, named, setup.settings, bar, results)
    document = results.finish(study, curves, setup)
    if json:
        print_json(document)
    else:
        results.show(console(), study, curves)
    for label, each in zip(results.labels, study.outcomes, strict=False):
        if each.result.failure is not None:
            raise RunError(f"{label}: {each.result.failure}")


def _choices(texts: list[str], common: Mapping[str, str]) -> list[Choice]:
    """The schedules, with the options that were given to all where they have them.

    Raises `InputError` for a bad one, for one that comes twice, and for a flag that none has.
    """
    found: list[Choice] = []
    for text in texts:
        name, written = parsed(text)
        entry = find(name)
        own = {
            option: option_value(entry.option(option), value, f"{option} of '{text}'")
            for option, value in written.items()
        }
        # How many modules backpropagation has makes no difference: it is one worker.
        ignored = {"modules"} if name == _BASELINE else set()
        shared = {
            option: option_value(OPTIONS[option], value, FLAGS[option])
            for option, value in common.items()
            if option in entry.defaults and option not in own and option not in ignored
        }
        options: dict[str, object] = {**own, **shared}
        check_together(name, FLAGS, options)
        if (name, options) in found:
            raise InputError("schedule", text, "must be given once", "leave one out")
        found.append((name, options))
    for option, value in common.items():
        if not any(option in find(name).defaults for name, _ in found):
            rule = f"is an option of none of {', '.join(name for name, _ in found)}"
            raise InputError(FLAGS[option], value, rule, "leave it out")
    return found


def _curves(choices: list[Choice], seed: int) -> list[Any]:
    """The convergence bound for the modules and accumulations that are compared, and for some."""
    from analysis.cli.bounds import trained_curves

    modules = [options["modules"] for _, options in choices if "modules" in options]
    asked = [options["accumulation"] for _, options in choices if "accumulation" in options]
    accumulations = sorted({*_ACCUMULATIONS, *(int(str(each)) for each in asked)})
    return trained_curves(
        {
            "modules": int(str(modules[0])) if modules else 4,
            "accumulations": tuple(accumulations),
            "seed": seed,
        }
    )
