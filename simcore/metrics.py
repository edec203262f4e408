"""Speed and load, read from a trace."""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from simcore.levels import peaks
from simcore.passes import NEVER, cells, cells_of, passes_of
from simcore.trace import KIND, Trace
from simcore.window import finish_times, mean_interval, steady_window
from simcore.workload import Workload

__all__ = [
    "busy_s",
    "makespan_s",
    "mean_in_flight",
    "peak_in_flight",
    "sequential_s",
    "speedup",
    "steady_batch_s",
    "steady_speedup",
    "utilization",
]


def makespan_s(trace: Trace) -> float:
    """Seconds from the first start to the last end of an operation; 0 without operations."""
    return float(_makespan(trace))


def _makespan(trace: Trace) -> Fraction:
    return (trace.end - trace.start) * trace.header.tick_s


def sequential_s(workload: Workload, batches: int) -> float:
    """Seconds that plain backpropagation of so many mini-batches takes on one worker.

    It updates all layers after every mini-batch.
    """
    return float(workload.sequential_s(batches))


def speedup(trace: Trace, workload: Workload, batches_per_update: int = 1) -> float | None:
    """Sequential time of the trace's mini-batches over its makespan; None without operations.

    Backpropagation updates after every mini-batch, or after so many of them, to compare at equal
    samples per update. None as well if a worker was lost, for then not all of them were done.
    """
    if "lost" in trace.header.about:
        return None
    makespan = _makespan(trace)
    sequential = workload.sequential_s(trace.header.mini_batches, batches_per_update)
    return float(sequential / makespan) if makespan else None


def busy_s(trace: Trace) -> tuple[float, ...]:
    """Seconds that each worker spent on operations: computing, sending and receiving.

    On a shared device an operation lasts longer, and the worker is busy for as long.
    """
    return tuple(float(ticks * trace.header.tick_s) for ticks in _busy(trace))


def _busy(trace: Trace) -> list[int]:
    busy = np.zeros(len(trace.header.workers), np.int64)
    np.add.at(busy, trace.spans["worker"], trace.spans["end"] - trace.spans["start"])
    return [int(ticks) for ticks in busy]


def utilization(trace: Trace) -> float:
    """Busy time over (workers x makespan), dimensionless, 0 to 1; 0 without operations."""
    ticks = len(trace.header.workers) * (trace.end - trace.start)
    return sum(_busy(trace)) / ticks if ticks else 0.0


def steady_batch_s(trace: Trace) -> float | None:
    """Mean seconds from one finished mini-batch to the next in the steady window, or None.

    It is that of its parts, times their number. One is finished when its last backward pass ends.
    If the second half of these intervals, at least, repeats a pattern, the value is the mean of
    that pattern, and so exact; otherwise it is the mean over the window. A pipeline may need longer
    than the window's beginning to come to its final pace: only more batches show that. None if the
    window is empty (see `simcore.window.steady_window`) or has fewer than two batches.
    """
    batch = _steady_batch(trace)
    return None if batch is None else float(batch)


def _steady_batch(trace: Trace) -> Fraction | None:
    window = steady_window(trace)
    if window is None:
        return None
    finished = finish_times(trace)
    interval = mean_interval(finished[(finished > window[0]) & (finished <= window[1])])
    header = trace.header
    return None if interval is None else interval * header.micro_batches * header.tick_s


def steady_speedup(trace: Trace, workload: Workload) -> float | None:
    """Sequential time of one mini-batch over `steady_batch_s`, dimensionless, or None."""
    batch = _steady_batch(trace)
    return None if batch is None else float(workload.sequential_s(1) / batch)


def peak_in_flight(trace: Trace) -> tuple[int, ...]:
    """For each block, the largest number of batches that are in flight in it at once.

    A batch is, and something is kept for it, from the start of its first pass through the block to
    the end of the pass that completes the gradient of the weights, in whatever worker; where no
    gradient is wanted, until its first pass ends. At one tick, what ends is let go first. Of
    several replicas the one with the most counts.
    """
    cell, start, end = _in_flight(trace)
    one = np.ones(len(cell), np.int64)
    found = peaks(cell, start, end, one, cells(trace.header))
    return tuple(found.reshape(-1, trace.header.blocks).max(axis=0).tolist())


def mean_in_flight(trace: Trace, window: tuple[int, int]) -> tuple[Fraction, ...]:
    """For each block, how many batches are in flight in it on average over time, exact.

    From one tick to another, later one, and over the replicas. In flight as in `peak_in_flight`.
    """
    cell, start, end = _in_flight(trace)
    ticks = np.maximum(np.minimum(end, window[1]) - np.maximum(start, window[0]), 0)
    held = np.zeros(cells(trace.header), np.int64)
    np.add.at(held, cell, ticks)
    of_block = held.reshape(-1, trace.header.blocks).sum(axis=0).tolist()
    replicas = len(held) // trace.header.blocks
    return tuple(Fraction(each, replicas * (window[1] - window[0])) for each in of_block)


def _in_flight(
    trace: Trace,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The cell of every batch in every block, and from when to when it is in flight there."""
    spans, passes = trace.spans, passes_of(trace)
    keeps = spans["kind"][passes.first] != KIND["evaluate"]
    # A run that was cut short never let go.
    end = np.where(passes.last < 0, NEVER, spans["end"][passes.last])
    end = np.where(keeps, end, spans["end"][passes.first])
    cell = cells_of(trace, spans["worker"][passes.first], passes.block)
    return cell, spans["start"][passes.first], end
