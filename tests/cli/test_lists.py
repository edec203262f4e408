"""`gradlag schedules`, `gradlag bounds`, `gradlag profile`."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from simcore.schedules import SCHEDULES
from simcore.workload import Layer, Workload, load_workload
from tests.cli.conftest import Gradlag


def test_schedules_as_json(gradlag: Gradlag, tmp_path: Path) -> None:
    found = gradlag("schedules", "--json", "--out", "x").json
    assert [*found] == ["schema", "schedules"]
    assert found["schema"] == "gradlag.schedules/1"
    assert [entry["name"] for entry in found["schedules"]] == [*SCHEDULES]
    for entry in found["schedules"]:
        known = SCHEDULES[entry["name"]]
        assert [*entry] == [
            "name",
            "title",
            "lockings_broken",
            "gap",
            "memory",
            "extra_parameters",
            "per_update",
            "source",
            "blocks_option",
            "compositions",
            "rows",
            "options",
        ]
        for key in [*entry][1:-3]:
            assert entry[key] == getattr(known, key)
        assert entry["compositions"] == [*known.compositions]
        assert entry["rows"] == [*known.rows]
        assert {each["name"]: each["default"] for each in entry["options"]} == known.defaults
        for option in entry["options"]:
            assert [*option] == ["name", "flag", "meaning", "rule", "choices", "default"]
    assert json.loads((tmp_path / "x" / "schedules.json").read_text()) == found


def test_schedules_as_a_table(gradlag: Gradlag) -> None:
    ran = gradlag("schedules")
    assert (ran.status, ran.err) == (0, "")
    words = " ".join(ran.out.split())
    for entry in SCHEDULES.values():
        assert entry.name in words
        assert all(word in words for word in entry.per_update.split())
    assert "extra parameters:" in words
    assert "--accumulation 1" in words
    assert "--queue-capacity unbounded" in words


BOUNDS = ("bounds", "--modules", 2, "--accumulations", "1,2", "--updates", 4, "--seeds", 2)


def test_bounds_as_json(gradlag: Gradlag, tmp_path: Path) -> None:
    found = gradlag(*BOUNDS, "--seed", 3, "--json", "--out", "x").json
    assert found["schema"] == "gradlag.bounds/1"
    assert [curve["accumulation"] for curve in found["curves"]] == [1, 2]
    for curve in found["curves"]:
        assert curve["modules"] == 2
        assert curve["updates"] == [1, 2, 3, 4]
        for side in ("measured", "measured_low", "measured_high", "printed", "corrected"):
            assert len(curve[side]) == 4
        # No module is bound to be wrong by more than the sharper bound.
        assert all(m <= s for m, s in zip(curve["measured"], curve["sharper"], strict=True))
        assert curve["constants"]["seeds"] == 2
    assert json.loads((tmp_path / "x" / "bounds.json").read_text()) == found
    assert (tmp_path / "x" / "bounds.png").read_bytes().startswith(b"\x89PNG")


def test_bounds_as_a_table(gradlag: Gradlag) -> None:
    ran = gradlag(*BOUNDS, "--learning-rate", "1/100", "--decay", "0.5")
    assert (ran.status, ran.err) == (0, "")
    assert "ADL, Theorem 2 (K = 2 modules, 2 seeds)" in ran.out
    for word in ("measured", "sharper", "corrected", "printed", "does not hold: separable"):
        assert word in ran.out


@pytest.mark.usefixtures("quick_profile")
def test_profile_writes_a_workload_that_simulate_reads(gradlag: Gradlag, tmp_path: Path) -> None:
    ran = gradlag("profile", "--model", "mlp:3x16", "--repeats", 1, "--json", "--out", "w/mlp.json")
    found = ran.json
    assert [*found] == ["schema", *(field.name for field in fields(Workload))]
    assert found["schema"] == "gradlag.workload/1"
    assert (found["name"], found["batch_size"], len(found["layers"])) == ("mlp:3x16", 64, 3)
    for layer in found["layers"]:
        assert [*layer] == [field.name for field in fields(Layer)]
        assert layer["forward_s"] > 0 < layer["backward_s"]
    assert json.loads((tmp_path / "w" / "mlp.json").read_text()) == found
    assert len(load_workload(tmp_path / "w" / "mlp.json").layers) == 3
    simulated = gradlag("simulate", "async-lu", "--workload", "w/mlp.json", "--json").json
    assert simulated["options"]["layers"] == 3
    assert len(simulated["peak_bytes"]) == 3


@pytest.mark.usefixtures("quick_profile")
def test_profile_as_a_table_and_into_a_folder(gradlag: Gradlag, tmp_path: Path) -> None:
    options = ("--optimizer", "adam", "--data", "generated", "--batch-size", 8)
    ran = gradlag("profile", "--model", "conv:2x4", "--repeats", 1, *options, "--out", "w")
    assert ran.status == 0
    for word in ("conv:2x4 (batches of 8)", "layer2", "backward over forward", "parameters"):
        assert word in ran.out
    assert (tmp_path / "w" / "workload.json").is_file()
    assert "workload.json" in ran.err
