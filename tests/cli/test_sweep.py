"""`gradlag sweep`, and many runs of `gradlag simulate`."""

import csv
import json
import os
import signal
import sqlite3
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from simcore.engine import simulate
from simcore.metrics import makespan_s
from simcore.schedules import build
from simcore.workload import Workload
from tests.cli.conftest import Gradlag, Running, Start

GRID = ("fdg", "adl", "--modules", "1:3", "--accumulation", "1,2", "--batches", 6, "--jobs", 1)
# Configurations that take their time whatever the engine: a schedule that is slow to build.
SLOW = """\
import time

from simcore.schedules import build


def slow(place=0, batches=3):
    time.sleep(0.03)
    return build("fdg", modules=2, batches=batches)
"""
FILE = """\
schema = "gradlag.sweep/1"
schedules = ["own.py:slow"]
axes = { place = "1:80", jitter = 0.3, seed = 7 }
"""
CONFIGURATIONS = 80
LONG = ("sweep", "--file", "sweep.toml", "--store", "store.sqlite", "--json", "--jobs")
PATIENCE_S = 60.0


def test_a_grid_as_json(gradlag: Gradlag, tmp_path: Path) -> None:
    found = gradlag("sweep", *GRID, "--backward-ratio", "1:2:0.5", "--json").json
    assert found["schema"] == "gradlag.sweep-result/1"
    assert (found["configurations"], found["done"], found["refused"]) == (27, 27, 0)
    assert Path(tmp_path / found["store"]).is_file()
    for each in found["answers"][:6]:
        options = {**each["options"]}
        blocks = Workload.even(options["modules"], 1, each["numbers"]["backward_ratio"])
        trace = simulate(build(each["schedule"], **options), blocks)
        assert each["makespan_s"] == makespan_s(trace)


def test_the_same_command_again_asks_nothing_again(gradlag: Gradlag) -> None:
    first = gradlag("sweep", *GRID, "--json")
    again = gradlag("sweep", *GRID, "--json")
    assert again.out == first.out
    assert "going on: 9 of 9 answers are in out/sweep.sqlite" in again.err
    wider = gradlag("sweep", *GRID, "--modules", "1:4", "--json").json
    assert (wider["configurations"], wider["from_other_studies"]) == (12, 9)
    assert wider["study"] != first.json["study"]


def test_tables_and_pictures(gradlag: Gradlag, tmp_path: Path) -> None:
    ran = gradlag("sweep", *GRID, "--over", "modules", "--colour", "accumulation", "--out", "o")
    assert ran.status == 0, ran.err
    assert "sweep.csv" in ran.err
    for name in ("speedup.png", "gap.png", "memory.png"):
        assert (tmp_path / "o" / name).read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "o" / "sweep.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 9
    heads, _, first = [line.split() for line in ran.out.split("\n\n")[1].splitlines()[:3]]
    assert heads[:4] == ["fastest", "modules", "accumulation", "speedup"]
    assert first[:2] == ["fdg", "3"]


def test_a_file_with_a_grid_and_single_configurations(gradlag: Gradlag, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "work.toml").write_text(
        'schema = "gradlag.workload/1"\nname = "three"\n'
        + '[[layers]]\nname = "l"\nforward_s = 1\nbackward_s = 2\n' * 3
    )
    (tmp_path / "in" / "sweep.toml").write_text(
        'schema = "gradlag.sweep/1"\nschedules = ["fdg", "adl:accumulation=2"]\n'
        'workload = "work.toml"\n'
        '[axes]\nmodules = "1:4"\nbatches = [5, 6]\nlink_latency = 0.5\n'
        '[[configurations]]\nschedule = "pipedream"\nmodules = 3\nin_flight = [3, 2, 1]\n'
    )
    found = gradlag("sweep", "--file", "in/sweep.toml", "--batches", 4, "--json").json
    assert found["configurations"] == 4 + 4 + 1
    assert (found["done"], found["refused"]) == (7, 2)
    assert all(each["options"]["batches"] == 4 for each in found["answers"][:8])
    assert {each["numbers"].get("link_latency") for each in found["answers"]} == {0.5, None}
    assert found["answers"][-1]["options"] == {"modules": 3, "in_flight": [3, 2, 1]}
    [reason] = {each["reason"] for each in found["answers"] if each["state"] == "refused"}
    assert reason == (
        "--modules is 4: must be at most 3, the number of layers in in/work.toml; "
        "give --modules 3 or less"
    )


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("", ("SCHEDULE is 'missing'", "--file")),
        ("fdgg", ("schedule is 'fdgg'", "did you mean fdg?")),
        ("fdg --modules 1:x", ("--modules is '1:x'", "START:STOP")),
        ("fdg --modules 0:2", ("--modules is 0", "at least 1")),
        ("fdg --modules 1:2:0.5", ("--modules is '1.5'", "whole number")),
        ("fdg --accumulation 1,2", ("--accumulation is '1'", "not an option of fdg")),
        ("fdg --backward-ratio -1:2", ("--backward-ratio is '-1'", "negative")),
        ("fdg --jitter 11", ("--jitter is '11'", "at most 10")),
        ("fdg --forward-time 0,1", ("--forward-time is '0'", "more than 0")),
        ("fdg --seed 0.5", ("--seed is '0.5'", "whole number")),
        ("fdg --jobs 0", ("--jobs is 0", "at least 1")),
        ("fdg --backend spark", ("--backend is 'spark'", "loky, dask, ray")),
        ("fdg --scheduler tcp://a:1", ("--scheduler is 'tcp://a:1'", "--backend")),
        ("fdg --over modules,batches,jitter", ("--over is", "one axis or two")),
        ("fdg --colour modules", ("--colour is 'modules'", "--over")),
        ("fdg --where modules", ("--where is 'modules'", "AXIS=VALUE")),
        ("fdg --modules 1,2 --over modules", ("--over is 'given'", "--out")),
        ("fdg --modules 1,2 --over moduls --out o", ("--over or --colour is 'moduls'", "modules")),
        ("fdg --modules 1,2 --where modules=3 --out o", ("--where modules is '3'", "1, 2")),
        ("fdg --store .", ("--store is '.'", "SQLite")),
        ("fdg --file none.toml", ("file is 'none.toml'", "readable")),
        ("--file bad.toml", ("bad.toml: axes.moduls is '2'", "not an option of fdg")),
        ("--file empty.toml", ("empty.toml: schedules", "name a schedule")),
        ("--file odd.toml", ("odd.toml: axes.modules", "must be a number")),
    ],
)
def test_bad_input(gradlag: Gradlag, tmp_path: Path, words: str, parts: tuple[str, ...]) -> None:
    head = 'schema = "gradlag.sweep/1"\n'
    (tmp_path / "bad.toml").write_text(head + 'schedules = ["fdg"]\naxes = { moduls = 2 }\n')
    (tmp_path / "empty.toml").write_text(head)
    (tmp_path / "odd.toml").write_text(
        head + 'schedules = ["fdg"]\naxes = { modules = [2, { a = 1 }] }\n'
    )
    before = sorted(tmp_path.iterdir())
    gradlag("sweep", *words.split()).refused(*parts)
    assert sorted(tmp_path.iterdir()) == before


