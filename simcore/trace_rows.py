"""Rows of trace files: the keys of each kind of line, and the check of lines that are read.

A line is a JSON object. `span` names the kind of an operation; `gradient` marks a gradient that an
update applied. The other keys are those of `KEYS`.
"""

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from simcore.errors import InputError
from simcore.trace import GRADIENT_COLUMNS, KIND, SPAN_COLUMNS, Header, Recorder, Trace, table

__all__ = ["KEYS", "Rows", "exact_keys", "place", "row_format", "shown"]

# In the order of the columns, without the kind itself.
_PASS: Final = ("start", "end", "worker", "index", "block", "batch", "version")
_UPDATE: Final = ("start", "end", "worker", "index", "block", "version")
_ESTIMATE: Final = ("start", "end", "worker", "index", "block", "batch")
_LOAD: Final = ("start", "end", "worker", "index", "batch")
_MESSAGE: Final = ("start", "end", "worker", "index", "channel", "batch")
_ROUND: Final = ("start", "end", "worker", "index", "group", "average")
KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(KIND, _PASS),
    **dict.fromkeys(("update", "snapshot", "merge"), _UPDATE),
    **dict.fromkeys(("estimate", "refine"), _ESTIMATE),
    **dict.fromkeys(("send", "receive"), _MESSAGE),
    **dict.fromkeys(("arrive", "join"), _ROUND),
    "load": _LOAD,
    "applied": GRADIENT_COLUMNS,
}
# What the columns of the table are called in the lines of some kinds.
_COLUMN: Final = {"channel": "block", "group": "block", "average": "batch"}
_ABSENT: Final = {"load": {"block": 0, "version": -1}}
_KINDS: Final = {"span": tuple(KIND), "gradient": ("applied",)}
_SHOWN: Final = 60  # characters of a bad value that an error line repeats
_LARGEST: Final = 2**63 - 1

Check = tuple[str, NDArray[np.int64], NDArray[np.bool_], str]  # key, values, broken, rule


def row_format(mark: str, kind: str) -> str:
    """The line of a kind, to be formatted with a row of the trace's table.

    >>> print(row_format("span", "update").format(4, 5, 0, 9, 2, 1, -1, 7), end="")
    {"span":"update","start":4,"end":5,"worker":0,"index":9,"block":1,"version":7}
    """
    columns = SPAN_COLUMNS if mark == "span" else GRADIENT_COLUMNS
    places = {key: columns.index(_COLUMN.get(key, key)) for key in KEYS[kind]}
    values = "".join(f',"{key}":{{{number}}}' for key, number in places.items())
    return f'{{{{"{mark}":"{kind}"{values}}}}}\n'


def place(name: str, line: int, key: str = "") -> str:
    """Where in a file a problem is."""
    return f"{name}: line {line}{f': {key}' if key else ''}"


