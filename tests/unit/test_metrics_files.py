"""Metrics of real runs: what they say, and the files that hold them."""

import csv
import math
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import nn

from analysis.batch_metrics import (
    BatchMetrics,
    Evaluation,
    Throughput,
    batch_gaps,
    batch_metrics,
)
from analysis.metrics_files import (
    CsvMetrics,
    EventMetrics,
    check_events,
    evaluations_text,
    metrics_text,
    table_text,
    write_metrics,
)
from executor.data import generated
from executor.learning_rates import LearningRate, Steps
from executor.optimizers import make_optimizer
from executor.threads import run_threads
from executor.training import DataSource, RunResult, Training
from simcore.errors import InputError
from simcore.schedules import build
from simcore.staleness import gap_summaries, gaps
from simcore.trace import KIND

BATCHES = 30
EVALUATIONS = [Evaluation(10, 0.5, 0.25), Evaluation(20, 1.0, 0.75, 0.9)]


@cache
def trained(name: str, **options: Any) -> tuple[RunResult, DataSource]:
    """A small network trained by a schedule; 80 samples make batches of 32, 32 and 16."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    source = DataSource(generated(samples=100, features=8, classes=3), 32, 0)
    schedule: Any = partial(build, name, batches=BATCHES, **options)
    blocks = schedule().blocks
    bounds = {1: (0, 3), 3: (0, 1, 2, 3)}[blocks]
    training = Training(schedule, model, bounds, source, make_optimizer("sgd", 0.05))
    return run_threads(training), source


def rows_of(name: str, **options: Any) -> list[BatchMetrics]:
    result, source = trained(name, **options)
    rate = LearningRate(3, Steps((4,)))
    return batch_metrics(result, source.samples, lambda batch: 0.05 * rate.factor(batch))


# Values


def test_rows_say_what_the_run_did() -> None:
    result, _ = trained("fdg", modules=3)
    rows = rows_of("fdg", modules=3)
    known = {batch: (loss, seconds) for batch, loss, seconds in result.losses}
    assert {row.batch: (row.loss, row.seconds) for row in rows} == known
    assert [row.seconds for row in rows] == sorted(row.seconds for row in rows)
    for row in rows:
        assert row.samples == (16 if row.batch % 3 == 2 else 32)
        assert row.learning_rate == pytest.approx(0.05 if row.batch < 12 else 0.005)


def test_gaps_are_those_of_the_batch_in_each_block() -> None:
    result, _ = trained("fdg", modules=3)
    trace = result.trace
    table = dict(
        zip(
            zip(trace.gradients["batch"].tolist(), trace.gradients["block"].tolist(), strict=True),
            gaps(trace).tolist(),
            strict=True,
        )
    )
    rows = {row.batch: row for row in rows_of("fdg", modules=3)}
    for batch, row in rows.items():
        expected = [table[batch, block] for block in (1, 2, 3)]
        assert list(row.gaps) == expected
        assert row.gap == fmean(expected)
    for block, summary in enumerate(gap_summaries(trace)):
        means = [row.gaps[block] for row in rows.values()]
        assert fmean(gap for gap in means if gap is not None) == pytest.approx(summary.mean)
    assert max(row.gap or 0.0 for row in rows.values()) > 0


def test_a_batch_whose_gradient_was_not_applied_has_no_gap() -> None:
    """As in a run that was interrupted."""
    result, source = trained("fdg", modules=3)
    trace = result.trace
    applied = trace.gradients[(trace.gradients["batch"] < 5) & (trace.gradients["block"] != 2)]
    cut = replace(result, trace=replace(trace, gradients=applied))
    rows = {row.batch: row for row in batch_metrics(cut, source.samples)}
    assert rows[4].gaps[1] is None
    assert rows[4].gap == fmean(gap for gap in rows[4].gaps if gap is not None)
    assert rows[5].gaps == (None, None, None)
    assert rows[5].gap is None
    assert batch_gaps(cut.trace).shape == (BATCHES, 3)


def test_a_mini_batch_in_parts_is_one_row() -> None:
    """GPipe: no gap, and the loss is that of the whole mini-batch, as without parts."""
    result, source = trained("gpipe", modules=3, micro_batches=2)
    rows = {row.batch: row for row in batch_metrics(result, source.samples)}
    assert list(rows) == list(range(BATCHES))
    whole = {batch: loss for batch, loss, _ in trained("bp-mp", modules=3)[0].losses}
    passes = result.trace.spans[result.trace.spans["kind"] == KIND["forward"]]
    for number, row in rows.items():
        assert row.loss == pytest.approx(whole[number], rel=1e-5)
        last = passes[(passes["block"] == 3) & (passes["batch"] == 2 * number + 1)]
        assert last["start"] <= row.seconds * 1e9
        assert row.gaps == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("window", [1, 2, 3, 100])
def test_throughput_counts_samples_over_the_window(window: int) -> None:
    times, samples = [0.5, 1.0, 2.0, 2.25, 4.0], [32, 32, 16, 32, 8]
    measured = Throughput(window)
    for number, (seconds, count) in enumerate(zip(times, samples, strict=True)):
        first = max(0, number - window + 1)
        began = times[first - 1] if first else 0.0
        expected = sum(samples[first : number + 1]) / (seconds - began)
        found = measured.after(BatchMetrics(number, seconds, 0.0, count))
        assert found == pytest.approx(expected)


def test_throughput_needs_time_to_pass() -> None:
    measured = Throughput(1)
    assert measured.after(BatchMetrics(0, 0.0, 1.0, 32)) is None
    assert measured.after(BatchMetrics(1, 2.0, 1.0, 32)) == 16.0
    assert measured.after(BatchMetrics(2, 2.0, 1.0, 32)) is None
    with pytest.raises(InputError, match="must be at least 1"):
        Throughput(0)


# CSV


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_table_of_metrics_is_read_back(tmp_path: Path) -> None:
    rows = rows_of("fdg", modules=3)
    write_metrics(tmp_path, rows, 3, EVALUATIONS, window=4)
    found = read(tmp_path / "metrics.csv")
    speed = Throughput(4)
    assert len(found) == len(rows)
    for cells, row in zip(found, rows, strict=True):
        assert int(cells["batch"]) == row.batch
        numbers = {name: float(value) for name, value in cells.items()}
        assert (numbers["seconds"], numbers["loss"]) == (row.seconds, row.loss)
        assert numbers["samples_per_s"] == speed.after(row)
        assert (numbers["learning_rate"], numbers["gap"]) == (row.learning_rate, row.gap)
        assert tuple(numbers[f"gap_{block}"] for block in (1, 2, 3)) == row.gaps
    assert (tmp_path / "evaluations.csv").read_text() == (
        "batches,seconds,accuracy,loss\n10,0.5,0.25,\n20,1.0,0.75,0.9\n"
    )


def test_what_is_not_known_is_empty() -> None:
    text = metrics_text([BatchMetrics(0, 0.5, math.inf, 8)], blocks=2)
    assert text == (
        "batch,seconds,loss,samples_per_s,learning_rate,gap,gap_1,gap_2\n0,0.5,inf,16.0,,,,\n"
    )
    assert evaluations_text([]) == "batches,seconds,accuracy,loss\n"
    assert table_text(("a",), []) == "a\n"


def test_rows_of_a_run_that_goes_on_make_the_same_files(tmp_path: Path) -> None:
    rows = rows_of("fdg", modules=3)
    write_metrics(tmp_path / "finished", rows, 3, EVALUATIONS, window=5)
    going_on = tmp_path / "going on" / "deep"
    with closing(CsvMetrics(going_on, 3, window=5)) as sink:
        assert read(going_on / "metrics.csv") == []
        for number, row in enumerate(rows, 1):
            sink.add(row)
            assert len(read(going_on / "metrics.csv")) == number  # while it is still open
        assert not (going_on / "evaluations.csv").exists()
        for evaluation in EVALUATIONS:
            sink.evaluated(evaluation)
    for name in ("metrics.csv", "evaluations.csv"):
        assert (going_on / name).read_bytes() == (tmp_path / "finished" / name).read_bytes()


@pytest.mark.parametrize("finished", [True, False])
def test_files_of_an_earlier_run_do_not_stay(finished: bool, tmp_path: Path) -> None:
    row = BatchMetrics(0, 1.0, 2.0, 3)
    write_metrics(tmp_path, [row, row], 1, EVALUATIONS)
    if finished:
        write_metrics(tmp_path, [row], 1)
    else:
        with closing(CsvMetrics(tmp_path, 1)) as sink:
            sink.add(row)
    assert len(read(tmp_path / "metrics.csv")) == 1
    assert not (tmp_path / "evaluations.csv").exists()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    row = BatchMetrics(0, 1.0, 2.0, 3)
    for use in (lambda: CsvMetrics(file, 1), lambda: write_metrics(file, [row], 1)):
        with pytest.raises(InputError, match="must be writable"):
            use()


# Event files


def test_without_tensorboard_it_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for use in (check_events, lambda: EventMetrics(tmp_path)):
        with pytest.raises(InputError) as caught:
            use()
        line = str(caught.value)
        assert line.startswith("package is 'tensorboard': must be installed for event files (")
        assert line.endswith("); pip install tensorboard, or go without event files")
        assert "\n" not in line
    assert not list(tmp_path.iterdir())
    row = BatchMetrics(0, 1.0, 2.0, 3)
    with pytest.raises(InputError):
        write_metrics(tmp_path, [row], 1, events=True)
    assert len(read(tmp_path / "metrics.csv")) == 1  # what could be written was


def events(folder: Path) -> dict[str, list[tuple[int, float, float]]]:
    """Scalars by name: (step, value, time), as TensorBoard's own reader sees them."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    found: dict[str, list[tuple[int, float, float]]] = {}
    [file] = folder.glob("tensorboard/events.out.tfevents.*")
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            number = float(make_ndarray(value.tensor))
            found.setdefault(value.tag, []).append((event.step, number, event.wall_time))
    return found