def test_a_cluster_whose_library_is_missing_leaves_nothing(
    gradlag: Gradlag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    gradlag("sweep", "fdg", "--backend", "dask").refused("--backend is 'dask'", "gradlag[dask]")
    assert not list(tmp_path.iterdir())


# Survival


def answers(path: Path) -> list[tuple[int, str, float]]:
    if not path.exists():
        return []
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        try:
            return connection.execute(
                "SELECT number, state, makespan_s FROM answers ORDER BY number"
            ).fetchall()
        except sqlite3.OperationalError:  # its tables are not there yet
            return []


def wait_for_answers(running: Running, path: Path, least: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while len(answers(path)) < least:
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(status[1]) == pid and status[0] != "Z":
                found.append(int(entry.name))
    return found


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(SLOW)
    (tmp_path / "sweep.toml").write_text(FILE)
    return tmp_path / "store.sqlite"


@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_at_any_moment_nothing_finished_is_lost(start: Start, slow: Path, jobs: int) -> None:
    running = start(*LONG, jobs)
    wait_for_answers(running, slow, 5)
    workers = children_of(running.pid)
    running.send_signal(signal.SIGKILL)
    running.wait()
    before = answers(slow)
    assert 5 <= len(before) < CONFIGURATIONS
    deadline = time.monotonic() + PATIENCE_S
    while any(map(alive, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)

    out, err = start(*LONG, jobs).communicate(timeout=PATIENCE_S)
    found = json.loads(out)
    assert f"going on: {len(before)} of {CONFIGURATIONS} answers" in err
    assert (found["done"], found["configurations"]) == (CONFIGURATIONS, CONFIGURATIONS)
    after = answers(slow)
    assert [row for row in after if row[0] in {number for number, *_ in before}] == before
    trace = simulate(build("fdg", modules=2, batches=3), Workload.even(2), jitter=0.3, seed=7)
    assert {makespan for *_, makespan in after} == {makespan_s(trace)}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_ends_cleanly_and_says_how_to_go_on(start: Start, slow: Path, jobs: int) -> None:
    running = start(*LONG, jobs)
    wait_for_answers(running, slow, 5)
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=PATIENCE_S)
    kept = f"{len(answers(slow))} of {CONFIGURATIONS} answers are in store.sqlite"
    assert (running.returncode, out) == (130, "")
    assert err.splitlines() == [
        f"gradlag: {kept}: the same command goes on",
        "gradlag: interrupted",
    ]


def test_only_the_command_hears_ctrl_c(start: Start, slow: Path) -> None:
    """Not its processes, from their start on: they would fail, or print where they were."""
    running = start(*LONG, 2)
    while running.poll() is None:
        for child in children_of(running.pid):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGINT)
        time.sleep(0.02)
    out, err = running.communicate(timeout=PATIENCE_S)
    assert (running.returncode, err) == (0, "")
    assert json.loads(out)["done"] == CONFIGURATIONS


# Many runs of one simulation


def test_quantiles_over_many_runs(gradlag: Gradlag) -> None:
    flags = ("simulate", "fdg", "--modules", 3, "--batches", 10, "--jitter", 0.2, "--runs", 20)
    found = gradlag(*flags, "--seed", 5, "--json").json["replicas"]
    makespans = sorted(
        makespan_s(simulate(build("fdg", modules=3, batches=10), Workload.even(3), jitter=0.2,
                            seed=seed))
        for seed in range(5, 25)
    )  # fmt: skip
    assert (found["runs"], found["seeds"], found["at_once"]) == (20, [5, 24], True)
    assert found["makespan_s"]["50"] == pytest.approx((makespans[9] + makespans[10]) / 2)
    assert makespans[0] < found["makespan_s"]["5"] < makespans[1]
    shown = gradlag(*flags).out
    assert "20 runs" in shown
    assert "gaps are the same in all runs" in shown


def test_runs_need_something_random(gradlag: Gradlag) -> None:
    gradlag("simulate", "fdg", "--runs", 3).refused("--runs is '3'", "random")
    gradlag("simulate", "fdg", "--runs", 0, "--jitter", 1).refused("--runs is 0", "at least 1")
