"""Comparisons as tables for a terminal and for Markdown. Pure formatting.

Terminals may know no more than Latin-1, so the texts keep to it.
"""

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from analysis.comparison import Baselines, Comparison, Pair, Row

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

__all__ = [
    "baseline_line",
    "batch_unit",
    "footnotes",
    "gap_pair",
    "loss",
    "markdown",
    "number",
    "percent",
    "samples",
    "signed_percent",
    "table",
    "times",
]

UNKNOWN: Final = "-"
_UNITS: Final = ((1.0, 1.0, "s"), (1e-3, 1e3, "ms"), (0.0, 1e6, "µs"))


# Numbers in words


def number(value: float | None) -> str:
    """Three significant digits, never in powers of ten above 1.

    >>> number(12.345), number(12345.6), number(0.5), number(None), number(float("nan"))
    ('12.3', '12346', '0.500', '-', 'nan')
    """
    if value is None or not math.isfinite(value):
        return UNKNOWN if value is None else str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def times(value: float | None) -> str:
    """A speedup, such as `1.93×`."""
    return UNKNOWN if value is None else f"{value:.2f}×"


def percent(share: float | None, digits: int = 1) -> str:
    """A share in percent, such as `96.1 %`."""
    return UNKNOWN if share is None else f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def signed_percent(share: float | None) -> str:
    """A signed share in percent, such as `+3.2 %`."""
    return UNKNOWN if share is None else f"{100 * share:+.1f}\N{NO-BREAK SPACE}%"


def loss(value: float | None) -> str:
    """A loss; training that diverged may leave one that is not a number."""
    if value is not None and not math.isfinite(value):
        return "diverged"
    return UNKNOWN if value is None else f"{value:.4f}"


def gap_pair(row: Row) -> tuple[tuple[str, str], tuple[str, str]]:
    """Mean gap, predicted and measured, and largest gap likewise."""
    mean, most = row.gap_mean, row.gap_max
    return (
        (_gap(mean.predicted, 2), _gap(mean.measured, 2)),
        (_gap(most.predicted, 0), _gap(most.measured, 0)),
    )


def _gap(value: float | None, digits: int) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def batch_unit(rows: Iterable[Row]) -> tuple[float, str]:
    """Units per second, and the unit, in which the rows' seconds per batch read well together."""
    pairs = [row.batch_s for row in rows]
    known = [value for pair in pairs for value in (pair.predicted, pair.measured) if value]
    middle = statistics.median(known) if known else 1.0
    return next((scale, unit) for least, scale, unit in _UNITS if middle >= least)


def footnotes(rows: Sequence[Row]) -> list[str]:
    """The notes that differ, in order; their places from 1 on are the marks in the tables."""
    return list(dict.fromkeys(note for row in rows for note in row.notes))


def marks(row: Row, notes: Sequence[str]) -> str:
    """The numbers of a row's notes, such as `[1,3]`; nothing for none."""
    found = [str(notes.index(note) + 1) for note in row.notes]
    return f" [{','.join(found)}]" if found else ""


def baseline_line(baselines: Baselines, unit: tuple[float, str]) -> str:
    """What backpropagation itself takes, in one line; empty where it is not known."""
    scale, name = unit
    parts = [
        f"{number(value * scale)} {name} a batch on {where}"
        for value, where in (
            (baselines.one_thread_batch_s, "one thread"),
            (baselines.all_cores_batch_s, "all cores"),
        )
        if value is not None
    ]
    return f"Plain backpropagation takes {' and '.join(parts)}." if parts else ""


# Tables


