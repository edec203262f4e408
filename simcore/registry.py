"""The registered schedules: name -> factory, with what the documentation says of each."""

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from simcore.errors import InputError
from simcore.options import OPTIONS, check
from simcore.schedule import Schedule

__all__ = ["SCHEDULES", "Entry", "build", "find", "register"]

Factory = Callable[..., Schedule]


@dataclass(frozen=True, slots=True)
class Entry:
    """A registered schedule.

    `defaults` are the factory's options with their defaults. `blocks_option` is the option that
    says how many blocks (and so, but for baselines, how many workers) there are.
    """

    name: str
    factory: Factory
    title: str
    source: str
    lockings_broken: str
    gap: str
    blocks_option: str
    defaults: dict[str, object]


SCHEDULES: Final[dict[str, Entry]] = {}


def register(
    name: str, *, title: str, source: str, lockings_broken: str, gap: str, blocks_option: str
) -> Callable[[Factory], Factory]:
    """Register a factory under a name; every generic test and reader then covers it."""

    def add(factory: Factory) -> Factory:
        parameters = inspect.signature(factory).parameters.values()
        defaults = {parameter.name: parameter.default for parameter in parameters}
        unknown = defaults.keys() - OPTIONS.keys()
        if unknown or name in SCHEDULES:
            raise TypeError(f"{name}: registered twice, or with options unknown: {unknown}")
        SCHEDULES[name] = Entry(
            name, factory, title, source, lockings_broken, gap, blocks_option, defaults
        )
        return factory

    return add


def find(name: str) -> Entry:
    """The entry of a schedule. Raises `InputError` with the nearest name where there is none."""
    try:
        return SCHEDULES[name]
    except KeyError:
        near = difflib.get_close_matches(name.lower(), SCHEDULES, n=1, cutoff=0.0)
        raise InputError(
            "schedule", name, f"must be one of {', '.join(SCHEDULES)}", f"did you mean {near[0]}?"
        ) from None


def build(name: str, *, flags: dict[str, str] | None = None, **options: object) -> Schedule:
    """Build a schedule from its name and options alone; the rest have defaults.

    `flags` are the names that an error should use for options, `--modules` for `modules` say.
    Raises `InputError` for an unknown schedule, an option that it does not have, a bad value.

    >>> build("adl", modules=2, batches=3).workers[1].name
    'module 2'
    """
    entry, flags = find(name), flags or {}
    for option, value in options.items():
        if option not in entry.defaults:
            raise InputError(
                flags.get(option, option),
                value,
                f"is not an option of {name}",
                f"leave it out; {name} has {', '.join(entry.defaults)}",
            )
        options[option] = check(option, value, flags.get(option))
    return entry.factory(**{**entry.defaults, **options})
