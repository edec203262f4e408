"""`gradlag simulate` for more batches than a trace can hold, and what bounds a schedule."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Gradlag
from tests.cli.test_simulate import KEYS

FAR = 10**9
pytestmark = pytest.mark.usefixtures("tmp_path")


def test_a_long_run_has_the_figures_of_a_short_one_and_more_periods(gradlag: Gradlag) -> None:
    options = ("--modules", 3, "--forward-time", 3)
    short = gradlag("simulate", "fdg", *options, "--batches", 40, "--json").json
    found = gradlag("simulate", "fdg", *options, "--batches", FAR, "--json").json
    assert [*found] == KEYS
    assert (found["how"], found["steady"], found["period_batches"]) == ("periodic", "proved", 1)
    assert found["steady_batch_s"] == short["steady_batch_s"] == 3
    assert found["makespan_s"] == short["makespan_s"] + 3 * (FAR - 40)
    assert found["updates"] == short["updates"] + 3 * (FAR - 40)
    assert found["peak_in_flight"] == short["peak_in_flight"]
    assert found["gaps"][0]["histogram"] == {"0": 1, "1": 1, "2": 1, "3": FAR - 3}
    assert found["steady_gaps"][0]["histogram"] == {"3": 1}
    assert found["bottleneck"] == short["bottleneck"]
    assert found["tie_sensitive"] is found["sojourn"] is None


def test_what_is_read_says_how_it_was_found(gradlag: Gradlag) -> None:
    ran = gradlag("simulate", "fdg", "--modules", 3, "--batches", FAR)
    assert (ran.status, ran.err) == (0, "")
    assert f"fdg (modules 3, batches {FAR})" in ran.out
    assert "periodic: everything repeats with every batch" in ran.out
    assert "module 1: forward, backward bounds this schedule" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80


def test_an_estimate_is_called_one(gradlag: Gradlag) -> None:
    """Two backward threads take 5 s for a batch of which the forward thread is done in 2 s."""
    words = ("simulate", "async-lu", "--layers", 2, "--forward-time", 2, "--backward-ratio", 5)
    ran = gradlag(*words, "--batches", FAR, "--json")
    assert ran.json["how"] == "estimated"
    assert ran.json["makespan_s"] == pytest.approx(5 * FAR, rel=1e-3)
    unknown = ("gaps", "updates", "utilization", "steady_batch_s", "peak_in_flight")
    assert {ran.json[key] for key in unknown} == {None}
    assert "estimated, not simulated" in ran.err
    assert ran.json["bottleneck"]["cycle"] is None


def test_only_a_summary_is_written(gradlag: Gradlag, tmp_path: Path) -> None:
    ran = gradlag("simulate", "adl", "--batches", FAR, "--json", "--out", "long")
    assert [path.name for path in (tmp_path / "long").iterdir()] == ["summary.json"]
    assert json.loads((tmp_path / "long/summary.json").read_text()) == ran.json
    assert "there is no trace of so many batches" in ran.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--batches", "1e101"), "--batches is '1.00e+101': must be at most 10^100"),
        (("--batches", FAR, "--jitter", "0.1"), "estimated memory is"),
        (("--batches", FAR, "--variation", "exponential"), "estimated memory is"),
        (("--batches", FAR, "--modules", 10**6), "estimated memory is"),
        (("--batches", FAR, "--modules", 0), "--modules is 0"),
        (("--batches", FAR, "--accumulation", 2), "--accumulation"),
    ],
)
def test_what_is_refused(gradlag: Gradlag, words: tuple[str | int, ...], said: str) -> None:
    ran = gradlag("simulate", "fdg", *words)
    assert (ran.status, ran.out) == (2, "")
    assert len(ran.err.splitlines()) == 1
    assert said in ran.err


def test_what_bounds_a_schedule_is_named(gradlag: Gradlag) -> None:
    late = gradlag("simulate", "pipedream", "--modules", 2, "--link-latency", 10, "--json").json
    assert late["bottleneck"]["batch_s"] == 11.5
    assert "message gradients[1]" in late["bottleneck"]["cycle"]
    choosing = gradlag("simulate", "async-1f1b", "--modules", 2, "--json").json["bottleneck"]
    assert choosing["batch_s"] is None
    assert "whichever message is there first" in choosing["text"]
    random = gradlag("simulate", "fdg", "--jitter", "0.1", "--json").json["bottleneck"]
    assert (random["cycle"], random["text"]) == (None, "durations are random")


OWN = """
from simcore.ops import Backward, Forward, Receive, Update, Worker
from simcore.schedule import Schedule
from simcore.schedules.chain import Chain
from simcore.steps import steps

def late(modules: int = 1, batches: int = 100) -> Schedule:
    chain = Chain.of(1)

    def program():
        for step in steps(batches):
            batch = yield Receive(chain.activations[1])
            yield Forward(1, batch)
            yield Backward(1, batch)
            if step >= 5_000_000 or step % 2 == 1 or step + 1 == batches:
                yield Update(1)

    worker = Worker("worker", program, (1,), chain.sends(1), chain.receives(1))
    return Schedule(blocks=1, batches=batches, workers=(worker,), name="late")
"""


def test_what_a_users_program_counts_to_is_not_known(gradlag: Gradlag, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    ran = gradlag("simulate", "own.py:late", "--batches", FAR, "--json")
    assert (ran.json["how"], ran.json["steady"], ran.json["period_batches"]) == (
        "estimated",
        "window",
        None,
    )
    assert "not one of gradlag's own" in ran.err
    assert ran.json["updates"] == FAR // 2  # and really nearly all of FAR


def test_chance_is_neither_ignored_nor_made_up(gradlag: Gradlag) -> None:
    assert gradlag("simulate", "fdg", "--batches", FAR, "--seed", 5, "--json").json["seed"] == 5
    gradlag("simulate", "fdg", "--batches", FAR, "--runs", 3).refused("--runs", "random")
