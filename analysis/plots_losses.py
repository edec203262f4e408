"""Losses: how fast each schedule learns, by batches and by seconds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from analysis.plots_style import INK, WIDTH_IN, line_style, new_figure, set_plain, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_losses"]

Losses = Sequence[tuple[int, float, float]]
Floats = NDArray[np.float64]

_SMOOTHED: Final = 0.05  # share of the longest run that a running mean covers, if not told
_LOGARITHMIC: Final = 8.0  # ratio of smoothed losses from which on the axis is logarithmic


def draw_losses(runs: Sequence[tuple[str, Losses]], smooth: int | None = None) -> "Figure":
    """Draw the loss over batches, and over seconds since the run's start; a line for each run.

    Each run comes with its label; its rows are (batch, loss, seconds). Lines are running means
    over `smooth` batches, such as those of an epoch (None: 5 % of the longest run); the losses
    themselves are faint behind them. Losses that are not finite are left out, and said so.
    """
    longest = max((len(rows) for _, rows in runs), default=1)
    window = max(1, round(_SMOOTHED * longest)) if smooth is None else smooth
    figure = new_figure(WIDTH_IN, 4.0 + 0.2 * (-(-len(runs) // 4) - 1))
    panels = figure.subplots(1, 2, sharey=True)
    drawn = []
    for number, (label, rows) in enumerate(runs):
        table = np.array(rows, dtype=float).reshape(-1, 3)
        finite = table[np.isfinite(table[:, 1])]
        lost = len(table) - len(finite)
        name = f"{label} ({lost} losses not finite)" if lost else label
        for axes, column in zip(panels, (0, 2), strict=True):
            line = finite[np.argsort(finite[:, column], kind="stable")]
            smoothed = running_mean(line[:, 1], window)
            _draw_line(axes, line[:, column], smoothed, name, number)
            faint = {"linewidth": 0.5, "alpha": 0.35 / len(runs) ** 0.5, "zorder": 1}
            axes.plot(line[:, column], line[:, 1], color=line_style(number).colour, **faint)
            drawn.append(smoothed)
    _set_scale(panels[0], np.concatenate(drawn) if drawn else np.empty(0))
    panels[0].set_xlabel("batches", fontsize=9, color=INK)
    panels[1].set_xlabel("seconds", fontsize=9, color=INK)
    unsmoothed = "" if window == 1 else f", running mean over {window} batches"
    panels[0].set_ylabel(f"training loss{unsmoothed}", fontsize=9, color=INK)
    _place(figure, panels[0], len(runs))
    return figure


def running_mean(values: Floats, window: int) -> Floats:
    """Means over windows around each value, shape as `values`; at the ends, over what there is.

    >>> running_mean(np.array([1.0, 2.0, 6.0]), 3).tolist()
    [1.5, 3.0, 4.0]
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    low = np.maximum(0, places - window // 2)
    high = np.minimum(len(values), places - window // 2 + window)
    means: Floats = (sums[high] - sums[low]) / (high - low)
    return means


def _draw_line(axes: "Axes", x: Floats, smoothed: Floats, label: str, number: int) -> None:
    style = line_style(number)
    axes.plot(x, smoothed, color=style.colour, linestyle=style.dashes, linewidth=1.6, label=label)
    axes.plot(x[-1:], smoothed[-1:], "o", color=style.colour, markersize=3.5)


def _set_scale(axes: "Axes", smoothed: Floats) -> None:
    """Room for the running means; raw losses may stand out of it."""
    if not len(smoothed):
        return
    low, high = float(smoothed.min()), float(smoothed.max())
    if low > 0 and high > _LOGARITHMIC * low:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.6, high * 1.4)
    else:
        margin = 0.15 * (high - low) or 0.1 * abs(high) or 1.0
        axes.set_ylim(min(0.0, low) if low < 2 * margin else low - margin, high + margin)


def _place(figure: "Figure", axes: "Axes", runs: int) -> None:
    """Place panels and legend, with the legend's rows above."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    height_in = figure.get_figheight()
    columns = 4
    top_in = 0.25 + 0.2 * -(-runs // columns)
    figure.subplots_adjust(
        left=0.065, right=0.985, bottom=0.5 / height_in, top=1 - top_in / height_in, wspace=0.06
    )
    for panel in figure.axes:
        tidy(panel, grid="both")
        panel.margins(x=0.02)
    if axes.get_yscale() == "log":
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.minorticks_off()
    legend = figure.legend(
        *axes.get_legend_handles_labels(),
        loc="upper left",
        bbox_to_anchor=(0.065, 1),
        ncols=columns,
        frameon=False,
        fontsize=8.5,
        handlelength=2.6,
        borderaxespad=0.2,
    )
    set_plain(legend.get_texts())
