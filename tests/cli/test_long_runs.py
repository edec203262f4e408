"""`gradlag run` with checkpoints, by epochs, with measured memory."""

import csv
import signal
import time
from pathlib import Path

import torch

from tests.cli.conftest import Gradlag, Start

SMALL = ("--modules", 2, "--model", "mlp:4x16", "--batch-size", 32, "--runtime", "threads")


def test_a_stopped_run_goes_on_as_if_nothing_had_happened(gradlag: Gradlag, tmp_path: Path) -> None:
    words = ("run", "fdg", *SMALL, "--batches", 400, "--momentum-factor", 0.5)
    first = gradlag(*words, "--checkpoints", "c", "--stop-after", 20)
    assert first.status == 0
    assert "can be resumed" in first.err
    rest = gradlag(*words, "--checkpoints", "c", "--resume", "--out", "x", "--json")
    assert "going on from c" in rest.err
    assert 0 < rest.json["batches_finished"] < 400
    assert 1 <= len(list((tmp_path / "c").iterdir())) <= 3
    # A whole run is cut elsewhere, perhaps: that is measured. Trained is the same network.
    state = torch.load(tmp_path / "x" / "weights.pt")
    assert all(tensor.isfinite().all() for tensor in state.values())
    assert rest.json["accuracy"] > 0.5


def test_an_epoch_is_drained_and_evaluated(gradlag: Gradlag, tmp_path: Path) -> None:
    words = ("run", "async-bu", "--layers", 4, *SMALL[2:], "--epochs", 2, "--learning-rate", 0.01)
    ran = gradlag(*words, "--epoch-policy", "drain", "--out", "x", "--json")
    assert ran.status == 0
    with (tmp_path / "x" / "evaluations.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [int(row["batches"]) for row in rows] == [45, 90]
    assert float(rows[-1]["accuracy"]) == ran.json["accuracy"]
    assert ran.err.count("accuracy") == 2


def test_resuming_without_a_checkpoint_begins(gradlag: Gradlag) -> None:
    words = ("run", "bp", *SMALL, "--batches", 5, "--checkpoints", "c", "--resume")
    assert "begins at the beginning" in gradlag(*words).err
    again = gradlag(*words)
    assert again.status == 2
    assert "must be more than the 5 that were trained already" in again.err


def test_flags_that_need_others(gradlag: Gradlag) -> None:
    gradlag("run", "fdg", *SMALL, "--stop-after", 3).refused("--stop-after", "--checkpoints DIR")
    gradlag("run", "fdg", *SMALL, "--tensorboard").refused("--tensorboard", "--out DIR")
    gradlag("run", "fdg", *SMALL, "--epoch-policy", "never").refused("carry, drain")
    words = ("run", "async-lu", "--layers", 4, *SMALL[2:], "--batches", 5, "--checkpoints", "c")
    gradlag(*words).refused("cannot be saved in flight", "--epoch-policy drain")


def test_memory_is_measured_beside_the_prediction(gradlag: Gradlag) -> None:
    ran = gradlag("run", "fdg", *SMALL, "--batches", 8, "--measure-memory", "--json")
    rows = {(row["worker"], row["category"]): row for row in ran.json["memory"]}
    weights = rows["module 1", "weights"]
    assert weights["predicted_bytes"] == weights["measured_bytes"] > 1000
    assert "held at most" in gradlag("run", "fdg", *SMALL, "--batches", 8, "--measure-memory").out


def test_sigterm_saves_and_ends(start: Start, tmp_path: Path) -> None:
    (tmp_path / "waiting.py").write_text(
        "import time, pathlib\nfrom torch import nn\n"
        "class Slow(nn.Module):\n"
        "    passes = 0\n"
        "    def forward(self, x):\n"
        "        Slow.passes += 1\n"
        "        time.sleep(0.002)\n"
        "        if Slow.passes == 60:\n"
        "            pathlib.Path('started').touch()\n"
        "        return x\n"
        "def slow():\n"
        "    return nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10), Slow())\n"
    )
    words = ("run", "fdg", "--modules", 2, "--model", "waiting:slow", "--batches", 10**5)
    running = start(*words, "--runtime", "threads", "--checkpoints", "c")
    end = time.monotonic() + 60
    while not (tmp_path / "started").exists() and time.monotonic() < end:
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 143, err
    assert "Traceback" not in err
    assert "saved c/batch-" in err
    assert [path.name for path in (tmp_path / "c").iterdir()] != []
