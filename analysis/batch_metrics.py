"""Metrics of a training by mini-batch: loss, throughput, learning rate, gaps; and evaluations."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simcore.errors import InputError
from simcore.staleness import gaps
from simcore.trace import Trace

if TYPE_CHECKING:
    from executor.training import RunResult

__all__ = ["BatchMetrics", "Evaluation", "Throughput", "batch_gaps", "batch_metrics"]


@dataclass(frozen=True, slots=True)
class BatchMetrics:
    """What is known of a mini-batch of so many samples: its loss, `seconds` after the run's start.

    `gaps` are in updates, the mean over the batch's gradients of each block, 1 next to the data
    first; None where a block has none.
    """

    batch: int
    seconds: float
    loss: float
    samples: int
    learning_rate: float | None = None
    gaps: tuple[float | None, ...] = ()

    @property
    def gap(self) -> float | None:
        """The mean of the blocks' gaps, in updates; None if none is known."""
        known = [gap for gap in self.gaps if gap is not None]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Accuracy, a share of the test samples, and their loss, after so many mini-batches."""

    batches: int
    seconds: float
    accuracy: float
    loss: float | None = None


def batch_gaps(trace: Trace) -> NDArray[np.float64]:
    """Mean gaps, in updates, (mini-batches, blocks); NaN where no gradient was applied."""
    header, rows = trace.header, trace.gradients
    shape = header.mini_batches, header.blocks
    cells = rows["batch"] // header.micro_batches * header.blocks + rows["block"] - 1
    counts = np.bincount(cells, minlength=shape[0] * shape[1])
    sums = np.bincount(cells, gaps(trace), minlength=shape[0] * shape[1])
    means = np.full(len(counts), np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means.reshape(shape)


def batch_metrics(
    result: "RunResult",
    samples: Callable[[int], int],
    learning_rate: Callable[[int], float] | None = None,
) -> list[BatchMetrics]:
    """The metrics of a run's mini-batches, in the order in which their losses were known.

    `samples` says how many a mini-batch has (`executor.training.DataSource.samples`), and
    `learning_rate` the rate itself at a mini-batch, dimensionless.
    """
    found = batch_gaps(result.trace)
    rows = [
        BatchMetrics(
            batch,
            seconds,
            loss,
            samples(batch),
            None if learning_rate is None else learning_rate(batch),
            tuple(None if np.isnan(gap) else float(gap) for gap in found[batch]),
        )
        for batch, loss, seconds in result.losses
    ]
    return sorted(rows, key=lambda row: (row.seconds, row.batch))


class Throughput:
    """Samples per second over the newest mini-batches, `window` of them once there are as many."""

    def __init__(self, window: int) -> None:
        if window < 1:
            raise InputError("window of throughput", window, "must be at least 1", "give 20, say")
        self._rows: deque[tuple[float, int]] = deque([(0.0, 0)], maxlen=window + 1)

    def after(self, row: BatchMetrics) -> float | None:
        """The throughput with this mini-batch; None if no time has passed."""
        self._rows.append((row.seconds, row.samples))
        # The oldest only says when the others began.
        elapsed = row.seconds - self._rows[0][0]
        samples = sum(count for _, count in self._rows) - self._rows[0][1]
        return samples / elapsed if elapsed > 0 else None
