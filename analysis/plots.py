"""The plots: readers of traces, losses and comparisons. No plot knows about schedules."""

from analysis.plots_gaps import draw_gap_histograms
from analysis.plots_losses import draw_losses
from analysis.plots_memory import draw_memory, draw_occupancy
from analysis.plots_speedups import draw_speedups
from analysis.plots_style import save_png
from analysis.plots_timeline import draw_timelines

__all__ = [
    "draw_gap_histograms",
    "draw_losses",
    "draw_memory",
    "draw_occupancy",
    "draw_speedups",
    "draw_timelines",
    "save_png",
]
