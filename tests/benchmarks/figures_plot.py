"""Cost against workers and against batches, drawn from the result of the benchmark of figures.

python -m tests.benchmarks.figures --json figures.json
python -m tests.benchmarks.figures_plot figures.json docs/images/cost-of-figures.png
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from analysis.plots_style import line_style, new_figure, save_png, tidy
from simcore.errors import InputError
from tests.benchmarks.results import Result

__all__ = ["plot"]

_WORKERS: Final = 64
_PASSES: Final = 10_000


def plot(result: Result, path: Path) -> None:
    """Two panels: seconds by workers for 10,000 mini-batches, and by mini-batches for 64 workers.

    Raises `InputError` for the result of another benchmark.
    """
    if result.name != "figures":
        rule = "must be that of the benchmark of figures"
        raise InputError("result", result.name, rule, "run python -m tests.benchmarks.figures")
    rows = [
        row for row in result.rows if row["schedule"] == "fdg" and row["SimPy, million/s"] is None
    ]
    by_workers = [row for row in rows if row["passes"] == _PASSES]
    by_passes = [row for row in rows if row["workers"] == _WORKERS]
    figure = new_figure(9.0, 3.4)
    panels = figure.subplots(1, 2)
    _panel(panels[0], by_workers, "workers", f"{_PASSES:,} mini-batches")
    _panel(panels[1], by_passes, "passes", f"{_WORKERS} workers")
    panels[1].set_xlabel("mini-batches")
    panels[0].set_ylabel("seconds, building included")
    figure.tight_layout()
    save_png(figure, path)


def _panel(axes: Any, rows: Sequence[Any], key: str, title: str) -> None:
    points = sorted((row[key], row["slim, ms"] / 1e3) for row in rows)
    style = line_style(0)
    axes.loglog(*zip(*points, strict=True), color=style.colour, marker="o", markersize=4)
    axes.set_xlabel(key)
    axes.set_title(f"FDG, {title}", loc="left", fontsize=10)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    tidy(axes, "both")


if __name__ == "__main__":
    plot(Result.read(json.loads(Path(sys.argv[1]).read_text("utf-8"))), Path(sys.argv[2]))
