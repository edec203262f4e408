"""What all plots share: colours, figures without pyplot, plain texts, units of time, PNG files."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from simcore.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

__all__ = [
    "FAINT",
    "INK",
    "MUTED",
    "WIDTH_IN",
    "LineStyle",
    "line_style",
    "new_figure",
    "percent",
    "plain",
    "png_bytes",
    "save_png",
    "set_plain",
    "tidy",
    "time_unit",
    "trace_colour",
]

INK: Final = "#1b1f24"
MUTED: Final = "#626b75"
FAINT: Final = "#e3e6ea"
WIDTH_IN: Final = 10.5

# Light for what was predicted, dark for what was measured; they stay apart when printed in grey.
_OF_TRACES: Final = ("#8ec3eb", "#1f4e79", "#e0b040", "#7a3b69", "#59a98a", "#a23b2a")
# Okabe and Ito (2008), safe for the colour-blind, but for yellow, which is too light for a line.
_OF_LINES: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#222222", "#56b4e9", "#e69f00")
_DASHES: Final[tuple[str | tuple[float, tuple[float, ...]], ...]] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.2, 1.2)),
    (0, (6, 1.5, 1.2, 1.5)),
)

_UNITS: Final = ((2.0, 1.0, "seconds"), (2e-3, 1e3, "milliseconds"), (0.0, 1e6, "microseconds"))


def new_figure(width_in: float, height_in: float) -> "Figure":
    """An empty white figure on an Agg canvas; no global state is touched. Sizes are in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: "Axes", grid: Literal["x", "y", "both"] | None = None) -> None:
    """Leave away what is not data: no frame, short ticks, faint grid lines behind."""
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(side == "bottom")
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(colors=INK, labelsize=8, length=3, width=0.6, color=MUTED)
    axes.tick_params(axis="y", length=0)
    axes.set_axisbelow(True)
    if grid is not None:
        axes.grid(visible=True, axis=grid, color=FAINT, linewidth=0.7)


def plain(text: "Text") -> "Text":
    """Show a name as it is, dollar signs included: names are not formulas."""
    text.set_parse_math(False)
    return text


def set_plain(texts: "Sequence[Text]") -> None:
    """`plain` for several texts."""
    for text in texts:
        plain(text)


def trace_colour(number: int) -> str:
    """Colour of the trace that comes at this place, from 0: predicted first, measured second."""
    return _OF_TRACES[number % len(_OF_TRACES)]


@dataclass(frozen=True, slots=True)
class LineStyle:
    """How a line looks."""

    colour: str
    dashes: str | tuple[float, tuple[float, ...]]


def line_style(number: int) -> LineStyle:
    """The look of a line that comes at this place, from 0; no two of 28 are the same."""
    dashes = (number % len(_OF_LINES) + number // len(_OF_LINES)) % len(_DASHES)
    return LineStyle(_OF_LINES[number % len(_OF_LINES)], _DASHES[dashes])


def time_unit(seconds: float) -> tuple[float, str]:
    """Units per second, and the unit's name, in which a duration reads well.

    >>> time_unit(0.25)
    (1000.0, 'milliseconds')
    """
    return next((scale, name) for least, scale, name in _UNITS if seconds >= least)


def percent(share: float) -> str:
    """A share in percent, with a thin space: `96 %`."""
    return f"{100 * share:.0f}\N{NARROW NO-BREAK SPACE}%"


def png_bytes(figure: "Figure", dpi: int = 150) -> bytes:
    """The figure as a PNG file's content; equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def save_png(figure: "Figure", path: str | os.PathLike[str]) -> None:
    """Write the figure as a PNG file, whole or not at all.

    Raises `InputError` if the file cannot be written.
    """
    write_whole(path, png_bytes(figure))
