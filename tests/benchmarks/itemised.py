"""Where the time of a run went: computing, and what is missing to the ideal, item by item.

A worker's time from the run's start to its end is computing, messages, and gaps. A gap before a
computation is Python; one before a message is waiting, but for as much as a gap before a
computation takes. Passes and updates that take longer than one by one, in plain PyTorch, do the
runtime's own work, as far as it shows in a run of one worker too. What is left is contention with
the other workers, and in updates the copies of weights that old graphs still need.
"""

from dataclasses import astuple, dataclass, fields
from statistics import fmean
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simcore.metrics import makespan_s
from simcore.trace import KIND, Trace

__all__ = ["Items", "itemised", "mean_items"]

_MESSAGES: Final = [KIND[kind] for kind in ("send", "receive", "arrive", "join")]


@dataclass(frozen=True, slots=True)
class Items:
    """Parts of a run's time, in seconds per mini-batch and worker; they add up to all of it.

    `computing` is at the profiled times, `bubble` what even the ideal run waits, `within` the
    runtime's work within operations.
    """

    computing: float
    bubble: float
    within: float
    contention: float
    updates: float
    messages: float
    python: float
    waiting: float

    @property
    def total(self) -> float:
        """The whole."""
        parts: tuple[float, ...] = astuple(self)
        return sum(parts)

    def share(self, name: str) -> float:
        """A part of the whole, dimensionless."""
        found: float = getattr(self, name)
        return found / self.total


@dataclass(frozen=True, slots=True)
class _Spent:
    """Seconds per mini-batch and worker."""

    passes: float
    updates: float
    messages: float
    python: float
    idle: float

    @property
    def computing(self) -> float:
        """Passes and updates."""
        return self.passes + self.updates


def itemised(measured: Trace, alone: Trace, ideal: Trace) -> Items:
    """Where the time of a measured run went.

    `alone` is a run of the same operations by one worker, `ideal` the simulation with profiled
    times.
    """
    spent, wanted = _spent(measured), _spent(ideal)
    by_one = _spent(alone)
    share = len(alone.header.workers) / len(measured.header.workers)
    return Items(
        computing=wanted.computing,
        bubble=wanted.idle,
        within=share * by_one.computing - wanted.computing,
        contention=spent.passes - share * by_one.passes,
        updates=spent.updates - share * by_one.updates,
        messages=spent.messages,
        python=spent.python,
        waiting=spent.idle - wanted.idle,
    )


def mean_items(items: list[Items]) -> Items:
    """The mean of several."""
    return Items(*(fmean(getattr(each, part.name) for each in items) for part in fields(Items)))


def _spent(trace: Trace) -> _Spent:
    workers = range(len(trace.header.workers))
    parts = [_of_worker(trace, trace.spans[trace.spans["worker"] == number]) for number in workers]
    scale = float(trace.header.tick_s) / trace.header.mini_batches / len(parts)
    passes, updates, messages, python = (scale * sum(each) for each in zip(*parts, strict=True))
    busy = passes + updates + messages + python
    idle = makespan_s(trace) / trace.header.mini_batches - busy
    return _Spent(passes, updates, messages, python, idle)


def _of_worker(trace: Trace, rows: NDArray[np.void]) -> tuple[float, float, float, float]:
    """Ticks of passes, updates, messages and Python."""
    rows = rows[np.argsort(rows["index"])]
    length = rows["end"] - rows["start"]
    is_message, is_update = np.isin(rows["kind"], _MESSAGES), rows["kind"] == KIND["update"]
    gaps = rows["start"] - np.concatenate(([trace.start], rows["end"][:-1]))
    gaps[0] = 0  # what precedes the first operation is waiting
    between = gaps[~is_message]
    usual = float(np.median(between)) if len(between) else 0.0
    python = float(between.sum() + np.minimum(gaps[is_message], usual).sum())
    passes, updates = length[~is_message & ~is_update].sum(), length[is_update].sum()
    return float(passes), float(updates), float(length[is_message].sum()), python
