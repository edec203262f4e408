"""The registered schedules: name -> factory, with what the documentation says of each."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, Final, get_type_hints

from simcore.compositions import COMPOSED
from simcore.options import OPTIONS, Option, own_option
from simcore.schedule import Schedule

__all__ = ["SCHEDULES", "USUAL_LEARNING", "Entry", "register"]

USUAL_LEARNING: Final = ("sgd", 0.05)
Factory = Callable[..., Schedule]


@dataclass(frozen=True, slots=True)
class Entry:
    """A registered schedule.

    `defaults` are the factory's options with their defaults, and then those of `compositions`, what
    can be put around it (see `simcore.compositions`). `blocks_option` is the option that says how
    many blocks there are, times the `chunks` if it has them; without one there are `fixed_blocks`,
    however it is built. `lockings_broken`, `gap`, `memory` (what a module keeps),
    `extra_parameters` and `per_update` (the mini-batches that an update sees) are what the table of
    schedules says. `rows` are the operations, updates apart, that a trace has at most for each pass
    of a batch through a block, and for each batch besides. `remarks` say what is odd about it.
    `learning` are an optimiser and a learning rate by which it trains small and large networks.
    """

    name: str
    factory: Factory
    title: str
    source: str
    lockings_broken: str
    gap: str
    memory: str
    extra_parameters: str
    per_update: str
    blocks_option: str | None
    compositions: tuple[str, ...]
    rows: tuple[int, int]
    defaults: dict[str, object]
    fixed_blocks: int = 0
    remarks: tuple[str, ...] = ()
    learning: tuple[str, float] = USUAL_LEARNING

    @property
    def is_ours(self) -> bool:
        """Whether it is one of the project's own, and not a user's."""
        return self.factory.__module__.partition(".")[0] == "simcore"

    def option(self, name: str) -> Option:
        """What one of its options means: as everywhere, or one that it has of its own."""
        if name in OPTIONS:
            return OPTIONS[name]
        return own_option(name, self.defaults[name], get_type_hints(self.factory).get(name))

    def blocks(self, options: Mapping[str, object]) -> int:
        """How many blocks there are with these options; the rest have defaults."""
        if self.blocks_option is None:
            return self.fixed_blocks
        given = {**self.defaults, **options}
        blocks, chunks = given[self.blocks_option], given.get("chunks", 1)
        assert isinstance(blocks, int)
        assert isinstance(chunks, int)
        return blocks * chunks

    def shown(self, options: Mapping[str, object]) -> dict[str, object]:
        """The options that are worth saying: how large it is, and what is not as by default."""
        sizes = (self.blocks_option, "batches")
        return {
            name: value
            for name, value in options.items()
            if name in sizes or value != self.defaults.get(name)
        }


SCHEDULES: Final[dict[str, Entry]] = {}


def register(
    name: str,
    *,
    title: str,
    source: str,
    lockings_broken: str,
    gap: str,
    memory: str,
    per_update: str = "1",
    extra_parameters: str = "none",
    blocks_option: str = "modules",
    compositions: tuple[str, ...] = (),
    rows: tuple[int, int] = (8, 4),
    learning: tuple[str, float] = USUAL_LEARNING,
) -> Callable[[Factory], Factory]:
    """Register a factory under a name; every generic test and reader then covers it.

    The schedules that it makes have this name, and its arguments for options.

    A parameter is an option of `simcore.options`, or one of the schedule's own, whose default is a
    number, a word, or True or False.
    """

    def add(factory: Factory) -> Factory:
        signature = inspect.signature(factory)
        defaults = {each.name: each.default for each in signature.parameters.values()}
        for composition in compositions:
            defaults |= COMPOSED[composition]
        if name in SCHEDULES:
            raise TypeError(f"a schedule is registered as {name} already")

        @wraps(factory)
        def named(*args: Any, **options: Any) -> Schedule:
            given = signature.bind(*args, **options)
            given.apply_defaults()
            return replace(factory(*args, **options), name=name, options=dict(given.arguments))

        SCHEDULES[name] = Entry(
            name,
            named,
            title,
            source,
            lockings_broken,
            gap,
            memory,
            extra_parameters,
            per_update,
            blocks_option,
            compositions,
            rows,
            defaults,
            learning=learning,
        )
        return named

    return add
