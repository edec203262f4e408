"""What a comparison found: its files, one schedule after the other, its report, and its table."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from analysis.bounds import to_json
from analysis.cli.output import Bar, note, write_json
from analysis.cli.training import Setup
from analysis.compare import Outcome
from analysis.comparison_tables import markdown, table
from analysis.experiment import Experiment, Wanted
from analysis.metrics_files import table_text
from analysis.report import REPORT, Run, stems, write_report
from analysis.study import Study, study
from executor.obstacles import obstacle
from executor.run import Runtime
from simcore.cluster import dump_cluster
from simcore.errors import InputError
from simcore.files import write_whole
from simcore.perfetto import dump_perfetto
from simcore.trace_file import dump_trace
from simcore.workload import dump_workload

if TYPE_CHECKING:
    from rich.console import Console

    from analysis.bounds import BoundCurve

__all__ = ["FILES", "Results", "measured"]

_JSON, _MARKDOWN, _BOUNDS = "comparison.json", "comparison.md", "bounds.json"
FILES: Final = (REPORT, _JSON, _MARKDOWN, _BOUNDS)


def measured(
    experiment: Experiment,
    wanted: Sequence[Wanted],
    runtime: Runtime | None,
    settings: dict[str, object],
    bar: Bar,
    results: "Results",
) -> Study:
    """The study, with a bar for each of its stages. Raises `KeyboardInterrupt` on Ctrl-C."""
    totals = {}
    for each in (*wanted, Wanted("bp")):
        schedule = experiment.training(each).make_schedule()
        totals[f"running {each.label}"] = schedule.blocks * schedule.batches
        if runtime == "processes" and (reason := obstacle(schedule)):
            rule = f"is not for {each.label}, as {reason}"
            raise InputError("--runtime", runtime, rule, "leave it out or give threads")
    return study(
        experiment,
        wanted,
        runtime=runtime,
        settings=settings,
        told=lambda stage: bar.stage(stage, totals.get(stage)),
        progress=bar.told,
        finished=results.add,
    )


class Results:
    """The outcomes so far; each is written as soon as it is there."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.labels: list[str] = []
        self.files: list[dict[str, str]] = []

    def add(self, outcome: Outcome) -> None:
        """Write the files of one schedule."""
        plural = "s" if outcome.threads > 1 else ""
        plain = outcome.wanted == Wanted("bp")
        self.labels.append(
            f"bp, {outcome.threads} thread{plural}" if plain else outcome.wanted.label
        )
        stem = stems(self.labels)[-1]
        names = {
            "predicted trace": f"{stem}-predicted.trace.jsonl",
            "measured trace": f"{stem}-measured.trace.jsonl",
            "both, for Perfetto": f"{stem}.perfetto.json",
            "losses": f"{stem}-losses.csv",
            "calibrated workload": f"{stem}-workload.json",
            "calibrated cluster": f"{stem}-cluster.json",
        }
        self.files.append(names)
        if self.path is None:
            return
        predicted, real, perfetto, losses, workload, cluster = (
            self.path / name for name in names.values()
        )
        dump_trace(outcome.measured, real)
        dump_trace(outcome.predicted, predicted)
        dump_perfetto(perfetto, outcome.predicted, outcome.measured)
        write_whole(losses, table_text(("batch", "loss", "seconds"), outcome.result.losses))
        dump_workload(outcome.calibration.blocks, workload)
        dump_cluster(outcome.calibration.cluster, cluster)

    def finish(self, found: Study, curves: "Sequence[BoundCurve]", setup: Setup) -> dict[str, Any]:
        """Write the report. Returns the JSON document, that of the bound in it."""
        document = found.comparison.to_json()
        if curves:
            document["bounds"] = to_json(curves)
        if self.path is None:
            return document
        with Bar("writing") as bar:
            bar.stage(f"writing {self.path / REPORT}")
            self._write(self.path, document, found, curves, setup)
        note(f"wrote {self.path / REPORT}")
        return document

    def _write(
        self,
        path: Path,
        document: dict[str, Any],
        found: Study,
        curves: "Sequence[BoundCurve]",
        setup: Setup,
    ) -> None:
        write_json(path / _JSON, document)
        write_whole(path / _MARKDOWN, markdown(found.comparison))
        files = {"comparison as JSON": _JSON, "table in Markdown": _MARKDOWN}
        if curves:
            write_json(path / _BOUNDS, to_json(curves))
            files["convergence bound as JSON"] = _BOUNDS
        written = dict(zip(self.labels, self.files, strict=True))
        runs = [
            Run(row.label, each.predicted, each.measured, each.result.losses, written[row.label])
            for row, each in zip(found.comparison.rows, found.outcomes, strict=True)
        ]
        epoch = setup.network.data.batches_per_epoch(setup.network.batch_size)
        smooth = epoch if epoch < setup.batches else None
        write_report(path, found.comparison, runs, bounds=curves, files=files, smooth=smooth)

    def show(self, screen: "Console", found: Study, curves: "Sequence[BoundCurve]") -> None:
        """Print the table."""
        screen.print(table(found.comparison), soft_wrap=False)
        if curves:
            from analysis.cli.bounds import show_curves

            show_curves(screen, curves)
