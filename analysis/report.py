"""The report: one HTML file that says what was predicted, what was measured, and how they differ.

It needs nothing but itself. Beside it lies each of its plots as a PNG file.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from analysis.comparison import Comparison
from analysis.plots import draw_gap_histograms, draw_losses, draw_speedups, draw_timelines
from analysis.plots_style import png_bytes
from analysis.report_html import Html, breakable, definitions, element, page, picture
from analysis.report_texts import GUIDE, INTRODUCTION, bounds_section, in_short, results
from simcore.files import write_whole
from simcore.schedules import find
from simcore.trace import Trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from analysis.bounds import BoundCurve

__all__ = ["REPORT", "Run", "stems", "write_report"]

REPORT: Final = "report.html"

_TITLE: Final = "Training schedules, predicted and measured"


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What is known of a row of the comparison, by its label, besides the row itself.

    `losses` are rows (batch, loss, seconds). `files` are files beside the report that belong to
    it, such as traces: what they are called, and their paths relative to the report.
    """

    label: str
    predicted: Trace
    measured: Trace | None = None
    losses: Sequence[tuple[int, float, float]] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def traces(self) -> list[tuple[str, Trace]]:
        """The traces with their labels in plots."""
        found = [("predicted", self.predicted)]
        return found if self.measured is None else [*found, ("measured", self.measured)]


def stems(labels: Sequence[str]) -> list[str]:
    """For each label the beginning of the names of its files; no two are the same.

    >>> stems(["bp, 1 thread", "adl:accumulation=2", "adl: accumulation=2", "?"])
    ['bp-1-thread', 'adl-accumulation-2', 'adl-accumulation-2-2', 'schedule']
    """
    found: list[str] = []
    for label in labels:
        stem = re.sub(r"[^a-z0-9]+", "-", label.lower())[:60].strip("-") or "schedule"
        names = chain([stem], (f"{stem}-{number}" for number in count(2)))
        found.append(next(name for name in names if name not in found))
    return found


def write_report(
    out_dir: str | os.PathLike[str],
    comparison: Comparison,
    runs: Sequence[Run],
    *,
    bounds: "Sequence[BoundCurve]" = (),
    files: Mapping[str, str] | None = None,
    smooth: int | None = None,
) -> Path:
    """Write `report.html` and its plots into a folder; returns the path of the report.

    `files` are those that belong to the whole report, as in `Run`; files that are not there are
    not linked. `smooth` is the number of batches that running means of losses cover, such as those
    of an epoch. Each file is written whole or not at all, the report last.

    Raises `InputError` if a file cannot be written.
    """
    folder = Path(out_dir)
    album = _Album(folder)
    names = stems([run.label for run in runs])
    sections = [
        _overview(comparison, runs, album, smooth),
        element("h2", "Schedule by schedule", id="schedules"),
        *(_schedule(run, comparison, name, album) for run, name in zip(runs, names, strict=True)),
    ]
    if bounds:
        from analysis.plots_bound import draw_bound

        alt = "Both sides of the convergence bound over the number of updates"
        shown = album.add(draw_bound(bounds), "bound.png", alt, "Both sides of the bound.")
        sections.append(bounds_section(bounds, shown))
    content = [
        element("h1", _TITLE),
        element("p", INTRODUCTION, class_="lead"),
        _facts(comparison),
        _contents(runs, names, has_bounds=bool(bounds)),
        *sections,
        GUIDE,
    ]
    if links := _links(folder, files or {}):
        content.append(element("footer", "Files of this report:", links))
    write_whole(folder / REPORT, page(_TITLE, *content))
    return folder / REPORT


class _Album:
    """Turns figures into PNG files beside the report, and into pictures of its page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, figure: "Figure", name: str, alt: str, caption: str) -> Html:
        png = png_bytes(figure)
        write_whole(self.folder / name, png)
        return picture(png, name, alt, caption)


def _facts(comparison: Comparison) -> Html:
    date = comparison.date.replace("T", " ")
    known = {"machine": comparison.machine, "date": date, **comparison.settings}
    return definitions({name: value for name, value in known.items() if value not in ("", None)})


def _contents(runs: Sequence[Run], names: Sequence[str], *, has_bounds: bool) -> Html:
    targets = [("results", "Results")]
    targets += [(f"of-{name}", run.label) for name, run in zip(names, runs, strict=True)]
    if has_bounds:
        targets.append(("bound", "Convergence bound"))
    targets.append(("guide", "How to read this"))
    links = (element("li", element("a", text, href=f"#{target}")) for target, text in targets)
    return element("nav", element("ul", *links), aria_label="Contents")


def _links(folder: Path, files: Mapping[str, str]) -> Html:
    links = [
        element("li", element("a", name, href=quote(path)))
        for name, path in files.items()
        if (folder / path).is_file()
    ]
    return element("ul", *links) if links else Html("")


def _overview(
    comparison: Comparison, runs: Sequence[Run], album: _Album, smooth: int | None
) -> Html:
    speedups = album.add(
        draw_speedups(comparison.rows, comparison.baselines.all_cores_speedup),
        "speedups.png",
        "Bars of each schedule's speedup, predicted and measured",
        "Speedup over plain backpropagation on one thread. A schedule pays if its measured bar "
        "passes both lines.",
    )
    parts = [
        element("h2", "Results", id="results"),
        element("p", in_short(comparison)),
        results(comparison),
        speedups,
    ]
    trained = [(run.label, run.losses) for run in runs if len(run.losses)]
    if trained:
        caption = (
            "Training loss of the measured runs, over batches (what staleness costs) and over "
            "seconds (what remains of the speedup). Raw losses are faint behind their means."
        )
        alt = "Training loss of each schedule over batches and over seconds"
        parts.append(album.add(draw_losses(trained, smooth), "losses.png", alt, caption))
    return element("section", *parts)


def _schedule(run: Run, comparison: Comparison, name: str, album: _Album) -> Html:
    row = next((row for row in comparison.rows if row.label == run.label), None)
    header = run.predicted.header
    options = find(header.schedule).shown(header.options)
    shown = ", ".join(f"{key}={value}" for key, value in options.items())
    parts = [
        element("h3", breakable(run.label), id=f"of-{name}"),
        element("p", f"{header.schedule}: {shown}", class_="muted"),
        *(element("p", note) for note in (row.notes if row is not None else ())),
        album.add(
            draw_timelines(run.traces),
            f"{name}-timeline.png",
            f"Timelines of {run.label} in the middle of the run",
            "The same batches, in the middle of the run.",
        ),
        album.add(
            draw_timelines(run.traces, from_batch=0),
            f"{name}-start.png",
            f"Timelines of {run.label} at the start of the run",
            "The start of the run.",
        ),
        album.add(
            draw_gap_histograms(run.traces),
            f"{name}-gaps.png",
            f"Histograms of the gaps of {run.label}, block by block",
            "How stale the gradients were that each block applied, over the whole run.",
        ),
        _links(album.folder, run.files),
    ]
    return element("section", *parts)