def table(comparison: Comparison) -> "Table":
    """A table for a terminal of 120 columns, or of 80, where only schedules fold.

    Every schedule has two lines, what was predicted above what was measured.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    rows, unit = comparison.rows, batch_unit(comparison.rows)
    notes = footnotes(rows)
    lines = [
        f"{comparison.machine}{', ' if comparison.machine and comparison.date else ''}"
        f"{comparison.date}",
        baseline_line(comparison.baselines, unit),
        "error: of the predicted time; others: what other programs took of the machine",
        *(f"[{place}] {note}" for place, note in enumerate(notes, 1)),
    ]
    found = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        caption=Text("\n".join(filter(None, lines)), style="dim"),
        caption_justify="left",
        leading=1,
    )
    found.add_column("schedule", overflow="fold", min_width=10)
    found.add_column("", no_wrap=True)
    for name in _two_line_headers(unit[1]):
        found.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = (f"{above}\n{below}" for above, below in _two_line_cells(row, unit[0]))
        found.add_row(_name(row, notes), Text("predicted\nmeasured", style="dim"), *cells)
    return found


def _name(row: Row, notes: Sequence[str]) -> "Text":
    from rich.text import Text

    # Only spaces let a line break.
    label = re.sub(r"(?<=\w)([,:])(?=\w)", r"\1 ", row.label)
    found = Text(label + marks(row, notes), style="bold")
    plural = "s" if row.workers > 1 else ""
    about = f"{row.workers} worker{plural}, {row.runtime}"
    if row.samples_per_update is not None:
        about += f", {row.samples_per_update} samples an update"
    return found.append(f"\n{about}", style="not bold dim")


def _two_line_headers(unit: str) -> tuple[str, ...]:
    return (
        f"{unit} per\nbatch",
        "error\nothers",
        "speedup\n1 thread",
        "speedup\nall cores",
        "mean\ngap",
        "max\ngap",
        "loss\naccuracy",
    )


def _two_line_cells(row: Row, scale: float) -> tuple[tuple[str, str], ...]:
    def pair(of: Pair) -> tuple[str, str]:
        return times(of.predicted), times(of.measured)

    batch = tuple(None if s is None else s * scale for s in _both(row.batch_s))
    return (
        (number(batch[0]), number(batch[1])),
        (signed_percent(row.prediction_error), percent(row.disturbed)),
        pair(row.speedup_one_thread),
        pair(row.speedup_all_cores),
        *gap_pair(row),
        (loss(row.final_loss), percent(row.accuracy)),
    )


def _both(pair: Pair) -> tuple[float | None, float | None]:
    return pair.predicted, pair.measured


def markdown(comparison: Comparison) -> str:
    """A table in GitHub's Markdown, with machine and date above it and notes below."""
    rows = comparison.rows
    scale, unit = batch_unit(rows)
    notes = footnotes(rows)
    head = (
        "schedule", "workers", "samples per update", f"{unit} per batch", "error",
        "speedup over one thread", "over all cores", "mean gap", "largest gap", "final loss",
        "accuracy", "other programs",
    )  # fmt: skip
    lines = [
        _escaped(", ".join(filter(None, (comparison.machine, comparison.date)))),
        "",
        f"| {' | '.join(head)} |",
        f"|---{'|--:' * (len(head) - 1)}|",
    ]
    for row in rows:
        batch, (error, others), one, cores, mean, most, (final, share) = _two_line_cells(row, scale)
        cells = (
            row.label + marks(row, notes), str(row.workers), samples(row), _slashed(batch), error,
            _slashed(one), _slashed(cores), _slashed(mean), _slashed(most), final, share, others,
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(_escaped, cells))} |")
    told = "Two numbers are predicted / measured; the error is that of the predicted time."
    lines += [
        "",
        " ".join(filter(None, (told, baseline_line(comparison.baselines, (scale, unit))))),
    ]
    if notes:
        lines += ["", *(f"{place}. {_escaped(note)}" for place, note in enumerate(notes, 1))]
    return "\n".join(lines).lstrip("\n") + "\n"


def samples(row: Row) -> str:
    """The samples that an update sees."""
    return "" if row.samples_per_update is None else str(row.samples_per_update)


def _slashed(pair: tuple[str, str]) -> str:
    return " / ".join(pair)


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_\[\]<>|&#~])", r"\\\1", " ".join(text.split()))
