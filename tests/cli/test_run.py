"""`gradlag run`."""

import csv
import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from simcore.schedules import SCHEDULES
from simcore.trace_file import load_trace
from tests.cli.conftest import Gradlag, Running, Start

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
KEYS = [
    "schema",
    "schedule",
    "options",
    "model",
    "data",
    "batch_size",
    "optimizer",
    "learning_rate",
    "momentum_factor",
    "weight_decay",
    "seed",
    "runtime",
    "threads",
    "blocks",
    "workers",
    "batches_finished",
    "makespan_s",
    "batch_s",
    "utilization",
    "updates",
    "gaps",
    "first_loss",
    "final_loss",
    "accuracy",
    "other_cpu_share",
    "failure",
    "machine",
]
FILES = {
    "trace.jsonl",
    "weights.pt",
    "metrics.csv",
    "summary.json",
    "trace.perfetto.json",
    "timeline.png",
    "gaps.png",
    "losses.png",
}
EVEN: dict[str, Any] = {
    "schema": "gradlag.workload/1",
    "name": "even",
    "layers": [{"name": "l", "forward_s": 1, "backward_s": 2}] * 8,
}
SMALL = ("--model", "mlp:4x16", "--batch-size", 32)

# Networks that wait, so that Ctrl-C comes in the middle, or that fail.
NETWORKS = """
import time
from pathlib import Path
from torch import nn

class Slow(nn.Module):
    passes = 0
    def forward(self, x):
        Slow.passes += 1
        time.sleep(0.002)
        if Slow.passes == 60:
            Path("started").touch()
        return x

class Broken(nn.Module):
    passes = 0
    def forward(self, x):
        Broken.passes += 1
        if Broken.passes > 40:
            raise RuntimeError("out of order")
        return x

def slow():
    return nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10), Slow())

def broken():
    return nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10), Broken())
"""


@pytest.mark.parametrize("runtime", ["threads", "processes", "replay"])
def test_json_of_every_runtime_has_every_key(gradlag: Gradlag, runtime: str) -> None:
    options = ("--modules", 2, "--batches", 12, "--runtime", runtime)
    found = gradlag("run", "fdg", *options, *SMALL, "--json").json
    assert [*found] == KEYS
    assert found["schema"] == "gradlag.run/1"
    assert (found["schedule"], found["runtime"], found["model"]) == ("fdg", runtime, "mlp:4x16")
    assert (found["batches_finished"], found["updates"], found["workers"]) == (12, 24, 2)
    assert [layer for block in found["blocks"] for layer in block] == [1, 2, 3, 4]
    assert found["batch_s"] == pytest.approx(found["makespan_s"] / 12)
    # max(0, 2 (K - k) - 1), whatever the times.
    assert [gap["max"] for gap in found["gaps"]] == [1, 0]
    assert 0 <= found["accuracy"] <= 1
    assert found["failure"] is None


# The runtime that is chosen by default, processes for most, takes seconds to start, and the default
# number of batches to train.
@pytest.mark.parametrize("runtime", ["replay", *(["auto"] if NIGHTLY else [])])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_trains_on_digits_by_its_defaults(
    gradlag: Gradlag, name: str, runtime: str
) -> None:
    Path("even").write_text(json.dumps(EVEN))  # a replay follows a simulation with these times
    smaller = () if NIGHTLY else ("--batches", 20)
    costs = ("--workload", "even") if runtime == "replay" else ()
    found = gradlag("run", name, "--runtime", runtime, *smaller, *costs, "--json").json
    assert (found["batches_finished"], found["failure"]) == (100 if NIGHTLY else 20, None)
    assert math.isfinite(found["final_loss"])
    assert found["data"] == "digits"
    assert 0.05 < found["accuracy"] <= 1
    assert (found["optimizer"], found["learning_rate"]) == SCHEDULES[name].learning


