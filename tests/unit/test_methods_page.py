"""The page of methods lists every registered schedule, and says what its results say."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from simcore.errors import InputError
from simcore.schedules import SCHEDULES
from tests.benchmarks.methods_accuracy import Method, Scale, accuracy, climbed, rate
from tests.benchmarks.methods_page import FAMILIES, METHODS, PAGE, SCHEMA, renewed, table

RESULTS = PAGE.with_suffix(".json")
TINY = Scale(batches=4, seeds=2, tuning_seeds=1, unsteady_tuning_seeds=1, model="mlp:4x8")


@pytest.fixture(name="document")
def read_document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULTS.read_text("utf-8"))
    return found


def rows_of(page: str) -> list[list[str]]:
    """The cells of the table's rows, without its head."""
    between = page.split("<!-- methods -->")[1]
    lines = [line for line in between.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_registered_schedule_is_listed_once() -> None:
    found = [row[1] for row in rows_of(PAGE.read_text("utf-8"))]
    assert found == [
        f"[{name}](../reference/schedules.md#{name})"
        for names in FAMILIES.values()
        for name in names
    ]
    assert sorted(name for names in FAMILIES.values() for name in names) == sorted(SCHEDULES)


def test_the_page_is_current(document: dict[str, Any]) -> None:
    page = PAGE.read_text("utf-8")
    assert page == renewed(page, document), "python -m tests.benchmarks.methods --part page"


def test_every_method_was_trained(document: dict[str, Any]) -> None:
    for key in METHODS:
        row = document["accuracy"][key]
        assert row["learning_rate"] == document["rates"][key]["learning_rate"]
        assert len(row["accuracies"]) == Scale().seeds
        assert all(0 <= each <= 1 for each in row["accuracies"])
        assert row["options"] == dict(Method.of(key).wanted.options)


@pytest.mark.parametrize("name", ["bp-mp", "gpipe", "1f1b", "zb-h1", "interleaved-1f1b"])
def test_schedules_without_a_gap_learn_what_backpropagation_does(
    document: dict[str, Any], name: str
) -> None:
    found = document["accuracy"]
    for mine, plain in zip(found[name]["accuracies"], found["bp"]["accuracies"], strict=True):
        assert mine == pytest.approx(plain, abs=0.01)


def test_what_was_not_measured_is_a_dash(document: dict[str, Any]) -> None:
    less = copy.deepcopy(document)
    del less["accuracy"]["fdg"]
    less.get("speed", {}).pop("fdg", None)
    [row] = [line for line in table(less).splitlines() if "#fdg)" in line]
    assert row.endswith("| - | - | - | - | - | - | - |")


def test_the_table_shows_what_was_measured() -> None:
    machine = {"cpu": "a cpu", "cores": 2, "torch": "2", "date": "2026-01-02T03:04:05"}
    trained = {
        "learning_rate": 0.1,
        "accuracies": [0.9, 0.1],
        "diverged": 1,
        "options": {"modules": 2, "queue_capacity": 1},
        "runtime": "threads",
        "gap_mean": 1.5,
        "machine": machine,
    }
    pair = {"predicted": 0.011, "measured": 0.01}
    timed = {
        "batch_s": pair,
        "prediction_error": 0.1,
        "speedup_one_thread": {"predicted": 1.5, "measured": 1.6},
        "speedup_all_cores": {"predicted": 1.0, "measured": None},
        "gap_mean": {"predicted": 1.0, "measured": 1.25},
        "workers": 3,
        "notes": ["disturbed"],
        "baselines": {"one_thread_batch_s": 0.02, "all_cores_batch_s": 0.0125},
        "drift": "+1.0%",
        "model": "mlp:1x1",
        "machine": machine,
    }
    shown = table({"accuracy": {"async-lu": trained}, "speed": {"async-lu": timed}})
    expected = (
        "| 0.1 | 50.0 ± 56.6 % | 11.0 / 10.0 | +10 % | 1.50 / 1.60 | 1.00 / - | 1.00 / 1.25 |"
    )
    assert expected in shown
    assert "a cpu, 2 cores, torch 2; 2026-01-02" in shown
    assert "20.0 ms a batch of `bp` on one thread, 12.5 ms on all cores" in shown
    for note in ("disturbed", "3 workers on 2 cores", "1 of 2 runs diverged", "queue_capacity 1"):
        assert note in shown


def test_results_of_another_schema_are_refused(document: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"must be {SCHEMA}"):
        renewed(PAGE.read_text("utf-8"), {**document, "schema": "other/1"})
    with pytest.raises(InputError, match="must have <!-- methods --> twice"):
        renewed("no markers", document)


def test_climbing_goes_down_from_rates_that_diverge() -> None:
    def score(rate: float) -> tuple[float, float]:
        return (0.5, -abs(rate - 0.0003)) if rate < 0.001 else (0.0, -rate)

    found = climbed(score, 0.1)
    assert found.best == 0.0003
    assert set(found.tried) == {0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3}


@pytest.mark.parametrize("key", ["fdg", "hogwild", "fgd, adam", "drtp, tanh"])
def test_methods_are_really_trained(key: str) -> None:
    method = Method.of(key)
    row = accuracy(method, TINY, 0.01)
    assert len(row["accuracies"]) == TINY.seeds
    assert row["diverged"] == 0
    assert row["runtime"] == ("threads" if key == "hogwild" else "replay")
    assert row["gap_mean"] == (pytest.approx(0.375) if key == "fdg" else pytest.approx(0, abs=1))
    assert row == accuracy(method, TINY, 0.01) | {"machine": row["machine"]} or key == "hogwild"


def test_runs_that_diverge_count_as_chance() -> None:
    row = accuracy(Method.of("bp"), TINY, 1e30)
    assert row["diverged"] == TINY.seeds
    assert row["accuracies"] == [0.1] * TINY.seeds


def test_rates_are_chosen_on_held_out_samples() -> None:
    method = Method.of("bp")
    held_out = method.experiment(TINY, 0.1, 0, held_out=True).data
    tested = method.experiment(TINY, 0.1, 0, held_out=False).data
    assert held_out.samples + len(held_out.test_labels) == tested.samples
    found = rate(method, TINY)
    assert found.best in found.tried
    assert found.tried[found.best] == max(found.tried.values())
