"""A user's own schedule, by each of its names, through every command."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simcore.schedules import SCHEDULES
from simcore.trace_file import load_trace
from tests.cli.conftest import ROOT, Gradlag

PAGE = (ROOT / "docs" / "how-to" / "add-a-schedule.md").read_text()
SMALL = ("--batches", 8, "--model", "mlp:4x16", "--batch-size", 32)


@pytest.fixture(autouse=True)
def own(tmp_path: Path) -> Iterator[None]:
    """The file of the page; what other files register is gone after the test."""
    found = re.search(r"^```python\n# own.py\n(.*?)^```", PAGE, re.M | re.S)
    assert found is not None
    (tmp_path / "own.py").write_text(found[1])
    before = SCHEDULES.keys() | set()
    yield
    for name in SCHEDULES.keys() - before:
        del SCHEDULES[name]


def test_the_commands_of_the_page(gradlag: Gradlag) -> None:
    lines = re.findall(r"^gradlag (?:simulate|run) own.*", PAGE, re.M)
    assert len(lines) == 3
    for line in lines:
        words = line.split()[1:]
        smaller = ("--runtime", "threads", *SMALL[2:]) if words[0] == "run" else ()
        ran = gradlag(*words, *smaller, "--json")
        assert ran.json["schedule"] == "own.py:windowed", ran.err


def test_the_two_ways_to_name_it(gradlag: Gradlag) -> None:
    options = ("--modules", 3, "--batches", 20, "--json")
    by_name = gradlag("simulate", "own.py:windowed:slack=2", *options).json
    by_flag = gradlag("simulate", "--schedule", "own.py:windowed:slack=2", *options).json
    assert by_name == by_flag
    assert by_name["options"] == {"modules": 3, "batches": 20, "slack": 2}
    assert [gap["max"] for gap in by_name["gaps"]] == [4, 3, 2]
    readable = gradlag("simulate", "own.py:windowed:slack=2", *options[:-1])
    assert "own.py:windowed (modules 3, batches 20, slack 2)" in readable.out


@pytest.mark.parametrize("runtime", ["threads", "processes", "replay"])
def test_it_really_runs(gradlag: Gradlag, runtime: str) -> None:
    options = ("--modules", 2, *SMALL, "--runtime", runtime, "--json", "--out", "x")
    found = gradlag("run", "own.py:windowed:slack=1", *options).json
    assert found["batches_finished"] == 8
    assert [gap["max"] for gap in found["gaps"]] == [2, 1]
    assert load_trace("x/trace.jsonl").header.schedule == "own.py:windowed"


FIXED = """
from typing import Literal

from simcore.ops import Backward, Channel, Forward, Item, Receive, Update, Worker
from simcore.registry import register
from simcore.schedule import Schedule

def fixed(batches: int = 10):
    "One block, whatever is asked for."
    data = Channel("data", (Item("activation", 0),), source=True)

    def program():
        while (batch := (yield Receive(data))) is not None:
            yield Forward(1, batch)
            yield Backward(1, batch)
            yield Update(1)

    return Schedule(1, batches, (Worker("only", program, (1,), (), (data,)),), name="fixed")

def faulty(batches: int = 10, modules: int = 1):
    schedule = fixed(batches)
    schedule.workers[0].program.missing

def stumbling(batches: int = 10):
    data = Channel("data", (Item("activation", 0),), source=True)

    def program():
        yield Receive(data)
        yield undefined

    return Schedule(1, batches, (Worker("only", program, (1,), (), (data,)),), name="fixed")

def stuck(batches: int = 10):
    never = Channel("never", ())

    def program():
        yield Receive(never)

    both = Worker("only", program, (), (never,), (never,))
    return Schedule(1, batches, (both,), name="stuck")

def without_default(batches):
    return fixed(batches)

@register("told", title="told", source="here", lockings_broken="none", gap="0", memory="1 graph",
          compositions=("recompute",))
def told(modules: int = 1, batches: int = 10, side: Literal["left", "right"] = "left"):
    "One that is decorated."
    return fixed(batches)
"""


def test_a_fixed_number_of_blocks(gradlag: Gradlag, tmp_path: Path) -> None:
    (tmp_path / "more.py").write_text(FIXED)
    found = gradlag("simulate", "more.py:fixed", "--json").json
    assert (len(found["gaps"]), found["sequential_s"]) == (1, 30)
    ran = gradlag("run", "more.py:fixed", *SMALL, "--runtime", "threads", "--json").json
    assert ran["blocks"] == [[1, 2, 3, 4]]


def test_a_decorated_function_has_what_it_was_given(gradlag: Gradlag, tmp_path: Path) -> None:
    (tmp_path / "more.py").write_text(FIXED)
    options = ("--recompute", "true", "--batches", 4, "--json")
    found = gradlag("simulate", "more.py:told:side=right", *options).json
    assert found["schedule"] == "more.py:told"
    assert found["options"] == {"modules": 1, "batches": 4, "side": "right", "recompute": True}
    assert found["makespan_s"] == 4 * 4  # forward, forward again, backward
    gradlag("simulate", "more.py:told:side=up").refused("side is 'up'", "left, right")


def test_mistakes_are_the_users_and_told_in_one_line(gradlag: Gradlag, tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(FIXED.replace('"told"', '"told-otherwise"'))
    gradlag("simulate", "wrong.py:faulty").refused(
        "schedule is 'wrong.py:faulty'", "AttributeError", "line 22 of wrong.py"
    )
    gradlag("simulate", "wrong.py:without_default").refused("a default for its parameter batches")
    ran = gradlag("simulate", "wrong.py:stumbling")
    assert (ran.status, ran.out) == (1, "")
    line = "the program of only failed: NameError: name 'undefined' is not defined, line 29 of"
    assert line in ran.err.splitlines()[-1]
    ran = gradlag("simulate", "wrong.py:stuck")
    assert ran.status == 1
    assert "waits at Receive(never)" in ran.err
    assert "deadlock in wrong.py:stuck" in ran.err.splitlines()[-1]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with two entry points, one of which cannot be loaded."""
    found = tmp_path / "site" / "other-1.0.dist-info"
    found.mkdir(parents=True)
    (found / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    points = "[gradlag.schedules]\nelsewhere = other_schedules:fixed\nbroken = absent_module:x\n"
    (found / "entry_points.txt").write_text(f"{points}fdg = other_schedules:fixed\n")
    (tmp_path / "site" / "other_schedules.py").write_text(FIXED.replace('"told"', '"told-again"'))
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "other_schedules", raising=False)


@pytest.mark.usefixtures("installed")
def test_schedules_of_installed_packages(gradlag: Gradlag) -> None:
    found = gradlag("simulate", "elsewhere", "--batches", 4, "--json").json
    assert found["schedule"] == "elsewhere"
    ran = gradlag("schedules", "--json")
    listed: dict[str, Any] = {each["name"]: each for each in ran.json["schedules"]}
    assert listed["elsewhere"]["title"] == "One block, whatever is asked for"
    assert listed["elsewhere"]["options"][0]["default"] == 10
    assert "broken" not in listed
    assert listed["fdg"]["source"] == "FDG, Algorithm I"
    [line] = ran.err.splitlines()
    assert "schedule is 'broken': must be found at its entry point absent_module:x" in line
    gradlag("simulate", "broken").refused("absent_module:x", "ModuleNotFoundError")
    gradlag("simulate", "elsewere").refused("did you mean elsewhere?")
    assert gradlag("simulate", "fdg", "--json").json["workers"] == 4
