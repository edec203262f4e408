"""What the report says in words and tables."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from analysis.comparison import Comparison, Row
from analysis.comparison_tables import (
    baseline_line,
    batch_unit,
    footnotes,
    gap_pair,
    loss,
    number,
    percent,
    samples,
    signed_percent,
    times,
)
from analysis.report_html import Html, breakable, definitions, element, grid, joined

if TYPE_CHECKING:
    from analysis.bounds import BoundCurve, Check

__all__ = ["GUIDE", "INTRODUCTION", "bounds_section", "in_short", "results"]

INTRODUCTION: Final = (
    "gradlag simulated each of these training schedules, and then ran the very same schedule with "
    "PyTorch on this machine. Here is the prediction beside what was measured: how fast, how stale "
    "the gradients, and what became of the loss."
)


def in_short(comparison: Comparison) -> str:
    """The fastest schedule, and how good the predictions are, in two sentences."""
    measured = [
        (row.speedup_one_thread.measured, row)
        for row in comparison.rows
        if row.speedup_one_thread.measured is not None
    ]
    sentences = []
    if measured:
        speedup, best = max(measured, key=lambda found: found[0])
        predicted = best.speedup_one_thread.predicted
        expected = "" if predicted is None else f" ({predicted:.2f} predicted)"
        sentences.append(
            f"The fastest was {best.label}, {speedup:.2f} times as fast as plain backpropagation "
            f"on one thread{expected}."
        )
    errors = [row.prediction_error for row in comparison.rows if row.prediction_error is not None]
    if errors:
        low, high = signed_percent(min(errors)), signed_percent(max(errors))
        found = f"is {low}" if low == high else f"is between {low} and {high}"
        sentences.append(f"The error of the predicted time per batch {found}.")
    return " ".join(sentences)


def results(comparison: Comparison) -> Html:
    """The table of all rows, with the notes as its caption."""
    rows, unit = comparison.rows, batch_unit(comparison.rows)
    notes = footnotes(rows)
    pairs = (
        f"{unit[1]} per batch",
        "speedup, one thread",
        "speedup, all cores",
        "mean gap",
        "largest gap",
    )
    tops = [
        element("th", "schedule", rowspan=2, scope="col"),
        element("th", "workers", rowspan=2, scope="col"),
        element("th", "samples per update", rowspan=2, scope="col"),
    ]
    below = []
    for pair in pairs:
        span = 3 if pair == pairs[0] else 2
        tops.append(element("th", pair, colspan=span, scope="colgroup", class_="first"))
        below += [element("th", "pred.", scope="col", class_="first")]
        below += [element("th", "meas.", scope="col")]
        if span == 3:
            below.append(element("th", "error", scope="col"))
    for last in ("final loss", "accuracy", "disturbed"):
        tops.append(element("th", last, rowspan=2, scope="col", class_="first"))
    table = element(
        "table",
        element("caption", "Predicted (pred.) and measured (meas.)"),
        element("thead", element("tr", *tops), element("tr", *below)),
        element("tbody", *(_row(row, unit[0], notes) for row in rows)),
        class_="results",
    )
    told = (
        element("p", element("sup", str(place)), f" {note}", class_="muted")
        for place, note in enumerate(notes, 1)
    )
    return joined(
        (
            element("div", table, class_="wide"),
            element("p", baseline_line(comparison.baselines, unit), class_="muted"),
            *told,
        )
    )


def _row(row: Row, scale: float, notes: Sequence[str]) -> Html:
    batch = row.batch_s
    in_units = [None if s is None else s * scale for s in (batch.predicted, batch.measured)]
    one, cores = row.speedup_one_thread, row.speedup_all_cores
    mean_gap, largest_gap = gap_pair(row)
    cells = [element("td", str(row.workers)), element("td", samples(row))]
    for predicted, measured, *error in (
        (number(in_units[0]), number(in_units[1]), signed_percent(row.prediction_error)),
        (times(one.predicted), times(one.measured)),
        (times(cores.predicted), times(cores.measured)),
        mean_gap,
        largest_gap,
    ):
        cells.append(element("td", predicted, class_="first"))
        cells.append(element("td", measured, class_="measured"))
        cells += [element("td", cell) for cell in error]
    for cell in (loss(row.final_loss), percent(row.accuracy), percent(row.disturbed)):
        cells.append(element("td", cell, class_="first"))
    marks = ",".join(str(notes.index(note) + 1) for note in row.notes)
    name = [breakable(row.label), *([element("sup", f" {marks}")] if marks else [])]
    return element("tr", element("th", *name, scope="row"), *cells)


def bounds_section(curves: "Sequence[BoundCurve]", shown: Html) -> Html:
    """The convergence bound: its plot, what it says, its constants and its assumptions."""
    explanation = (
        "Theorem 2 of Accumulated Decoupled Learning (Zhuang et al. 2020) bounds the mean squared "
        "norm of the gradient after S updates by a first part, which falls with S, and a second, "
        "which grows with the staleness of the gradients and the learning rate. Both sides are "
        "drawn here for logistic regression, where every constant is known or bounded: it was "
        "trained with the very gaps that the simulated schedule shows. A measured curve below a "
        "bound agrees with it; how far below says how much the bound gives away."
    )
    limits = (
        "A bound for one convex problem says nothing about the networks of the other plots: there "
        "the constants are unknown."
    )
    constants = {
        name.replace("_", " "): number(value) if isinstance(value, float) else value
        for name, value in asdict(curves[0].constants).items()
    }
    return element(
        "section",
        element("h2", "Convergence bound", id="bound"),
        element("p", explanation),
        shown,
        element("p", limits),
        element("h3", "Its constants"),
        definitions(constants),
        element("h3", "Its assumptions"),
        _assumptions(curves),
    )


def _assumptions(curves: "Sequence[BoundCurve]") -> Html:
    def seen(check: "Check") -> str:
        return f"{check.value:.4g}, {'holds' if check.holds else 'does not hold'}"

    # Every curve has the same checks, in the same order.
    rows = [
        (checks[0].name, f"{checks[0].limit:.4g}", *map(seen, checks), checks[0].note)
        for checks in zip(*(curve.checks for curve in curves), strict=True)
    ]
    return grid(
        ("assumption", "limit", *(f"M = {curve.accumulation}" for curve in curves), "what for"),
        rows,
        "An assumption holds if the value that was seen in the runs is at most its limit.",
    )


_GUIDE: Final = (
    (
        "Predicted",
        "numbers come from a simulator. It runs the schedule's programs with calibrated times of "
        "single operations, and has seen nothing of the run. Measured numbers come from one run of "
        "the same programs on real tensors: differences of a few percent between two schedules "
        "may be chance.",
    ),
    (
        "Time per batch",
        "is that of the whole run over its batches, start-up and end included. Its error is "
        "(predicted - measured) / measured: below zero the prediction was too fast, as it is when "
        "workers hold each other up in ways that the simulator does not know, such as for memory "
        "bandwidth, for caches, for the interpreter's lock or for fewer cores than workers.",
    ),
    (
        "Disturbed",
        "is what other programs took of the machine's cores while the schedule was calibrated or "
        "run. The simulator knows nothing of them. Where it is more than a few percent, the error "
        "says more about those programs than about the prediction. Measurements that were "
        "repeated for this reason are in the notes.",
    ),
    (
        "Speedup",
        "compares the time per batch with that of plain backpropagation, predicted with predicted "
        "and measured with measured. One thread shows what the schedule gains by its workers. All "
        "cores is the rival that counts: backpropagation that may use the whole machine for "
        "each single operation.",
    ),
    (
        "Gaps",
        "are counted in updates, for every gradient that was applied, those of the start "
        "included. A gap of 0 is plain backpropagation. Where workers do not wait for each other "
        "the gaps hang on real timing, and differ from run to run.",
    ),
    (
        "Timelines",
        "show the predicted trace above the measured one on one time axis; each begins at the "
        "same batch, so that they can be compared even where the prediction has drifted away. "
        "Numbers are batches. White is waiting. Thin boxes are the time that a worker spends on a "
        "message itself; taking the next batch of data is one too. At the right is the share of "
        "the window in which the worker computes.",
    ),
    (
        "Losses",
        "are of the training batches, as the forward passes saw them, so with weights of "
        "different age. Every schedule began with the same weights and saw the same batches.",
    ),
    (
        "Traces",
        "in Perfetto's format can be opened at ui.perfetto.dev, or in a browser at "
        "chrome://tracing; they stay on this machine.",
    ),
)

GUIDE: Final = element(
    "section",
    element("h2", "How to read this", id="guide"),
    element("ul", *(element("li", element("b", term), f" {text}") for term, text in _GUIDE)),
)
