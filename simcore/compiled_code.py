"""Lowered programs as the numbers that the compiled engine reads, with costs and items."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

import simcore.compiled_layout as x
from simcore.compiled_tables import Ints
from simcore.lowering import CLASSES, JUMP, LOOP, MOVE, Lowering, Unliftable
from simcore.ops import (
    COPIED,
    Arrive,
    Backward,
    BackwardInput,
    BackwardThrough,
    BackwardWeight,
    Evaluate,
    Forward,
    Item,
    Join,
    Load,
    Merge,
    Project,
    Receive,
    Replay,
    Select,
    Send,
    Snapshot,
    Tangent,
    Update,
    kind_of,
)
from simcore.rules import RULES, consumed, made, needed
from simcore.schedule import Schedule
from simcore.timing import Timing
from simcore.trace import KIND

__all__ = ["Items", "Places", "encoded"]

_BITS: Final = 62
_ACTIONS: Final = {
    Update: x.A_UPDATE,
    Snapshot: x.A_SNAPSHOT,
    Merge: x.A_MERGE,
    Load: x.A_LOAD,
    Send: x.A_SEND,
    Receive: x.A_RECEIVE,
    Select: x.A_RECEIVE,
    Arrive: x.A_ARRIVE,
    Join: x.A_JOIN,
}
_CONTROLS: Final = {MOVE: x.A_MOVE, LOOP: x.A_LOOP, JUMP: x.A_JUMP}
_BEGINS: Final = (
    (Snapshot, x.BEGIN_VERSION),
    (Evaluate, x.BEGIN_VERSION),
    (Forward, x.BEGIN_FORWARD),
    (Tangent, x.BEGIN_FORWARD),
    (Replay, x.BEGIN_REPLAY),
    (Backward, x.BEGIN_BACKWARD),
    (BackwardInput, x.BEGIN_BACKWARD),
    (BackwardWeight, x.BEGIN_WEIGHT),
    (Project, x.BEGIN_PROJECT),
)


def _begin(kind: type[Any]) -> int:
    return next((code for base, code in _BEGINS if issubclass(kind, base)), x.BEGIN_NOTHING)


def _end(kind: type[Any]) -> int:
    if kind is BackwardThrough:
        return x.END_FORGET
    return x.END_PENDING if RULES[kind].pending else x.END_NOTHING


# Per class: action, kind in traces, what it begins and ends with.
_OF_CLASS: Final = [
    (
        _ACTIONS.get(kind, x.A_PASS),
        KIND[kind_of(Receive if kind is Select else kind)],
        _begin(kind),
        _end(kind),
    )
    for kind in CLASSES
]
_LISTENS: Final = {CLASSES.index(Receive), CLASSES.index(Select)}


@dataclass(slots=True)
class Items:
    """Where the items of each worker are kept: a bit of a row of masks, by batch."""

    places: list[dict[Item, int]]
    first: list[int] = field(default_factory=list)
    effects: list[tuple[int, ...]] = field(default_factory=list)

    def masks(
        self,
        worker: int,
        taken: Sequence[Item],
        looked_at: Sequence[Item],
        given: Sequence[Item],
    ) -> tuple[int, int, int]:
        """Add rows for items that are taken, must be there, and are given.

        Returns the first row, the one behind the last, and how many more items are held then that
        must not be left over at the end.
        """
        rows: dict[int, list[int]] = {}
        place = self.places[worker]
        own = [item for item in given if item.kind not in COPIED]
        marked = (looked_at, (0,)), (taken, (0, 1)), (own, (2,)), (given, (3,))
        for items, columns in marked:
            for item in items:
                number = place.get(item)
                if number is None:
                    number = place[item] = len(place)
                row = rows.get(number // _BITS)
                if row is None:
                    row = rows[number // _BITS] = [0, 0, 0, 0]
                for column in columns:
                    row[column] |= 1 << number % _BITS
        for items in (taken, given):
            if len(items) > 1 and len(set(items)) < len(items):
                raise Unliftable("a message carries an item twice")
        start = len(self.effects)
        self.effects += [(worker, word, *row) for word, row in rows.items()]
        used = sum(item.kind not in COPIED for item in taken)
        return start, len(self.effects), len(own) - used

    def table(self) -> tuple[Ints, list[int]]:
        """The rows, with places of masks; and the first mask of each worker, and how many."""
        words = [len(place) // _BITS + 1 for place in self.places]
        first = np.concatenate([[0], np.cumsum(words)])
        rows = np.array(self.effects, np.int64).reshape(-1, 6)
        rows[:, 1] += first[rows[:, 0]]
        return np.ascontiguousarray(rows[:, 1:]), [int(each) for each in first]


@dataclass(slots=True)
class Places:
    """Rows of what belongs to several things at once: blocks of workers, members of groups."""

    slots: list[dict[int, int]]
    members: dict[tuple[int, int, int], int]  # worker, group, block


def encoded(
    schedule: Schedule, lowering: Lowering, timing: Timing, items: Items, places: Places
) -> tuple[Ints, Ints]:
    """The instructions, and rows (channel, where it goes on) of those that receive.

    `items.effects` gets what each takes and makes. For a receive its rows are (0, first, end, 0, 0,
    0) of the items of each channel, in the order of its channels.
    """
    # The columns from I_ACTION on are alike in many rows.
    memo: dict[tuple[int, ...], int] = {}
    alike: list[tuple[int, ...]] = []
    which = []
    for (code, a, b, register, _), worker in zip(lowering.code, lowering.workers, strict=True):
        key: tuple[int, ...]
        if code >= len(CLASSES):
            key = (code,)
        else:
            if register < 0 and -1 - register >= schedule.batches:
                raise Unliftable("it names a batch that there is not")
            key = (worker, code, a, b)
            if code in _LISTENS:
                key = (worker, code, *[each[0] for each in lowering.listens[a : a + b]])
        number = memo.get(key)
        if number is None:
            number = memo[key] = len(alike)
            alike.append(
                _row(schedule, lowering, timing, items, places, (worker, code, a, b))
                if code < len(CLASSES)
                else (_CONTROLS.get(code, x.A_END), 0, -1, *[0] * 8)
            )
        which.append(number)
    rows = np.concatenate(
        [np.array(lowering.code, np.int64), np.array(alike, np.int64)[which]], axis=1
    )
    return rows, np.array(lowering.listens or [[0, 0]], np.int64)


def _row(
    schedule: Schedule,
    lowering: Lowering,
    timing: Timing,
    items: Items,
    places: Places,
    key: tuple[int, ...],
) -> tuple[int, ...]:
    """The columns of an instruction from I_ACTION on."""
    worker, code, a, b = key
    kind = CLASSES[code]
    action, kind_code, begin, end = _OF_CLASS[code]
    replica = schedule.workers[worker].replica
    ticks, slot, version, held, variation = 0, -1, 0, 0, -1
    first = last = 0
    if action <= x.A_LOAD:
        ticks, variation = _ticks(timing, worker, kind, a)
        version = replica * (schedule.blocks + 1) + a
        slot = -1 if kind is Load else places.slots[worker][a]
        if action in (x.A_PASS, x.A_LOAD):
            operation = kind(0) if kind is Load else kind(a, 0)
            given = made(operation, schedule.blocks)
            taken, looked_at = (find(operation, schedule.blocks) for find in (consumed, needed))
            first, last, held = items.masks(worker, taken, looked_at, given)
    elif action == x.A_SEND:
        carries = schedule.channels[a].carries
        taken = tuple(item for item in carries if item.kind not in COPIED)
        first, last, held = items.masks(worker, taken, carries, ())
    elif action == x.A_RECEIVE:
        of_channels = [
            items.masks(worker, (), (), schedule.channels[channel].carries)
            for channel, _ in lowering.listens[a : a + b]
        ]
        first = len(items.effects)
        items.effects += [(0, 0, begun, ended, 0, 0) for begun, ended, _ in of_channels]
        last = len(items.effects)
    else:
        first = places.members[worker, a, b]
        slot = places.slots[worker].get(b, -1)
    return (action, ticks, variation, kind_code, begin, end, first, last, held, slot, version)


def _ticks(timing: Timing, worker: int, kind: type[Any], block: int) -> tuple[int, int]:
    """Ticks before chance, and the number of the distribution of their factor."""
    name = kind_of(kind)
    if name not in timing.costs.compute:
        raise Unliftable(f"there is no time for {kind.__name__}")
    ticks = timing.costs.compute[name][block]
    slowdown = timing.slowdowns[worker]
    if ticks and slowdown != 1:
        ticks = max(1, round(ticks * slowdown))
    variation = timing.variations.of(name)
    if variation is None:
        return ticks, -1
    return ticks, _distinct(timing).index(variation)


def _distinct(timing: Timing) -> list[Any]:
    varied = timing.variations
    return [*([varied.default] if varied.default else []), *varied.kinds.values()]
