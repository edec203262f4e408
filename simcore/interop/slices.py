"""The slices of a Chrome trace: what was done, where, from when to when.

Format: the Trace Event Format document of the Chromium project (Nat Duca, Dan Sinclair): a list of
events, alone or under `traceEvents`, with times in microseconds. A slice is one event of phase `X`,
or a `B` and the `E` that closes it on the same thread.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from simcore.errors import InputError
from simcore.interop.texts import read_text

__all__ = ["Slice", "load_slices", "outermost"]


@dataclass(frozen=True, slots=True)
class Slice:
    """Something that a thread was busy with. Times are nanoseconds."""

    name: str
    category: str
    thread: tuple[str, str]
    start: float
    end: float
    arguments: Mapping[str, Any]


def load_slices(path: str | os.PathLike[str]) -> list[Slice]:
    """The slices of a trace, gzipped or not, by start; an outer one before those within it.

    Raises:
        InputError: the file is no Chrome trace.
    """
    try:
        document = json.loads(read_text(path))
        events = document["traceEvents"] if isinstance(document, dict) else document
        return sorted(_slices(events), key=lambda slice: (slice.start, -slice.end))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        rule = f"must be a Chrome trace ({error!r})"
        raise InputError("file", os.fspath(path), rule, "export it again") from error


def _slices(events: Iterable[Mapping[str, Any]]) -> Iterable[Slice]:
    opened: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for event in events:
        phase = event.get("ph")
        if phase not in ("X", "B", "E"):
            continue
        thread = str(event.get("pid")), str(event.get("tid"))
        if phase == "B":
            opened[thread].append(event)
            continue
        first = event
        end = 1000 * (event["ts"] + event.get("dur", 0))
        if phase == "E":
            if not opened[thread]:  # it began before the recording did
                continue
            first = opened[thread].pop()
        yield Slice(
            str(first.get("name", "")),
            str(first.get("cat", "")),
            thread,
            1000 * first["ts"],
            end,
            first.get("args") or {},
        )


def outermost(slices: Iterable[Slice]) -> list[Slice]:
    """Those of the slices, given by start, that are within no other one of their thread."""
    found: list[Slice] = []
    until: dict[tuple[str, str], float] = {}
    for slice in slices:
        if slice.start >= until.get(slice.thread, 0):
            found.append(slice)
            until[slice.thread] = slice.end
    return found
