"""Pictures of a sweep: a heat map over two axes, or lines over one with a second as colour."""

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from analysis.plots_style import (
    FAINT,
    INK,
    MUTED,
    WIDTH_IN,
    line_style,
    new_figure,
    plain,
    set_plain,
    tidy,
)
from analysis.sweeps.answer import MEASURES
from analysis.sweeps.store import Found
from analysis.sweeps.view import SCHEDULE, Place, View, axis_title, value_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_heat_maps", "draw_lines"]

_COLUMNS: Final = 3
_MOST_TICKS: Final = 12
_MOST_DOTS: Final = 40
_PANEL_IN: Final = 3.1
_MOST_ROWS: Final = 16  # of a panel; the cells of more are not written into it
_CELLS_PER_IN: Final = 2.3  # nor are narrower ones
_LETTERS_PER_IN: Final = 13
_UNITS: Final = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"))


def draw_heat_maps(view: View, measure: str) -> "Figure":
    """Draw a measure over the view's two axes, a panel for each schedule, all in one scale.

    Cells are as wide for small as for large values; those without a value are grey. A schedule
    without one of the axes is named instead.
    """
    x_axis, y_axis = view.over
    shown: tuple[str | None, ...] = (None,)
    if SCHEDULE not in view.over:
        shown = tuple(dict.fromkeys(r.schedule for r in view.rows if value_of(r, y_axis) != ""))
    xs, ys = view.places(x_axis), view.places(y_axis)
    scale, title = _scaled(view.rows, measure)
    tables = [_table(view, schedule, measure) * scale for schedule in shown]
    figure, panels = _panels(len(tables))
    known = np.concatenate([table[~np.isnan(table)] for table in tables])
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    image = None
    for axes, table, schedule in zip(panels, tables, shown, strict=True):
        axes.set_facecolor(FAINT)
        masked = np.ma.masked_invalid(table)
        image = axes.imshow(masked, origin="lower", aspect="auto", vmin=low, vmax=high)
        tidy(axes)
        _ticks(axes.set_xticks, xs)
        _ticks(axes.set_yticks, ys)
        across = len(xs) * min(len(panels), _COLUMNS)
        if len(ys) <= _MOST_ROWS and across <= _CELLS_PER_IN * figure.get_figwidth():
            _write_cells(axes, table, low, high)
        plain(axes.set_title(schedule or "", fontsize=10, color=INK, loc="left"))
        axes.set_xlabel(axis_title(x_axis), fontsize=9, color=INK)
    for axes in panels[::_COLUMNS]:
        axes.set_ylabel(axis_title(y_axis), fontsize=9, color=INK)
    assert image is not None
    bar = figure.colorbar(image, ax=list(panels), fraction=0.05, pad=0.02)
    bar.set_label(title, fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK)
    grey = any(np.isnan(table).any() for table in tables)
    remark = "grey: no such configuration, or refused" if grey else ""
    without = [name for name in view.schedules() if name not in shown and None not in shown]
    _head(figure, title, view, remark, _lacking(y_axis, without))
    return figure


def draw_lines(view: View, measure: str) -> "Figure":
    """Draw a measure over the view's first axis.

    With a second axis, lines are its values and each schedule has a panel; else lines are
    schedules.
    """
    x_axis, by = view.over[0], view.over[1] if len(view.over) > 1 else SCHEDULE
    scale, title = _scaled(view.rows, measure)
    schedules = view.schedules() if by != SCHEDULE else (None,)
    figure, panels = _panels(len(schedules), share=True)
    for axes, schedule in zip(panels, schedules, strict=True):
        rows = [row for row in view.rows if schedule in (None, row.schedule)]
        for number, value in enumerate(view.places(by)):
            chosen = [row for row in rows if value_of(row, by) == value]
            label = f"{_short(value)}" if schedule is None else f"{axis_title(by)} {_short(value)}"
            _line(axes, _points(chosen, view, measure, scale), number, label)
        if axes.lines:
            legend = axes.legend(fontsize=8, frameon=False, ncols=2)
            set_plain(legend.get_texts())
        # A schedule without the second axis has one line, which needs no name.
        without = [row for row in rows if value_of(row, by) == ""]
        _line(axes, _points(without, view, measure, scale), 0, f"_{schedule}")
        tidy(axes, grid="both")
        if schedule is not None:
            plain(axes.set_title(schedule, fontsize=10, color=INK, loc="left"))
        if not _are_numbers(view.places(x_axis)):
            _ticks(axes.set_xticks, view.places(x_axis))
        elif all(isinstance(place, int) for place in view.places(x_axis)):
            axes.locator_params(axis="x", integer=True)
        axes.set_xlabel(axis_title(x_axis), fontsize=9, color=INK)
    for axes in panels[::_COLUMNS]:
        axes.set_ylabel(title, fontsize=9, color=INK)
    _head(figure, title, view)
    return figure


