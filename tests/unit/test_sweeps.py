"""Sweeps: axes, questions, answers and their store; tables and pictures of them."""

import csv
import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.sweeps.answer import MEASURES, answered
from analysis.sweeps.axes import axis_texts, decimal_text
from analysis.sweeps.export import columns, write_csv, write_parquet
from analysis.sweeps.plots import draw_heat_maps, draw_lines
from analysis.sweeps.question import (
    Configuration,
    Question,
    Setting,
    Sweep,
    configurations,
)
from analysis.sweeps.store import Found, Store
from analysis.sweeps.view import drawn_measures, unanswered, value_of, varying, view
from analysis.sweeps.work import Workers, sweep
from simcore import metrics
from simcore.cluster import Cluster
from simcore.engine import simulate
from simcore.errors import InputError
from simcore.schedules import build
from simcore.staleness import gaps
from simcore.ticks import exact
from simcore.workload import Layer, Workload
from tests.benchmarks.results import Phases, Result
from tests.benchmarks.sweeps_plot import plot

PLAIN = Setting()


def grid(*names: str, setting: Setting = PLAIN, **axes: Sequence[Any]) -> tuple[Configuration, ...]:
    return configurations(Sweep([(name, {}) for name in names], axes), setting)


def small() -> tuple[Configuration, ...]:
    ratios = [Fraction(1), Fraction(5, 2)]
    return grid("fdg", "adl", modules=[1, 2, 3], accumulation=[1, 2], backward_ratio=ratios,
                batches=[6])  # fmt: skip


def answers(asked: Sequence[Configuration], path: Path, **workers: Any) -> list[Found]:
    question = Question.of(asked, PLAIN)
    with Store.open(path) as store:
        store.begin(question)
        sweep(question, PLAIN, store, Workers(**workers))
        return store.found(question.study)


# Axes


@given(
    st.fractions(0, 10, max_denominator=8),
    st.integers(0, 20),
    st.sampled_from(["1", "0.25", "1/3", "0.1"]),
)
def test_ranges_have_both_ends_and_exact_steps(start: Fraction, steps: int, step: str) -> None:
    stop = start + steps * exact(step)
    found = axis_texts(f"{start}:{stop}:{step}", "--axis")
    assert [exact(text) for text in found] == [start + n * exact(step) for n in range(steps + 1)]


@given(st.fractions())
def test_numbers_as_decimals_are_exact(value: Fraction) -> None:
    text = decimal_text(value)
    assert exact(text) == value
    assert ("/" in text) == (value.denominator != _smooth(value.denominator))


