"""Sweep files: the schedules, axes and configurations of a sweep in TOML or JSON."""

import os
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from simcore.border import FileModel, Name, json_schema_of, read_model
from simcore.errors import InputError

__all__ = ["SweepFile", "read_sweep_file", "sweep_json_schema", "value_text"]

_SCALAR = {"type": ["string", "number", "boolean"]}
_VALUE = {"anyOf": [_SCALAR, {"type": "array", "items": {"type": "integer"}, "minItems": 1}]}


def value_text(value: object) -> str:
    """A value as it would be written behind a flag.

    >>> value_text(True), value_text(Decimal("1.50")), value_text([3, 2, 1])
    ('true', '1.50', '3,2,1')

    Raises `InputError` for anything else than a number, a word, a switch or a list of numbers.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float | Decimal) and str(value):
        return str(value)
    if isinstance(value, list) and value and all(type(each) is int for each in value):
        return ",".join(map(str, value))
    rule = "must be a number, a word, true or false, or a list of whole numbers"
    raise InputError("", str(value), rule, "give one of these")


def _value(value: object) -> str:
    return value_text(value)


def _axis(value: object) -> str | tuple[str, ...]:
    """A range as text, or the texts of single values."""
    if isinstance(value, list):
        if not value:
            raise InputError("", "[]", "must not be empty", "give at least one value")
        return tuple(value_text(each) for each in value)
    if isinstance(value, str):
        return value
    return (value_text(value),)


_Value = Annotated[str, PlainValidator(_value), WithJsonSchema(_VALUE)]
_Axis = Annotated[
    str | tuple[str, ...],
    PlainValidator(_axis),
    WithJsonSchema({"anyOf": [_SCALAR, {"type": "array", "items": _VALUE, "minItems": 1}]}),
]


class SweepFile(FileModel):
    """A sweep: a grid of schedules and axes, single configurations, or both.

    An axis is a list of values, or a text with values and ranges such as "1:16" or "1:3:0.25". A
    configuration has its schedule and values. Paths count from the folder of the file.
    """

    schema_: Literal["gradlag.sweep/1"] = Field(alias="schema")
    schedules: tuple[Name, ...] = ()
    axes: dict[str, _Axis] = Field(default_factory=dict)
    configurations: tuple[dict[str, _Value], ...] = ()
    workload: Name | None = None
    cluster: Name | None = None

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not self.schedules and not self.configurations:
            rule = "must not be empty where there are no configurations"
            raise InputError("schedules", "[]", rule, "name a schedule")
        if self.axes and not self.schedules:
            rule = "needs schedules"
            raise InputError("axes", ", ".join(self.axes), rule, "name a schedule")
        for number, each in enumerate(self.configurations):
            if "schedule" not in each:
                rule = "must have a schedule"
                shown = ", ".join(each) or "empty"
                raise InputError(f"configurations[{number}]", shown, rule, "add it")
        return self


def read_sweep_file(path: str | os.PathLike[str]) -> SweepFile:
    """Read a sweep file; the paths that it names are made to count from the present folder.

    Raises `InputError` that names file, key, value, rule and remedy of the file's first problem.
    """
    content = read_model(path, SweepFile)
    folder = Path(path).parent
    paths = {
        name: str(folder / value)
        for name in ("workload", "cluster")
        if (value := getattr(content, name)) is not None
    }
    return content.model_copy(update=paths)


def sweep_json_schema() -> dict[str, Any]:
    """The JSON Schema of sweep files."""
    return json_schema_of(SweepFile)
