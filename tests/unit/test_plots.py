"""Plots are drawn from real traces and asked what is in them."""

import io
import math
import subprocess
import sys
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle
from torch import nn

from analysis.comparison import Pair, Row
from analysis.plots import (
    draw_gap_histograms,
    draw_losses,
    draw_speedups,
    draw_timelines,
    save_png,
)
from analysis.plots_losses import running_mean
from analysis.plots_style import line_style, png_bytes
from executor.data import digits
from executor.threads import run_threads
from executor.training import DataSource, RunResult, Training, optimizer
from simcore.engine import simulate
from simcore.schedules import build
from simcore.staleness import gap_summaries
from simcore.trace import KIND, Header, Recorder, Trace
from simcore.workload import Workload

BATCHES = 40
KINDS = {
    "forward": ["forward"],
    "backward": ["backward"],
    "update": ["update"],
    "message": ["send", "receive"],
}


def simulated(name: str, parts: int, batches: int = BATCHES, **options: Any) -> Trace:
    schedule = build(name, batches=batches, **options)
    return simulate(schedule, Workload.even(parts, 0.02, 2, 0.002), jitter=0.2)


@pytest.fixture(scope="module")
def run() -> RunResult:
    layers = [nn.Sequential(nn.Linear(64, 32), nn.ReLU()), nn.Linear(32, 10)]
    make = partial(build, "fdg", modules=2, batches=BATCHES)
    source = DataSource(digits(), 32, seed=0)
    return run_threads(
        Training(make, nn.Sequential(*layers), (0, 1, 2), source, optimizer("sgd", 0.05))
    )


@pytest.fixture(scope="module")
def traces(run: RunResult) -> list[tuple[str, Trace]]:
    batch_s = run.trace.seconds(run.trace.end) / BATCHES
    schedule = build("fdg", modules=2, batches=BATCHES)
    predicted = simulate(schedule, Workload.even(2, round(batch_s, 6), 1), jitter=0.2)
    return [("predicted", predicted), ("measured", run.trace)]


def boxes_of(axes: Axes) -> dict[str, np.ndarray]:
    """Left and right ends and rows of the boxes, shape (boxes, 3), by what they are."""
    found = {}
    for collection in axes.collections:
        assert isinstance(collection, PolyCollection)
        corners = np.array([path.vertices for path in collection.get_paths()]).reshape(-1, 5, 2)
        x, y = corners[:, :4, 0], corners[:, :4, 1]
        ends = np.stack([x.min(axis=1), x.max(axis=1), y.mean(axis=1)], axis=1)
        found[str(collection.get_label())] = ends
    return found


def frames_of(axes: Axes) -> list[Rectangle]:
    return [artist for artist in axes.patches if isinstance(artist, Rectangle)]


def drawn(trace: Trace, window_s: tuple[float, float]) -> dict[str, np.ndarray]:
    """What the boxes have to be, straight from the trace."""
    start, end = trace.seconds(trace.spans["start"]), trace.seconds(trace.spans["end"])
    seen = (end > window_s[0]) & (start < window_s[1]) & (end > start)
    found = {}
    for name, kinds in KINDS.items():
        chosen = seen & np.isin(trace.spans["kind"], [KIND[kind] for kind in kinds])
        ends = np.clip(np.stack([start[chosen], end[chosen]]), *window_s)
        found[name] = np.stack([*ends, trace.spans["worker"][chosen]], axis=1)
    return found


def rows_sorted(table: np.ndarray) -> np.ndarray:
    return table[np.lexsort(table.T)]


# Timelines


def test_boxes_are_the_spans_in_the_window(traces: list[tuple[str, Trace]]) -> None:
    middle_s = traces[1][1].seconds(traces[1][1].end) / 2
    window_s = (middle_s * 0.3, middle_s)
    figure = draw_timelines(traces, window_s)
    assert len(figure.axes) == 2
    for axes, (_, trace) in zip(figure.axes, traces, strict=True):
        expected = drawn(trace, window_s)
        assert sum(map(len, expected.values())) > 2
        assert boxes_of(axes).keys() == {name for name, boxes in expected.items() if len(boxes)}
        for name, boxes in boxes_of(axes).items():
            _, right = axes.get_xlim()
            in_s = boxes * (window_s[1] / right, window_s[1] / right, 1)
            np.testing.assert_allclose(
                rows_sorted(in_s), rows_sorted(expected[name]), rtol=0, atol=1e-12
            )


