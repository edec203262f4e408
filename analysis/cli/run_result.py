"""What a real run found: its JSON document, its files, and what is shown."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final, Self

import torch

from analysis.batch_metrics import BatchMetrics, Evaluation, batch_metrics
from analysis.cli.output import note, write_json
from analysis.cli.views import print_facts, print_gaps, print_memory, seconds, workers
from analysis.experiment import Experiment
from analysis.memory_comparison import compare_memory
from analysis.metrics_files import write_metrics
from analysis.plots import draw_gap_histograms, draw_losses, draw_timelines, save_png
from executor.machine import describe_machine
from executor.memory_sizes import sizes_of
from executor.training import RunResult, Training
from simcore import metrics
from simcore.files import write_whole
from simcore.perfetto import dump_perfetto
from simcore.staleness import gap_summaries
from simcore.trace_file import dump_trace

if TYPE_CHECKING:
    from rich.console import Console

    from analysis.state_difference import Difference

__all__ = ["FILES", "SCHEMA", "Report", "write_weights"]

SCHEMA: Final = "gradlag.run/1"
FILES: Final = (
    "trace.jsonl",
    "weights.pt",
    "metrics.csv",
    "summary.json",
    "trace.perfetto.json",
    "timeline.png",
    "gaps.png",
    "losses.png",
)
_OTHERS: Final = 0.05  # share of the machine taken by others above which the user is told


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """A run's result, and its JSON document."""

    result: RunResult
    document: Mapping[str, Any]
    metrics: Sequence[BatchMetrics] = ()
    events: bool = False
    evaluations: tuple[Evaluation, ...] = ()

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        training: Training,
        result: RunResult,
        about: Mapping[str, object],
        events: bool = False,
        evaluations: tuple[Evaluation, ...] = (),
    ) -> Self:
        """The report of a run; of one that ended early, of what was done until then.

        With `events`, it will be written for TensorBoard as well.
        """
        trace = result.trace
        header, makespan_s = trace.header, metrics.makespan_s(result.trace)
        finished = len(result.losses)
        last_epoch = experiment.data.batches_per_epoch(experiment.batch_size)
        losses = [loss for _, loss, _ in result.losses]
        document = {
            "schema": SCHEMA,
            "schedule": header.schedule,
            "options": dict(header.options),
            **{name: value for name, value in about.items() if name != "batches"},
            "runtime": header.about["runtime"],
            "threads": header.about["threads"],
            "blocks": [list(range(a + 1, b + 1)) for a, b in pairwise(training.bounds)],
            "workers": len(header.workers),
            "batches_finished": finished,
            "makespan_s": makespan_s,
            "batch_s": makespan_s / finished if finished else None,
            "utilization": metrics.utilization(trace),
            "updates": len(trace.of_kind("update")),
            "gaps": [
                {
                    "block": gap.block,
                    "mean": gap.mean,
                    "min": gap.min,
                    "max": gap.max,
                    "histogram": {str(value): count for value, count in gap.histogram.items()},
                }
                for gap in gap_summaries(trace)
            ],
            "first_loss": losses[0] if losses else None,
            "final_loss": fmean(losses[-last_epoch:]) if losses else None,
            "accuracy": None if result.state is None else experiment.accuracy(result.state),
            "other_cpu_share": header.about.get("other_cpu_share"),
            "failure": result.failure,
            "machine": describe_machine(),
        }
        base = about.get("learning_rate")
        factor = training.learning.rate or (lambda mini_batch: 1.0)
        rate = (lambda batch: float(str(base)) * factor(batch)) if base is not None else None
        rows = batch_metrics(result, training.source.samples, rate)
        if training.measure_memory and result.memory is not None:
            schedule = training.make_schedule()
            sizes = sizes_of(training)
            found = compare_memory(result.memory, trace, schedule, sizes)
            document["memory"] = [asdict(row) for row in found]
        return cls(result, document, rows, events, evaluations)

    def with_difference(self, difference: "Difference") -> Self:
        """The report, with how the weights differ from those of the run that was replayed."""
        return replace(self, document={**self.document, "weights": asdict(difference)})

    def write(self, path: Path) -> None:
        """Write trace, losses, summary and plots; the most valuable first."""
        trace = self.result.trace
        label = f"{trace.header.schedule}, {trace.header.about['runtime']}"
        dump_trace(trace, path / "trace.jsonl")
        write_weights(self.result, path / "weights.pt")
        write_metrics(path, self.metrics, trace.header.blocks, self.evaluations, events=self.events)
        write_json(path / "summary.json", self.document)
        dump_perfetto(path / "trace.perfetto.json", trace)
        save_png(draw_timelines([(label, trace)]), path / "timeline.png")
        save_png(draw_gap_histograms([(label, trace)]), path / "gaps.png")
        save_png(draw_losses([(label, self.result.losses)]), path / "losses.png")
        note(f"wrote {', '.join(FILES)} to {path}")

    def show(self, screen: "Console") -> None:
        """Print what is to be read."""
        found = self.document
        of = f"of {self.result.trace.header.mini_batches}"
        facts = [
            ("batches", f"{found['batches_finished']} {of} in {seconds(found['makespan_s'])}"),
            ("time per batch", seconds(found["batch_s"])),
            ("utilization", f"{found['utilization']:.1%} of {workers(found['workers'])}"),
            ("layers of the blocks", ", ".join(map(_layers, found["blocks"]))),
            (
                "loss",
                f"{_loss(found['first_loss'])} at first, {_loss(found['final_loss'])} at last",
            ),
        ]
        if found["accuracy"] is not None:
            facts.append(("accuracy", f"{found['accuracy']:.1%} of the test samples"))
        if (found["other_cpu_share"] or 0.0) > _OTHERS:
            share = f"other programs took {found['other_cpu_share']:.0%} of the machine"
            facts.append(("disturbed", share))
        if (weights := found.get("weights")) is not None:
            facts.append(("weights", weights["note"]))
        about = f"({found['model']}, {found['data']}, {found['runtime']})"
        print_facts(screen, found["schedule"], about, facts)
        print_gaps(screen, found["gaps"])
        if "memory" in found:
            print_memory(screen, found["memory"])


def write_weights(result: RunResult, file: Path) -> None:
    """Write the trained network's state, as `torch.load` reads it; nothing, if it did not end."""
    if result.state is not None:
        whole = io.BytesIO()
        torch.save(result.state, whole)
        write_whole(file, whole.getvalue())


def _layers(numbers: list[int]) -> str:
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"


def _loss(value: float | None) -> str:
    if value is not None and not math.isfinite(value):
        return "diverged"
    return "unknown" if value is None else f"{value:.4g}"
