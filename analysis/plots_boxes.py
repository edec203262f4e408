"""Boxes of a timeline: what lies in a window of a trace, and how it is drawn into its rows.

The y axis counts workers from 0, one row each; the x axis has the unit of the view's times.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from analysis.plots_style import INK
from simcore.grid import LETTERS
from simcore.trace import KIND, Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "COMPUTE",
    "LOOKS",
    "OUTLINE_POINTS",
    "PASSES_UP",
    "Look",
    "View",
    "draw_boxes",
    "draw_numbers",
    "draw_outline",
    "fitting_size",
]


@dataclass(frozen=True, slots=True)
class Look:
    """How boxes of some kinds of spans look; `height` is a share of the row."""

    kinds: tuple[str, ...]
    colour: str
    text: str = "white"
    height: float = 0.8

    @property
    def codes(self) -> tuple[int, ...]:
        """The kinds as traces store them."""
        return tuple(KIND[kind] for kind in self.kinds)


# Safe for the colour-blind; in grey they differ by lightness, and messages by their height too.
LOOKS: Final = {
    "load": Look(("load",), "#b9b9b9", INK),
    "forward": Look(("forward", "evaluate"), "#8ec3eb", INK),
    "tangent": Look(("tangent",), "#5fa8a0", INK),
    "replay": Look(("replay",), "#d6e6f2", INK),
    "estimate": Look(("estimate", "refine"), "#e3c94f", INK),
    "backward": Look(("backward", "backward_input", "backward_through"), "#c2571a"),
    "weight gradient": Look(("backward_weight", "project"), "#eab08a", INK),
    "update": Look(("update", "snapshot", "merge"), "#35235d"),
    "message": Look(("send", "receive"), "#1f9e77", height=0.34),
    "all-reduce": Look(("join",), "#7d7d7d", height=0.34),
}
COMPUTE: Final = tuple(LETTERS)
OUTLINE_POINTS: Final = 1.4

PASSES_UP: Final = tuple(KIND[kind] for kind in ("forward", "evaluate", "tangent"))
_PASSES: Final = tuple(
    code
    for code in COMPUTE
    if code not in {KIND[kind] for kind in ("update", "snapshot", "merge", "load")}
)
_LOOK_OF: Final = {code: look for look in LOOKS.values() for code in look.codes}
_NUMBER_SIZES: Final = (7.5, 6.0)  # of batch numbers, in points


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """Spans of a trace, sorted by worker and time, and where they begin and end on the x axis."""

    spans: NDArray[np.void]
    start: NDArray[np.float64]
    end: NDArray[np.float64]

    @classmethod
    def of(cls, trace: Trace, origin: int, window: tuple[float, float], scale: float) -> "View":
        """What lies in the window, clipped to it; what takes no time has no box.

        `origin` is the tick of zero on the x axis, `scale` its units per second; the window is in
        these units.
        """
        start = trace.seconds(trace.spans["start"] - origin) * scale
        end = trace.seconds(trace.spans["end"] - origin) * scale
        seen = (start < window[1]) & (end > window[0]) & (end > start)
        spans = trace.spans[seen]
        order = np.lexsort((spans["index"], spans["worker"]))
        start, end = start[seen][order], end[seen][order]
        return cls(spans[order], np.maximum(start, window[0]), np.minimum(end, window[1]))

    def of_kinds(self, codes: Sequence[int]) -> "View":
        """The spans of some kinds."""
        chosen = np.isin(self.spans["kind"], codes)
        return View(self.spans[chosen], self.start[chosen], self.end[chosen])

    def boxes(self, height: float) -> Any:
        """Corners of the spans' boxes, shape (spans, 4, 2)."""
        low, high = self.spans["worker"] - height / 2, self.spans["worker"] + height / 2
        x = np.stack([self.start, self.start, self.end, self.end], axis=1)
        return np.stack([x, np.stack([low, high, high, low], axis=1)], axis=-1)

    def passes(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Where each pass of a batch, one way, through the blocks of a worker begins and ends.

        Both are numbers of spans; the view must be one of passes alone.
        """
        keys = np.stack([self.spans[name] for name in ("worker", "kind", "batch")], axis=-1)
        new = (np.diff(keys, axis=0) != 0).any(axis=1)
        edge = np.ones(min(1, len(keys)), dtype=bool)
        return np.flatnonzero(np.append(edge, new)), np.flatnonzero(np.append(new, edge))


def fitting_size(axes: "Axes", largest: float) -> float:
    """The largest font size (points), up to the given one, of a line of text in a row."""
    row_points = _points(axes)[1] / abs(float(np.subtract(*axes.get_ylim())))
    return min(largest, 0.62 * row_points)


def _points_per_unit(axes: "Axes") -> float:
    """Width of a unit of the x axis on paper, in points."""
    return _points(axes)[0] / abs(float(np.subtract(*axes.get_xlim())))


def _points(axes: "Axes") -> tuple[float, float]:
    """Width and height on paper, in points."""
    pixels = axes.get_window_extent()
    return pixels.width * 72 / axes.figure.dpi, pixels.height * 72 / axes.figure.dpi


def draw_boxes(axes: "Axes", view: View) -> None:
    """Draw a box for every span, as one collection for each entry of `LOOKS` that there is."""
    from matplotlib.collections import PolyCollection

    for name, look in LOOKS.items():
        seen = view.of_kinds(look.codes)
        if not len(seen.spans):
            continue
        # A white edge parts neighbours, but would hide a box that is not much wider than itself;
        # a thin box gets an edge of its own colour, unless there are so many that they would smear.
        width = (seen.end - seen.start) * _points_per_unit(axes)
        wide = width > 3
        boxes = PolyCollection(
            seen.boxes(look.height),
            facecolors=look.colour,
            edgecolors=np.where(wide, "white", look.colour).tolist(),
            linewidths=np.where(wide, 0.6, 0.3 * (width > 0.3)).tolist(),
            label=name,
        )
        axes.add_collection(boxes, autolim=False)


def draw_outline(axes: "Axes", view: View, batch: int | None) -> None:
    """Frame each pass of one batch. Boxes end at the window, so the frame may stand out of it."""
    from matplotlib.patches import Rectangle

    seen = view.of_kinds(_PASSES)
    height = LOOKS["forward"].height
    for first, last in zip(*seen.passes(), strict=True):
        if seen.spans["batch"][first] == batch:
            corner = float(seen.start[first]), int(seen.spans["worker"][first]) - height / 2
            frame = Rectangle(corner, float(seen.end[last]) - corner[0], height, fill=False)
            frame.set(edgecolor="black", linewidth=OUTLINE_POINTS, clip_on=False, zorder=3)
            axes.add_artist(frame)


def draw_numbers(axes: "Axes", view: View) -> None:
    """Write a batch's number once into each of its passes, if there is room.

    It stands in the first box that is wide enough, or across the boxes of the pass.
    """
    points_per_unit = _points_per_unit(axes)

    def room(text: str, size: float) -> float:
        return (len(text) * 0.64 * size + 2) / points_per_unit  # a digit is 0.64 times as wide

    sizes = [size for size in _NUMBER_SIZES if size <= fitting_size(axes, size)]
    seen = view.of_kinds(_PASSES)
    first, last = seen.passes()
    roomy = seen.end[last] - seen.start[first] >= room("0", _NUMBER_SIZES[-1])
    for begin, end in zip(first[roomy].tolist(), last[roomy].tolist(), strict=True):
        _, _, row, _, kind, _, batch, _ = seen.spans[begin].tolist()
        look = _LOOK_OF[kind]
        ends = [(seen.start[box], seen.end[box]) for box in range(begin, end + 1)]
        ends.append((seen.start[begin], seen.end[end]))
        for size, (left, right) in itertools.product(sizes, ends):
            if right - left >= room(str(batch), size):
                number = axes.text((left + right) / 2, row, str(batch), ha="center")
                number.set(color=look.text, fontsize=size, va="center_baseline", zorder=4)
                break