def _smooth(number: int) -> int:
    """The part of a number that is made of twos and fives."""
    found = 1
    for prime in (2, 5):
        while number % prime == 0:
            number //= prime
            found *= prime
    return found


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("1,,2", "must have a value before and after each comma"),
        ("", "must have a value before and after each comma"),
        ("1:x", "must be START:STOP"),
        ("1:2:0", "with a step above 0"),
        ("1:2:-1", "with a step above 0"),
        ("1:2:3:4", "must be START:STOP"),
        ("5:1", "must not stop below its start"),
        ("0:1:1e-9", "at most 1000000 values"),
    ],
)
def test_bad_axes(text: str, rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        axis_texts(text, "--modules")


# Questions


def test_a_schedule_has_the_axes_whose_options_it_has() -> None:
    asked = small()
    assert len(asked) == 3 * 2 + 3 * 2 * 2
    assert [each.schedule for each in asked] == ["fdg"] * 6 + ["adl"] * 12
    assert all("accumulation" not in each.options for each in asked[:6])
    assert len({json.dumps(each.values(), default=str) + each.schedule for each in asked}) == 18


def test_own_options_stay_and_equal_configurations_are_asked_once() -> None:
    listed = [Configuration("adl", {"modules": 2, "accumulation": 4})]
    chosen = [("adl", {"accumulation": 4}), ("adl", {})]
    found = configurations(Sweep(chosen, {"modules": [2], "accumulation": [1, 4]}, listed), PLAIN)
    assert [each.options for each in found] == [
        {"accumulation": 4, "modules": 2},
        {"modules": 2, "accumulation": 1},
    ]


def test_questions_that_have_no_answer_are_refused() -> None:
    with pytest.raises(InputError, match="--chunks is '1,2': is not an option of fdg"):
        grid("fdg", chunks=[1, 2])
    with pytest.raises(InputError, match="number of configurations is 0"):
        configurations(Sweep(), PLAIN)
    with pytest.raises(InputError, match="must be from 1 to 1000000"):
        grid("fdg", modules=range(1, 1002), batches=range(1, 1001))
    even = Setting(workload=Workload.even(3), workload_file="w.json")
    with pytest.raises(InputError, match=r"--backward-ratio is 'w\.json'"):
        grid("fdg", setting=even, backward_ratio=[Fraction(1)])


def test_whatever_determines_answers_changes_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = small()
    settings = [
        PLAIN,
        Setting(workload=Workload.even(4)),
        Setting(workload=Workload.even(4, update_s=1)),
        Setting(cluster=Cluster.private(1)),
        Setting(memory_limit_bytes=1000),
    ]
    questions = [Question.of(asked, setting) for setting in settings]
    questions.append(Question.of(asked[:-1], PLAIN))
    questions.append(Question.of([*asked[:-1], replace(asked[-1], schedule="fdg")], PLAIN))
    monkeypatch.setattr("analysis.sweeps.question.ENGINE", "another")
    questions.append(Question.of(asked, PLAIN))
    assert len({question.study for question in questions}) == len(questions)
    assert len({question.keys[0] for question in questions}) == 6
    named = Setting(workload=Workload.even(4), workload_file="w.json")
    monkeypatch.undo()
    assert Question.of(asked, named).study == questions[1].study


OWN = """
from simcore.schedules import build
from own_sizes_of_a_test import MORE

def windowed(modules: int = 2, batches: int = 4):
    return build("fdg", modules=modules, batches=batches + MORE)
"""


def test_a_changed_file_of_a_schedule_changes_the_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    file, beside = tmp_path / "own.py", tmp_path / "own_sizes_of_a_test.py"
    asked = [Configuration(f"{file}:windowed", {})]
    studies = []
    for text, more in ((OWN, 0), (OWN + "# changed", 0), (OWN, 1), (OWN, 0)):
        file.write_text(text)
        beside.write_text(f"MORE = {more}")
        studies.append(Question.of(asked, PLAIN).study)
    assert len({*studies}) == 3
    assert studies[0] == studies[3]


# Answers


def test_an_answer_is_that_of_the_simulation() -> None:
    layers = tuple(
        Layer(f"{k}", Fraction(k + 1), Fraction(3), Fraction(1, 4), 64, 128, 256) for k in range(5)
    )
    setting = Setting(workload=Workload("sized", layers, batch_size=4))
    numbers = {"link_latency": Fraction(1, 4), "jitter": Fraction(1, 5), "seed": Fraction(7)}
    asked = Configuration("adl", {"modules": 5, "batches": 20, "accumulation": 2}, numbers)
    found = answered(asked, setting)
    schedule = build("adl", modules=5, batches=20, accumulation=2)
    assert setting.workload is not None
    trace = simulate(
        schedule, setting.workload, Cluster.private(Fraction(1, 4)), jitter=0.2, seed=7
    )
    assert (found.state, found.reason) == ("done", None)
    assert found.values.keys() == MEASURES.keys()
    assert found.values["makespan_s"] == metrics.makespan_s(trace)
    assert found.values["speedup"] == metrics.speedup(trace, setting.workload)
    assert found.values["equal_speedup"] == metrics.speedup(trace, setting.workload, 2)
    assert found.values["mean_gap"] == pytest.approx(float(gaps(trace).mean()))
    assert found.values["peak_bytes"]
    assert len(found.block_gaps) == 5


@pytest.mark.parametrize(
    ("name", "options", "setting", "reason"),
    [
        ("fdg", {"modules": 5}, Setting(workload=Workload.even(4), workload_file="w.toml"),
         "--modules is 5: must be at most 4, the number of layers in w.toml; give --modules 4 or "
         "less"),
        ("pipedream", {"modules": 3, "in_flight": (2, 1)}, PLAIN,
         "--in-flight is '2,1': must be one number, or one for each"),
        ("fdg", {"batches": 10**9}, PLAIN, "estimated memory"),
    ],
)  # fmt: skip
def test_what_is_refused_has_a_reason(
    name: str, options: Mapping[str, Any], setting: Setting, reason: str
) -> None:
    found = answered(Configuration(name, options), setting)
    assert (found.state, found.values) == ("refused", {})
    assert found.reason is not None
    assert reason in found.reason
    assert "\n" not in found.reason


# The store


def test_answers_are_the_same_in_one_process_and_in_several(tmp_path: Path) -> None:
    asked = small()
    here = answers(asked, tmp_path / "one.sqlite", jobs=1)
    there = answers(asked, tmp_path / "two.sqlite", jobs=2)
    assert [row.number for row in here] == list(range(len(asked)))
    assert [without_time(row) for row in here] == [without_time(row) for row in there]
    for row, configuration in zip(here, asked, strict=True):
        assert row.schedule == configuration.schedule
        assert row.options == dict(configuration.options)
        assert row.answer.state == "done"


def without_time(row: Found) -> Found:
    return replace(row, answer=replace(row.answer, seconds=0.0))


def test_a_group_that_takes_long_comes_back_early_and_the_rest_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.sweeps.work._GROUP_S", 0.0)
    sizes: list[int] = []

    def here(one: Any, groups: Any, jobs: int, streams: bool) -> Any:
        for group in groups:
            sizes.append(len(group))
            yield one(group)

    monkeypatch.setattr("analysis.sweeps.work._in_parallel", here)
    asked = small()
    found = answers(asked, tmp_path / "one.sqlite", jobs=2)
    monkeypatch.setattr("analysis.sweeps.work._GROUP_MOST", 3)
    again = answers(asked, tmp_path / "two.sqlite", jobs=2)
    assert [without_time(row) for row in found] == [without_time(row) for row in again]
    assert sizes == [3] * 6 + [1] * 12


@pytest.mark.parametrize(("worth", "jobs"), [(18, 1), (17, 2)])
def test_processes_are_started_where_that_pays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worth: int, jobs: int
) -> None:
    found: list[int] = []

    def here(one: Any, groups: Any, jobs: int, streams: bool) -> Any:
        found.append(jobs)
        return map(one, groups)

    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("analysis.sweeps.work._in_parallel", here)
    monkeypatch.setattr("analysis.sweeps.work._WORTH_CONFIGURATIONS", worth)
    monkeypatch.setattr("analysis.sweeps.work._GROUP_MOST", 4)
    monkeypatch.setattr("analysis.sweeps.work._GROUP_S", 1e9)
    assert len(answers(small(), tmp_path / "store.sqlite")) == 18
    assert (found or [1]) == [jobs]


