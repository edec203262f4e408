"""Memory of each worker over time, stacked by what it is for; and what workers do all the time."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from analysis.memory_comparison import predicted_by
from analysis.plots_style import (
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
from executor.memory_rows import BESIDES, HELD, held_by
from simcore.holdings import CATEGORIES
from simcore.memory import Memory, memory_of, memory_over_time
from simcore.occupancy import STATES, occupancy
from simcore.schedule import Schedule
from simcore.trace import Trace
from simcore.workload import Workload

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_measured_memory", "draw_memory", "draw_occupancy"]

# What stays is dark and what comes and goes is bright; idle states are pale.
_OF_CATEGORIES: Final = dict(
    zip(
        CATEGORIES,
        ("#1f4e79", "#4f6d8a", "#e0b040", "#56b4e9", "#8ec3eb", "#7a3b69", "#cc79a7", "#a23b2a",
         "#8a8f96"),
        strict=True,
    )
)  # fmt: skip
_OF_BESIDES: Final = dict(zip(BESIDES, ("#b7d7b0", "#dfe8c8", "#d8c3d4", "#d9dce0"), strict=True))
_OF_STATES: Final = dict(
    zip(
        STATES,
        ("#1f4e79", "#56b4e9", "#8ec3eb", "#59a98a", "#f0b8a8", "#d9826a", "#f3dfa2", "#b9bec5",
         "#e3e6ea", "#eef0f2"),
        strict=True,
    )
)  # fmt: skip
_MOST_WORKERS: Final = 24
_MOST_STEPS: Final = 2000  # of a curve; more could not be told apart
_RIGHT_IN, _TOP_IN, _BOTTOM_IN = 0.12, 0.5, 0.5
_UNITS: Final = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "bytes"))


def draw_memory(trace: Trace, schedule: Schedule, workload: Workload) -> "Figure | None":
    """Draw the bytes of each worker over time, stacked by category; None without sizes.

    All panels share their axes. Of many workers the first ones are drawn. Where a curve has more
    steps than can be told apart, the largest of neighbouring ones is drawn.
    """
    found = memory_of(trace, schedule, workload)
    if found is None:
        return None
    holdings, peaks = found
    workers = trace.header.workers[:_MOST_WORKERS]
    memories = [memory_over_time(holdings, worker) for worker in range(len(workers))]
    largest = max(peak.bytes for peak in peaks[: len(workers)])
    unit, unit_name = next(each for each in _UNITS if largest >= each[0] or each[0] == 1)
    second, second_name = time_unit(trace.seconds(trace.end - trace.start))
    figure = _figure(workers, 1.0)
    panels = figure.subplots(len(workers), 1, sharex=True, sharey=True, squeeze=False)
    used = [
        name for at, name in enumerate(CATEGORIES) if any(m.held[:, at].any() for m in memories)
    ]
    for axes, memory, name in zip(panels.flat, memories, workers, strict=True):
        ticks, held = _thinned(_until(memory, trace.end))
        times = trace.seconds(ticks - trace.start) * second
        axes.stackplot(
            times,
            *(held[:, CATEGORIES.index(each)] / unit for each in used),
            step="post",
            colors=[_OF_CATEGORIES[each] for each in used],
            labels=used,
            linewidth=0,
        )
        _name(axes, name)
    last = panels.flat[-1]
    last.set_xlim(0, max(trace.seconds(trace.end - trace.start) * second, 1e-12))
    last.set_ylim(0, 1.05 * max(largest / unit, 1e-12))
    last.set_xlabel(f"time in {second_name}", fontsize=9, color=INK)
    panels.flat[0].set_title(f"memory in {unit_name}", loc="left", fontsize=9, color=INK)
    _legend(figure, last)
    return figure


def draw_measured_memory(
    memory: NDArray[np.void], trace: Trace, schedule: Schedule, workload: Workload
) -> "Figure":
    """Draw what each worker of a real run held, stacked by category, and the total predicted.

    `memory` was measured in the run of `trace`. The prediction is the line; what is stacked above
    the categories that are predicted is pale. Of many workers the first ones are drawn.
    """
    workers = trace.header.workers[:_MOST_WORKERS]
    measured = held_by(memory, trace)[: len(workers)]
    predicted = predicted_by(trace, schedule, workload)[: len(workers)]
    largest = max(int(each.bytes.sum(1).max()) for each in (*measured, *predicted))
    unit, unit_name = next(each for each in _UNITS if largest >= each[0] or each[0] == 1)
    second, second_name = time_unit(trace.seconds(trace.end - trace.start))
    figure = _figure(workers, 1.0)
    panels = figure.subplots(len(workers), 1, sharex=True, sharey=True, squeeze=False)
    colours = _OF_CATEGORIES | _OF_BESIDES
    used = [name for at, name in enumerate(HELD) if any(m.bytes[:, at].any() for m in measured)]
    for axes, found, line, name in zip(panels.flat, measured, predicted, workers, strict=True):
        ticks, held = _thinned((found.ticks, found.bytes))
        axes.stackplot(
            trace.seconds(ticks - trace.start) * second,
            *(held[:, HELD.index(each)] / unit for each in used),
            step="post",
            colors=[colours[each] for each in used],
            labels=used,
            linewidth=0,
        )
        ticks, held = _thinned((line.ticks, line.bytes))
        times = trace.seconds(ticks - trace.start) * second
        axes.step(
            times, held.sum(1) / unit, where="post", color=INK, linewidth=1, label="predicted"
        )
        _name(axes, name)
    last = panels.flat[-1]
    last.set_xlim(0, max(trace.seconds(trace.end - trace.start) * second, 1e-12))
    last.set_ylim(0, 1.05 * max(largest / unit, 1e-12))
    last.set_xlabel(f"time in {second_name}", fontsize=9, color=INK)
    panels.flat[0].set_title(f"memory held, in {unit_name}", loc="left", fontsize=9, color=INK)
    _legend(figure, last)
    return figure


def draw_occupancy(trace: Trace) -> "Figure":
    """Draw what share of the makespan each worker spends in each state (`simcore.occupancy`).

    Of many workers the first ones are drawn.
    """
    workers = trace.header.workers[:_MOST_WORKERS]
    shares = occupancy(trace)[: len(workers)] / max(1, trace.end - trace.start)
    figure = _figure(workers, 0.3)
    axes = figure.subplots()
    tidy(axes, grid="x")
    left = np.zeros(len(workers))
    for at, state in enumerate(STATES):
        if shares[:, at].any():
            axes.barh(
                range(len(workers)),
                shares[:, at],
                0.8,
                left=left,
                color=_OF_STATES[state],
                label=state,
            )
            left += shares[:, at]
    for row, busy in enumerate(shares[:, :4].sum(axis=1).tolist()):
        text = axes.annotate(percent(busy), (0, row), (4, 0), textcoords="offset points")
        text.set(va="center_baseline", fontsize=8, color="white" if busy > 0.08 else INK)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(workers) - 0.5, -0.5)  # the first worker on top
    axes.set_yticks(range(len(workers)), workers, fontsize=8)
    set_plain(axes.get_yticklabels())
    axes.set_title("what workers do", loc="left", fontsize=9, color=INK)
    axes.set_xlabel("share of the makespan; figures say how much is busy", fontsize=9, color=INK)
    _legend(figure, axes)
    return figure


def _figure(workers: Sequence[str], row_in: float) -> "Figure":
    height_in = _TOP_IN + _BOTTOM_IN + row_in * len(workers)
    left_in = 0.6 + 0.07 * max(map(len, workers), default=0)
    figure = new_figure(WIDTH_IN, height_in)
    figure.subplots_adjust(
        left=left_in / WIDTH_IN,
        right=1 - _RIGHT_IN / WIDTH_IN,
        bottom=_BOTTOM_IN / height_in,
        top=1 - _TOP_IN / height_in,
        hspace=0.15,
    )
    return figure


def _name(axes: "Axes", worker: str) -> None:
    from matplotlib.ticker import MaxNLocator

    tidy(axes, grid="y")
    axes.yaxis.set_major_locator(MaxNLocator(3))
    label = axes.set_ylabel(worker, rotation=0, ha="right", va="center", fontsize=8, color=MUTED)
    label.set(x=0)
    axes.yaxis.labelpad = 12
    plain(label)


def _until(memory: Memory, end: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The curve, held on to the end of the run."""
    if not len(memory.ticks):
        return np.array([end]), np.zeros((1, len(CATEGORIES)), np.int64)
    return np.append(memory.ticks, end), np.vstack([memory.held, memory.held[-1:]])


def _thinned(
    curve: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The largest of neighbouring steps, if there are too many."""
    ticks, held = curve
    if len(ticks) <= _MOST_STEPS:
        return curve
    total = held.sum(axis=1)
    parts: Sequence[NDArray[np.int64]] = np.array_split(np.arange(len(ticks)), _MOST_STEPS)
    kept = [part[int(total[part].argmax())] for part in parts]
    return ticks[[part[0] for part in parts]], held[kept]


def _legend(figure: "Figure", axes: "Axes") -> None:
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="upper right",
        bbox_to_anchor=(1 - _RIGHT_IN / WIDTH_IN, 1),
        ncols=10,
        frameon=False,
        fontsize=8,
        handlelength=1.1,
        columnspacing=1.2,
        borderaxespad=0.3,
    )
