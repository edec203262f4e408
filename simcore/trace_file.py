"""Trace files: JSON lines, the header first, then every span, then every applied gradient.

The header has the keys of `simcore.trace.Header`, with the schema, with `tick_s` as an exact ratio
in a string, and with the numbers of lines that follow, so that a lost end is noticed. The keys of
the other lines are those of `simcore.trace_rows.KEYS`.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from re import fullmatch
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from simcore.errors import InputError
from simcore.files import write_whole
from simcore.trace import KIND, SCHEMA, SPAN_COLUMNS, Header, Trace
from simcore.trace_rows import Rows, exact_keys, place, row_format, shown

__all__ = ["dump_trace", "load_trace"]

_CHUNK: Final = 2**16  # rows that are Python objects at once


def dump_trace(trace: Trace, path: str | os.PathLike[str]) -> None:
    """Write a trace file, whole or not at all; `load_trace` reads an equal trace back.

    `options` and `about` of the header must be JSON values. Raises `InputError` if the file cannot
    be written.
    """
    write_whole(path, _texts(trace))


def _texts(trace: Trace) -> Iterator[str]:
    header = trace.header
    document = {
        "schema": SCHEMA,
        "origin": header.origin,
        "schedule": header.schedule,
        "options": dict(header.options),
        "blocks": header.blocks,
        "batches": header.batches,
        "workers": header.workers,
        "channels": header.channels,
        "groups": header.groups,
        "replicas": header.replicas,
        "micro_batches": header.micro_batches,
        "tick_s": str(header.tick_s),
        "seed": header.seed,
        "about": dict(header.about),
        "spans": len(trace.spans),
        "gradients": len(trace.gradients),
    }
    yield json.dumps(document) + "\n"
    kind = SPAN_COLUMNS.index("kind")
    formats = [row_format("span", name) for name in KIND]
    for rows in _chunks(trace.spans):
        yield "".join(formats[row[kind]].format(*row) for row in rows)
    applied = row_format("gradient", "applied")
    for rows in _chunks(trace.gradients):
        yield "".join(applied.format(*row) for row in rows)


def _chunks(rows: NDArray[np.void]) -> Iterator[list[tuple[int, ...]]]:
    for first in range(0, len(rows), _CHUNK):
        yield rows[first : first + _CHUNK].tolist()


def load_trace(path: str | os.PathLike[str]) -> Trace:
    """Read a trace file, and check all of it.

    Raises `InputError`, which names file, line, key, value, rule and remedy of a problem.
    """
    name = os.fspath(path)
    try:
        with Path(path).open("rb") as lines:
            return _read(name, lines)
    except OSError as error:
        rule = f"must be readable ({error.strerror})"
        raise InputError("file", name, rule, "check the path") from error


def _read(name: str, lines: Iterable[bytes]) -> Trace:
    rows, header, expected = Rows(name), None, (0, 0)
    for number, line in enumerate(lines, 1):
        content = _json(place(name, number), line)
        if header is None:
            header = _header(name, content)
            expected = content["spans"], content["gradients"]
        else:
            rows.add(number, content)
    if header is None:
        rule = "must begin with the line of the header, and is empty"
        raise InputError("file", name, rule, "write the trace again")
    found = len(rows.span_lines), len(rows.gradient_lines)
    for key, wanted, count in zip(("spans", "gradients"), expected, found, strict=True):
        if wanted != count:
            rule = f"must be the number of such lines, and there are {count}"
            remedy = "the file was cut short or edited: write the trace again"
            raise InputError(place(name, 1, key), wanted, rule, remedy)
    return rows.trace(header)


def _json(where: str, line: bytes) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        text = shown(line.decode(errors="replace").rstrip("\n"))
        if not line.endswith(b"\n"):
            rule, remedy = "must be whole, and is cut short", "write the trace again"
            raise InputError(where, text, rule, remedy) from error
        raise InputError(where, text, "must be JSON", "correct the line") from error
    if not isinstance(content, dict):
        raise InputError(where, shown(content), "must be an object", "put it in braces")
    return content


def _is_count(value: object) -> bool:
    return type(value) is int and 1 <= value < 2**63


def _is_length(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_numbers(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_length, value))


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_ratio(value: object) -> bool:
    if not isinstance(value, str) or not fullmatch("[0-9]{1,999}(/[0-9]{1,999})?", value):
        return False
    return all(int(part) for part in value.split("/"))


_HEADER: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "schema": (lambda value: value == SCHEMA, f"must be {SCHEMA}"),
    "origin": (lambda value: value in ("simulated", "real"), "must be simulated or real"),
    "schedule": (lambda value: isinstance(value, str), "must be a name"),
    "options": (_is_object, "must be an object"),
    "blocks": (_is_count, "must be a whole number from 1 to 2**63 - 1"),
    "batches": (_is_count, "must be a whole number from 1 to 2**63 - 1"),
    "workers": (_is_names, "must be a list of names"),
    "channels": (_is_names, "must be a list of names"),
    "groups": (_is_names, "must be a list of names"),
    "replicas": (_is_numbers, "must be a list of whole numbers of at least 0"),
    "micro_batches": (_is_count, "must be a whole number from 1 to 2**63 - 1"),
    "tick_s": (_is_ratio, 'must be an exact ratio above 0 in a string, such as "1/3"'),
    "seed": (lambda value: type(value) is int, "must be a whole number"),
    "about": (_is_object, "must be an object"),
    "spans": (_is_length, "must be a whole number of at least 0"),
    "gradients": (_is_length, "must be a whole number of at least 0"),
}


def _header(name: str, document: dict[str, Any]) -> Header:
    where = place(name, 1)
    for key, (holds, rule) in _HEADER.items():
        if key not in document:
            raise InputError(f"{where}: {key}", "missing", "the key is required", "add it")
        if not holds(document[key]):
            remedy = "give a trace file" if key == "schema" else "correct the line"
            raise InputError(f"{where}: {key}", shown(document[key]), rule, remedy)
    exact_keys(where, document, _HEADER)
    if document["replicas"] and len(document["replicas"]) != len(document["workers"]):
        rule = "must be empty or name the replica of each worker"
        raise InputError(
            f"{where}: replicas", shown(document["replicas"]), rule, "correct the line"
        )
    return Header(
        origin=document["origin"],
        schedule=document["schedule"],
        options=document["options"],
        blocks=document["blocks"],
        batches=document["batches"],
        workers=tuple(document["workers"]),
        channels=tuple(document["channels"]),
        tick_s=Fraction(document["tick_s"]),
        seed=document["seed"],
        about=document["about"],
        groups=tuple(document["groups"]),
        replicas=tuple(document["replicas"]),
        micro_batches=document["micro_batches"],
    )
