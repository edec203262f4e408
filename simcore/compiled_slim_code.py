"""Lowered programs as the instructions of the slim variant, with costs and items, for all at once.

Items are bits, the same ones in all workers: what counts is how far the item's block is from the
lowest one of its worker. So the rows of equal programs are made once.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import simcore.compiled_slim_layout as x
from simcore.compiled_tables import Ints
from simcore.lowering import CLASSES, END, JUMP, LOOP, MOVE, Lowering, Unliftable
from simcore.ops import (
    COPIED,
    BackwardThrough,
    Evaluate,
    Forward,
    Item,
    Load,
    Receive,
    Replay,
    Send,
    Tangent,
    Update,
    kind_of,
)
from simcore.rules import RULES, consumed, made, needed
from simcore.timing import Timing

__all__ = ["Code", "refuse_rows"]

_SPARE: Final = 4  # bits for what is recorded later
_MOST_TICKS: Final = 2**40
# What stays in a worker as long as the version that its pass has read is of interest.
_STAYS: Final = ("graph", "weight_graph", "input", "tangent", "synthesizer")
_CONTROLS: Final = {LOOP: x.A_LOOP, MOVE: x.A_MOVE, JUMP: x.A_JUMP, END: x.A_END}
_RECEIVE, _SEND, _UPDATE, _LOAD = (CLASSES.index(each) for each in (Receive, Send, Update, Load))

Bits = tuple[int, int, int, int]  # what to care for, what is wanted, what changes, what is set


def _action(kind: type[Any], buffered: bool) -> int:
    if issubclass(kind, Forward | Tangent):
        return x.A_BUFFERED if buffered else x.A_READ
    if issubclass(kind, BackwardThrough):
        return x.A_FORGET
    for base, action in ((Replay, x.A_REPLAY), (Evaluate, x.A_EVALUATE)):
        if issubclass(kind, base):
            return action
    return x.A_PENDING if RULES[kind].pending else x.A_PASS


def refuse_rows(lowering: Lowering) -> None:
    """Raise `Unliftable` for operations that workers do not do on their own."""
    for code in sorted({row[0] for row in lowering.code if row[0] < len(CLASSES)}):
        kind = CLASSES[code]
        if code not in (_RECEIVE, _SEND, _UPDATE, _LOAD) and "batch" not in kind.__match_args__:
            raise Unliftable(f"programs use {kind.__name__}")


@dataclass(slots=True)
class _Items:
    bits: dict[tuple[str, int], int] = field(default_factory=dict)
    kept: int = 0

    def masks(
        self,
        base: int,
        blocks: int,
        taken: Sequence[Item],
        looked_at: Sequence[Item],
        given: Sequence[Item],
    ) -> Bits:
        """Rows of bits for a worker whose lowest block is `base`.

        `taken` and `looked_at` must be there; `given` must not, but for copies.
        """

        def mask(items: Iterable[Item]) -> int:
            found = 0
            for kind, block in items:
                far = block - (blocks if kind in COPIED else base)
                bit = self.bits.get((kind, far))
                if bit is None:
                    bit = self.bits[kind, far] = len(self.bits)
                    self.kept |= (kind not in COPIED) << bit
                found |= 1 << bit
            return found

        if len(set(taken)) < len(taken) or len(set(given)) < len(given):
            raise Unliftable("a message carries an item twice")
        gone, wanted = mask(taken), mask(taken) | mask(looked_at)
        fresh = mask(item for item in given if item.kind not in COPIED)
        if fresh & wanted & ~gone:
            raise Unliftable("a program breaks a rule")
        copied = mask(item for item in given if item.kind in COPIED)
        return wanted | (fresh & ~gone), wanted, gone ^ fresh, copied


class Code:
    """The instructions, `rows` of shape (instructions, I_COLUMNS), of what has been lowered so far.

    `cells` are (worker, block), in the order of the workers. An entry has the bits of the items
    below `shift`; those of `kept` must be gone when a program ends.
    """

    def __init__(self, lowering: Lowering, timing: Timing) -> None:
        schedule = self.schedule = lowering.schedule
        self.lowering, self.timing = lowering, timing
        self._items = _Items()
        self._base = np.array([min(each.blocks, default=1) for each in schedule.workers], np.int64)
        self._ticks: dict[int, Ints] = {}
        self.cells = np.zeros((0, 2), np.int64)
        self.rows = np.zeros((0, x.I_COLUMNS), np.int64)
        self.shift = 0
        self.more()

    @property
    def kept(self) -> int:
        """The bits of items that must not be left over."""
        return self._items.kept

    def more(self) -> None:
        """Take in what has been recorded since the last time.

        Raises `Unliftable` for what the slim variant does not do.
        """
        first, known = len(self.rows), len(self.cells)
        given = np.array(self.lowering.code[first:], np.int64).reshape(-1, 5)
        workers = np.array(self.lowering.workers[first:], np.int64)
        self._find_cells(given, workers)
        if first and len(self.cells) > known:
            raise Unliftable("a block is first used after the end of a channel")
        new = self._encoded(given, workers)
        bits = len(self._items.bits)
        self.shift = self.shift or bits + _SPARE
        if bits > self.shift or self.schedule.batches << self.shift >= 2**62:
            raise Unliftable("workers hold too many kinds of items")
        of_batches = (new[:, x.I_ACTION] > x.A_TAKE) & (new[:, x.I_ACTION] <= x.A_PASS)
        new[of_batches, x.I_CARE] |= -1 << self.shift  # it must be the entry of that very batch
        self.rows = np.concatenate([self.rows, new])

    def _find_cells(self, given: Ints, workers: Ints) -> None:
        there = (given[:, 0] < len(CLASSES)) & ~np.isin(given[:, 0], (_RECEIVE, _SEND, _LOAD))
        found = np.stack([workers[there], given[there, 1]], axis=1)
        self.cells = np.unique(np.concatenate([self.cells, found]), axis=0)
        replicas = np.array(self.schedule.replicas, np.int64)[self.cells[:, 0]]
        if len(np.unique(np.stack([replicas, self.cells[:, 1]], axis=1), axis=0)) < len(self.cells):
            raise Unliftable("several workers compute with one block")

    def _encoded(self, given: Ints, workers: Ints) -> Ints:
        code, a, b, register, target = given.T
        rows = np.zeros((len(given), x.I_COLUMNS), np.int64)
        for control, action in _CONTROLS.items():
            these = code == control
            rows[these, x.I_ACTION] = action
            if control != END:
                rows[these, 1] = a[these] * (1 if control == MOVE else x.I_COLUMNS)
                rows[these, 2] = b[these]
        does, receives, sends = code < len(CLASSES), code == _RECEIVE, code == _SEND
        if (register[does] < 0).any():
            raise Unliftable("a program names a batch")
        channel = a.copy()
        heard = np.array([each[0] for each in self.lowering.listens] or [0], np.int64)
        channel[receives] = heard[a[receives]]
        for these, make in ((receives, self._receive), (sends, self._send)):
            self._fill(rows, these, channel, workers, make)
        computes = does & ~receives & ~sends
        block = np.where(code == _LOAD, 0, a)
        self._fill(rows, computes, self._alike(code, block, workers), workers, self._computation)
        rows[computes, x.I_TICKS] = self._durations(code[computes], block[computes])
        self._slow_down(rows, computes, workers)
        rows[computes, x.I_OF] = self._place(workers[computes], block[computes])
        rows[does, x.I_REGISTER] = register[does]
        at = target[receives]
        rows[receives, x.I_TARGET] = np.where(at < 0, -1, at * x.I_COLUMNS)
        if rows[does, x.I_TICKS].max(initial=0) > _MOST_TICKS:
            raise Unliftable("an operation takes too long")
        return rows

    def _fill(
        self,
        rows: Ints,
        these: NDArray[np.bool_],
        number: Ints,
        workers: Ints,
        make: Callable[[int, int], list[int]],
    ) -> None:
        """Fill in rows, those of one number alike; `make` is given it and one of its workers."""
        if these.any():
            alike, one, where = np.unique(number[these], return_index=True, return_inverse=True)
            of = workers[these][one]
            made_ = [make(*each) for each in zip(alike.tolist(), of.tolist(), strict=True)]
            rows[these] = np.array(made_, np.int64)[where]

    def _receive(self, number: int, worker: int) -> list[int]:
        channel = self.schedule.channels[number]
        care, _, toggle, copied = self._masks(worker, (), (), channel.carries)
        ticks = self.timing.costs.delays[number].receive
        action = x.A_TAKE if channel.source else x.A_RECEIVE
        return [action, ticks, 0, care, -1, toggle, copied, number * x.C_COLUMNS]

    def _send(self, number: int, worker: int) -> list[int]:
        carries = self.schedule.channels[number].carries
        if any(item.kind in _STAYS for item in carries):
            raise Unliftable("graphs move from one worker to another")
        taken = [item for item in carries if item.kind not in COPIED]
        care, want, toggle, copied = self._masks(worker, taken, carries, ())
        ticks = self.timing.costs.delays[number].send
        return [x.A_SEND, ticks, 0, care, want, toggle, copied, number * x.C_COLUMNS]

    def _alike(self, code: Ints, block: Ints, workers: Ints) -> Ints:
        """A number for each computation; it is the same for those that have the same bits."""
        blocks = self.schedule.blocks
        far = block - self._base[workers] + blocks
        ends = 2 * (block == blocks) + (block == 1)
        number: Ints = (code * (2 * blocks + 1) + far) * 4 + ends
        return number

    def _computation(self, number: int, worker: int) -> list[int]:
        blocks = self.schedule.blocks
        code, far = divmod(number // 4, 2 * blocks + 1)
        kind, block = CLASSES[code], far - blocks + int(self._base[worker])
        if kind is Update:
            return [x.A_UPDATE, *[0] * 7]
        operation = kind(0) if kind is Load else kind(block, 0)
        masks = self._masks(
            worker,
            consumed(operation, blocks),
            needed(operation, blocks),
            made(operation, blocks),
        )
        return [_action(kind, self.schedule.weights.buffer > 0), 0, 0, *masks, 0]

    def _masks(
        self, worker: int, taken: Sequence[Item], looked_at: Sequence[Item], given: Sequence[Item]
    ) -> Bits:
        base = int(self._base[worker])
        return self._items.masks(base, self.schedule.blocks, taken, looked_at, given)

    def _durations(self, code: Ints, block: Ints) -> Ints:
        ticks = np.zeros(len(code), np.int64)
        for each in np.unique(code).tolist():
            kind = CLASSES[each]
            name = kind_of(kind)
            if name not in self.timing.costs.compute:
                raise Unliftable(f"there is no time for {kind.__name__}")
            these = code == each
            of_blocks = self.timing.costs.compute[name]
            if max(of_blocks) > _MOST_TICKS:
                raise Unliftable("an operation takes too long")
            ticks[these] = np.array(of_blocks, np.int64)[block[these]]
        return ticks

    def _slow_down(self, rows: Ints, computes: NDArray[np.bool_], workers: Ints) -> None:
        for worker, slowdown in enumerate(self.timing.slowdowns):
            if slowdown != 1:
                for row in np.flatnonzero(computes & (workers == worker)):
                    if ticks := int(rows[row, x.I_TICKS]):
                        rows[row, x.I_TICKS] = max(1, round(ticks * slowdown))

    def _place(self, workers: Ints, block: Ints) -> Ints:
        """Where the cell is; anywhere for what has none."""
        blocks = self.schedule.blocks + 1
        known = self.cells[:, 0] * blocks + self.cells[:, 1]
        found: Ints = np.searchsorted(known, workers * blocks + block) * x.B_COLUMNS
        return found
