"""The flags that several commands share, and those of schedules, which come from their registry."""

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Final

import typer

from analysis.cli.values import option_value
from simcore.errors import InputError
from simcore.options import OPTIONS
from simcore.registry import Entry
from simcore.schedules import SCHEDULES, check_together, find
from simcore.schedules.elsewhere import OWN

__all__ = [
    "FLAGS",
    "SCHEDULE",
    "Json",
    "Out",
    "Schedule",
    "Seed",
    "flag",
    "meaning",
    "parsed",
    "read_options",
    "with_default",
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


_NAMES: Final = (
    f"One of {', '.join(SCHEDULES)}; or FILE.py:FUNCTION, a schedule of your own. "
    "Options may follow, as in adl:accumulation=4,modules=2."
)
Schedule = Annotated[str, typer.Argument(metavar="SCHEDULE", help=_NAMES)]
Own = Annotated[
    str | None,
    flag("--schedule", "FILE.py:FUNCTION", "a schedule of your own, for SCHEDULE", SCHEDULE),
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
    given, as they were written. The parameter `schedule` is given in one of two ways, and may bring
    options with it.
    """
    signature = inspect.signature(command, eval_str=True)
    groups = {p.name: p.annotation for p in signature.parameters.values()}
    groups = {name: kind for name, kind in groups.items() if is_dataclass(kind)}
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if parameter.name == "options":
            parameters += _parameters_of_schedules()
        elif parameter.name == "schedule":
            parameters += [parameter.replace(default=None), _parameter("own_schedule", Own)]
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
        if "schedule" in signature.parameters:
            typed, own = values.pop("schedule"), values.pop("own_schedule")
            values["schedule"], brought = parsed(_chosen(typed, own))
            values["options"] = _joined(brought, values["options"])
        command(**values)

    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return wrapped


def _parameters_of_schedules() -> list[inspect.Parameter]:
    return [
        _parameter(
            name,
            Annotated[str | None, flag(FLAGS[name], _metavar(name), meaning(name), SCHEDULE)],
        )
        for name in FLAGS
    ]


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter(name, kind, default=None, annotation=annotation)


def _metavar(name: str) -> str:
    option = OPTIONS[name]
    if option.kind is bool:
        return "true|false"
    return "|".join(option.choices) or _LETTERS.get(name, "N")


def meaning(name: str, entry: Entry | None = None) -> str:
    """What an option means, and its default: that of a schedule, or of all that have it.

    Says which schedules have it, unless all have.
    """
    option = OPTIONS[name]
    having = [each for each in SCHEDULES.values() if name in each.defaults]
    having = having if entry is None else [entry]
    shown = {each.name: _default(each, name) for each in having}
    [usual], others = _most(shown.values()), dict[str, list[str]]()
    for schedule, default in shown.items():
        if default != usual:
            others.setdefault(default, []).append(schedule)
    parts = [f"default {usual}"]
    if entry is None and len(having) < len(SCHEDULES):
        parts.append(_some([*shown]))
    parts += [f"{default} for {_some(names)}" for default, names in others.items()]
    return f"{option.meaning} ({'; '.join(parts)})"


def _most(values: Any) -> list[str]:
    return [value for value, _ in Counter(values).most_common(1)]


def _default(entry: Entry, name: str) -> str:
    value = entry.defaults[name]
    if value is None:
        return entry.option(name).absent
    return str(value).lower() if isinstance(value, bool) else f"{value}"


def with_default(entry: Entry, name: str) -> str:
    """A schedule's option with its default, as they are typed.

    >>> with_default(find("fdg"), "recompute")
    '--recompute false'
    """
    default = _default(entry, name)
    return f"{FLAGS[name]} {default}" if name in FLAGS else f"{entry.name}:{name}={default}"


def _some(names: Sequence[str]) -> str:
    """The names, or some of them.

    >>> _some(["adl", "fdg"]), _some(["adl", "fdg", "dsp", "bp"])
    ('adl, fdg', 'adl and 3 more')
    """
    return ", ".join(names) if len(names) <= 2 else f"{names[0]} and {len(names) - 1} more"


def parsed(text: str) -> tuple[str, dict[str, str]]:
    """A schedule's name, and the options that are written behind it.

    >>> parsed("pipedream:in_flight=3,2,1,modules=3")
    ('pipedream', {'in_flight': '3,2,1', 'modules': '3'})

    Raises `InputError` for an unknown schedule, or an option that it does not have.
    """
    own = OWN.match(text)
    end = own.end() if own else len(text.partition(":")[0])
    name, colon, rest = text[:end], text[end : end + 1], text[end + 1 :]
    entry, options = find(name), dict[str, str]()
    option = ""
    for part in rest.split(",") if colon else ():
        key, equals, value = part.partition("=")
        if not equals and option and part:  # the next one of a list
            options[option] += f",{part.strip()}"
            continue
        option = key.strip().replace("-", "_")
        if option not in entry.defaults or option == "batches" or not value or option in options:
            has = ", ".join(each for each in entry.defaults if each != "batches")
            remedy = f"write {name}:OPTION=VALUE, with an option out of {has}"
            remedy = "give --batches, for all" if option == "batches" else remedy
            raise InputError("schedule", text, f"must not have '{part}'", remedy)
        options[option] = value.strip()
    return name, options


def _chosen(typed: str | None, own: str | None) -> str:
    if typed is None and own is None:
        raise InputError("SCHEDULE", "missing", "must be given", "see 'gradlag schedules'")
    if own is not None and typed is not None:
        rule = "must not be given with SCHEDULE"
        raise InputError("--schedule", own, rule, f"leave out '{typed}'")
    if own is not None and not OWN.match(own):
        rule = "must be FILE.py:FUNCTION"
        raise InputError("--schedule", own, rule, "give schedules that come along as SCHEDULE")
    return typed or own or ""


def _joined(brought: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    for name in brought.keys() & given.keys():
        rule = "must be given once"
        raise InputError(FLAGS[name], given[name], rule, "leave one of them out")
    return {**brought, **given}


def read_options(schedule: str, given: Mapping[str, str]) -> dict[str, object]:
    """The options of a schedule, read and checked, alone and together, before anything is built.

    Raises `InputError` naming the flag: an option that the schedule does not have, a bad value.
    """
    entry = find(schedule)
    for name, text in given.items():
        if name not in entry.defaults:
            has = ", ".join(FLAGS.get(option, option) for option in entry.defaults)
            rule = f"is not an option of {schedule}"
            raise InputError(FLAGS[name], text, rule, f"leave it out; {schedule} has {has}")
    read: dict[str, object] = {
        name: option_value(entry.option(name), text, FLAGS.get(name, name))
        for name, text in given.items()
    }
    check_together(schedule, FLAGS, read)
    return read
