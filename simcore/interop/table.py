"""Tables of `torch.distributed.pipelining`: what each rank does, as its CSV files say it.

A row is a rank, a cell an action: stage, letter, micro-batch. Both numbers count from 0.

```
F forward  B backward  I backward, input only  W backward, weights only
SEND_F, RECV_F  the output of a stage, to and from the next   SEND_B, RECV_B  the gradient, back
UNSHARD, RESHARD, REDUCE_GRAD  data parallelism: of a stage, no micro-batch
(1F3;1B0)OVERLAP_F_B  several at once      an empty cell  idle
```

Torch writes two variants: `compute_only` has F, B, I, W and idle cells; `compute_comms` says who
sends and receives when, and has no idle cells. Grammar: `torch/distributed/pipelining/schedules.py`
of torch 2.13 (`_Action.from_str`, `_load_csv`, `_dump_csv`).
"""

import csv
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from simcore.errors import InputError
from simcore.interop.texts import read_text

__all__ = ["Action", "Table", "csv_of_rows", "load_table"]

_ACTION: Final = re.compile(
    r"(\d+)(F|B|I|W|SEND_F|RECV_F|SEND_B|RECV_B|UNSHARD|RESHARD|REDUCE_GRAD)(\d*)"
)
_OVERLAP: Final = re.compile(r"\((.*)\)OVERLAP_F_B")
_DATA_PARALLEL: Final = ("UNSHARD", "RESHARD", "REDUCE_GRAD")
_BACKWARD: Final = ("B", "I")


class Action(NamedTuple):
    """What a rank does with a micro-batch in one of its stages.

    >>> str(Action(2, "SEND_F", 0))
    '2SEND_F0'
    """

    stage: int
    what: str
    batch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.what}{self.batch}"


@dataclass(frozen=True, slots=True)
class Table:
    """A legal table of one mini-batch: what each rank computes and sends, in its order.

    Receives are not listed: a rank takes a message when it needs it. `remarks` say what was odd
    about the file, and what was done about it.
    """

    rows: tuple[tuple[Action, ...], ...]
    stages: int
    batches: int
    remarks: tuple[str, ...] = ()


def load_table(path: str | os.PathLike[str]) -> Table:
    """Read a table of either variant.

    Known defects are put right, and `remarks` say so: forward passes of a stage that are numbered
    from 1 (the last rank of torch's 1F1B tables), cells that say `None`, actions of data
    parallelism, and overlapped actions, which here come one after another.

    Raises:
        InputError: a cell that is no action, or a table that cannot be run, with its first problem.
    """
    remarks: dict[str, None] = {}
    lines = csv.reader(read_text(path).splitlines())
    rows = [_row(cells, f"{path}: rank {rank}", remarks) for rank, cells in enumerate(lines)]
    rows = [row for row in rows if row]
    _check_places(rows, path)
    stages = 1 + max(action.stage for row in rows for action in row)
    rows = _repaired(rows, stages, remarks)
    batches = 1 + max(action.batch for row in rows for action in row)
    for row in rows:
        _check_order(row, batches, path)
    return Table(_travelling(rows), stages, batches, tuple(remarks))


def csv_of_rows(rows: Iterable[Iterable[Action | None]]) -> str:
    """Rows as the text of a CSV file; None is an idle cell."""
    return "".join(",".join(str(a) if a else "" for a in row) + "\r\n" for row in rows)


def _row(cells: list[str], where: str, remarks: dict[str, None]) -> list[Action]:
    """The actions of a rank; messages that it does not list leave when their cell is done."""
    done = [list(_actions(cell, where, remarks)) for cell in cells]
    listed = {action for actions in done for action in actions if action.what.startswith("SEND")}
    row = []
    for actions in done:
        row += actions
        for action in actions:
            if action.what in "FBI":
                send = action._replace(what="SEND_F" if action.what == "F" else "SEND_B")
                row += [] if send in listed else [send]
    return row


