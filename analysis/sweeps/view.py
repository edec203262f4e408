"""What of a study is drawn: two axes, and one value of every other axis that varies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from analysis.sweeps.answer import MEASURES, Answer
from analysis.sweeps.question import NUMBERS, Configuration
from analysis.sweeps.store import Found
from simcore.errors import InputError
from simcore.schedules import find

__all__ = [
    "DRAWN",
    "SCHEDULE",
    "Place",
    "View",
    "axis_title",
    "drawn_measures",
    "unanswered",
    "value_of",
    "varying",
    "view",
]

Place = int | float | str  # a value of an axis; what is no number is a text

_TITLES: Final = {
    "forward_time": "forward time of the whole network (s)",
    "backward_ratio": "backward time over forward time",
    "update_time": "update time of the whole network (s)",
    "link_latency": "link latency (s)",
    "link_bandwidth": "link bandwidth (bytes/s)",
    "jitter": "jitter (coefficient of variation of times)",
    "batches": "mini-batches",
}
DRAWN: Final = ("speedup", "gap", "memory")
SCHEDULE: Final = "schedule"  # an axis like any other


@dataclass(frozen=True, slots=True)
class View:
    """Rows of a study that differ in the axes `over` and in the schedule alone.

    All have the first of these axes. `fixed` are the values that were chosen of the other axes,
    `without` the schedules that have not the first axis.
    """

    rows: tuple[Found, ...]
    over: tuple[str, ...]
    fixed: Mapping[str, Place]
    without: tuple[str, ...]

    def schedules(self) -> tuple[str, ...]:
        """The schedules, in the order of the rows."""
        return tuple(dict.fromkeys(row.schedule for row in self.rows))

    def places(self, axis: str) -> list[Place]:
        """The values of an axis, numbers in their order and texts as they come."""
        found = list(dict.fromkeys(place for r in self.rows if (place := value_of(r, axis)) != ""))
        if all(isinstance(place, int | float) for place in found):
            return sorted(found)
        return found


def value_of(row: Found, axis: str) -> Place:
    """A row's value on an axis, that of its schedule's default if need be; "" for none."""
    if axis == SCHEDULE:
        return row.schedule
    defaults: Mapping[str, Any] = find(row.schedule).defaults
    if axis in NUMBERS:
        default = NUMBERS[axis]
        value: Any = row.numbers.get(axis, default if default is None else float(default))
    elif axis in row.options or axis in defaults:
        value = row.options.get(axis, defaults.get(axis))
    else:
        return ""
    if value is None:
        return "unbounded" if axis in NUMBERS else find(row.schedule).option(axis).absent
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | str):
        return value
    return ",".join(map(str, value))


def varying(rows: Sequence[Found]) -> tuple[str, ...]:
    """The axes along which rows of one schedule differ, in the order of their names in the rows."""
    names = dict.fromkeys(name for row in rows for name in (*row.options, *row.numbers))
    found = []
    for name in names:
        by_schedule: dict[str, set[Place]] = {}
        for row in rows:
            by_schedule.setdefault(row.schedule, set()).add(value_of(row, name))
        if any(len(values - {""}) > 1 for values in by_schedule.values()):
            found.append(name)
    return tuple(found)


def view(rows: Sequence[Found], over: Sequence[str], where: Mapping[str, str]) -> View:
    """The rows to draw over these axes, none, one or two of them; none: the first that vary.

    `where` fixes other axes, as `accumulation=2`; those that are left have their first value.

    Raises `InputError` for an axis that no row has, a value that none has, or two axes that no row
    has both.
    """
    known = dict.fromkeys(name for row in rows for name in (*row.options, *row.numbers))
    for flag, names in (("--over or --colour", over), ("--where", where)):
        for name in names:
            if name not in known and name != SCHEDULE:
                rule = f"must be one of {', '.join((*known, SCHEDULE))}"
                raise InputError(flag, name, rule, "choose among what was given")
    kept, fixed = list(rows), dict[str, Place]()
    for name, text in where.items():
        kept = [row for row in kept if _is(value_of(row, name), text)]
        places = [place for row in kept if (place := value_of(row, name)) != ""]
        if not places:
            there = dict.fromkeys(f"{value_of(row, name)}" for row in rows)
            rule = f"must be one of its values, {', '.join(filter(None, there))}"
            raise InputError(f"--where {name}", text, rule, "choose one")
        fixed[name] = places[0]
    axes = tuple(over) or _first_axes(kept, where)
    schedules = dict.fromkeys(row.schedule for row in kept)
    if not any(all(value_of(row, name) != "" for name in axes) for row in kept):
        rule = f"must be axes of one schedule among {', '.join(schedules)}"
        raise InputError("axes", ", ".join(axes), rule, "choose others")
    kept = [row for row in kept if value_of(row, axes[0]) != ""]
    for name in varying(kept):
        if name not in axes and name not in fixed:
            places = [place for row in kept if (place := value_of(row, name)) != ""]
            if places:  # else what has it went with another axis
                fixed[name] = places[0]
                kept = [row for row in kept if value_of(row, name) in (places[0], "")]
    without = schedules.keys() - {row.schedule for row in kept}
    return View(tuple(kept), axes, fixed, tuple(sorted(without)))


def _first_axes(rows: Sequence[Found], where: Mapping[str, str]) -> tuple[str, ...]:
    """The first axis that varies, and the next one of a schedule that has the first."""
    moving = [name for name in varying(rows) if name not in where]
    if not moving:
        return (SCHEDULE,)
    having = [row for row in rows if value_of(row, moving[0]) != ""]
    others = [name for name in varying(having) if name not in (*where, moving[0])]
    return (moving[0], *others[:1])


def _is(place: Place, text: str) -> bool:
    if isinstance(place, str):
        return place in ("", text)
    try:
        return Fraction(text) == Fraction(str(place))
    except (ValueError, ZeroDivisionError):
        return False


def unanswered(configurations: Sequence[Configuration]) -> list[Found]:
    """The rows of a study that knows no answer yet, which have its axes already."""
    nothing = Answer("refused", None, {}, (), 0.0)
    return [
        Found(
            number,
            each.schedule,
            dict(each.options),
            {name: float(value) for name, value in each.numbers.items()},
            nothing,
        )
        for number, each in enumerate(configurations)
    ]


def axis_title(axis: str) -> str:
    """What is written along an axis, with its unit."""
    return _TITLES.get(axis, axis.replace("_", " "))


def drawn_measures(rows: Sequence[Found]) -> dict[str, str]:
    """The measure of each of `DRAWN`: memory in bytes where sizes are known, else in batches."""
    sized = any(row.answer.values.get("peak_bytes") is not None for row in rows)
    memory = "peak_bytes" if sized else "peak_in_flight"
    found = dict(zip(DRAWN, ("speedup", "mean_gap", memory), strict=True))
    assert all(name in MEASURES for name in found.values())
    return found
