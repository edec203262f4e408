"""Answers as tables for other programs: CSV, and Parquet where a library for it is installed."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.sweeps.answer import MEASURES
from analysis.sweeps.store import Found
from simcore.files import write_whole
from simcore.schedules import find

__all__ = ["columns", "write_csv", "write_parquet"]


def columns(rows: Sequence[Found]) -> dict[str, list[Any]]:
    """A list for each column, with None where there is no value.

    First what was asked, an option or number that some configuration has in each column, then what
    became of it. Lists, such as windows of single modules, are texts.
    """
    options = list(dict.fromkeys(name for row in rows for name in row.options))
    numbers = list(dict.fromkeys(name for row in rows for name in row.numbers))
    found: dict[str, list[Any]] = {"schedule": [row.schedule for row in rows]}
    for name in options:
        found[name] = [_plain(row, name) for row in rows]
    for name in numbers:
        found[name] = [row.numbers.get(name) for row in rows]
    found["state"] = [row.answer.state for row in rows]
    for name in MEASURES:
        found[name] = [row.answer.values.get(name) for row in rows]
    blocks = max((len(row.answer.block_gaps) for row in rows), default=0)
    for block in range(blocks):
        found[f"mean_gap_{block + 1}"] = [
            row.answer.block_gaps[block] if block < len(row.answer.block_gaps) else None
            for row in rows
        ]
    found["reason"] = [row.answer.reason for row in rows]
    return found


def _plain(row: Found, name: str) -> Any:
    """The value of an option; an option that is there but without a value says what that means."""
    value = row.options.get(name)
    if name in row.options and value is None:
        return find(row.schedule).option(name).absent
    return ",".join(map(str, value)) if isinstance(value, list) else value


def write_csv(rows: Sequence[Found], path: Path) -> None:
    """Write a CSV file with a line of headings; what has no value is empty."""
    text = io.StringIO()
    table = columns(rows)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    write_whole(path, text.getvalue())


def write_parquet(rows: Sequence[Found], path: Path) -> bool:
    """Write a Parquet file by pyarrow, or else by pandas; whether one of them is installed."""
    table = {name: _of_one_kind(values) for name, values in columns(rows).items()}
    target = io.BytesIO()
    try:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table(table), target)
    except ImportError:
        try:
            import pandas

            pandas.DataFrame(table).to_parquet(target)
        except ImportError:
            return False
    write_whole(path, target.getvalue())
    return True


def _of_one_kind(values: Sequence[Any]) -> list[Any]:
    """A column of Parquet has one type: mixed ones become texts, whole numbers among others not."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and len(kinds) == 2:
        return [None if value is None else float(value) for value in values]
    if len(kinds) > 1:
        return [None if value is None else str(value) for value in values]
    return list(values)
