"""The flags that several commands share, and those of schedules, which come from their registry."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Final

import typer

from analysis.cli.values import option_value
from simcore.errors import InputError
from simcore.options import OPTIONS
from simcore.schedules import SCHEDULES, check_together, find

__all__ = [
    "FLAGS",
    "Json",
    "Out",
    "Schedule",
    "Seed",
    "flag",
    "read_options",
    "refuse_options",
    "with_flags",
]

COMMON: Final = "Common"
SCHEDULE: Final = "Schedule"

# Schedule option -> flag, in the order in which options are listed.
FLAGS: Final = {
    name: f"--{name.replace('_', '-')}"
    for name in OPTIONS
    if any(name in entry.defaults for entry in SCHEDULES.values())
}
_LETTERS: Final = {
    "batches": "N",
    "modules": "K",
    "layers": "L",
    "accumulation": "M",
    "forward_threads": "F",
    "backward_threads": "B",
    "shrink": "X",
    "alpha": "X",
    "chunks": "V",
    "processes": "P",
    "replicas": "R",
    "micro_batches": "m",
    "in_flight": "n,...",
}


def flag(name: str, metavar: str, meaning: str, panel: str = COMMON) -> Any:
    """A flag that takes a value; `metavar` stands for the value in the help."""
    return typer.Option(name, metavar=metavar, help=meaning, rich_help_panel=panel)


Schedule = Annotated[
    str, typer.Argument(metavar="SCHEDULE", help=f"One of {', '.join(SCHEDULES)}.")
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="one JSON document on stdout, nothing else", rich_help_panel=COMMON
    ),
]
Out = Annotated[
    str | None, flag("--out", "DIR", "folder for the files of the result; made if need be")
]
Seed = Annotated[str, flag("--seed", "N", "seed of all random numbers")]


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer is to see it, with a flag for each thing that its parameters hold.

    A parameter that is a dataclass of flags has a flag for each of its fields. The parameter
    `options` has one for each option that some schedule has; the command gets those that were
    given, as they were written.
    """
    signature = inspect.signature(command, eval_str=True)
    groups = {p.name: p.annotation for p in signature.parameters.values()}
    groups = {name: kind for name, kind in groups.items() if is_dataclass(kind)}
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if parameter.name == "options":
            parameters += _parameters_of_schedules()
        elif parameter.name in groups:
            parameters += inspect.signature(parameter.annotation).parameters.values()
        else:
            parameters.append(parameter)

    def wrapped(**values: Any) -> None:
        for group, kind in groups.items():
            values[group] = kind(**{field.name: values.pop(field.name) for field in fields(kind)})
        if "options" in signature.parameters:
            given = {name: values.pop(name) for name in FLAGS}
            values["options"] = {name: text for name, text in given.items() if text is not None}
        command(**values)

    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return wrapped


def _parameters_of_schedules() -> list[inspect.Parameter]:
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=None,
            annotation=Annotated[
                str | None,
                flag(FLAGS[name], _metavar(name), _meaning(name), SCHEDULE),
            ],
        )
        for name in FLAGS
    ]


def _metavar(name: str) -> str:
    option = OPTIONS[name]
    if option.kind is bool:
        return "true|false"
    return "|".join(option.choices) or _LETTERS.get(name, "N")


def _meaning(name: str) -> str:
    """What the option means, its default, and the schedules that have it, unless all have."""
    having = [entry for entry in SCHEDULES.values() if name in entry.defaults]
    by_default: dict[object, list[str]] = {}
    for entry in having:
        by_default.setdefault(entry.defaults[name], []).append(entry.name)
    absent = OPTIONS[name].absent
    texts = {default: absent if default is None else f"{default}" for default in by_default}
    if len(by_default) == 1:
        where = "" if len(having) == len(SCHEDULES) else f"; {', '.join(e.name for e in having)}"
        return f"{OPTIONS[name].meaning} (default {next(iter(texts.values()))}{where})"
    each = "; ".join(f"{text} for {', '.join(by_default[key])}" for key, text in texts.items())
    return f"{OPTIONS[name].meaning} (default {each})"


def read_options(schedule: str, given: Mapping[str, str]) -> dict[str, object]:
    """The options of a schedule, read and checked, alone and together, before anything is built.

    Raises `InputError` naming the flag: an option that the schedule does not have, a bad value.
    """
    entry = find(schedule)
    refuse_options(given, {name for name in given if name not in entry.defaults}, schedule)
    read: dict[str, object] = {
        name: option_value(name, text, FLAGS[name]) for name, text in given.items()
    }
    check_together(schedule, FLAGS, read)
    return read


def refuse_options(given: Mapping[str, str], unknown: set[str], schedule: str) -> None:
    """Raise `InputError` for the first given option that is unknown to a schedule."""
    for name, text in given.items():
        if name in unknown:
            has = ", ".join(FLAGS[option] for option in find(schedule).defaults)
            rule = f"is not an option of {schedule}"
            raise InputError(FLAGS[name], text, rule, f"leave it out; {schedule} has {has}")