def test_traces_share_one_time_axis_with_a_row_per_worker(traces: list[tuple[str, Trace]]) -> None:
    upper, lower = draw_timelines(traces).axes
    assert upper.get_xlim() == lower.get_xlim()
    upper.set_xlim(3, 5)
    assert lower.get_xlim() == (3, 5)
    assert upper.get_title(loc="left") == "predicted"
    assert "seconds since the start of batch 17, in each" in lower.get_xlabel()
    for axes in (upper, lower):
        assert [label.get_text() for label in axes.get_yticklabels()] == ["module 1", "module 2"]
        assert axes.get_ylim() == (1.5, -0.5)


@pytest.mark.parametrize(("from_batch", "first"), [(None, 17), (0, 0), (10**9, BATCHES - 1)])
def test_every_trace_is_shown_from_the_same_batch(
    traces: list[tuple[str, Trace]], from_batch: int | None, first: int
) -> None:
    figure = draw_timelines(traces, from_batch=from_batch)
    for axes, (_, trace) in zip(figure.axes, traces, strict=True):
        forward = trace.of_kind("forward")
        taken = trace.seconds(forward["start"][forward["batch"] == first].min())
        # A real run begins with taking its first batch of data.
        start_ms = taken * 1e3 if first == 0 else 0.0
        assert frames_of(axes)[0].get_x() == pytest.approx(start_ms, abs=1e-9)
        assert f"batch {first}" in {text.get_text() for text in figure.legends[0].get_texts()}


def test_the_window_is_that_of_a_few_batches_of_the_slowest_trace() -> None:
    traces = [(str(s), simulate(build("bp", modules=1), Workload.even(1, s))) for s in (1, 2)]
    figure = draw_timelines(traces, batches=5)
    assert figure.axes[0].get_xlim() == (0, 5 * 2 * 3)
    assert [len(boxes_of(axes)["forward"]) for axes in figure.axes] == [10, 5]


@pytest.mark.parametrize(
    ("name", "parts", "options"),
    [
        ("fdg", 4, {"modules": 4}),
        ("bp", 3, {"modules": 3}),
        ("async-lu", 6, {"layers": 6, "queue_capacity": 2}),
    ],
)
def test_a_number_stands_on_its_own_batch(name: str, parts: int, options: dict[str, Any]) -> None:
    trace = simulated(name, parts, **options)
    (axes,) = draw_timelines([(name, trace)], (0.1, 0.5)).axes
    numbers = [text for text in axes.texts if text.get_text().isdecimal()]
    assert len(numbers) > 8
    for number in numbers:
        x, row = number.get_position()
        mine = trace.spans[trace.spans["batch"] == int(number.get_text())]
        mine = mine[mine["worker"] == row]
        passes = [mine[mine["kind"] == KIND[kind]] for kind in ("forward", "backward")]
        assert any(
            trace.seconds(each["start"].min()) < x / 1e3 < trace.seconds(each["end"].max())
            for each in passes
            if len(each)
        )


def test_numbers_do_not_overlap(traces: list[tuple[str, Trace]]) -> None:
    figure = draw_timelines(traces)
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    for axes in figure.axes:
        extents = [text.get_window_extent(renderer) for text in axes.texts]
        for place, extent in enumerate(extents):
            assert not extent.count_overlaps(extents[:place])


def test_the_outlined_batch_is_framed_in_each_of_its_passes() -> None:
    trace = simulated("async-lu", 4, layers=4)
    (axes,) = draw_timelines([("", trace)], from_batch=0, batches=BATCHES).axes
    frames = frames_of(axes)
    assert len(frames) == 2  # forward in one thread, backward in another
    mine = trace.spans[trace.spans["batch"] == 0]
    backward = mine[mine["kind"] == KIND["backward"]]
    ends = trace.seconds(backward["start"].min()), trace.seconds(backward["end"].max())
    frame = frames[1]
    assert (frame.get_x(), frame.get_x() + frame.get_width()) == pytest.approx(
        [second * 1e3 for second in ends]
    )


def test_busy_is_the_share_of_the_window_in_which_a_worker_computes() -> None:
    trace = simulate(build("fdg", modules=2, batches=9), Workload.even(2, 2, 2))
    (axes,) = draw_timelines([("", trace)], (0, 4)).axes
    texts = [text.get_text().replace("\N{NARROW NO-BREAK SPACE}", "") for text in axes.texts]
    # Module 1 goes forward twice and waits; module 2 forward (1 s) and backward (2 s) from 1 s on.
    assert [text for text in texts if text.endswith("%")] == ["50%", "75%"]


