"""Metrics of a training, finished or going on, as CSV files and as event files for TensorBoard.

`metrics.csv` has a row for each mini-batch in the order in which their losses were known, and
`evaluations.csv` one for each evaluation. What is not known stays empty. A finished run has the gap
of every gradient; while a run goes on, a loss is known before its gradients are applied.
"""

import csv
import io
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, TextIO

from analysis.batch_metrics import BatchMetrics, Evaluation, Throughput
from simcore.errors import InputError
from simcore.files import write_whole

__all__ = [
    "EVALUATIONS_FILE",
    "EVENTS_FOLDER",
    "METRICS_FILE",
    "CsvMetrics",
    "EventMetrics",
    "check_events",
    "evaluations_text",
    "metrics_text",
    "table_text",
    "write_metrics",
]

METRICS_FILE: Final = "metrics.csv"
EVALUATIONS_FILE: Final = "evaluations.csv"
EVENTS_FOLDER: Final = "tensorboard"
_COLUMNS: Final = ("batch", "seconds", "loss", "samples_per_s", "learning_rate", "gap")
_EVALUATION_COLUMNS: Final = ("batches", "seconds", "accuracy", "loss")
_WINDOW: Final = 20  # mini-batches over which throughput is measured, if not told


def table_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV with a heading; None is an empty cell.

    >>> table_text(("batch", "loss"), [(0, 2.5), (1, None)])
    'batch,loss\\n0,2.5\\n1,\\n'
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(rows)
    return text.getvalue()


def metrics_text(rows: Sequence[BatchMetrics], blocks: int, window: int = _WINDOW) -> str:
    """The content of `metrics.csv`, throughput over `window` mini-batches."""
    return table_text(_columns(blocks), _cells(rows, blocks, Throughput(window)))


def evaluations_text(rows: Iterable[Evaluation]) -> str:
    """The content of `evaluations.csv`."""
    return table_text(_EVALUATION_COLUMNS, map(_evaluation_cells, rows))


def write_metrics(
    folder: str | os.PathLike[str],
    rows: Sequence[BatchMetrics],
    blocks: int,
    evaluations: Sequence[Evaluation] = (),
    window: int = _WINDOW,
    events: bool = False,
) -> None:
    """Write the files of a finished run: `metrics.csv`, `evaluations.csv` if there were any.

    With `events`, event files for TensorBoard as well, at last: `check_events` says beforehand
    whether they can be written.

    Raises:
        InputError: the folder cannot be written to; or `events` without the package tensorboard.
    """
    path = Path(folder)
    write_whole(path / METRICS_FILE, metrics_text(rows, blocks, window))
    if evaluations:
        write_whole(path / EVALUATIONS_FILE, evaluations_text(evaluations))
    else:
        _remove(path / EVALUATIONS_FILE)
    if not events:
        return
    seconds = [*(row.seconds for row in rows), *(row.seconds for row in evaluations)]
    started_s = time.time() - max(seconds, default=0.0)
    with closing(EventMetrics(path, window, started_s)) as sink:
        for row in rows:
            sink.add(row)
        for evaluation in evaluations:
            sink.evaluated(evaluation)


class CsvMetrics:
    """`metrics.csv` and `evaluations.csv` of a run that goes on: each row can be read at once.

    Files of an earlier run are overwritten. Rows come in the order of their seconds.

    Raises `InputError` where the folder cannot be written to, also when a row is added.
    """

    def __init__(self, folder: str | os.PathLike[str], blocks: int, window: int = _WINDOW) -> None:
        self.folder, self.blocks = Path(folder), blocks
        self._throughput = Throughput(window)
        self._files: dict[str, TextIO] = {}
        self._write(METRICS_FILE, _columns(blocks), [])
        _remove(self.folder / EVALUATIONS_FILE)

    def add(self, row: BatchMetrics) -> None:
        """Add a mini-batch."""
        cells = _cells([row], self.blocks, self._throughput)
        self._write(METRICS_FILE, _columns(self.blocks), cells)

    def evaluated(self, row: Evaluation) -> None:
        """Add an evaluation."""
        self._write(EVALUATIONS_FILE, _EVALUATION_COLUMNS, [_evaluation_cells(row)])

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def _write(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        with _writing(self.folder / name) as path:
            if name not in self._files:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._files[name] = path.open("w", encoding="utf-8", newline="")
                self._files[name].write(table_text(columns, []))
            csv.writer(self._files[name], lineterminator="\n").writerows(rows)
            self._files[name].flush()


class EventMetrics:
    """Event files that TensorBoard shows, in a folder `tensorboard` of the given one.

    Steps are mini-batches; times are `started_s` (seconds since 1970, by default now) plus the
    seconds of the rows. Event files of an earlier run there are removed, as TensorBoard would
    draw both runs as one.

    Raises `InputError` without the package tensorboard, and where the folder cannot be written to.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        window: int = _WINDOW,
        started_s: float | None = None,
    ) -> None:
        self.folder = Path(folder) / EVENTS_FOLDER
        self.started_s = time.time() if started_s is None else started_s
        self._throughput = Throughput(window)
        make = _summary_writer()
        with _writing(self.folder):
            for old in self.folder.glob("events.out.tfevents.*"):
                _remove(old)
            self._writer = make(os.fspath(self.folder))

    def add(self, row: BatchMetrics) -> None:
        """Add a mini-batch."""
        values = {
            "loss": row.loss,
            "samples_per_s": self._throughput.after(row),
            "learning_rate": row.learning_rate,
            "gap/mean": row.gap,
            **{f"gap/block_{block}": gap for block, gap in enumerate(row.gaps, 1)},
        }
        self._scalars(values, row.batch, row.seconds)

    def evaluated(self, row: Evaluation) -> None:
        """Add an evaluation."""
        values = {"evaluation/accuracy": row.accuracy, "evaluation/loss": row.loss}
        self._scalars(values, row.batches, row.seconds)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

    def _scalars(self, values: dict[str, float | None], step: int, seconds: float) -> None:
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, step, walltime=self.started_s + seconds)


def check_events() -> None:
    """Raise `InputError` where event files cannot be written: before a training, not after it."""
    _summary_writer()


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        rule = f"must be installed for event files ({' '.join(str(error).split())})"
        remedy = "pip install tensorboard, or go without event files"
        raise InputError("package", "tensorboard", rule, remedy) from error
    return SummaryWriter


def _columns(blocks: int) -> tuple[str, ...]:
    return (*_COLUMNS, *(f"gap_{block}" for block in range(1, blocks + 1)))


def _cells(
    rows: Iterable[BatchMetrics], blocks: int, throughput: Throughput
) -> Iterator[tuple[object, ...]]:
    for row in rows:
        known = row.gaps or (None,) * blocks
        speed = throughput.after(row)
        yield row.batch, row.seconds, row.loss, speed, row.learning_rate, row.gap, *known


def _evaluation_cells(row: Evaluation) -> tuple[object, ...]:
    return row.batches, row.seconds, row.accuracy, row.loss


def _remove(file: Path) -> None:
    """Remove what an earlier run left."""
    with _writing(file):
        file.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    try:
        yield path
    except OSError as error:
        rule = f"must be writable ({error.strerror})"
        raise InputError("file", os.fspath(path), rule, "choose another path") from error