def shown(value: object) -> object:
    """A bad value as an error line repeats it."""
    if isinstance(value, float) or (type(value) is int and abs(value) < 10**_SHOWN):
        return value
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def exact_keys(where: str, content: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Raise `InputError` unless an object has exactly these keys."""
    known = dict.fromkeys(keys)
    for key in known:
        if key not in content:
            raise InputError(f"{where}: {key}", "missing", "the key is required", "add it")
    for key in content:
        if key not in known:
            rule, remedy = "there is no such key", "remove it or correct its spelling"
            raise InputError(f"{where}: {shown(key)}", shown(content[key]), rule, remedy)


@dataclass(slots=True)
class Rows:
    """What the lines behind the header say, with the number of the line of each row."""

    name: str
    spans: "array[int]" = field(default_factory=lambda: array("q"))
    gradients: "array[int]" = field(default_factory=lambda: array("q"))
    span_lines: "array[int]" = field(default_factory=lambda: array("q"))
    gradient_lines: "array[int]" = field(default_factory=lambda: array("q"))

    def add(self, number: int, content: Mapping[str, Any]) -> None:
        """Take in one line; raises `InputError` for its kind, its keys, or values of wrong type."""
        mark = "span" if "span" in content else "gradient"
        kinds, kind = _KINDS[mark], content.get(mark, "missing")
        if kind not in kinds:
            where, rule = place(self.name, number, mark), f"must be one of {', '.join(kinds)}"
            raise InputError(where, shown(kind), rule, "correct the line")
        keys = KEYS[kind]
        if len(content) != len(keys) + 1 or not content.keys() >= set(keys):
            exact_keys(place(self.name, number), content, (mark, *keys))
        row = [content[key] for key in keys]
        for key, value in zip(keys, row, strict=True):
            if type(value) is not int or not 0 <= value <= _LARGEST:
                rule = "must be a whole number from 0 to 2**63 - 1"
                where = place(self.name, number, key)
                raise InputError(where, shown(value), rule, "correct the line")
        if mark == "gradient":
            self.gradients.extend(row)
            self.gradient_lines.append(number)
            return
        given = {_COLUMN.get(key, key): value for key, value in zip(keys, row, strict=True)}
        given = {**dict.fromkeys(SPAN_COLUMNS, -1), **_ABSENT.get(kind, {}), **given}
        given["kind"] = KIND[kind]
        self.spans.extend(given[column] for column in SPAN_COLUMNS)
        self.span_lines.append(number)

    def trace(self, header: Header) -> Trace:
        """The trace; raises `InputError` for the first number that is out of its range."""
        self._check(self.span_lines, _span_checks(table(self.spans, SPAN_COLUMNS), header))
        gradients = table(self.gradients, GRADIENT_COLUMNS)
        self._check(self.gradient_lines, _gradient_checks(gradients, header))
        recorder = Recorder()
        recorder.add(self.spans, self.gradients)
        return recorder.trace(header)

    def _check(self, lines: "array[int]", checks: Iterable[Check]) -> None:
        found = [
            (int(np.argmax(broken)), key, values, rule)
            for key, values, broken, rule in checks
            if broken.any()
        ]
        if found:
            row, key, values, rule = min(found, key=lambda problem: problem[0])
            where = place(self.name, lines[row], key)
            raise InputError(where, int(values[row]), rule, "correct the line")


def _span_checks(spans: NDArray[np.void], header: Header) -> Iterator[Check]:
    kind, block = spans["kind"], spans["block"]
    message = np.isin(kind, [KIND["send"], KIND["receive"]])
    meeting = np.isin(kind, [KIND["arrive"], KIND["join"]])
    other = message | meeting | (kind == KIND["load"])
    yield "end", spans["end"], spans["end"] < spans["start"], "must not be before start"
    yield _below("worker", spans["worker"], len(header.workers), "workers")
    yield _below("channel", np.where(message, block, -1), len(header.channels), "channels")
    yield _below("group", np.where(meeting, block, -1), len(header.groups), "groups")
    passed = np.where(meeting, -1, spans["batch"])
    yield _below("batch", passed, header.batches, "batches")
    yield _below("average", np.where(meeting, spans["batch"], -1), header.blocks + 1, "blocks + 1")
    yield _block(np.where(other, 1, block), header)


def _gradient_checks(gradients: NDArray[np.void], header: Header) -> Iterator[Check]:
    yield _below("worker", gradients["worker"], len(header.workers), "workers")
    yield _below("batch", gradients["batch"], header.batches, "batches")
    yield _block(gradients["block"], header)
    for key in ("version_first", "version_forward", "version_backward", "version_base"):
        above = gradients[key] > gradients["version_applied"]
        yield key, gradients[key], above, "must not be above version_applied"


def _below(key: str, values: NDArray[np.int64], limit: int, what: str) -> Check:
    return key, values, values >= limit, f"must be below {limit}, the number of {what}"


def _block(values: NDArray[np.int64], header: Header) -> Check:
    broken = (values < 1) | (values > header.blocks)
    return "block", values, broken, f"must be within 1..{header.blocks}"
