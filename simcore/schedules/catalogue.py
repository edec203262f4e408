"""Finding and building registered schedules by name.

It lies in this package so that importing it, as unpickling a `build` in another process does,
registers all schedules.
"""

import difflib

from simcore.errors import InputError
from simcore.options import check
from simcore.registry import SCHEDULES, Entry
from simcore.schedule import Schedule

__all__ = ["build", "find"]


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
