"""The comparison: what goes in comes out, in JSON, in the terminal and in Markdown."""

import io
import json
import math
import re

import pytest
from rich.console import Console

from analysis.comparison import SCHEMA, Baselines, Comparison, Pair, Row
from analysis.comparison_tables import batch_unit, markdown, number, table

FDG = Row(
    label="fdg:modules=4",
    schedule="fdg",
    options={"modules": 4, "shrink": 1.0, "queue_capacity": None},
    workers=4,
    runtime="processes",
    samples_per_update=256,
    batch_s=Pair(0.012, 0.0125),
    speedup_one_thread=Pair(2.5, 2.4),
    speedup_all_cores=Pair(1.7, 1.6),
    gap_mean=Pair(2.25, 2.25),
    gap_max=Pair(5, 5),
    final_loss=0.3456,
    accuracy=0.961,
    disturbed=0.013,
    notes=("one thread per worker",),
)
FAILED = Row(
    label="async-lu:write=assign,forward_threads=2",
    schedule="async-lu",
    workers=3,
    batch_s=Pair(predicted=0.01),
    final_loss=math.nan,
    accuracy=math.inf,
    notes=("one thread per worker", "training diverged"),
)
COMPARISON = Comparison(
    rows=(FDG, FAILED),
    machine="two cores",
    date="2025-06-01T12:00:00+02:00",
    settings={"batches": 100, "loss": math.inf, "shape": (64, 10)},
    baselines=Baselines(0.03, 0.02),
)


def printed(comparison: Comparison, width: int) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width).print(table(comparison))
    return stream.getvalue().replace("\N{NO-BREAK SPACE}", " ").splitlines()


# Data


def test_the_error_is_that_of_the_prediction_relative_to_the_measurement() -> None:
    assert FDG.prediction_error == pytest.approx(-0.04)
    assert FAILED.prediction_error is None
    assert Pair(1.0, 0.0).error is None
    assert COMPARISON.baselines.all_cores_speedup == 1.5
    assert Baselines().all_cores_speedup is None


def test_json_round_trips_without_nan() -> None:
    text = json.dumps(COMPARISON.to_json(), allow_nan=False)
    document = json.loads(text)
    assert document["schema"] == SCHEMA == "gradlag.comparison/1"
    assert document["rows"][0]["prediction_error"] == pytest.approx(-0.04)
    assert document["rows"][1]["final_loss"] is None
    assert document["settings"] == {"batches": 100, "loss": None, "shape": [64, 10]}
    read = Comparison.from_json(document)
    assert read.rows[0] == FDG
    assert read.baselines == COMPARISON.baselines
    assert json.dumps(read.to_json()) == text


def test_another_schema_is_refused() -> None:
    with pytest.raises(ValueError, match=r"schema is 'gradlag.trace/1': must be"):
        Comparison.from_json({"schema": "gradlag.trace/1"})


# Words


@pytest.mark.parametrize(
    ("seconds", "unit"), [([], "s"), ([3.0], "s"), ([0.002, 0.9, 5.0], "ms"), ([2e-5], "µs")]
)
def test_seconds_per_batch_have_one_unit_that_suits_most(seconds: list[float], unit: str) -> None:
    found = batch_unit(Row(str(s), "fdg", batch_s=Pair(s, None)) for s in seconds)
    assert found[1] == unit


def test_numbers_have_three_digits() -> None:
    assert [number(value) for value in (1e-3, 0.1, 1, 9.999, 99.96, 100, 123456)] == [
        "0.00100", "0.100", "1.00", "10.0", "100", "100", "123456"
    ]  # fmt: skip


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_and_no_number_is_cut(width: int) -> None:
    lines = printed(COMPARISON, width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for cell in (
        "12.0", "12.5", "-4.0 %", "1.3 %", "2.50×", "2.40×", "1.70×", "1.60×",
        "2.25", "0.3456", "96.1 %", "diverged", "one thread per worker", "training diverged",
    ):  # fmt: skip
        assert cell in text
    assert re.search(r"predicted +12\.0 +-4\.0 % +2\.50×", text)
    assert re.search(r"measured +12\.5 +1\.3 % +2\.40×", text)


def test_the_table_can_be_encoded_by_old_terminals() -> None:
    for row in printed(COMPARISON, 120):
        row.replace("─", "-").encode("latin-1")
    markdown(COMPARISON).encode("latin-1")


def test_labels_are_not_markup() -> None:
    row = Row("[bold]fdg[/bold] :smile:", "fdg")
    text = " ".join(printed(Comparison((row,)), 120))
    assert "[bold]fdg[/bold] :smile:" in text


def test_markdown_is_a_table_with_equal_columns() -> None:
    nasty = Row("a|b <script> `c` *d*\n_e_", "fdg", notes=("f|g",))
    text = markdown(Comparison((FDG, FAILED, nasty), machine="two cores"))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert len(rows) == 2 + 3
    assert r"| a\|b \<script\> \`c\` \*d\* \_e\_ \[3\] |" in text
    assert "12.0 / 12.5" in text
    assert "30.0 ms" not in text  # no baselines, no sentence on them
    assert text.splitlines()[-1] == r"3. f\|g"
    assert text.startswith("two cores\n\n|")


def test_baselines_are_told_in_the_unit_of_the_table() -> None:
    sentence = "Plain backpropagation takes 30.0 ms a batch on one thread and 20.0 ms a batch on"
    assert sentence in markdown(COMPARISON)
    assert sentence.split(" on ")[0] in " ".join(printed(COMPARISON, 120))


def test_an_empty_comparison_is_an_empty_table() -> None:
    assert printed(Comparison(()), 80)
    assert markdown(Comparison(())).startswith("| schedule |")
