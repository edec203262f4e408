"""Finding and building registered schedules by name.

It lies in this package so that importing it, as unpickling a `build` in another process does,
registers all schedules.
"""

import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from simcore.compositions import compose
from simcore.errors import InputError
from simcore.registry import SCHEDULES, Entry
from simcore.schedule import Schedule
from simcore.schedules.elsewhere import elsewhere, installed

__all__ = ["build", "check_together", "find", "rebuild"]

_MOST_BUILT: Final = 4096  # workers of a schedule that is built only to see whether it can be
# What costs something for each of them when a schedule is built; others go together or not.
_BUILT: Final = (
    *("modules", "layers", "chunks", "replicas"),
    *("forward_threads", "backward_threads", "processes", "loaders"),
)


def find(name: str) -> Entry:
    """The entry of a registered schedule, or of one from elsewhere (`simcore.schedules.elsewhere`).

    Raises `InputError` with the nearest name where there is none.
    """
    found = SCHEDULES.get(name) or elsewhere(name)
    if found is not None:
        return found
    names = [*SCHEDULES, *installed()]
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.0)
    raise InputError(
        "schedule", name, f"must be one of {', '.join(names)}", f"did you mean {near[0]}?"
    )


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
        options[option] = entry.option(option).read(flags.get(option, option), value)
    made = compose(entry.factory, {**entry.defaults, **options}, flags)
    return replace(made, name=name)


def rebuild(schedule: Schedule, **changes: object) -> Schedule:
    """A schedule that was built by its name once more, with some of its options changed."""
    options: dict[str, Any] = {**schedule.options, **changes}
    return build(schedule.name, **options)


def check_together(name: str, flags: dict[str, str], options: Mapping[str, object]) -> None:
    """Raise `InputError` for options of a schedule that do not go together, however large they are.

    Builds a small schedule in place of one that may be too large to build.
    """
    entry = find(name)
    given = {**entry.defaults, **options}
    for option, value in given.items():
        entry.option(option).read(flags.get(option, option), value)
        if option in _BUILT and type(value) is int and value > _MOST_BUILT:
            given[option] = 1
    batches, replicas = given["batches"], given.get("replicas", 1)
    assert isinstance(batches, int)
    assert isinstance(replicas, int)
    build(name, flags=flags, **{**given, "batches": min(batches, replicas)})
