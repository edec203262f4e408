"""Timelines: what each worker did when, traces below each other on one time axis."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from analysis.plots_boxes import (
    COMPUTE,
    LOOKS,
    OUTLINE_POINTS,
    PASSES_UP,
    View,
    draw_boxes,
    draw_numbers,
    draw_outline,
    fitting_size,
)
from analysis.plots_style import (
    FAINT,
    INK,
    MUTED,
    WIDTH_IN,
    new_figure,
    percent,
    plain,
    set_plain,
    tidy,
    time_unit,
)
from simcore.trace import Trace

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_timelines"]

_TOP_IN, _BOTTOM_IN, _BETWEEN_IN, _RIGHT_IN = 0.56, 0.5, 0.34, 0.55


def draw_timelines(
    traces: Sequence[tuple[str, Trace]],
    window_s: tuple[float, float] | None = None,
    *,
    from_batch: int | None = None,
    batches: int = 6,
) -> "Figure":
    """Draw what each worker did when: the traces below each other, on one shared time axis.

    Each trace comes with its label, the predicted one first. Boxes hold batch numbers where there
    is room; the passes of one batch are outlined, so that it can be followed. The share of the
    window in which a worker computes stands at the right.

    By default every trace is shown from the moment at which it starts batch `from_batch` (None:
    one in the middle of the run; 0: the start of the run), for as long as the slowest trace needs
    on average for `batches` batches. So the same batches are above each other even where the
    prediction is off. `window_s` shows instead these seconds from each trace's first operation.
    """
    first = 0 if window_s is not None else _first_batch(traces, from_batch, batches)
    begin_s, end_s = window_s or (0.0, _duration_s(traces, first, batches))
    scale, unit = time_unit(end_s - begin_s)
    window = begin_s * scale, end_s * scale
    views = [View.of(trace, _taken(trace, first), window, scale) for _, trace in traces]
    outlined = _outlined_batch(views, first)

    figure, all_axes = _layout([trace for _, trace in traces])
    for axes, (label, trace), view in zip(all_axes, traces, views, strict=True):
        axes.set_xlim(window)
        _draw_rows(axes, trace)
        draw_boxes(axes, view)
        draw_outline(axes, view, outlined)
        draw_numbers(axes, view)
        _draw_busy(axes, view, len(trace.header.workers))
        plain(axes.set_title(label, loc="left", fontsize=10, fontweight="bold", color=INK, pad=5))
    at = "the run" if first == 0 else f"batch {first}"
    since = f"since the start of {at}" + (", in each" if len(traces) > 1 else "")
    all_axes[-1].set_xlabel(f"{unit} {since}", fontsize=9, color=INK)
    _draw_legend(figure, views, outlined)
    return figure


# What is seen


def _taken(trace: Trace, batch: int) -> int:
    """The tick at which the first forward pass of a batch starts; that of the trace if none."""
    forward = trace.spans[np.isin(trace.spans["kind"], PASSES_UP)]
    starts = forward["start"][forward["batch"] == batch]
    return int(starts.min()) if batch > 0 and len(starts) else trace.start


def _first_batch(traces: Sequence[tuple[str, Trace]], wanted: int | None, batches: int) -> int:
    """The first batch of the window, one that every trace has."""
    last = min(trace.header.batches for _, trace in traces) - 1
    return max(0, (last + 1 - batches) // 2) if wanted is None else min(wanted, last)


def _duration_s(traces: Sequence[tuple[str, Trace]], first: int, batches: int) -> float:
    """Seconds that the slowest trace needs for so many batches, by its mean over the run.

    At least as many as it needs for the first one's way up: a real run may start slowly.
    """
    durations = []
    for _, trace in traces:
        mean_s = trace.seconds(trace.end - trace.start) * min(1.0, batches / trace.header.batches)
        up = trace.spans[np.isin(trace.spans["kind"], PASSES_UP) & (trace.spans["batch"] == first)]
        way_up = int(up["end"].max()) - _taken(trace, first) if len(up) else 0
        durations.append(max(mean_s, trace.seconds(way_up)))
    return float(max(durations)) or 1.0


def _outlined_batch(views: Sequence[View], first: int) -> int | None:
    """The batch to follow: the earliest, from `first` on, that goes forward in every view."""
    sets = []
    for view in views:
        batches = view.of_kinds(PASSES_UP).spans["batch"]
        sets.append(set(batches[batches >= first].tolist()))
    return min(set.intersection(*sets), default=None)


# What is drawn


def _layout(traces: Sequence[Trace]) -> "tuple[Figure, list[Axes]]":
    """A figure with an axes for each trace, with the same height of a row and one time axis."""
    rows = [max(1, len(trace.header.workers)) for trace in traces]
    row_in = float(np.clip(5.5 / sum(rows), 0.13, 0.36))
    names = [name for trace in traces for name in trace.header.workers]
    left_in = 0.35 + 0.075 * min(24, max(map(len, names), default=0))
    height_in = _TOP_IN + _BOTTOM_IN + sum(rows) * row_in + _BETWEEN_IN * (len(rows) - 1)
    figure = new_figure(WIDTH_IN, height_in)
    found: list[Axes] = []
    top_in = height_in - _TOP_IN
    for count in rows:
        top_in -= count * row_in
        place = (
            left_in / WIDTH_IN,
            top_in / height_in,
            1 - (left_in + _RIGHT_IN) / WIDTH_IN,
            count * row_in / height_in,
        )
        axes = figure.add_axes(place, sharex=found[0] if found else None)
        tidy(axes, grid="x")
        axes.tick_params(labelbottom=len(found) == len(rows) - 1)
        found.append(axes)
        top_in -= _BETWEEN_IN
    return figure, found


def _draw_rows(axes: "Axes", trace: Trace) -> None:
    workers = trace.header.workers
    axes.set_ylim(max(1, len(workers)) - 0.5, -0.5)  # the first worker on top
    names = [name if len(name) <= 24 else f"{name[:23]}…" for name in workers]
    axes.set_yticks(range(len(workers)), names, fontsize=fitting_size(axes, 8.5))
    set_plain(axes.get_yticklabels())
    for row in range(1, len(workers)):
        axes.axhline(row - 0.5, color=FAINT, linewidth=0.6, zorder=0.5)


def _draw_busy(axes: "Axes", view: View, workers: int) -> None:
    """Write the share of the window in which each worker computes to the right of its row."""
    computing = view.of_kinds(COMPUTE)
    durations = computing.end - computing.start
    busy = np.bincount(computing.spans["worker"], weights=durations, minlength=workers)
    begin, end = axes.get_xlim()
    for row, share in enumerate((busy / (end - begin)).tolist()):
        text = axes.text(1.05, row, percent(share), transform=axes.get_yaxis_transform())
        text.set(color=MUTED, ha="right", va="center_baseline", fontsize=fitting_size(axes, 8))
    heading = axes.annotate(
        "busy", (1.05, 1), (0, 5), xycoords="axes fraction", textcoords="offset points"
    )
    heading.set(color=MUTED, ha="right", fontsize=8)


def _draw_legend(figure: "Figure", views: Sequence[View], outlined: int | None) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Artist] = []
    for name, look in LOOKS.items():
        if not any(np.isin(view.spans["kind"], look.codes).any() for view in views):
            continue
        if look.height > 0.5:
            handles.append(Patch(facecolor=look.colour, label=name))
        else:
            handles.append(Line2D([], [], color=look.colour, linewidth=4, label=name))
    if outlined is not None:
        frame = Patch(fill=False, edgecolor="black", linewidth=OUTLINE_POINTS)
        frame.set_label(f"batch {outlined}")
        handles.append(frame)
    figure.legend(
        handles=handles,
        loc="upper right",
        bbox_to_anchor=(figure.axes[0].get_position().x1, 1),
        ncols=max(1, len(handles)),
        frameon=False,
        fontsize=8.5,
        borderaxespad=0.3,
        handlelength=1.3,
        columnspacing=1.4,
    )
