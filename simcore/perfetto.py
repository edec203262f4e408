"""Traces as Chrome trace-event JSON, to be looked at in Perfetto (ui.perfetto.dev).

Each trace is a process of its own, so that a predicted and a measured one are seen one above the
other; each worker is a thread. Computations, and messages that take a worker's time, are slices;
what takes no time is not drawn. An arrow leads from the last computation before a send to the first
computation after the receive of that message, in the program order of the workers. Only slices can
carry arrows, so computations without duration are passed over in the search for both ends.

Times are rounded to nanoseconds. The format is that of the Trace Event Format document of the
Chromium project (Nat Duca, Dan Sinclair): times in microseconds; `s` and `f` with the same name,
category and id are one arrow, and `"bp": "e"` binds its end to the slice that encloses it.
"""

import json
import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from simcore.files import write_whole
from simcore.grid import LETTERS
from simcore.trace import KIND, Trace

__all__ = ["dump_perfetto", "to_perfetto"]

Event = dict[str, Any]

_MESSAGES: Final = (KIND["send"], KIND["receive"])
_ROUNDS: Final = (KIND["arrive"], KIND["join"])
_NAMES: Final = {code: kind for kind, code in KIND.items()}
_NANOSECONDS: Final = 10**9  # per second


def to_perfetto(*traces: Trace) -> dict[str, Any]:
    """The traces as one JSON document, in the order given from top to bottom."""
    events: list[Event] = []
    arrows = count(1)
    for process, trace in enumerate(traces, 1):
        events += _names(process, trace)
        events += _slices(process, trace)
        events += _arrows(process, trace, arrows)
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def dump_perfetto(path: str | os.PathLike[str], *traces: Trace) -> None:
    """Write the traces as one file, whole or not at all.

    Raises `InputError` if the file cannot be written.
    """
    write_whole(path, json.dumps(to_perfetto(*traces), separators=(",", ":")) + "\n")


def _names(process: int, trace: Trace) -> Iterator[Event]:
    def named(what: str, thread: int, **arguments: object) -> Event:
        return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": arguments}

    yield named("process_name", 0, name=f"{trace.header.origin} {trace.header.schedule}")
    yield named("process_sort_index", 0, sort_index=process)
    for thread, worker in enumerate(trace.header.workers, 1):
        yield named("thread_name", thread, name=worker)
        yield named("thread_sort_index", thread, sort_index=thread)


def _slices(process: int, trace: Trace) -> Iterator[Event]:
    applied, nanoseconds = _applied(trace), _nanoseconds(trace)
    replicas = trace.header.replicas or (0,) * len(trace.header.workers)
    for start, end, worker, _, kind, block, batch, version in trace.spans.tolist():
        if start == end:
            continue
        if kind in _MESSAGES:
            channel = trace.header.channels[block]
            name = f"{_NAMES[kind]} {channel} batch {batch}"
            arguments = {"channel": channel, "batch": batch}
        elif kind in _ROUNDS:
            group = trace.header.groups[block]
            name = f"{_NAMES[kind]} {group}" + (f" block {batch}" if batch else "")
            arguments = {"group": group, "block": batch}
        elif kind == KIND["update"]:
            name = f"{LETTERS[kind]}{block}"
            batches, gaps = applied[replicas[worker], block, version]
            arguments = {"block": block, "batch": batches, "version": version, "gap": gaps}
        else:
            name = f"{LETTERS[kind]}{block}" + (f" batch {batch}" if batch >= 0 else "")
            arguments = {"block": block, "batch": batch, "version": version}
        begin = nanoseconds(start)
        yield {
            "ph": "X",
            "name": name,
            "cat": "computation" if kind in LETTERS else "message",
            "ts": begin / 1000,
            "dur": (nanoseconds(end) - begin) / 1000,
            "pid": process,
            "tid": worker + 1,
            "args": arguments,
        }


def _applied(trace: Trace) -> dict[tuple[int, int, int], tuple[list[int], list[int]]]:
    """Batches and gaps of what each update applied, by replica, block and version found."""
    found: dict[tuple[int, int, int], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    replicas = trace.header.replica(trace.gradients["worker"]).tolist()
    columns = ["block", "batch", "version_forward", "version_applied"]
    rows = trace.gradients[columns].tolist()
    for replica, (block, batch, forward, applied) in zip(replicas, rows, strict=True):
        batches, gaps = found[replica, block, applied]
        batches.append(batch)
        gaps.append(applied - forward)
    return found


def _arrows(process: int, trace: Trace, numbers: "count[int]") -> Iterator[Event]:
    spans = trace.spans[np.lexsort((trace.spans["index"], trace.spans["worker"]))]
    before, after = _neighbours(spans)
    nanoseconds = _nanoseconds(trace)
    for send, receive in _messages(spans):
        source, target = before[send], after[receive]
        if source < 0 or target < 0:
            continue
        common = {
            "name": trace.header.channels[spans["block"][send]],
            "cat": "message",
            "id": next(numbers),
            "pid": process,
        }
        # An arrow must begin within its slice, of which the end is no part.
        leaves = nanoseconds(int(spans["end"][source])) - 1
        arrives = nanoseconds(int(spans["start"][target]))
        threads = int(spans["worker"][source]) + 1, int(spans["worker"][target]) + 1
        yield {"ph": "s", "ts": leaves / 1000, "tid": threads[0], **common}
        yield {"ph": "f", "bp": "e", "ts": arrives / 1000, "tid": threads[1], **common}


def _neighbours(spans: NDArray[np.void]) -> tuple[list[int], list[int]]:
    """For each span the nearest computation with duration before and after it, in its worker.

    The spans are in program order, worker after worker; -1 where there is none.
    """
    drawn = (spans["end"] > spans["start"]) & np.isin(spans["kind"], list(LETTERS))
    at, worker = np.arange(len(spans)), spans["worker"]
    before = np.maximum.accumulate(np.where(drawn, at, -1))
    after = np.minimum.accumulate(np.where(drawn, at, len(spans))[::-1])[::-1]
    after = np.where(after == len(spans), -1, after)
    for found in (before, after):
        found[worker[found] != worker] = -1
    return before.tolist(), after.tolist()


def _messages(spans: NDArray[np.void]) -> Iterator[tuple[int, int]]:
    """Each send with its receive: the n-th of a channel and batch with the n-th of the same."""
    order = np.lexsort((spans["index"], spans["worker"], spans["start"]))
    waiting: dict[tuple[int, int], deque[int]] = defaultdict(deque)
    for send in order[spans["kind"][order] == KIND["send"]].tolist():
        waiting[spans["block"][send], spans["batch"][send]].append(send)
    for receive in order[spans["kind"][order] == KIND["receive"]].tolist():
        sent = waiting.get((spans["block"][receive], spans["batch"][receive]))
        if sent:
            yield sent.popleft(), receive


def _nanoseconds(trace: Trace) -> Callable[[int], int]:
    """A function that turns ticks into whole nanoseconds."""
    above, below = (trace.header.tick_s * _NANOSECONDS).as_integer_ratio()
    return lambda tick: (2 * tick * above + below) // (2 * below)
