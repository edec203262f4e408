"""The picture of a convergence bound over what was measured."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis.bounds import BoundCurve, Constants

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_bound"]


def draw_bound(curves: Sequence[BoundCurve]) -> "Figure":
    """One panel per accumulation: measured left side with its interval, and the three bounds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width_in = max(6.4, 1.0 + 3.3 * len(curves))
    figure = Figure(figsize=(width_in, 5.4), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for panel, curve in zip(panels, curves, strict=True):
        # Okabe and Ito's colours, and dashes that stay apart in grey.
        x, dot = curve.updates, "." if len(curve.updates) == 1 else ""
        panel.plot(x, curve.corrected, dot + "--", color="#d55e00", label="corrected bound")
        panel.plot(x, curve.printed, dot + "-.", color="#cc79a7", label="printed bound")
        panel.plot(x, curve.sharper, dot + ":", color="#009e73", lw=2.2, label="sharper bound")
        panel.fill_between(x, curve.measured_low, curve.measured_high, color="#56b4e9", lw=0)
        panel.plot(
            x, curve.measured, dot + "-", color="#0072b2", lw=1.2, label="measured, 95 % band"
        )
        panel.axhline(curve.constants.second_moment, color="#626b75", lw=0.8, label="A, trivially")
        mean = sum(curve.mean_gaps) / curve.modules
        panel.set_title(f"M = {curve.accumulation}, mean gap {mean:.3g}", fontsize=10)
        panel.set(xscale="log", yscale="log", xlabel="updates S")
        panel.grid(color="#e3e6ea", lw=0.7)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(r"mean of $\Vert\nabla f(\theta^{U_s})\Vert^2$ over s < S")
    columns = 5 if len(curves) > 2 else 3
    lines = panels[0].get_legend_handles_labels()
    title = f"ADL's Theorem 2 with K = {curves[0].modules} modules"
    legend = figure.legend(*lines, title=title, loc="outside upper center", ncols=columns)
    legend.set_frame_on(False)
    caption = textwrap.fill(_caption(curves[0].constants), int(15 * width_in))
    figure.supxlabel(caption, fontsize=8, linespacing=1.4)
    return figure


def _caption(constants: Constants) -> str:
    c, of = constants, f" / (1 + s)^{constants.decay:g}" if constants.decay else ""
    return (
        f"Logistic regression on digits, batches of {c.batch_size}, seeds: {c.seeds}. "
        f"f(θ⁰) = {c.start_loss:.4g}, f* = {c.minimum_loss:.4g}, Lip = {c.lipschitz:.3g}, "
        f"A = {c.second_moment:.3g} in ||θ|| ≤ {c.radius:.3g}, γ = {c.learning_rate:.3g}{of}, "
        f"Lip γ₀ = {c.lipschitz * c.learning_rate:.3g}. Means over s are weighted by γ. "
        "The printed bound does not follow from its assumptions. The sharper one does, and with "
        "it the corrected one, for a fixed Lip γ up to 2/3."
    )
