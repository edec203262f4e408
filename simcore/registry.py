"""The registered schedules: name -> factory, with what the documentation says of each."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from simcore.options import OPTIONS
from simcore.schedule import Schedule

__all__ = ["SCHEDULES", "Entry", "register"]

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
