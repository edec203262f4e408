"""Readable results: figures with units, tables of gaps, drawn timetables."""

import re
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console

    from simcore.trace import Trace

__all__ = [
    "bars",
    "digits",
    "print_facts",
    "print_gaps",
    "print_memory",
    "print_table",
    "print_timetable",
    "seconds",
    "size",
    "workers",
]

_BARS: Final = "▁▂▃▄▅▆▇█"
_MOST_BARS: Final = 24
_MOST_BLOCKS: Final = 24
_MOST_WORKERS, _MOST_BATCHES, _MOST_TICKS = 6, 8, 60


def seconds(value: float | None) -> str:
    """A duration to read.

    >>> seconds(0.0123), seconds(1050.0), seconds(5e4), seconds(None)
    ('12.3 ms', '1050 s', '13.9 h', 'unknown')
    """
    if not value:
        return "unknown" if value is None else "0 s"
    for unit, length, least in (("h", 3600, 36000), ("s", 1, 1), ("ms", 1e-3, 1e-3)):
        if value >= least:
            return f"{digits(value / length)} {unit}"
    return f"{digits(value / 1e-6)} us"


def digits(value: float) -> str:
    """Three significant digits, never as a power of ten.

    >>> digits(1234.5), digits(0.0)
    ('1234', '0')
    """
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def size(value: int) -> str:
    """A number of bytes to read.

    >>> size(1536), size(5)
    ('1.5 KiB', '5 B')
    """
    for unit, length in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= length:
            return f"{value / length:.3g} {unit}"
    return f"{value} B"


def bars(histogram: Mapping[int, int]) -> str:
    """A tiny histogram from the smallest to the largest value.

    >>> bars({0: 1, 1: 4, 3: 8})
    '▁▄ █'
    """
    if not histogram:
        return ""
    low, high = min(histogram), max(histogram)
    step = (high - low) // _MOST_BARS + 1
    counts = [0] * ((high - low) // step + 1)
    for value, count in histogram.items():
        counts[(value - low) // step] += count
    most = max(counts)
    return "".join(_BARS[-(-8 * count // most) - 1] if count else " " for count in counts)


def print_facts(
    screen: "Console", title: str, about: str, facts: Sequence[tuple[str, str]]
) -> None:
    """A title, what it is about, and names with their values below each other, wrapped."""
    from rich.markup import escape

    width = max((len(name) for name, _ in facts), default=0)
    screen.print(f"[bold]{escape(title)}[/] {escape(about)}".rstrip())
    room = max(20, screen.width - width - 4)
    for name, value in facts:
        lines = wrap(value, room, break_long_words=False, break_on_hyphens=False)
        for number, line in enumerate(lines or [""]):
            screen.print(f"  {'' if number else name:{width}}  {line}", markup=False)


def workers(count: int) -> str:
    """So many workers.

    >>> workers(1)
    '1 worker'
    """
    return f"{count} worker{'s' if count > 1 else ''}"


def print_table(screen: "Console", headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table of texts; all columns but the first are aligned to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table: Table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    screen.print()
    screen.print(table, soft_wrap=False)


def print_gaps(
    screen: "Console",
    gaps: Sequence[Mapping[str, Any]],
    beside: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """A table with the gaps of each block, 1 next to the data, and a tiny histogram.

    `beside` are more columns by their headings, with a text for each block.
    """
    beside = beside or {}
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table: Table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("block", "mean gap", "min", "max", *beside):
        table.add_column(heading, justify="right")
    table.add_column("from min to max")
    for row, gap in enumerate(gaps[:_MOST_BLOCKS]):
        histogram = {int(value): count for value, count in gap["histogram"].items()}
        mean = "-" if gap["mean"] is None else f"{gap['mean']:.2f}"
        ends = ["-" if gap[end] is None else str(gap[end]) for end in ("min", "max")]
        more = [column[row] for column in beside.values()]
        table.add_row(str(gap["block"]), mean, *ends, *more, bars(histogram))
    screen.print()
    screen.print(table, soft_wrap=False)
    if len(gaps) > _MOST_BLOCKS:
        screen.print(f"  ... and {len(gaps) - _MOST_BLOCKS} more blocks; --json has them all")


def print_memory(screen: "Console", rows: Sequence[Mapping[str, Any]]) -> None:
    """A table of what each worker held at most, predicted and measured, in whole kilobytes."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table: Table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("worker")
    table.add_column("held at most")
    for heading in ("predicted kB", "measured kB"):
        table.add_column(heading, justify="right")
    last = ""
    for row in rows:
        sizes = (f"{row[f'{side}_bytes'] / 1000:,.1f}" for side in ("predicted", "measured"))
        table.add_row("" if row["worker"] == last else row["worker"], row["category"], *sizes)
        last = row["worker"]
    screen.print()
    screen.print(table, soft_wrap=False)


def print_timetable(screen: "Console", trace: "Trace") -> None:
    """Draw a short trace whose times are a few ticks; nothing for others."""
    header = trace.header
    few = len(header.workers) <= _MOST_WORKERS and header.batches <= _MOST_BATCHES
    if not few or trace.end > _MOST_TICKS:
        return
    from simcore.timetable import draw

    # Cells are two spaces apart and never empty; names have single spaces.
    rows = [re.split(" {2,}", line) for line in draw(trace).splitlines()]
    unit = seconds(float(header.tick_s))
    screen.print(f"\ntimetable: F2:5 is block 2 forward, batch 5; a column is {unit}")
    names = max(len(row[0]) for row in rows)
    cells = max(len(cell) for row in rows for cell in row[1:]) + 1
    fitting = max(1, (screen.width - names - 1) // cells)
    for first in range(1, len(rows[0]), fitting):
        screen.print()
        for row in rows:
            shown = "".join(cell.ljust(cells) for cell in row[first : first + fitting])
            screen.print(f"{row[0]:{names}}  {shown}".rstrip(), markup=False)