def test_a_hundred_thousand_spans_are_a_few_collections() -> None:
    recorder = Recorder()
    for number in range(100_000):
        recorder.span(number, number + 1, number % 8, number, number % 3, 1, number, 0)
    header = Header("real", "x", {}, 1, 100_000, tuple("abcdefgh"), (), Fraction(1, 1000))
    trace = recorder.trace(header)
    (axes,) = draw_timelines([("", trace)], (0, 100)).axes
    assert sum(map(len, boxes_of(axes).values())) == 100_000
    assert not [text for text in axes.texts if text.get_text().isdecimal()]
    (axes,) = draw_timelines([("", trace)]).axes
    assert 6 <= sum(map(len, boxes_of(axes).values())) <= 7


def test_a_run_that_did_nothing_can_be_drawn(traces: list[tuple[str, Trace]]) -> None:
    whole = traces[0][1]
    empty = Trace(whole.header, whole.spans[:0], whole.gradients[:0])
    pair = [traces[0], ("measured", empty)]
    assert not boxes_of(draw_timelines(pair).axes[1])
    assert draw_gap_histograms(pair).axes[0].get_title(loc="right") == "mean 0.97 / none"
    assert png_bytes(draw_timelines([pair[1]]))


def test_names_are_not_formulas(traces: list[tuple[str, Trace]]) -> None:
    label = r"$\nonsense{"
    assert png_bytes(draw_timelines([(label, traces[0][1])]))
    assert png_bytes(draw_gap_histograms([(label, traces[0][1])]))
    assert png_bytes(draw_losses([(label, [(0, 1.0, 0.0)])]))
    assert png_bytes(draw_speedups([Row(label, "fdg", speedup_one_thread=Pair(1, 2))]))


# Gaps


def bars_of(axes: Axes) -> list[dict[float, float]]:
    """For each trace, heights of its bars by their middles."""
    return [
        {round(bar.get_x() + bar.get_width() / 2, 9): bar.get_height() for bar in container}
        for container in axes.containers
    ]


def test_bars_are_the_histograms(traces: list[tuple[str, Trace]]) -> None:
    figure = draw_gap_histograms(traces)
    assert len(figure.axes) == 2
    for block, axes in enumerate(figure.axes, 1):
        assert axes.get_title(loc="left") == f"block {block}"
        for place, (bars, (_, trace)) in enumerate(zip(bars_of(axes), traces, strict=True)):
            histogram = gap_summaries(trace)[block - 1].histogram
            side = (-0.21, 0.21)[place]
            assert bars == pytest.approx(
                {round(gap + side, 9): count / BATCHES for gap, count in histogram.items()}
            )
    # FDG: every batch from 2(K-k) on has gap max(0, 2(K-k) - 1).
    assert bars_of(figure.axes[0])[1] == pytest.approx({0.21: 1 / BATCHES, 1.21: 1 - 1 / BATCHES})


@pytest.mark.parametrize("blocks", [1, 5, 16])
def test_a_panel_for_each_block_with_shared_axes(blocks: int) -> None:
    trace = simulated("fdg", blocks, modules=blocks)
    figure = draw_gap_histograms([("predicted", trace), ("measured", trace)])
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == blocks
    assert {axes.get_xlim() for axes in panels} == {panels[0].get_xlim()}
    assert {axes.get_ylim() for axes in panels} == {panels[0].get_ylim()}
    assert png_bytes(figure)


def test_wide_gaps_share_bars() -> None:
    trace = simulated("fdg", 18, modules=18, batches=60)
    figure = draw_gap_histograms([("", trace)])
    (bars,) = bars_of(figure.axes[0])
    assert len(bars) <= 32
    assert sum(bars.values()) == pytest.approx(1)
    assert all(np.diff(sorted(bars)) == 2)
    assert "in groups of 2" in figure.get_supxlabel()


# Losses


