"""Cost against configurations and against replicas, drawn from the result of their benchmark.

python -m tests.benchmarks.sweeps --json sweeps.json
python -m tests.benchmarks.sweeps_plot sweeps.json docs/images/cost-of-sweeps.png
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from analysis.plots_style import line_style, new_figure, plain, save_png, set_plain, tidy
from simcore.errors import InputError
from tests.benchmarks.results import Result

__all__ = ["plot"]

_PANELS: Final = {
    "configurations": "a sweep on all cores, with its store",
    "replicas": "random times, 16 workers x 1,000 mini-batches",
}


def plot(result: Result, path: Path) -> None:
    """Two panels: seconds by configurations, and by replicas, beside one after the other.

    Raises `InputError` for the result of another benchmark.
    """
    if result.name != "sweeps":
        rule = "must be that of the benchmark of sweeps"
        raise InputError("result", result.name, rule, "run python -m tests.benchmarks.sweeps")
    figure = new_figure(9.0, 3.4)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(1, 2)
    for axes, (study, title) in zip(panels, _PANELS.items(), strict=True):
        _panel(axes, [row for row in result.rows if row["study"] == study], study, title)
    panels[0].set_ylabel("seconds")
    save_png(figure, path)


def _panel(axes: Any, rows: Sequence[Any], study: str, title: str) -> None:
    counts = [row["of"] for row in rows]
    alone = [row["of"] * row["one by one, ms"] / 1e3 for row in rows]
    together = [row["time, s"] for row in rows]
    for number, (name, seconds) in enumerate((("study", together), ("one by one", alone))):
        style = line_style(number)
        axes.loglog(
            counts, seconds, color=style.colour, ls=style.dashes, marker="o", ms=4, label=name
        )
    axes.set_xlabel(study)
    plain(axes.set_title(title, loc="left", fontsize=10))
    set_plain(axes.legend(fontsize=8, frameon=False).get_texts())
    tidy(axes)


if __name__ == "__main__":
    plot(Result.read(json.loads(Path(sys.argv[1]).read_text("utf-8"))), Path(sys.argv[2]))
