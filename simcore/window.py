"""When a trace is in steady state, and whether the batches in flight grow without bound.

A batch is in flight from the start of its forward pass of block 1 to the end of its last backward
pass. Without a proof of periodicity, *steady* means: after every block that learns has been updated
by a batch that was read at a version above 0, and before the data run out. All times are ticks.
"""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from simcore.passes import rows_of
from simcore.trace import Trace

__all__ = [
    "finish_times",
    "growth_per_batch",
    "mean_interval",
    "steady_window",
    "take_times",
]


def steady_window(trace: Trace) -> tuple[int, int] | None:
    """The steady window `(after, until)` in ticks: an update at time t lies in it if after < t and
    t <= until.

    `after` is the first time by which every block that learns at all has been updated by a batch
    that was read at a version above 0: what such a batch met is no longer the empty pipeline.
    `until` is the start of the last forward pass of block 1: from there on some worker may find no
    next batch. An update is in the window with all its gradients or with none, so windows of
    accumulation stay whole.

    None if one of these blocks has no update in between, or if the batches in flight grow without
    bound.
    None as well if a worker was lost.
    """
    if "lost" in trace.header.about:
        return None
    gradients, taken = trace.gradients, take_times(trace)
    late = gradients[gradients["version_forward"] > 0]
    learning = len(np.unique(gradients["block"]))
    _, first = np.unique(late["block"], return_index=True)
    if not learning or len(first) < learning or growth_per_batch(trace) is not None:
        return None
    # Gradients are sorted by time, so the first row of each block is its earliest.
    after, until = int(late["time"][first].max()), int(taken[-1])
    inside = gradients[(gradients["time"] > after) & (gradients["time"] <= until)]
    if len(np.unique(inside["block"])) < learning:
        return None
    return after, until


def growth_per_batch(trace: Trace) -> float | None:
    """By how many the batches in flight grow with each batch taken, dimensionless, 0 < it <= 1.

    Looks at the time from the first finished batch until the data run out, and at the number of
    batches in flight whenever one is taken. They grow if all of the fourth quarter exceed all of
    the second, all of the third exceed all of the first, and a quarter has at least as many batches
    as there are workers. The value is 1 minus the ratio of the rates at which batches are finished
    and taken, exact where both are periodic (see `mean_interval`).

    None where no growth is shown. So it is for every periodic regime that begins in the first half
    and has its period within a quarter; a trace too short, or a growth of less than about 4 batches
    in all, is not seen either. A bounded queue that is still filling in the second half looks like
    growth: give more batches to tell them apart.
    """
    taken, finished = take_times(trace), finish_times(trace)
    if not len(taken) or not len(finished) or finished[0] > taken[-1]:
        return None
    finished = finished[finished <= taken[-1]]
    in_flight = np.arange(1, len(taken) + 1) - np.searchsorted(finished, taken, side="right")
    judged = taken >= finished[0]
    taken, in_flight = taken[judged], in_flight[judged]
    quarters = np.array_split(in_flight, 4)
    if len(quarters[-1]) < len(trace.header.workers) or any(
        quarters[later].min() <= quarters[later - 2].max() for later in (2, 3)
    ):
        return None
    taking, finishing = mean_interval(taken), mean_interval(finished)
    if taking is None or finishing is None:
        return 1.0
    return float(1 - taking / finishing) if taking < finishing else None


def take_times(trace: Trace) -> NDArray[np.int64]:
    """When batches were taken from the data: starts of first passes of block 1, ascending."""
    spans = trace.spans
    rows = rows_of(trace, "forward", "evaluate", "tangent")
    return np.sort(spans["start"][rows[spans["block"][rows] == 1]])


def finish_times(trace: Trace) -> NDArray[np.int64]:
    """When batches were finished: the end of the last pass of each that made a gradient, ascending.

    That is a backward pass, or a kept direction that became a gradient.
    """
    rows = rows_of(trace, "backward", "backward_weight", "project")
    finished = np.full(trace.header.batches, -1)
    np.maximum.at(finished, trace.spans["batch"][rows], trace.spans["end"][rows])
    return np.sort(finished[finished != -1])


def mean_interval(times: NDArray[np.int64]) -> Fraction | None:
    """Mean time from one event to the next, in ticks, for ascending times of events.

    If the second half of the intervals, at least, repeats a pattern at least twice, the mean is
    that of the shortest such pattern: exact for a periodic regime, wherever the times begin and
    end. Otherwise it is the mean over all events after the first moment. None if the events are
    not at two moments at least.
    """
    if not len(times) or times[0] == times[-1]:
        return None
    intervals = np.diff(times)[::-1].tolist()
    for period, matched in enumerate(_matches(intervals)):
        repeated = period + matched
        enough = period and repeated >= max(2 * period, len(intervals) / 2)
        # A sum of zero is no pattern, but simultaneous events that the end of the times cut off.
        if enough and sum(intervals[:period]):
            return Fraction(sum(intervals[:period]), period)
    later = int((times > times[0]).sum())
    return Fraction(int(times[-1] - times[0]), later)


def _matches(values: list[int]) -> list[int]:
    """For each position, how many values from there on equal those from the beginning on.

    The Z algorithm (Gusfield 1997, section 1.4): linear in the number of values.
    """
    matches, left, right = [len(values)], 0, 0
    for position in range(1, len(values)):
        count = min(matches[position - left], right - position) if position < right else 0
        while position + count < len(values) and values[count] == values[position + count]:
            count += 1
        if position + count > right:
            left, right = position, position + count
        matches.append(count)
    return matches