def test_what_is_known_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = small()
    calls: list[Configuration] = []

    def counted(configuration: Configuration, setting: Setting) -> Any:
        calls.append(configuration)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return answered(configuration, setting)

    monkeypatch.setattr("analysis.sweeps.work.answered", counted)
    path, question = tmp_path / "store.sqlite", Question.of(asked, PLAIN)
    with Store.open(path) as store:
        store.begin(question)
        with pytest.raises(KeyboardInterrupt):
            sweep(question, PLAIN, store, Workers(jobs=1))
    with Store.open(path) as store:
        assert store.begin(question) == 0
        assert store.missing(question) == list(range(6, 18))
        sweep(question, PLAIN, store, Workers(jobs=1))
        assert [*calls] == [*asked[:7], *asked[6:]]
        assert store.missing(question) == []
        sweep(question, PLAIN, store, Workers(jobs=1))
        assert len(calls) == 19


def test_a_changed_question_is_another_study_that_takes_over_equal_answers(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    first = answers(grid("fdg", modules=[1, 2], batches=[5]), path, jobs=1)
    wider = Question.of(grid("fdg", modules=[1, 2, 3], batches=[5]), PLAIN)
    other = Question.of(grid("fdg", modules=[1, 2], batches=[6]), PLAIN)
    with Store.open(path) as store:
        assert store.begin(wider) == 2
        assert store.missing(wider) == [2]
        assert store.found(wider.study) == first
        assert store.begin(other) == 0
        assert store.missing(other) == [0, 1]
        assert [study[1:3] for study in store.studies()] == [(2, 2), (3, 2), (2, 0)]


def test_numbers_come_back_with_their_type(tmp_path: Path) -> None:
    """A speedup of 2.0 is no whole number, and a count is one."""
    [row] = answers(grid("fdg", modules=[1], batches=[4]), tmp_path / "store.sqlite", jobs=1)
    kinds = {name: type(value) for name, value in row.answer.values.items()}
    assert kinds["speedup"] is kinds["makespan_s"] is float
    assert kinds["workers"] is kinds["max_gap"] is int


@pytest.mark.parametrize("content", [b"no database, but long enough to look at" * 50, None])
def test_files_that_are_something_else(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "other.sqlite"
    if content is None:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE mine (a)")
        connection.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"--store is .*other.sqlite"):
        Store.open(path)
    assert path.read_bytes() == before


def test_a_back_end_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InputError, match=r"--backend is 'ray': .*pip install 'gradlag\[ray\]'"):
        answers(small(), tmp_path / "store.sqlite", backend="ray")


