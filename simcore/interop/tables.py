"""Tables of `torch.distributed.pipelining` from schedules.

Such a table says what each rank does with the micro-batches of one mini-batch, and nothing of
updates: of an asynchronous schedule it keeps the order of the passes alone.
"""

import os
from collections import deque
from collections.abc import Iterator
from typing import Final, Literal

from simcore.errors import InputError
from simcore.files import write_whole
from simcore.interop.table import Action, csv_of_rows
from simcore.ops import Channel
from simcore.schedule import Schedule
from simcore.validate import validate

__all__ = ["Variant", "csv_of_schedule", "dump_csv"]

Variant = Literal["compute_only", "compute_comms"]

_Row = list[Action | None]
_LETTERS: Final = {"forward": "F", "backward": "B", "backward_input": "I", "backward_weight": "W"}
_REMEDY: Final = "export its trace for Perfetto instead"


def dump_csv(
    schedule: Schedule, path: str | os.PathLike[str], variant: Variant = "compute_only"
) -> None:
    """Write a schedule's table as `_load_csv` of torch reads it, whole or not at all.

    Raises:
        InputError: the schedule has no table (see `csv_of_schedule`); the file cannot be written.
    """
    write_whole(path, csv_of_schedule(schedule, variant))


def csv_of_schedule(schedule: Schedule, variant: Variant = "compute_only") -> str:
    """A schedule as a table of torch: a row for each worker, a stage for each block.

    `compute_only` has passes alone, in columns of one pass each, as torch draws its tables, and
    torch adds the messages when it loads it. `compute_comms` has the schedule's own messages. A
    table that repeats itself for each mini-batch is written once.

    >>> from simcore.schedules import build
    >>> print(csv_of_schedule(build("fdg", modules=2, batches=2)), end="")
    0F0,0F1,,0B0,,0B1\r
    ,1F0,1B0,1F1,1B1\r

    Raises:
        InputError: what workers do depends on timing, several workers share a block, or they do
            more than such a table can say.
    """
    verdict = validate(schedule)
    if not verdict.conclusive:
        raise _no_table(schedule, "adaptive", "must have workers whose order is fixed")
    place = _places(schedule)
    rows = [
        list(_actions(schedule, place, worker, done))
        for worker, done in enumerate(verdict.operations)
    ]
    rows = _once(rows, schedule.micro_batches, schedule.batches)
    if variant == "compute_comms":
        return csv_of_rows(rows)
    computed = [[action for action in row if action.what in "FBIW"] for row in rows]
    return csv_of_rows(_in_slots(computed, schedule.blocks))


def _places(schedule: Schedule) -> dict[int, int]:
    """The worker of each block."""
    place: dict[int, int] = {}
    for number, worker in enumerate(schedule.workers):
        for block in worker.blocks:
            if place.setdefault(block, number) != number:
                rule = f"must have one worker for each block, and block {block} has several"
                raise _no_table(schedule, "shared", rule)
    return place


def _actions(
    schedule: Schedule, place: dict[int, int], worker: int, done: tuple[tuple[str, int, int], ...]
) -> Iterator[Action]:
    for kind, block, batch in done:
        if kind in _LETTERS:
            yield Action(block - 1, _LETTERS[kind], batch)
        elif kind in ("send", "receive"):
            channel = schedule.channels[block]
            if not channel.source and not schedule.is_local(channel):
                yield from _messages(schedule, place, channel, kind, batch)
        elif kind != "update":
            raise _no_table(schedule, f"doing {kind}", "must do no more than passes and updates")


def _messages(
    schedule: Schedule, place: dict[int, int], channel: Channel, kind: str, batch: int
) -> Iterator[Action]:
    """A message as torch says it: what a stage sends or receives."""
    for item in channel.carries:
        ahead = 1 if item.kind == "activation" else -1
        source = item.block if ahead == 1 else item.block + 1
        ends = place.get(source), place.get(source + ahead)
        if item.kind not in ("activation", "gradient") or ends != (
            schedule.senders[channel][0],
            schedule.receivers[channel][0],
        ):
            rule = "must have messages between neighbouring blocks alone"
            raise _no_table(schedule, f"sending by {channel.name}", rule)
        stage = source - 1 if kind == "send" else source - 1 + ahead
        direction = "F" if ahead == 1 else "B"
        yield Action(stage, f"{'SEND' if kind == 'send' else 'RECV'}_{direction}", batch)


def _once(rows: list[list[Action]], size: int, batches: int) -> list[list[Action]]:
    """The rows of the first mini-batch, if those of the others are the same."""
    first = [[action for action in row if action.batch < size] for row in rows]
    repeated = [
        [
            action._replace(batch=action.batch + start)
            for start in range(0, batches, size)
            for action in row
        ]
        for row in first
    ]
    return first if repeated == rows else rows


def _in_slots(rows: list[list[Action]], stages: int) -> list[_Row]:
    """The rows with idle cells, so that each action stands in a later column than what it needs."""
    cells: list[_Row] = [[] for _ in rows]
    left = [deque(row) for row in rows]
    done: set[Action] = set()
    while any(left):
        new = set()
        for row, found in zip(left, cells, strict=True):
            if not row:
                continue
            if _needed(row[0], stages) <= done:
                action = row.popleft()
                found.append(action)
                # The gradient of the input is what a full backward pass gives its neighbour, too.
                new.add(action._replace(what="B") if action.what == "I" else action)
            else:
                found.append(None)
        done |= new
    return cells


def _needed(action: Action, stages: int) -> set[Action]:
    """What a neighbouring stage must have done."""
    stage, what, _ = action
    if what == "F" and stage > 0:
        return {action._replace(stage=stage - 1)}
    if what in "BI" and stage < stages - 1:
        return {action._replace(stage=stage + 1, what="B")}
    return set()


def _no_table(schedule: Schedule, value: str, rule: str) -> InputError:
    return InputError(f"table of {schedule.name}", value, rule, _REMEDY)
