"""Speed, load and memory, read from a trace."""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from simcore.trace import Trace
from simcore.window import finish_times, mean_interval, steady_window
from simcore.workload import Workload

__all__ = [
    "busy_s",
    "makespan_s",
    "peak_bytes",
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
    """Seconds that plain backpropagation of so many batches takes on one worker.

    It updates all layers after every batch.
    """
    return float(workload.sequential_s(batches))


def speedup(trace: Trace, workload: Workload) -> float | None:
    """Sequential time of the trace's batches over its makespan; None without operations."""
    makespan = _makespan(trace)
    return float(workload.sequential_s(trace.header.batches) / makespan) if makespan else None


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
    """Mean seconds from one finished batch to the next in the steady window, or None.

    A batch is finished when its last backward pass ends. If the second half of these intervals, at
    least, repeats a pattern, the value is the mean of that pattern, and so exact; otherwise it is
    the mean over the window. A pipeline may need longer than the window's beginning to come to its
    final pace: only more batches show that. None if the window is empty (see
    `simcore.window.steady_window`) or has fewer than two batches.
    """
    batch = _steady_batch(trace)
    return None if batch is None else float(batch)


def _steady_batch(trace: Trace) -> Fraction | None:
    window = steady_window(trace)
    if window is None:
        return None
    finished = finish_times(trace)
    interval = mean_interval(finished[(finished > window[0]) & (finished <= window[1])])
    return None if interval is None else interval * trace.header.tick_s


def steady_speedup(trace: Trace, workload: Workload) -> float | None:
    """Sequential time of one batch over `steady_batch_s`, dimensionless, or None."""
    batch = _steady_batch(trace)
    return None if batch is None else float(workload.sequential_s(1) / batch)


def peak_in_flight(trace: Trace) -> tuple[int, ...]:
    """For each block, the largest number of batches whose activations are held at once.

    Those of a batch are held from the start of its forward pass of the block to the end of its
    backward pass of it, in whatever worker. At one tick, what ends is let go first.
    """
    forward, _, end = _passes(trace)
    one = np.ones(len(forward), np.int64)
    peaks = _peaks(forward["block"] - 1, forward["start"], end, one, trace.header.blocks)
    return tuple(peaks.tolist())


def peak_bytes(trace: Trace, workload: Workload) -> tuple[int, ...] | None:
    """Bytes that each worker holds at its peak; None if the workload gives no sizes.

    Counted: the parameters of every block that the worker updates (so weights that several workers
    share count in each), and at most `saved_bytes` for each graph of a block that the worker holds
    at once. A graph is held by the worker of its forward pass, from the start of that pass; if
    another worker runs the backward pass, it takes the graph over when it first receives something
    of the batch; it is let go when the backward pass ends. A graph in a queue thus counts at the
    sender.

    Not counted: stashed copies of old weights, gradients, optimiser state, inputs and messages
    that wait, and what the framework itself needs.
    """
    layers = workload.layers
    if not any(layer.parameter_bytes or layer.saved_bytes for layer in layers):
        return None
    saved = np.array([0, *(layer.saved_bytes for layer in layers)], np.int64)
    forward, backward, end = _passes(trace)
    moves = backward["worker"] != forward["worker"]
    handed = np.clip(_handover_times(trace, backward), forward["start"], end)
    handed = np.where(moves, handed, end)
    held = saved[forward["block"]]
    peaks = _peaks(
        np.concatenate([forward["worker"], backward["worker"]]),
        np.concatenate([forward["start"], handed]),
        np.concatenate([handed, end]),
        np.concatenate([held, held * moves]),
        len(trace.header.workers),
    )
    update = trace.of_kind("update")
    for worker, block in np.unique(update[["worker", "block"]]).tolist():
        peaks[worker] += layers[block - 1].parameter_bytes
    return tuple(peaks.tolist())


def _passes(trace: Trace) -> tuple[NDArray[np.void], NDArray[np.void], NDArray[np.int64]]:
    """All forward passes, the backward pass of each, and when that ends.

    A forward pass without a backward pass, in the trace of a run that was cut short, is given
    itself in place of it, and the end of the trace.
    """
    forward = np.sort(trace.of_kind("forward"), order=["block", "batch"])
    backward = np.sort(trace.of_kind("backward"), order=["block", "batch"])
    keys = forward[["block", "batch"]]
    at = np.minimum(np.searchsorted(backward[["block", "batch"]], keys), len(backward) - 1)
    if not len(backward):
        return forward, forward, np.full(len(forward), trace.end, np.int64)
    found = backward[at]
    missing = found[["block", "batch"]] != keys
    found[missing] = forward[missing]
    return forward, found, np.where(missing, trace.end, found["end"])


def _handover_times(trace: Trace, backward: NDArray[np.void]) -> NDArray[np.int64]:
    """When the worker of each backward pass first received something of its batch.

    The start of the backward pass where it received nothing, in a run with shared memory.
    """
    receive = np.sort(trace.of_kind("receive"), order=["worker", "batch", "end"])
    if not len(receive):
        return backward["start"].copy()
    keys = backward[["worker", "batch"]]
    known = receive[["worker", "batch"]]
    at = np.minimum(np.searchsorted(known, keys), len(receive) - 1)
    missing = known[at] != keys
    return np.where(missing, backward["start"], receive["end"][at])


def _peaks(
    group: NDArray[np.int64],
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    amount: NDArray[np.int64],
    groups: int,
) -> NDArray[np.int64]:
    """For each group, the most that is held at once, if each amount is held from start to end."""
    # At one tick: what ends, what begins, and at last the end of what has just begun.
    rank = np.concatenate([np.ones(len(start), np.int64), np.where(end > start, 0, 2)])
    both = np.tile(group, 2)
    order = np.lexsort((rank, np.concatenate([start, end]), both))
    held = np.cumsum(np.concatenate([amount, -amount])[order])
    peaks = np.zeros(groups, np.int64)
    np.maximum.at(peaks, both[order], held)
    return peaks