def test_a_local_dask_cluster_gives_the_same_answers(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    asked = small()
    expected = [without_time(row) for row in answers(asked, tmp_path / "here.sqlite", jobs=1)]
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        found = answers(
            asked, tmp_path / "dask.sqlite", backend="dask", scheduler=cluster.scheduler_address
        )
    assert [without_time(row) for row in found] == expected


def test_a_local_ray_cluster_gives_the_same_answers(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    asked = small()
    expected = [without_time(row) for row in answers(asked, tmp_path / "here.sqlite", jobs=1)]
    found = answers(asked, tmp_path / "ray.sqlite", backend="ray")
    assert [without_time(row) for row in found] == expected


def test_a_dask_scheduler_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "0.5s"}),
        pytest.raises(InputError, match=r"--scheduler is 'tcp://127\.0\.0\.1:9'"),
    ):
        answers(small(), tmp_path / "a.sqlite", backend="dask", scheduler="tcp://127.0.0.1:9")


# Tables and pictures


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    refused: Mapping[str, Any] = {"modules": 3, "in_flight": (2, 1)}
    asked = [*small(), Configuration("pipedream", refused, {"backward_ratio": Fraction(1)})]
    return answers(asked, tmp_path_factory.mktemp("study") / "store.sqlite", jobs=1)


