"""Train any differentiable loss with exactly the gaps of a trace, without the network.

The gradient that block k applies for a batch is block k of the mini-batch gradient at the
*composite point* that the batch met on its way up: every block j at the version v_f(j, batch)
that the trace names. That is what backpropagation with stashed weights computes in a network, and
it needs no layers: a gradient at arbitrary parameters is enough.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.logistic import FloatArray, IntArray, LogisticProblem, split
from simcore.errors import InputError
from simcore.trace import Trace

__all__ = ["Descent", "Replayed", "descend", "replay_gaps", "steady_gaps"]

# (batch, parameters (..., parameters)) -> gradient (..., parameters)
Gradient = Callable[[int, FloatArray], FloatArray]


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """The parameters after all updates, and how many versions of each block were held at most."""

    parameters: FloatArray  # (..., parameters)
    versions_held: tuple[int, ...]


def replay_gaps(
    trace: Trace,
    start: FloatArray,
    blocks: Sequence[slice],
    gradient: Gradient,
    learning_rate: Callable[[int], float],
    *,
    met: Callable[[int, FloatArray, FloatArray], None] | None = None,
) -> Replayed:
    """Perform every update of the trace, in its order, on parameters cut into its blocks.

    Update number v of a block (0 is its first) subtracts `learning_rate(v)` times the mean, or the
    sum if the trace's option `reduce` says so, of its batches' gradients; a schedule's `shrink`
    multiplies block k's by shrink^(blocks - k). `start` is (..., parameters): leading axes are
    copies that see the same gaps. `met(batch, point, gradient)` is told, once per batch, the
    composite point and the gradient there.

    Raises:
        InputError: blocks that do not fit, or a trace that this cannot replay: `mixed` weights,
            overwritten updates (`write=assign`), batches missing, versions out of order.
    """
    _check(trace, blocks)
    options = trace.header.options
    summed, shrink = options.get("reduce") == "sum", float(str(options.get("shrink", 1.0)))
    versions = _Versions(start, blocks, _versions_read(trace))
    gradients: dict[int, FloatArray] = {}
    uses: Counter[int] = Counter()
    for rows in _rows_of_updates(trace):
        block, version = int(rows["block"][0]) - 1, int(rows["version_applied"][0])
        batches: list[int] = rows["batch"].tolist()
        for batch in batches:
            if batch not in gradients:
                point = versions.composite(batch)
                gradients[batch] = gradient(batch, point)
                versions.release(batch)
                if met:
                    met(batch, point, gradients[batch])
        parts = [gradients[batch][..., blocks[block]] for batch in batches]
        step = np.sum(parts, axis=0) / (1 if summed else len(batches))
        if shrink != 1:
            step = step * shrink ** (len(blocks) - 1 - block)
        versions.add(block, version, -learning_rate(version) * step)
        uses.update(batches)
        for batch in batches:
            if uses[batch] == len(blocks):
                del gradients[batch], uses[batch]
    return Replayed(versions.current(), tuple(versions.most))


@dataclass(frozen=True, slots=True, eq=False)
class Descent:
    """What training met: ||grad f(theta^{U_s})||^2, and the largest values in any copy."""

    squares: FloatArray  # (updates, copies)
    norm: float  # largest ||theta^{U_s}||
    batch_square: float  # largest ||g||^2 of a mini-batch gradient


def descend(
    trace: Trace,
    problem: LogisticProblem,
    learning_rate: Callable[[int], float],
    *,
    updates: int,
    samples: IntArray,
    progress: Callable[[int], None] | None = None,
) -> Descent:
    """Train `problem` from 0 with the gaps of an ADL trace, and look at theta^{U_s}, s < updates.

    theta^{U_s} is the point that batch M s meets, M the trace's `accumulation`. The trace's
    `reduce` has to be `sum`, which is divided by M here, as equation 16 has it: a window that is
    short of gradients at the start is divided by M as well. `samples` (batches, copies, batch size)
    are the samples of each batch. `progress` is told 1 for each s.
    """
    accumulation = int(str(trace.header.options["accumulation"]))
    copies = samples.shape[1]
    squares = np.empty((updates, copies))
    norms, batch_squares = [0.0], [0.0]

    def met(batch: int, point: FloatArray, gradient: FloatArray) -> None:
        update, position = divmod(batch, accumulation)
        if update >= updates:
            return
        batch_squares.append(float((gradient**2).sum(axis=-1).max()))
        if position == 0:
            squares[update] = (problem.gradient(point) ** 2).sum(axis=-1)
            norms.append(float(np.linalg.norm(point, axis=-1).max()))
            if progress:
                progress(1)

    replay_gaps(
        trace,
        np.zeros((copies, problem.parameters)),
        split(problem.parameters, trace.header.blocks),
        lambda batch, point: problem.batch_gradient(point, samples[batch]),
        lambda version: learning_rate(version) / accumulation,
        met=met,
    )
    return Descent(squares, max(norms), max(batch_squares))


def steady_gaps(trace: Trace, accumulation: int) -> tuple[tuple[int, ...], ...]:
    """The gaps v_a - v_f of each block's full updates once it is under way: [block][position].

    An update is under way if all its batches read a version above 0 of the block.

    Raises:
        InputError: the trace is too short for such an update, or they differ.
    """
    found: list[set[tuple[int, ...]]] = [set() for _ in range(trace.header.blocks)]
    for update in _rows_of_updates(trace):
        if len(update) == accumulation and update["version_forward"].all():
            gaps = update["version_applied"] - update["version_forward"]
            found[int(update["block"][0]) - 1].add(tuple(gaps.tolist()))
    for block, patterns in enumerate(found, 1):
        if len(patterns) != 1:
            what = f"{len(patterns)} patterns of gaps in block {block}"
            raise InputError("trace", what, "must have one steady pattern", "give more batches")
    return tuple(patterns.pop() for patterns in found)


class _Versions:
    """The weights of each block at the versions that some batch has yet to read, and the newest."""

    def __init__(self, start: FloatArray, blocks: Sequence[slice], read: IntArray) -> None:
        self.read = read  # (blocks, batches): v_f
        self.held = [{0: start[..., block].copy()} for block in blocks]
        self.readers = [Counter(row.tolist()) for row in read]
        self.newest = [0] * len(blocks)
        self.most = [1] * len(blocks)

    def composite(self, batch: int) -> FloatArray:
        """Every block at the version that the batch read, side by side: (..., parameters)."""
        wanted = self.read[:, batch].tolist()
        for block, version in enumerate(wanted):
            if version not in self.held[block]:
                what = f"read version {version} of block {block + 1} before an update made it"
                raise _refused(f"batch {batch} {what}")
        parts = [held[version] for held, version in zip(self.held, wanted, strict=True)]
        return np.concatenate(parts, axis=-1)

    def release(self, batch: int) -> None:
        """The batch has read all that it will; drop what nobody else needs."""
        for block, version in enumerate(self.read[:, batch].tolist()):
            self.readers[block][version] -= 1
            self._drop(block, version)

    def add(self, block: int, version: int, step: FloatArray) -> None:
        """Make the version that follows `version`, which must be the newest of the block."""
        if version != self.newest[block]:
            expected = f"expected one to version {self.newest[block]}"
            raise _refused(f"block {block + 1} has an update to version {version}, {expected}")
        held = self.held[block]
        held[version + 1] = held[version] + step
        self.newest[block] = version + 1
        self._drop(block, version)
        self.most[block] = max(self.most[block], len(held))

    def current(self) -> FloatArray:
        """The newest version of every block, side by side: (..., parameters)."""
        parts = [held[version] for held, version in zip(self.held, self.newest, strict=True)]
        return np.concatenate(parts, axis=-1)

    def _drop(self, block: int, version: int) -> None:
        if version != self.newest[block] and not self.readers[block][version]:
            del self.held[block][version]


def _rows_of_updates(trace: Trace) -> list[NDArray[np.void]]:
    """The gradients of each update, in the order of the trace."""
    rows = trace.gradients
    keys = np.stack([rows["block"], rows["version_applied"]])
    starts = np.flatnonzero((keys[:, 1:] != keys[:, :-1]).any(axis=0)) + 1
    return np.split(rows, starts)


def _versions_read(trace: Trace) -> IntArray:
    """v_f of every (block, batch), of shape (blocks, batches)."""
    rows, header = trace.gradients, trace.header
    read = np.full((header.blocks, header.batches), -1, dtype=np.int64)
    read[rows["block"] - 1, rows["batch"]] = rows["version_forward"]
    if len(rows) != read.size or (read < 0).any():
        raise _refused("not every block has exactly one gradient of every batch")
    return read


def _check(trace: Trace, blocks: Sequence[slice]) -> None:
    rows = trace.gradients
    if len(blocks) != trace.header.blocks:
        rule = f"must be {trace.header.blocks}, as in the trace"
        raise InputError("number of blocks", len(blocks), rule, "cut the parameters so")
    if (rows["version_backward"] != rows["version_forward"]).any():
        raise _refused("backward passes read other versions than forward passes (weights=mixed)")
    if (rows["version_base"] != rows["version_applied"]).any():
        raise _refused("updates overwrote others (write=assign)")


def _refused(what: str) -> InputError:
    remedy = "give a whole trace of a schedule with stashed weights that adds its updates"
    return InputError("trace", what, "cannot be replayed", remedy)
