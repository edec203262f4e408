"""Schedules from tables of `torch.distributed.pipelining`, and tables from schedules.

A stage is a block, a rank a worker, and a table one mini-batch of so many micro-batches, which is
repeated for each mini-batch. A stage is updated as soon as its rank has done the stage's last
action of the mini-batch. A rank takes a message when it needs it, wherever the table receives it:
torch only posts a receive there, and waits for it where it is needed.
"""

import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from simcore.interop.table import Action, Table, load_table
from simcore.ops import (
    Backward,
    BackwardInput,
    BackwardWeight,
    Channel,
    Forward,
    Item,
    Program,
    Receive,
    Send,
    Update,
    Worker,
)
from simcore.options import check
from simcore.schedule import Schedule
from simcore.schedules.chain import data_channel

__all__ = ["schedule_of_csv", "schedule_of_table"]

_Step = Forward | Backward | BackwardInput | BackwardWeight | Send | Receive | Update

_COMPUTATIONS: Final[dict[str, type[Forward | Backward | BackwardInput | BackwardWeight]]] = {
    "F": Forward,
    "B": Backward,
    "I": BackwardInput,
    "W": BackwardWeight,
}


def schedule_of_csv(path: str | os.PathLike[str], batches: int = 1) -> Schedule:
    """The schedule of a table for so many mini-batches. What is odd about it becomes a warning.

    Raises:
        InputError: fewer than one mini-batch, or a table that cannot be run (see `load_table`).
    """
    check("batches", batches)
    table = load_table(path)
    for remark in table.remarks:
        warnings.warn(f"{path}: {remark}", stacklevel=2)
    return schedule_of_table(table, batches, Path(path).stem)


def schedule_of_table(table: Table, batches: int = 1, name: str = "table") -> Schedule:
    """The schedule that repeats a table for each of so many mini-batches.

    >>> from simcore.interop.table import Action, Table
    >>> from simcore.timetable import timetable
    >>> first = Action(0, "F", 0), Action(0, "SEND_F", 0), Action(0, "B", 0)
    >>> last = Action(1, "F", 0), Action(1, "B", 0), Action(1, "SEND_B", 0)
    >>> print(timetable(schedule_of_table(Table((first, last), stages=2, batches=1))))
            0     1     2     3     4
    rank 0  F1:0  .     .     B1:0  U1
    rank 1  .     F2:0  B2:0  U2    .
    """
    ways = _Ways.of(table)
    return Schedule(
        name=name,
        options={"table": name, "batches": batches},
        blocks=table.stages,
        batches=batches * table.batches,
        workers=tuple(
            _worker(f"rank {rank}", tuple(ways.steps(row)), table.batches, batches)
            for rank, row in enumerate(table.rows)
        ),
        micro_batches=table.batches,
        split_backward=any(action.what == "I" for row in table.rows for action in row),
    )


def _worker(name: str, steps: tuple[_Step, ...], micro_batches: int, batches: int) -> Worker:
    return Worker(
        name,
        partial(_repeated, steps, micro_batches, batches),
        tuple(sorted({step.block for step in steps if isinstance(step, Update)})),
        sends=tuple(dict.fromkeys(step.channel for step in steps if isinstance(step, Send))),
        receives=tuple(dict.fromkeys(step.channel for step in steps if isinstance(step, Receive))),
    )


def _repeated(steps: tuple[_Step, ...], micro_batches: int, batches: int) -> Program:
    """What a rank does with the first mini-batch, and then the same with the others."""
    for first in range(0, batches * micro_batches, micro_batches):
        for step in steps:
            if isinstance(step, Receive | Update):
                yield step
            else:
                yield replace(step, batch=step.batch + first)


_Way = tuple[int, str]  # a stage, and whether it goes forward ("F") or backward ("B")


def _sent(action: Action) -> _Way | None:
    """The way of the message that an action sends, by the stage that sends."""
    return (action.stage, action.what[-1]) if action.what.startswith("SEND") else None


def _need(action: Action) -> _Way | None:
    """The way of the message that an action may need, by the stage that receives."""
    if action.what not in ("F", "B", "I"):
        return None
    return action.stage, "F" if action.what == "F" else "B"


@dataclass(frozen=True, slots=True)
class _Ways:
    """The channels between ranks, by the stage that sends or receives, and what travels on them."""

    sends: Mapping[_Way, Channel]
    receives: Mapping[_Way, Channel]
    batches: Mapping[Channel, list[int]]

    @classmethod
    def of(cls, table: Table) -> "_Ways":
        """The channels of a table: one for each boundary between ranks and direction."""
        data = data_channel()
        sends: dict[_Way, Channel] = {}
        receives: dict[_Way, Channel] = {(0, "F"): data}
        batches: dict[Channel, list[int]] = {data: list(range(table.batches))}
        for action in (action for row in table.rows for action in row):
            way = _sent(action)
            if way is None:
                continue
            if way not in sends:
                stage, direction = way
                block = stage + 1
                if direction == "F":
                    channel = Channel(f"activations[{block + 1}]", (Item("activation", block),))
                    receives[stage + 1, "F"] = channel
                else:
                    channel = Channel(f"gradients[{block - 1}]", (Item("gradient", block - 1),))
                    receives[stage - 1, "B"] = channel
                sends[way], batches[channel] = channel, []
            batches[sends[way]].append(action.batch)
        return cls(sends, receives, batches)

    def steps(self, row: tuple[Action, ...]) -> Iterator[_Step]:
        """What a rank does for the first mini-batch."""
        unread = {channel: iter(batches) for channel, batches in self.batches.items()}
        arrived: set[tuple[Channel, int]] = set()
        last = {action.stage: number for number, action in enumerate(row)}
        for number, action in enumerate(row):
            need = _need(action)
            channel = self.receives.get(need) if need else None
            while channel and (channel, action.batch) not in arrived:
                # Messages come in the order in which they were sent, needed or not.
                arrived.add((channel, next(unread[channel])))
                yield Receive(channel)
            if way := _sent(action):
                yield Send(self.sends[way], action.batch)
            else:
                yield _COMPUTATIONS[action.what](action.stage + 1, action.batch)
            if last[action.stage] == number:
                yield Update(action.stage + 1)