def test_csv_has_a_row_for_each_configuration(study: list[Found], tmp_path: Path) -> None:
    write_csv(study, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(study)
    assert rows[0].keys() == columns(study).keys()
    for row, found in zip(rows, study, strict=True):
        assert row["schedule"] == found.schedule
        assert row["modules"] == str(found.options["modules"])
        assert row["accumulation"] == str(found.options.get("accumulation", ""))
        assert row["backward_ratio"] == str(found.numbers.get("backward_ratio", ""))
        assert row["speedup"] == str(found.answer.values.get("speedup", ""))
    assert (rows[-1]["state"], rows[-1]["in_flight"]) == ("refused", "2,1")
    assert rows[-1]["reason"].startswith("--in-flight is")
    assert rows[0]["mean_gap_1"] == str(study[0].answer.block_gaps[0])


def test_parquet_has_the_same(study: list[Found], tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert write_parquet(study, tmp_path / "a.parquet")
    table = parquet.read_table(tmp_path / "a.parquet").to_pydict()
    assert table == columns(study)


def test_parquet_without_a_library(
    study: list[Found], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pyarrow", "pyarrow.parquet", "pandas"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    assert not write_parquet(study, tmp_path / "a.parquet")
    assert not (tmp_path / "a.parquet").exists()


def test_axes_that_vary_and_values_of_those_that_do_not(study: list[Found]) -> None:
    assert varying(study) == ("modules", "backward_ratio", "accumulation")
    assert value_of(study[0], "accumulation") == ""
    assert value_of(study[0], "jitter") == 0.0
    assert value_of(study[0], "recompute") == "false"


def test_values_that_are_no_numbers_have_a_text(tmp_path: Path) -> None:
    asked = [
        Configuration("async-lu", {"layers": 2, "batches": 5, "queue_capacity": None}),
        Configuration("async-lu", {"layers": 2, "batches": 5, "queue_capacity": 1}),
        Configuration("pipedream", {"modules": 2, "batches": 5, "in_flight": (2, 1)}),
    ]
    rows = answers(asked, tmp_path / "store.sqlite", jobs=1)
    assert [value_of(row, "queue_capacity") for row in rows] == ["unbounded", 1, ""]
    assert value_of(rows[2], "in_flight") == "2,1"
    assert columns(rows)["queue_capacity"] == ["unbounded", 1, None]
    assert columns(rows)["in_flight"] == [None, None, "2,1"]
    assert varying(rows) == ("queue_capacity",)


def test_other_axes_have_their_first_value_or_the_one_that_is_chosen(study: list[Found]) -> None:
    found = view(study, ("modules", "backward_ratio"), {})
    assert found.fixed == {"accumulation": 1}
    assert all(row.options.get("accumulation", 1) == 1 for row in found.rows)
    found = view(study, ("modules",), {"accumulation": "2", "backward_ratio": "5/2"})
    assert found.fixed == {"accumulation": 2, "backward_ratio": 2.5}
    assert {row.options.get("accumulation", 2) for row in found.rows} == {2}
    found = view(study, ("modules",), {"schedule": "fdg"})
    assert found.fixed == {"schedule": "fdg", "backward_ratio": 1.0}
    assert view(unanswered(small()), ("modules",), {}).fixed == {
        "backward_ratio": 1.0,
        "accumulation": 1,
    }
    with pytest.raises(InputError, match="--over or --colour is 'module': must be one of"):
        view(study, ("module",), {})
    with pytest.raises(InputError, match="--where modules is '9'"):
        view(study, (), {"modules": "9"})


def test_axes_that_no_schedule_has_both() -> None:
    asked = unanswered(grid("fdg", "async-lu", modules=[1, 2], layers=[3, 4], batches=[5]))
    found = view(asked, (), {})
    assert (found.over, found.schedules(), found.without) == (("modules",), ("fdg",), ("async-lu",))
    assert view(asked, (), {"schedule": "async-lu"}).over == ("layers",)
    with pytest.raises(InputError, match="axes is 'modules, layers': must be axes of one schedule"):
        view(asked, ("modules", "layers"), {})


def test_heat_maps_show_every_answer_at_its_place(study: list[Found]) -> None:
    chosen = view(study, ("modules", "backward_ratio"), {})
    figure = draw_heat_maps(chosen, "speedup")
    panels = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title(loc="left") for axes in panels] == ["fdg", "adl", "pipedream"]
    by_place = {
        (row.schedule, row.options["modules"], row.numbers["backward_ratio"]): row
        for row in chosen.rows
        if row.numbers
    }
    for axes, name in zip(panels[:2], ("fdg", "adl"), strict=True):
        table: Any = axes.images[0].get_array()
        assert table.shape == (2, 3)
        for (y, ratio), (x, modules) in product(enumerate((1.0, 2.5)), enumerate((1, 2, 3))):
            assert table[y, x] == by_place[name, modules, ratio].answer.values["speedup"]
        assert axes.get_xlabel() == "modules"
    assert panels[0].get_ylabel() == "backward time over forward time"
    nothing: Any = panels[2].images[0].get_array()
    assert nothing.mask.all()
    assert "accumulation 1" in figure.get_suptitle()


def test_heat_maps_leave_out_schedules_without_an_axis(study: list[Found]) -> None:
    figure = draw_heat_maps(view(study, ("modules", "accumulation"), {}), "speedup")
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.images]
    assert titles == ["adl"]
    head = " ".join(figure.get_suptitle().split())
    assert "fdg, pipedream without accumulation" in head
    figure = draw_heat_maps(view(study, ("modules", "schedule"), {}), "speedup")
    [panel] = [axes for axes in figure.axes if axes.images]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["fdg", "adl", "pipedream"]


def test_lines_have_a_colour_for_each_value_of_the_second_axis(study: list[Found]) -> None:
    adl = [row for row in study if row.schedule == "adl"]
    figure = draw_lines(view(adl, ("modules", "accumulation"), {}), "mean_gap")
    [axes] = figure.axes
    assert [line.get_label() for line in axes.lines] == ["accumulation 1", "accumulation 2"]
    for line, accumulation in zip(axes.lines, (1, 2), strict=True):
        expected = [
            row.answer.values["mean_gap"]
            for row in adl
            if row.options["accumulation"] == accumulation and row.numbers["backward_ratio"] == 1
        ]
        assert np.asarray(line.get_ydata()).tolist() == expected
        assert np.asarray(line.get_xdata()).tolist() == [1, 2, 3]
    assert axes.get_ylabel() == "mean gap (updates)"


def test_lines_are_named_in_each_panel_that_has_names(study: list[Found]) -> None:
    figure = draw_lines(view(study, ("modules", "accumulation"), {}), "speedup")
    named = [axes.get_legend() is not None for axes in figure.axes]
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["fdg", "adl", "pipedream"]
    assert named == [False, True, False]
    assert [len(axes.lines) for axes in figure.axes] == [1, 2, 0]


def test_lines_over_one_axis_are_schedules(study: list[Found]) -> None:
    figure = draw_lines(view(study, ("modules",), {}), drawn_measures(study)["memory"])
    [axes] = figure.axes
    assert [line.get_label() for line in axes.lines] == ["fdg", "adl"]
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1, 2, 3]
    assert axes.get_ylabel() == "most batches in flight, summed over blocks"


# The picture of their cost


def test_cost_is_drawn_from_the_result_of_its_benchmark(tmp_path: Path) -> None:
    heads = ("study", "of", "time, s", "each, ms", "one by one, ms", "one by one over study")
    values = [
        (s, n, 0.01 * n, 10.0, 20.0, 2.0) for s in ("configurations", "replicas") for n in (1, 9)
    ]
    rows: list[dict[str, Any]] = [dict(zip(heads, each, strict=True)) for each in values]
    plot(Result("sweeps", "how long?", rows, Phases()), tmp_path / "cost.png")
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(
        InputError, match="result is 'ideal': must be that of the benchmark of sweeps"
    ):
        plot(Result("ideal", "how long?", rows, Phases()), tmp_path / "other.png")
