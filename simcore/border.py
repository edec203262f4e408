"""What comes in from outside: numbers, and TOML or JSON files described by pydantic models.

Everything is checked here once, and every problem becomes one `InputError` line; inside, values
are trusted.
"""

import json
import os
import tomllib
from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from re import fullmatch
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
)

from simcore.errors import InputError
from simcore.files import write_whole
from simcore.ticks import Number, exact

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "Amount",
    "Bytes",
    "Count",
    "FileModel",
    "Name",
    "Positive",
    "Seconds",
    "dump_json",
    "json_schema_of",
    "non_negative",
    "positive",
    "read_model",
]

SHOWN_LENGTH = 60  # characters of a bad value that an error line repeats
RATIO = "[0-9]+/[0-9]+"
SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"  # the one that pydantic writes


def non_negative(value: Number, what: str) -> Fraction:
    """The exact number, which must be 0 or more.

    Raises:
        InputError: negative, not finite or not a number; `what` names the value.
    """
    number = exact(value, what)
    if number < 0:
        raise InputError(what, value, "must not be negative", "give 0 or more")
    return number


def positive(value: Number, what: str) -> Fraction:
    """The exact number, which must be more than 0.

    Raises:
        InputError: zero, negative, not finite or not a number; `what` names the value.
    """
    number = exact(value, what)
    if number <= 0:
        raise InputError(what, value, "must be more than 0", "give a positive number")
    return number


def _written(value: object) -> Number:
    """A number as a file writes it: a number, or a ratio in a string."""
    if isinstance(value, str) and fullmatch(RATIO, value):
        return value
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return value
    raise InputError("", value, "must be a number", 'give one such as 0.25, 1e-3 or "1/3"')


def _to_json(value: Fraction) -> int | float | str:
    """The JSON number, or failing an exact one the ratio in a string, that reads back equal.

    >>> _to_json(Fraction(3)), _to_json(Fraction(1, 4)), _to_json(Fraction(1, 3))
    (3, 0.25, '1/3')
    """
    if value.denominator == 1:
        return value.numerator
    # Floats from 2**53 on are whole, and a fraction beyond the largest float has none at all.
    number = float(value) if value < 2**53 else 0.0
    return number if Fraction(repr(number)) == value else str(value)


def _number_schema(**bounds: int) -> WithJsonSchema:
    ratio = {"type": "string", "pattern": f"^{RATIO}$"}
    return WithJsonSchema({"anyOf": [{"type": "number", **bounds}, ratio]})


_in_json = PlainSerializer(_to_json, when_used="json")

Seconds = Annotated[
    Fraction,
    PlainValidator(lambda value: non_negative(_written(value), "")),
    _in_json,
    _number_schema(minimum=0),
]
Positive = Annotated[
    Fraction,
    PlainValidator(lambda value: positive(_written(value), "")),
    _in_json,
    _number_schema(exclusiveMinimum=0),
]
# Beyond 2**53, JSON readers that use floating point would change the number.
Amount = Annotated[int, Field(strict=True, ge=0, le=2**53)]
Bytes = Amount
Count = Annotated[int, Field(strict=True, ge=1, le=2**53)]
Name = Annotated[str, Field(strict=True, min_length=1)]


class FileModel(BaseModel):
    """Base of the models of files: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Model = TypeVar("Model", bound=FileModel)


def read_model(path: str | os.PathLike[str], model: type[Model]) -> Model:
    """Read a file, TOML if its name ends in .toml and else JSON; its decimals are read exactly.

    A validator of the model may raise `InputError`, with the key (or "") as what it is about.

    Raises:
        InputError: names file, key, value, rule and remedy of the file's first problem.
    """
    name = _printable(os.fspath(path))
    toml = Path(path).suffix.lower() == ".toml"
    try:
        text = Path(path).read_text("utf-8")
        document: Any = (tomllib if toml else json).loads(text, parse_float=_decimal)
    except OSError as error:
        rule = f"must be readable ({error.strerror})"
        raise InputError("file", name, rule, "check the path") from error
    except (ValueError, RecursionError) as error:
        rule = f"must be {'TOML' if toml else 'JSON'} ({error})"
        raise InputError("file", name, rule, "correct the file") from error
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise _first_problem(name, error) from None


def json_schema_of(model: type[FileModel]) -> dict[str, Any]:
    """The JSON Schema of such files."""
    # Only in this mode does pydantic show defaults as files would write them.
    return {"$schema": SCHEMA_DIALECT, **model.model_json_schema(mode="serialization")}


def dump_json(path: str | os.PathLike[str], schema: str, value: "DataclassInstance") -> None:
    """Write the dataclass as a JSON file of this schema, whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    document = {"schema": schema, **asdict(value)}
    write_whole(path, json.dumps(document, indent=1, default=_to_json) + "\n")


def _decimal(text: str) -> Decimal | float:
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{_shown(text)} is out of range") from None
    return number if number.is_finite() else float(number)  # TOML's nan and inf


# What pydantic says of Python's types, said of files'; a type that is missing here keeps its words.
_WORDS = {
    "missing": ("the key is required", "add it"),
    "extra_forbidden": ("there is no such key", "remove it or correct its spelling"),
    "model_type": ("must be an object", "put it in braces"),
    "dict_type": ("must be an object", "put it in braces"),
    "tuple_type": ("must be a list", "put it in brackets"),
    "int_type": ("must be a whole number", "give one without point and exponent"),
    "string_type": ("must be a string", "put it in quotes"),
    "string_too_short": ("must not be empty", "give at least one character"),
    "too_short": ("must not be empty", "give at least one entry"),
}


def _first_problem(path: str, error: ValidationError) -> InputError:
    problem = error.errors(include_url=False)[0]
    keys, value = _key_path(problem["loc"]), problem["input"]
    plain = problem["msg"].replace("Input should be", "must be")
    rule, remedy = _WORDS.get(problem["type"], (plain, "correct it in the file"))
    own = problem.get("ctx", {}).get("error")
    if isinstance(own, InputError):
        keys = ".".join(filter(None, (keys, own.what)))
        value, rule, remedy = own.value, own.rule, own.remedy
    if problem["type"] == "missing":
        value = "missing"
    return InputError(": ".join(filter(None, (path, keys))), _shown(value), rule, remedy)


def _printable(text: str) -> str:
    return repr(text)[1:-1]


def _key_path(keys: tuple[int | str, ...]) -> str:
    """Where in the document: `layers[0].forward_s`, `links['gradients[2]']`."""
    path = ""
    for key in keys:
        if isinstance(key, str) and key.isidentifier():
            path += f".{key}" if path else key
        else:
            path += f"[{key!r}]"
    return path


def _shown(value: Any) -> int | float | str:
    """The value as an error line repeats it: short, and without line breaks."""
    if isinstance(value, Decimal) and Decimal(repr(float(value))) == value:
        return float(value)
    if isinstance(value, float) or (type(value) is int and abs(value) < 10**SHOWN_LENGTH):
        return value
    text = _printable(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= SHOWN_LENGTH else f"{text[: SHOWN_LENGTH - 3]}..."
