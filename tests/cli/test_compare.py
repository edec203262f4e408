"""`gradlag compare`."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Gradlag

KEYS = ["schema", "rows", "machine", "date", "settings", "baselines", "bounds"]
ROW_KEYS = {
    "label",
    "schedule",
    "options",
    "workers",
    "runtime",
    "samples_per_update",
    "batch_s",
    "speedup_one_thread",
    "speedup_all_cores",
    "gap_mean",
    "gap_max",
    "final_loss",
    "accuracy",
    "notes",
    "prediction_error",
}
SMALL = ("--model", "mlp:4x64", "--batches", 6, "--runtime", "threads")


def test_schedules_are_predicted_and_measured(
    gradlag: Gradlag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from analysis import bounds

    real = bounds.adl_bound

    def quick(**options: object) -> object:
        return real(**options, updates=3, seeds=2)  # type: ignore[arg-type]

    monkeypatch.setattr(bounds, "adl_bound", quick)
    ran = gradlag(
        "compare", "fdg", "adl:accumulation=2,modules=3", "--modules", 2, *SMALL,
        "--bound", "--json", "--out", "x",
    )  # fmt: skip
    found = ran.json
    assert [*found] == KEYS
    assert found["schema"] == "gradlag.comparison/1"
    labels = [row["label"] for row in found["rows"]]
    assert labels[0] == "bp, 1 thread"
    assert labels[-2:] == ["fdg:modules=2", "adl:accumulation=2,modules=3"]
    for row in found["rows"]:
        assert row.keys() >= ROW_KEYS
        assert row["batch_s"]["predicted"] > 0
        assert row["batch_s"]["measured"] > 0
    fdg, adl = found["rows"][-2:]
    assert (fdg["workers"], adl["workers"]) == (2, 3)
    assert fdg["gap_max"] == {"predicted": 1, "measured": 1}
    assert found["settings"]["batches"] == 6
    assert [curve["accumulation"] for curve in found["bounds"]["curves"]] == [1, 2, 4]

    names = {path.name for path in (tmp_path / "x").iterdir()}
    assert {"report.html", "comparison.json", "comparison.md", "bounds.json"} < names
    assert json.loads((tmp_path / "x" / "comparison.json").read_text()) == found
    assert "<html" in (tmp_path / "x" / "report.html").read_text()[:200]
    assert "running fdg:modules=2" in ran.err

    # What was calibrated is there to be simulated again.
    files = (
        "--workload",
        "x/fdg-modules-2-workload.json",
        "--cluster",
        "x/fdg-modules-2-cluster.json",
    )
    again = gradlag("simulate", "fdg", "--modules", 2, "--batches", 6, *files, "--json").json
    assert again["makespan_s"] / 6 == pytest.approx(fdg["batch_s"]["predicted"])


def test_ctrl_c_ends_a_comparison_between_two_schedules(
    gradlag: Gradlag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run takes Ctrl-C as its own end; the comparison must not go on with the next one."""
    import signal

    from analysis import compare

    real, first = compare.run, tmp_path / "x" / "bp-1-thread-measured.trace.jsonl"

    def interrupted(*arguments: Any, **options: Any) -> object:
        if first.exists():
            options["progress"] = lambda applied: signal.raise_signal(signal.SIGINT)
        return real(*arguments, **options)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        monkeypatch.setattr(compare, "run", interrupted)
        ran = gradlag("compare", "fdg:modules=2", *SMALL, "--out", "x")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert (ran.status, ran.out) == (130, "")
    assert ran.err.splitlines()[-1] == "gradlag: interrupted"
    assert "fdg" not in ran.err
    assert first.exists()


def test_a_schedule_that_cannot_run_is_found_before_anything_is_measured(gradlag: Gradlag) -> None:
    ran = gradlag("compare", "async-lu", "--model", "mlp:4x16", "--runtime", "processes")
    assert (ran.status, ran.out) == (2, "")
    assert "calibrating" not in ran.err
    assert "--runtime is 'processes': is not for async-lu" in ran.err
