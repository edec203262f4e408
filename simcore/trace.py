"""Traces: what every interpreter leaves behind, simulated or real, in one format.

A trace has a header and two tables. `spans` has a row for each operation that a worker performed,
sorted by (start, worker, index). `gradients` has a row for each gradient that an update applied,
in the order of application: it is what the ledger said.
"""

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from simcore.ledger import Update
from simcore.ops import KINDS, kind_of
from simcore.schedule import Schedule

__all__ = ["GRADIENT_COLUMNS", "KIND", "SCHEMA", "SPAN_COLUMNS", "Header", "Recorder", "Trace"]

SCHEMA: Final = "gradlag.trace/2"

# Times are ticks. `block` is the channel's number for send and receive, the group's for arrive and
# join, and then `batch` is the block that is reduced (0: none); what does not apply is -1.
# `version` is v_f of a forward pass, v_b of a backward pass, v_a of an update or merge, and that
# which a snapshot copied.
SPAN_COLUMNS: Final = ("start", "end", "worker", "index", "kind", "block", "batch", "version")
GRADIENT_COLUMNS: Final = (
    "time",
    "worker",
    "block",
    "batch",
    "version_first",
    "version_forward",
    "version_backward",
    "version_applied",
    "version_base",
)
KIND: Final[dict[str, int]] = {kind_of(kind): code for code, kind in enumerate(KINDS)}


@dataclass(frozen=True, slots=True)
class Header:
    """What a trace is of. `tick_s` is the length of a tick in seconds, exact.

    `batches` counts passes, each of which handled one of `micro_batches` parts of a mini-batch.
    `replicas` says which copy of the weights each worker uses; it is empty where there is but one.
    Versions count the updates of a block in one replica.

    `origin` is `simulated` or `real`. `about` holds what else a reader may want to know: the
    engine or executor, the machine, thread counts.
    """

    origin: Literal["simulated", "real"]
    schedule: str
    options: Mapping[str, object]
    blocks: int
    batches: int
    workers: tuple[str, ...]
    channels: tuple[str, ...]
    tick_s: Fraction
    seed: int = 0
    about: Mapping[str, Any] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    replicas: tuple[int, ...] = ()
    micro_batches: int = 1

    @classmethod
    def of(
        cls,
        schedule: Schedule,
        origin: Literal["simulated", "real"],
        tick_s: Fraction,
        seed: int,
        about: Mapping[str, Any],
    ) -> "Header":
        """The header of a trace of a schedule."""
        return cls(
            origin,
            schedule.name,
            schedule.options,
            schedule.blocks,
            schedule.batches,
            tuple(worker.name for worker in schedule.workers),
            tuple(channel.name for channel in schedule.channels),
            tick_s,
            seed,
            about,
            tuple(group.name for group in schedule.groups),
            schedule.replicas if any(schedule.replicas) else (),
            schedule.micro_batches,
        )

    @property
    def mini_batches(self) -> int:
        """Whole mini-batches: `batches` counts the parts of them that passed one by one."""
        return self.batches // self.micro_batches

    def replica(self, worker: NDArray[np.int64]) -> NDArray[np.int64]:
        """The replica of each of these workers."""
        found = np.asarray(self.replicas or [0] * len(self.workers), np.int64)
        return found[worker]


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """A header, and the tables as structured arrays of int64 with the columns named above."""

    header: Header
    spans: NDArray[np.void]
    gradients: NDArray[np.void]

    def of_kind(self, kind: str) -> NDArray[np.void]:
        """The spans of one kind, a key of `KIND`: `forward`, `backward`, `update`, ..."""
        chosen: NDArray[np.void] = self.spans[self.spans["kind"] == KIND[kind]]
        return chosen

    def seconds(self, ticks: int | NDArray[np.int64]) -> Any:
        """Ticks as seconds."""
        return ticks * float(self.header.tick_s)

    @property
    def start(self) -> int:
        """Tick at which the first operation starts; 0 for a trace without operations."""
        return int(self.spans["start"].min()) if len(self.spans) else 0

    @property
    def end(self) -> int:
        """Tick at which the last operation ends; 0 for a trace without operations."""
        return int(self.spans["end"].max()) if len(self.spans) else 0


class Recorder:
    """Collects the rows of one worker, or of all; rows are integers, in the column order."""

    def __init__(self) -> None:
        self._spans = array("q")
        self._gradients = array("q")
        self.applied = 0  # gradients in all, drained or not

    def span(
        self,
        start: int,
        end: int,
        worker: int,
        index: int,
        kind: int,
        block: int,
        batch: int,
        version: int,
    ) -> None:
        """Add one operation."""
        self._spans.extend((start, end, worker, index, kind, block, batch, version))

    def update(self, time: int, worker: int, update: Update) -> None:
        """Add the gradients that an update applied."""
        versions = update.version, update.base
        self.applied += len(update.gradients)
        for gradient in update.gradients:
            self._gradients.extend((time, worker, *gradient, *versions))

    @property
    def newest_gap(self) -> int | None:
        """The gap of the gradient that was applied last, in updates; None if it is not here."""
        if not self._gradients:
            return None
        applied, forward = (GRADIENT_COLUMNS.index(f"version_{c}") for c in ("applied", "forward"))
        row = len(self._gradients) - len(GRADIENT_COLUMNS)
        return self._gradients[row + applied] - self._gradients[row + forward]

    def drain(self) -> "tuple[array[int], array[int]]":
        """Take out what was recorded since the last call, to send it elsewhere."""
        taken = self._spans, self._gradients
        self._spans, self._gradients = array("q"), array("q")
        return taken

    def add(self, spans: "array[int]", gradients: "array[int]") -> None:
        """Add rows that another recorder gave out."""
        self._spans.extend(spans)
        self._gradients.extend(gradients)

    def trace(self, header: Header) -> Trace:
        """The trace of all that was recorded."""
        spans = table(self._spans, SPAN_COLUMNS)
        gradients = table(self._gradients, GRADIENT_COLUMNS)
        spans = spans[np.lexsort((spans["index"], spans["worker"], spans["start"]))]
        by = (gradients["version_applied"], gradients["block"], gradients["time"])
        return Trace(header, spans, gradients[np.lexsort(by)])


def table(values: "array[int] | Iterable[int]", columns: tuple[str, ...]) -> NDArray[np.void]:
    """Flat integers, row after row, as a structured array with the given columns."""
    flat = np.array(values if isinstance(values, array) else list(values), dtype=np.int64)
    return flat.view(np.dtype([(name, np.int64) for name in columns]))