def test_lines_are_running_means_over_batches_and_over_seconds(run: RunResult) -> None:
    figure = draw_losses([("fdg", run.losses)], smooth=5)
    over_batches, over_seconds = figure.axes
    batches, losses, seconds = np.array(run.losses).T
    smoothed, end, raw = over_batches.lines
    np.testing.assert_array_equal(raw.get_ydata(), losses)
    np.testing.assert_array_equal(smoothed.get_xdata(), batches)
    middle = np.asarray(smoothed.get_ydata())[10]
    assert middle == pytest.approx(losses[8:13].mean())
    assert np.asarray(end.get_ydata())[0] == pytest.approx(losses[-3:].mean())
    assert np.asarray(over_seconds.lines[2].get_xdata()).tolist() == sorted(seconds)
    assert over_batches.get_ylim() == over_seconds.get_ylim()
    assert "running mean over 5 batches" in over_batches.get_ylabel()


def test_losses_that_are_not_finite_are_left_out_and_told() -> None:
    rows = [(0, 2.0, 0.1), (1, math.nan, 0.2), (2, math.inf, 0.3), (3, 1.0, 0.4)]
    figure = draw_losses([("diverging", rows), ("nothing", [])], smooth=1)
    np.testing.assert_array_equal(figure.axes[0].lines[2].get_xdata(), [0, 3])
    (legend,) = figure.legends
    assert legend.get_texts()[0].get_text() == "diverging (2 losses not finite)"
    assert png_bytes(figure)


def test_losses_over_decades_are_on_a_logarithmic_axis() -> None:
    for last, scale in ((0.01, "log"), (0.9, "linear"), (-1.0, "linear")):
        rows = [(0, 1.0, 0.0), (1, last, 1.0)]
        assert draw_losses([("", rows)], smooth=1).axes[0].get_yscale() == scale


def test_running_means_keep_a_constant_and_the_length() -> None:
    for window in (1, 2, 7, 100):
        assert running_mean(np.full(9, 3.0), window).tolist() == [3.0] * 9


def test_lines_look_different() -> None:
    assert len({line_style(number) for number in range(28)}) == 28


# Speedups


def test_bars_are_the_speedups_and_lines_the_baselines() -> None:
    rows = [
        Row("fdg", "fdg", speedup_one_thread=Pair(1.9, 1.5)),
        Row("failed", "adl", speedup_one_thread=Pair(1.8, None)),
    ]
    figure = draw_speedups(rows, all_cores=1.25)
    (axes,) = figure.axes
    predicted, measured = axes.containers
    assert [bar.get_width() for bar in predicted] == [1.9, 1.8]
    assert [bar.get_width() for bar in measured] == [1.5]
    assert [line.get_xdata()[0] for line in axes.lines] == [1, 1.25]  # type: ignore[index]
    texts = [text.get_text() for text in axes.texts]
    assert texts == [
        "1.90", "1.80", "1.50", "backpropagation, one thread", "backpropagation, all cores"
    ]  # fmt: skip
    assert [label.get_text() for label in axes.get_yticklabels()] == ["fdg", "failed"]


# Files


def test_a_png_file_holds_the_figure(traces: list[tuple[str, Trace]], tmp_path: Path) -> None:
    figure = draw_timelines(traces)
    save_png(figure, tmp_path / "new" / "timeline.png")
    pixels = imread(tmp_path / "new" / "timeline.png")
    width_in, height_in = figure.get_size_inches()
    assert pixels.shape[:2] == (int(height_in * 150), int(width_in * 150))
    assert len(np.unique(pixels[..., :3].reshape(-1, 3), axis=0)) > 100
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["timeline.png"]


def test_equal_figures_give_equal_files(traces: list[tuple[str, Trace]]) -> None:
    assert png_bytes(draw_gap_histograms(traces)) == png_bytes(draw_gap_histograms(traces))


def test_kinds_differ_in_grey(traces: list[tuple[str, Trace]]) -> None:
    (axes, _) = draw_timelines(traces).axes
    colours = [np.asarray(boxes.get_facecolor())[0, :3] for boxes in axes.collections[:3]]
    grey = sorted(float(np.dot(rgb, (0.2126, 0.7152, 0.0722))) for rgb in colours)
    assert min(np.diff(grey)) > 0.15


def test_figures_leave_no_global_state(traces: list[tuple[str, Trace]]) -> None:
    code = (
        "import sys, analysis.plots, analysis.report, analysis.comparison_tables; "
        "print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"matplotlib", "torch", "scipy", "rich"} & set(run.stdout.split())
    figure = draw_timelines(traces)
    assert isinstance(figure, Figure)
    assert imread(io.BytesIO(png_bytes(figure))).size
    assert "matplotlib.pyplot" not in sys.modules
