"""Gap histograms: how stale the gradients of each block were, traces side by side."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from analysis.plots_style import (
    INK,
    MUTED,
    WIDTH_IN,
    new_figure,
    set_plain,
    tidy,
    trace_colour,
)
from simcore.staleness import GapSummary, gap_summaries
from simcore.trace import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_gap_histograms"]

_MOST_BARS: Final = 32  # of a trace in a panel
_BAR_SHARE: Final = 0.84  # of the x axis; the rest parts the gaps
_LEFT_IN, _RIGHT_IN, _TOP_IN, _BOTTOM_IN = 0.72, 0.08, 0.62, 0.52


def draw_gap_histograms(traces: Sequence[tuple[str, Trace]]) -> "Figure":
    """Draw, for each block, the share of its gradients that had each gap, traces side by side.

    Each trace comes with its label, the predicted one first. All panels share both axes, so that
    blocks can be compared; where gaps spread far, neighbouring gaps share a bar.
    """
    blocks = max(trace.header.blocks for _, trace in traces)
    summaries = [{found.block: found for found in gap_summaries(trace)} for _, trace in traces]
    largest = max((found.max or 0 for of in summaries for found in of.values()), default=0)
    step = largest // _MOST_BARS + 1
    figure, panels = _layout(blocks)
    for block, axes in enumerate(panels, 1):
        _draw_panel(axes, [of.get(block) for of in summaries], [label for label, _ in traces], step)
        axes.set_title(f"block {block}", loc="left", fontsize=8.5, color=INK, pad=3)
    _label(figure, panels[0], step, largest)
    return figure


def _layout(blocks: int) -> "tuple[Figure, list[Axes]]":
    """A figure with a panel for each block; only those at its edges have ticks with labels."""
    columns = min(blocks, 6 if blocks > 20 else 4 if blocks % 5 else 5)
    rows = -(-blocks // columns)
    height_in = _TOP_IN + _BOTTOM_IN + rows * (1.9 if rows == 1 else 1.35)
    figure = new_figure(WIDTH_IN, height_in)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    figure.subplots_adjust(
        left=_LEFT_IN / WIDTH_IN,
        right=1 - _RIGHT_IN / WIDTH_IN,
        bottom=_BOTTOM_IN / height_in,
        top=1 - _TOP_IN / height_in,
        wspace=0.07,
        hspace=0.36,
    )
    panels = list(grid.flat)
    for number, axes in enumerate(panels):
        axes.set_visible(number < blocks)
        tidy(axes, grid="y")
        axes.tick_params(labelbottom=number + columns >= blocks)
    return figure, panels[:blocks]


def _draw_panel(
    axes: "Axes", summaries: Sequence[GapSummary | None], labels: Sequence[str], step: int
) -> None:
    width = _BAR_SHARE * step / len(summaries)
    means = []
    for place, (summary, label) in enumerate(zip(summaries, labels, strict=True)):
        shares = _shares(summary.histogram if summary else {}, step)
        left = np.array(list(shares)) + step / 2 - 0.5 + (place - len(summaries) / 2) * width
        axes.bar(
            left, list(shares.values()), width, align="edge", color=trace_colour(place), label=label
        )
        mean = None if summary is None else summary.mean
        means.append("none" if mean is None else f"{mean:.2f}")
    axes.set_title(f"mean {' / '.join(means)}", loc="right", fontsize=7.5, color=MUTED, pad=3)


def _shares(histogram: Mapping[int, int], step: int) -> dict[int, float]:
    """Share of the gradients whose gap is in each group of `step` gaps, by its first gap.

    >>> _shares({0: 1, 1: 2, 2: 1}, 2)
    {0: 0.75, 2: 0.25}
    """
    counts: dict[int, int] = {}
    for gap, count in histogram.items():
        counts[gap // step * step] = counts.get(gap // step * step, 0) + count
    total = sum(counts.values())
    return {gap: count / total for gap, count in sorted(counts.items())}


def _label(figure: "Figure", axes: "Axes", step: int, largest: int) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    last = max(largest, 3) // step * step + step - 1
    axes.set_xlim(-0.6, last + 0.6)
    axes.set_ylim(0, min(1.0, axes.get_ylim()[1]))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    groups = f", in groups of {step}" if step > 1 else ""
    gap = f"gap: updates between reading the weights and applying the gradient{groups}"
    data = "; block 1 is next to the data" if len(figure.axes) > 1 else ""
    figure.supxlabel(
        gap + data, y=0.07 / figure.get_figheight(), va="bottom", fontsize=9, color=INK
    )
    figure.supylabel("share of gradients", x=0.08 / WIDTH_IN, ha="left", fontsize=9, color=INK)
    legend = figure.legend(
        *axes.get_legend_handles_labels(),
        loc="upper right",
        bbox_to_anchor=(1 - _RIGHT_IN / WIDTH_IN, 1),
        ncols=4,
        frameon=False,
        fontsize=8.5,
        borderaxespad=0.3,
        handlelength=1.3,
    )
    set_plain(legend.get_texts())