def as_read(values: float | Sequence[float | None]) -> Any:
    """Values of event files have 32 bits."""
    return pytest.approx(values, rel=1e-6)


def test_event_files_hold_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    rows = rows_of("fdg", modules=3)
    before = time.time()
    for _ in range(2):  # the second run replaces the first
        write_metrics(tmp_path, rows, 3, EVALUATIONS, window=4, events=True)
    after = time.time()
    found = events(tmp_path)
    blocks = [f"gap/block_{block}" for block in (1, 2, 3)]
    of_batches = {"loss", "samples_per_s", "learning_rate", "gap/mean", *blocks}
    assert set(found) == of_batches | {"evaluation/accuracy", "evaluation/loss"}
    speed = Throughput(4)
    expected = {
        "loss": [row.loss for row in rows],
        "samples_per_s": [speed.after(row) for row in rows],
        "gap/mean": [row.gap for row in rows],
        "gap/block_1": [row.gaps[0] for row in rows],
    }
    for name, values in expected.items():
        assert [step for step, _, _ in found[name]] == [row.batch for row in rows]
        assert [value for _, value, _ in found[name]] == as_read(values)
    assert [each[:2] for each in found["evaluation/accuracy"]] == [(10, 0.25), (20, 0.75)]
    [(step, value, at)] = found["evaluation/loss"]
    assert (step, value) == (20, pytest.approx(0.9))
    assert before <= at <= after  # the evaluation was the run's last
    first = found["evaluation/accuracy"][0][2]
    assert at - first == pytest.approx(0.5, abs=1e-3)


def test_event_files_of_a_run_that_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with closing(EventMetrics(tmp_path, started_s=1000.0)) as sink:
        sink.add(BatchMetrics(7, 2.5, 0.5, 8))
    assert events(tmp_path) == {
        "loss": [(7, 0.5, 1002.5)],
        "samples_per_s": [(7, as_read(3.2), 1002.5)],
    }
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(InputError, match="must be writable"):
        EventMetrics(blocked)
