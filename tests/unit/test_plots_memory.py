"""Plots of memory and occupancy are drawn from simulations and asked what is in them."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from analysis.plots import draw_memory, draw_occupancy
from analysis.plots_style import png_bytes
from simcore.engine import simulate
from simcore.holdings import CATEGORIES
from simcore.memory import memory_of, memory_over_time
from simcore.occupancy import STATES, occupancy
from simcore.schedules import build
from simcore.trace import Recorder
from simcore.workload import Layer, Workload

MIB = 2**20


def sized(layers: int) -> Workload:
    layer = Layer("", Fraction(1), Fraction(2), Fraction(1), MIB, 4 * MIB, 8 * MIB)
    return Workload("sized", (layer,) * layers, optimizer_states=1)


def tops(axes: Axes, at: float) -> dict[str, tuple[float, float]]:
    """Lower and upper end of each area at a time, by its label."""
    found = {}
    for area in axes.collections:
        assert isinstance(area, PolyCollection)
        (path,) = area.get_paths()
        x, y = np.asarray(path.vertices).T
        around = np.flatnonzero((x[:-1] <= at) & (x[1:] >= at) | (x[:-1] >= at) & (x[1:] <= at))
        crossed = [y[i] for i in around if y[i] == y[i + 1] and x[i] != x[i + 1]]
        found[str(area.get_label())] = (min(crossed), max(crossed))
    return found


def test_memory_is_stacked() -> None:
    schedule, workload = build("fdg", modules=2, batches=6), sized(2)
    trace = simulate(schedule, workload)
    figure = draw_memory(trace, schedule, workload)
    assert figure is not None
    assert [axes.get_ylabel() for axes in figure.axes] == ["module 1", "module 2"]
    found = memory_of(trace, schedule, workload)
    assert found is not None
    for worker, axes in enumerate(figure.axes):
        memory = memory_over_time(found[0], worker)
        for time in (2.5, 6.5, 13.5, trace.end * float(trace.header.tick_s) - 0.5):
            at = np.searchsorted(memory.ticks, time / float(trace.header.tick_s), "right") - 1
            areas, below = tops(axes, time), 0.0
            for name, size in zip(CATEGORIES, memory.held[at], strict=True):
                if name not in areas:
                    assert not size
                    continue
                lower, upper = areas[name]
                assert (lower, upper) == (below, below + size / MIB)
                below = upper
    assert figure.axes[0].get_title(loc="left") == "memory in MiB"
    (legend,) = figure.legends
    assert "inputs" not in [text.get_text() for text in legend.get_texts()]
    assert png_bytes(figure)


def test_no_memory_without_sizes() -> None:
    schedule = build("fdg", modules=2, batches=2)
    assert draw_memory(simulate(schedule, Workload.even(2)), schedule, Workload.even(2)) is None


def test_peaks_of_long_runs_are_still_seen() -> None:
    schedule, workload = build("fdg", modules=1, batches=3000), sized(1)
    figure = draw_memory(simulate(schedule, workload), schedule, workload)
    assert figure is not None
    (axes,) = figure.axes
    vertices = [np.asarray(area.get_paths()[0].vertices) for area in axes.collections]
    assert sum(len(each) for each in vertices) < 50_000
    # Weights, optimiser state and a graph; or the gradient in its place.
    assert max(each[:, 1].max() for each in vertices) == 4 + 4 + 8


def test_shares_of_states() -> None:
    trace = simulate(build("fdg", modules=2, batches=6), sized(2))
    figure = draw_occupancy(trace)
    (axes,) = figure.axes
    expected = occupancy(trace) / (trace.end - trace.start)
    labels = [container.get_label() for container in axes.containers]
    assert labels == [state for at, state in enumerate(STATES) if expected[:, at].any()]
    for container in axes.containers:
        widths = [patch.get_width() for patch in container.patches]
        assert widths == pytest.approx(expected[:, STATES.index(container.get_label())])
    assert png_bytes(figure)


def test_many_workers_and_no_operations() -> None:
    schedule, workload = build("fdg", modules=30, batches=3), sized(30)
    trace = simulate(schedule, workload)
    figure = draw_memory(trace, schedule, workload)
    assert figure is not None
    assert len(figure.axes) == 24
    assert len(draw_occupancy(trace).axes[0].get_yticklabels()) == 24
    names = tuple(f"$a_b$ {number}" for number in range(30))
    empty = Recorder().trace(replace(trace.header, workers=names))
    assert png_bytes(draw_occupancy(empty))
    assert png_bytes(draw_memory(empty, schedule, workload) or figure)
