"""`gradlag replay`."""

import json
from pathlib import Path

import pytest
import torch

from simcore.staleness import gaps
from simcore.trace_file import load_trace
from tests.cli.conftest import Gradlag

SMALL = ("--model", "mlp:4x16", "--batch-size", 32, "--batches", 20)


@pytest.mark.parametrize(
    "words",
    [
        ("fdg", "--modules", 3, "--optimizer", "adamw", "--learning-rate-schedule", "cosine:2"),
        ("gpipe", "--modules", 2, "--momentum-factor", 0.9, "--clip", "norm:0.5"),
        ("asyncfgd", "--modules", 2, "--learning-rate", 0.001, "--alpha-ramp", "0,1"),
    ],
    ids=lambda words: str(words[0]),
)
def test_a_recorded_run_of_a_static_schedule_is_repeated_to_the_last_bit(
    gradlag: Gradlag, tmp_path: Path, words: tuple[object, ...]
) -> None:
    ran = gradlag("run", *words, *SMALL, "--runtime", "threads", "--json", "--out", "x").json
    found = gradlag("replay", "x", "--json", "--out", "y").json
    assert found["weights"]["differing"] == 0
    assert found["weights"]["values"] > 1000
    assert "to the last bit" in found["weights"]["note"]
    for name in ("first_loss", "final_loss", "accuracy", "gaps", "optimizer", "learning_rate"):
        assert found[name] == ran[name], name
    one, other = (torch.load(tmp_path / each / "weights.pt") for each in "xy")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_lock_free_run_is_repeated_but_for_torn_and_lost_writes(
    gradlag: Gradlag, tmp_path: Path
) -> None:
    gradlag("run", "async-lu", "--learning-rate", 0.01, *SMALL, "--out", "x")
    found = gradlag("replay", "x/trace.jsonl", "--json", "--out", "y").json
    traces = [load_trace(tmp_path / each / "trace.jsonl") for each in "xy"]
    rows = [sorted(zip(t.gradients["block"], t.gradients["batch"], gaps(t))) for t in traces]  # noqa: B905
    assert rows[0] == rows[1]
    assert 0 <= found["weights"]["relative"] < 0.1
    if found["weights"]["differing"]:
        assert found["weights"]["note"].endswith("the effect of torn or lost writes")


def test_a_simulation_is_replayed_with_the_network_of_the_flags(
    gradlag: Gradlag, tmp_path: Path
) -> None:
    gradlag("simulate", "adl", "--modules", 4, "--batches", 12, "--out", "x")
    found = gradlag("replay", "x", "--model", "mlp:4x16", "--json").json
    assert found["runtime"] == "replay"
    assert found["batches_finished"] == 12
    assert "weights" not in found
    simulated = json.loads((tmp_path / "x" / "summary.json").read_text())
    assert [gap["mean"] for gap in found["gaps"]] == [gap["mean"] for gap in simulated["gaps"]]


def test_bad_input(gradlag: Gradlag, tmp_path: Path) -> None:
    gradlag("replay", "missing").refused("missing")
    gradlag("run", "bp", *SMALL, "--modules", 2, "--runtime", "threads", "--out", "x")
    gradlag("replay", "x", "--model", "mlp:4x8").refused("which says what was trained")
    (tmp_path / "x" / "weights.pt").write_text("no weights")
    gradlag("replay", "x").refused("weights", "must be the weights of a run")
    torch.save({"other": torch.zeros(1)}, tmp_path / "x" / "weights.pt")
    gradlag("replay", "x").refused("must be of the network of the trace")