def _actions(cell: str, where: str, remarks: dict[str, None]) -> Iterator[Action]:
    text = cell.strip()
    if text == "None":
        remarks["cells that say None are read as idle; torch would refuse them"] = None
    elif overlap := _OVERLAP.fullmatch(text):
        remarks["overlapped actions (OVERLAP_F_B) are simulated one after another"] = None
        for part in overlap[1].split(";"):
            yield from _actions(part, where, remarks)
    elif text:
        action = _ACTION.fullmatch(text)
        if action and action[2] in _DATA_PARALLEL:
            remarks[f"data parallelism ({', '.join(_DATA_PARALLEL)}) is left out"] = None
        elif not action or not action[3]:
            rule = "must be stage, action and micro-batch"
            raise InputError(where, text[:60], rule, "write it as in 2F0 or 1SEND_B3")
        elif not action[2].startswith("RECV"):
            yield Action(int(action[1]), action[2], int(action[3]))


def _check_places(rows: list[list[Action]], path: str | os.PathLike[str]) -> None:
    """Each stage is on one rank, none is left out, and something goes backward."""
    place: dict[int, int] = {}
    for rank, row in enumerate(rows):
        for action in row:
            if place.setdefault(action.stage, rank) != rank:
                what = f"{path}: stage {action.stage}"
                raise InputError(what, f"in row {rank}", "must be in one row", "move its actions")
    for stage in range(max(place, default=0) + 1):
        if stage not in place:
            raise InputError(f"{path}: stage {stage}", "missing", "must be in a row", "add it")
    if not any(action.what in _BACKWARD for row in rows for action in row):
        rule = "must have backward passes, as it is to train"
        raise InputError(f"{path}", "without any", rule, "give a table of training")


def _repaired(
    rows: list[list[Action]], stages: int, remarks: dict[str, None]
) -> list[list[Action]]:
    """The rows with the forward passes of each stage numbered as its backward passes are."""
    forward: list[set[int]] = [set() for _ in range(stages)]
    backward: list[set[int]] = [set() for _ in range(stages)]
    for action in (action for row in rows for action in row):
        if action.what == "F":
            forward[action.stage].add(action.batch)
        elif action.what in _BACKWARD:
            backward[action.stage].add(action.batch)
    shift = [0] * stages
    for stage, (before, after) in enumerate(zip(forward, backward, strict=True)):
        if before != after and {batch - 1 for batch in before} == after:
            shift[stage] = 1
            remarks[
                f"stage {stage} goes forward with micro-batches 1..{max(before)} and backward "
                f"with 0..{max(after)}, as torch's 1F1B tables do; read as 0..{max(after)}"
            ] = None
    return [
        [
            action._replace(batch=action.batch - shift[action.stage])
            if action.what in ("F", "SEND_F")
            else action
            for action in row
        ]
        for row in rows
    ]


def _check_order(row: list[Action], batches: int, path: str | os.PathLike[str]) -> None:
    """Every stage of a row does its work on each micro-batch once, in an order that is possible."""
    done: set[Action] = set()
    for action in row:
        stage, what, batch = action
        if action in done:
            raise InputError(f"{path}", str(action), "must be there once", "remove one of them")
        needed = {"W": "I", "SEND_B": "BI"}.get(what, "" if what == "F" else "F")
        if needed and not any(Action(stage, each, batch) in done for each in needed):
            rule = f"must come after {' or '.join(f'{stage}{each}{batch}' for each in needed)}"
            raise InputError(f"{path}", str(action), rule, "correct the order")
        done.add(action)
    for stage in sorted({action.stage for action in row}):
        for batch in range(batches):
            has = [each for each in "FBIW" if Action(stage, each, batch) in done]
            if has not in (["F", "B"], ["F", "I", "W"]):
                rule = "must have F and B, or F, I and W, of each micro-batch"
                what = f"{path}: stage {stage}, micro-batch {batch}"
                raise InputError(what, ", ".join(has) or "missing", rule, "correct the table")


def _travelling(rows: list[list[Action]]) -> tuple[tuple[Action, ...], ...]:
    """The rows with those messages alone that go to a stage of another rank."""
    place = {action.stage: rank for rank, row in enumerate(rows) for action in row}
    ahead = {"SEND_F": 1, "SEND_B": -1}
    return tuple(
        tuple(
            action
            for action in row
            if action.what not in ahead
            or place.get(action.stage + ahead[action.what], rank) != rank
        )
        for rank, row in enumerate(rows)
    )
