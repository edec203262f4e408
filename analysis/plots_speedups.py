"""Speedups: predicted and measured bars per schedule, over backpropagation on one thread."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis.comparison import Row
from analysis.plots_style import (
    INK,
    MUTED,
    WIDTH_IN,
    new_figure,
    plain,
    set_plain,
    tidy,
    trace_colour,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_speedups"]

_TOP_IN, _BOTTOM_IN, _RIGHT_IN, _ROW_IN = 0.62, 0.5, 0.25, 0.46
_LABEL_LENGTH = 38


def draw_speedups(rows: Sequence[Row], all_cores: float | None = None) -> "Figure":
    """Draw each row's speedup over plain backpropagation on one thread, predicted and measured.

    That baseline is the line at 1; `all_cores`, the speedup of plain backpropagation on all cores,
    is a line too. A schedule pays if its bar passes both.
    """
    labels = [_shortened(row.label) for row in rows]
    left_in = 0.3 + 0.078 * max(map(len, labels), default=0)
    height_in = _TOP_IN + _BOTTOM_IN + _ROW_IN * max(1, len(rows))
    figure = new_figure(WIDTH_IN, height_in)
    axes = figure.add_axes(
        (
            left_in / WIDTH_IN,
            _BOTTOM_IN / height_in,
            1 - (left_in + _RIGHT_IN) / WIDTH_IN,
            1 - (_TOP_IN + _BOTTOM_IN) / height_in,
        )
    )
    tidy(axes, grid="x")
    axes.set_ylim(max(1, len(rows)) - 0.5, -0.5)  # the first row on top
    axes.set_yticks(range(len(rows)), labels, fontsize=9)
    set_plain(axes.get_yticklabels())
    predicted = [row.speedup_one_thread.predicted for row in rows]
    measured = [row.speedup_one_thread.measured for row in rows]
    _draw_bars(axes, predicted, "predicted", 0)
    _draw_bars(axes, measured, "measured", 1)
    axes.set_xlim(0, 1.08 * max(filter(None, (1.0, all_cores, *predicted, *measured))))
    _draw_baselines(axes, all_cores)
    axes.set_xlabel("speedup over plain backpropagation on one thread", fontsize=9, color=INK)
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="upper left",
        bbox_to_anchor=(0.005, 1),
        ncols=2,
        frameon=False,
        fontsize=8.5,
        handlelength=1.3,
        borderaxespad=0.3,
    )
    return figure


def _shortened(label: str) -> str:
    return label if len(label) <= _LABEL_LENGTH else f"{label[: _LABEL_LENGTH - 1]}…"


def _draw_bars(axes: "Axes", speedups: Sequence[float | None], label: str, place: int) -> None:
    height = 0.38
    rows = [row for row, speedup in enumerate(speedups) if speedup is not None]
    known = [speedup for speedup in speedups if speedup is not None]
    places = [row + (place - 0.5) * height for row in rows]
    axes.barh(places, known, height, color=trace_colour(place), label=label)
    for y, speedup in zip(places, known, strict=True):
        text = axes.annotate(
            f"{speedup:.2f}", (speedup, y), (3, 0), textcoords="offset points", zorder=4
        )
        text.set(va="center_baseline", fontsize=8, color=INK)
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85})


def _draw_baselines(axes: "Axes", all_cores: float | None) -> None:
    """Lines at both baselines, their names above; each is on its own side, away from the other."""
    from matplotlib.patheffects import withStroke

    lines = [(1.0, "one thread")] + ([] if all_cores is None else [(all_cores, "all cores")])
    for place, (speedup, name) in enumerate(sorted(lines)):
        dashes = "--" if name == "one thread" else "-"
        line = axes.axvline(speedup, color=INK, linewidth=1.1, linestyle=dashes, zorder=3)
        line.set_snap(False)
        line.set_path_effects([withStroke(linewidth=2.6, foreground="white")])
        side = "right" if place == 0 and len(lines) > 1 else "left"
        text = axes.annotate(
            f"backpropagation, {name}",
            (speedup, 1),
            (-3 if side == "right" else 3, 4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
        )
        text.set(ha=side, va="bottom", fontsize=8, color=MUTED)
        plain(text)