def _points(
    rows: Sequence[Found], view: View, measure: str, scale: float
) -> list[tuple[float, float]]:
    """Places on the first axis, by their order if they are no numbers, and values there."""
    places = view.places(view.over[0])
    found = []
    for row in rows:
        place, value = value_of(row, view.over[0]), row.answer.values.get(measure)
        if value is not None and place != "":
            at = place if _are_numbers(places) else places.index(place)
            found.append((float(at), value * scale))
    return sorted(found)


def _are_numbers(places: Sequence[Place]) -> bool:
    return all(isinstance(place, int | float) for place in places)


def _line(axes: "Axes", points: Sequence[tuple[float, float]], number: int, label: str) -> None:
    if not points:
        return
    style, dots = line_style(number), "o" if len(points) <= _MOST_DOTS else ""
    xs, ys = zip(*points, strict=True)
    axes.plot(xs, ys, color=style.colour, linestyle=style.dashes, marker=dots, ms=3, label=label)


def _table(view: View, schedule: str | None, measure: str) -> NDArray[np.float64]:
    """The measure in one schedule or all, shape (values of second axis, of first); nan: none."""
    xs, ys = view.places(view.over[0]), view.places(view.over[1])
    table = np.full((len(ys), len(xs)), np.nan)
    for row in view.rows:
        x, y = value_of(row, view.over[0]), value_of(row, view.over[1])
        value = row.answer.values.get(measure)
        if schedule in (None, row.schedule) and value is not None and "" not in (x, y):
            table[ys.index(y), xs.index(x)] = value
    return table


def _scaled(rows: Sequence[Found], measure: str) -> tuple[float, str]:
    """A factor on the values, and their title with the unit that they then have."""
    about = MEASURES[measure]
    if about.unit != "bytes":
        return 1.0, f"{about.title} ({about.unit})" if about.unit else about.title
    values = [row.answer.values.get(measure) or 0 for row in rows]
    for length, unit in _UNITS:
        if max(values, default=0) >= length:
            return 1 / length, f"{about.title} ({unit})"
    return 1.0, f"{about.title} (bytes)"


def _panels(count: int, share: bool = False) -> "tuple[Figure, list[Axes]]":
    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    width = WIDTH_IN if columns > 1 else 0.7 * WIDTH_IN
    figure = new_figure(width, 0.7 + rows * _PANEL_IN)
    figure.set_layout_engine("constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=share)
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    return figure, list(grid.flat[:count])


def _ticks(set_ticks: Any, places: Sequence[object]) -> None:
    step = -(-len(places) // _MOST_TICKS)
    chosen = range(0, len(places), step)
    set_ticks(list(chosen), [_short(places[place]) for place in chosen])


def _short(place: object) -> str:
    return f"{place:g}" if isinstance(place, float) else str(place)


def _write_cells(axes: "Axes", table: NDArray[np.float64], low: float, high: float) -> None:
    for (row, column), value in np.ndenumerate(table):
        if not np.isnan(value):
            bright = value > low + 0.6 * (high - low)
            text = f"{value:.3g}"
            colour = INK if bright else "white"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)


def _lacking(axis: str, schedules: Sequence[str]) -> str:
    return f"{', '.join(schedules)} without {axis_title(axis)}" if schedules else ""


def _head(figure: "Figure", title: str, view: View, *remarks: str) -> None:
    fixed = [f"{axis_title(name)} {_short(value)}" for name, value in view.fixed.items()]
    said = filter(None, (*remarks, _lacking(view.over[0], view.without)))
    words = [title, *fixed, *said]
    text = fill("; ".join(words), int(_LETTERS_PER_IN * figure.get_figwidth()))
    plain(figure.suptitle(text, fontsize=9, color=MUTED, x=0.01, ha="left"))