def test_files(gradlag: Gradlag, tmp_path: Path) -> None:
    ran = gradlag("run", "async-lu", "--batches", 8, *SMALL, "--json", "--out", "x")
    assert {path.name for path in (tmp_path / "x").iterdir()} == FILES
    assert json.loads((tmp_path / "x" / "summary.json").read_text()) == ran.json
    assert ran.json["runtime"] == "threads"  # processes cannot share weights
    trace = load_trace(tmp_path / "x" / "trace.jsonl")
    assert (trace.header.origin, trace.header.batches) == ("real", 8)
    with (tmp_path / "x" / "metrics.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [int(row["batch"]) for row in rows] == [*range(8)]
    assert float(rows[0]["loss"]) == ran.json["first_loss"]
    assert all(float(row["seconds"]) > 0 for row in rows)


def test_what_is_read_is_without_json(gradlag: Gradlag) -> None:
    options = ("--batch-size", 500, "--model", "mlp:4x16", "--runtime", "threads")
    ran = gradlag("run", "bp", "--epochs", 1, *options)
    assert (ran.status, ran.err) == (0, "")
    assert "bp (mlp:4x16, digits, threads)" in ran.out
    assert "3 of 3" in ran.out  # 1,437 samples
    assert "of 1 worker\n" in ran.out
    assert "of the test samples" in ran.out


def test_a_replay_follows_a_trace(gradlag: Gradlag) -> None:
    options = ("adl", "--modules", 2, "--batches", 9, "--accumulation", 2)
    simulated = gradlag("simulate", *options, "--json", "--out", "x").json
    replay = ("--runtime", "replay", "--trace", "x/trace.jsonl")
    replayed = gradlag("run", *options, *SMALL, *replay, "--json").json
    assert replayed["gaps"] == simulated["gaps"]
    other = ("adl", "--modules", 2, "--batches", 8, "--accumulation", 2)
    gradlag("run", *other, *SMALL, *replay).refused("trace", "adl")


def test_seeds_and_optimisers_change_the_result(gradlag: Gradlag) -> None:
    def loss(*options: object) -> float:
        command = ("run", "bp", "--batches", 5, *SMALL, "--runtime", "replay", "--workload", "w")
        return float(gradlag(*command, *options, "--json").json["final_loss"])

    Path("w").write_text(json.dumps({**EVEN, "layers": EVEN["layers"][:4]}))
    assert loss() == loss("--seed", 0)
    others = [
        loss("--seed", 1),
        loss("--optimizer", "adam"),
        loss("--learning-rate", "1/5"),
        loss("--momentum-factor", "0.9"),
        loss("--weight-decay", "0.5"),
        loss("--data", "generated"),
    ]
    assert len({loss(), *others}) == 7


def test_a_failed_worker_leaves_what_was_done(gradlag: Gradlag, tmp_path: Path) -> None:
    (tmp_path / "failing_networks.py").write_text(NETWORKS)
    options = ("--modules", 2, "--model", "failing_networks:broken", "--runtime", "threads")
    ran = gradlag("run", "fdg", *options, "--json", "--out", "x")
    assert ran.status == 1
    *before, line = ran.err.splitlines()
    assert line == "gradlag: error: module 2: RuntimeError('out of order')"
    assert any("Traceback" in each for each in before)
    found = json.loads(ran.out)
    assert 10 < found["batches_finished"] < 100
    assert "out of order" in found["failure"]
    assert found["accuracy"] is None
    assert {path.name for path in (tmp_path / "x").iterdir()} == FILES - {"weights.pt"}
    assert len(load_trace(tmp_path / "x" / "trace.jsonl").spans)


@pytest.mark.parametrize("runtime", ["threads", "processes"])
def test_ctrl_c_leaves_what_was_done_and_no_process(
    start: Start, tmp_path: Path, runtime: str
) -> None:
    (tmp_path / "networks.py").write_text(NETWORKS)
    options = ("--modules", 2, "--model", "networks:slow", "--batches", 3000, "--runtime", runtime)
    running = start("run", "fdg", *options, "--json", "--out", "x")
    await_file(tmp_path / "started", running)
    interrupt(running)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert err.splitlines()[-1] == "gradlag: interrupted"
    assert "Traceback" not in err
    found = json.loads(out)
    assert found["failure"] == "interrupted"
    assert 10 < found["batches_finished"] < 3000
    # Weights are written by a run that has come to its end.
    assert {path.name for path in (tmp_path / "x").iterdir()} == FILES - {"weights.pt"}
    with (tmp_path / "x" / "metrics.csv").open() as lines:
        assert len(list(lines)) > 10
    # Python's own helper of shared memory ends on its own, a moment after the run does.
    end = time.monotonic() + 10
    while (left := of_session(running.pid)) and time.monotonic() < end:
        time.sleep(0.05)
    assert left == []


def test_ctrl_c_before_the_first_batch_is_said_in_one_line(start: Start, tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(
        "import time, pathlib\npathlib.Path('started').touch()\ntime.sleep(60)\n"
    )
    running = start("run", "fdg", "--model", "late:network", "--out", "x")
    await_file(tmp_path / "started", running)
    interrupt(running)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out, err) == (130, "", "gradlag: interrupted\n")


def await_file(path: Path, running: Running) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def interrupt(running: Running) -> None:
    """Ctrl-C, which reaches the whole process group."""
    os.killpg(running.pid, signal.SIGINT)


def of_session(session: int) -> list[str]:
    """The processes of a session that are still alive."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = status.read_text().rpartition(")")
        except OSError:
            continue  # it has just ended
        fields = rest.split()
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(name)
    return found
