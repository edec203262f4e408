"""Ranks under torchrun do what is simulated and replayed, and end cleanly when they are hurt.

Every start of torchrun takes seconds: one runs several schedules, and more faults are tried with
HYPOTHESIS_PROFILE=nightly.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from torchrun_cases import training_of
from torchrun_commands import Case, command, error_of, launch, ranks_of, results, results_of, start

from executor.distributed_start import obstacle
from executor.replay import run_replay
from executor.training import INTERRUPTED, RunResult
from simcore.engine import simulate
from simcore.invariants import check_trace, operations_of
from simcore.schedules import build
from simcore.trace import Trace
from simcore.trace_file import load_trace
from simcore.workload import Workload

GRADLAG = ["--no-python", sys.executable, "-c", "from analysis.cli.main import main; main()"]
NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
nightly = pytest.mark.skipif(not NIGHTLY, reason="one of many faults: in make nightly")


def versions(trace: Trace) -> dict[tuple[int, int, int], tuple[int, ...]]:
    columns = ("version_forward", "version_backward", "version_applied")
    replicas = trace.header.replica(trace.gradients["worker"])
    return {
        (int(replica), int(row["block"]), int(row["batch"])): tuple(int(row[c]) for c in columns)
        for replica, row in zip(replicas, trace.gradients, strict=True)
    }


def same(case: Case, result: RunResult) -> int:
    """Compare a result with replay, to the bit; the number of gradients."""
    asked = training_of(case)
    schedule = asked.make_schedule()
    simulated = simulate(schedule, Workload.even(schedule.blocks, 1, 2, 1))
    replayed = run_replay(asked, simulated)
    check_trace(schedule, result.trace)
    assert result.failure is None
    assert operations_of(result.trace) == operations_of(simulated)
    assert versions(result.trace) == versions(replayed.trace) == versions(simulated)
    assert [row[:2] for row in result.losses] == [row[:2] for row in replayed.losses]
    assert result.state is not None
    assert replayed.state is not None
    assert result.state.keys() == replayed.state.keys()
    for name, value in result.state.items():
        assert torch.equal(value, replayed.state[name]), name
    assert result.trace.header.about["runtime"] == "torchrun"
    assert result.trace.header.about["clocks_ahead_ns"] == [0] * len(schedule.workers)
    return len(replayed.trace.gradients)


TWO: list[Case] = [
    {"schedule": "fdg", "modules": 2, "shrink": 0.5},
    {"schedule": "adl", "modules": 2, "accumulation": 3, "batches": 17},
    {"schedule": "gpipe", "modules": 2, "micro_batches": 3},
    {"schedule": "interleaved-1f1b", "modules": 2, "batches": 8},
    {"schedule": "asyncfgd", "modules": 2},
    {"schedule": "ddp", "replicas": 2},
    # Tuples, whole numbers, and a last mini-batch of an epoch that has four samples.
    {"schedule": "fdg", "modules": 2, "pair": True},
    {"schedule": "bp", "loaders": 1},  # a channel with a capacity
]
THREE: list[Case] = [
    {"schedule": "fdg", "modules": 3},
    {"schedule": "dfa", "modules": 3},
    {"schedule": "ddg", "modules": 3},
    {"schedule": "fgd-dp", "replicas": 3},
]


@pytest.mark.parametrize(("workers", "cases"), [(2, TWO), (3, THREE)], ids=["two", "three"])
def test_ranks_do_what_replay_does(workers: int, cases: list[Case], tmp_path: Path) -> None:
    found, told = results(tmp_path, workers, cases)
    gradients = [same(case, result) for case, result in zip(cases, found, strict=True)]
    assert told == sum(gradients)


def test_the_command_line_speaks_once_and_writes_once(tmp_path: Path) -> None:
    run = [*GRADLAG, "run", "fdg", "--modules", "2", "--batches", "6"]
    small = ["--model", "mlp:3x16", "--json", "--out", str(tmp_path)]
    process = launch(command(2, *run, *small))
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    document = json.loads(out)  # and nothing else, from nobody else
    assert document["runtime"] == "torchrun"
    assert document["batches_finished"] == 6
    assert err.count("gradlag:") == 1
    trace = load_trace(tmp_path / "trace.jsonl")
    check_trace(build("fdg", modules=2, batches=6), trace)


def endless(fault: tuple[str, int, int] | None = None, timeout_s: float | None = None) -> Case:
    case: Case = {"schedule": "fdg", "modules": 3, "batches": 10**5}
    return (
        case | ({"fault": fault} if fault else {}) | ({"timeout_s": timeout_s} if timeout_s else {})
    )


def hurt(folder: Path, number: int, rank: int) -> tuple[float, str]:
    """Send a signal to a rank that trains; how long the others lived, and what torchrun said."""
    process = start(folder, 3, [endless()])
    deadline = time.monotonic() + 60
    while not (folder / "begun").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(ranks_of(folder)[rank], number)
    begin = time.monotonic()
    while any(other != rank for other in ranks_of(folder)):
        assert time.monotonic() < begin + 60
        time.sleep(0.05)
    lasted_s = time.monotonic() - begin
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert not ranks_of(folder)
    return lasted_s, err


def partial_of(folder: Path, says: str, reporting: int = 0) -> RunResult:
    text, _, partial = error_of(folder, reporting)
    assert says in text
    assert partial.state is None
    assert partial.failure == text
    assert (partial.trace.spans["worker"] == reporting).any()
    return partial


@pytest.mark.parametrize(
    "rank", [1, pytest.param(0, marks=nightly), pytest.param(2, marks=nightly)]
)
def test_a_killed_rank_ends_all_with_its_name(rank: int, tmp_path: Path) -> None:
    lasted_s, err = hurt(tmp_path, signal.SIGKILL, rank)
    assert lasted_s < 5 + 10  # and a margin, as machines are busy
    reporting = 1 if rank == 0 else 0
    partial = partial_of(tmp_path, f"module {rank + 1}: its process (rank {rank} on ", reporting)
    assert partial.failure is not None
    assert partial.failure.endswith(" has gone")
    if rank:
        assert {0, 1, 2} == set(partial.trace.spans["worker"].tolist())
    assert "SIGKILL" in err


@pytest.mark.parametrize(
    "rank", [2, pytest.param(0, marks=nightly), pytest.param(1, marks=nightly)]
)
def test_a_stopped_rank_ends_all_with_its_name(rank: int, tmp_path: Path) -> None:
    lasted_s, _ = hurt(tmp_path, signal.SIGSTOP, rank)
    assert lasted_s < 5 + 10
    says = f"module {rank + 1}: its process (rank {rank} on "
    partial = partial_of(tmp_path, says, 1 if rank == 0 else 0)
    assert str(partial.failure).endswith(" has not been heard of for 5 s")


@nightly
@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("at", [1, 40])
def test_a_failing_rank_ends_all_with_its_traceback(rank: int, at: int, tmp_path: Path) -> None:
    process = start(tmp_path, 3, [endless(("raise", rank, at))])
    _, err = process.communicate(timeout=100)
    assert process.returncode == 1
    text, traceback, partial = error_of(tmp_path, 0)
    assert text == partial.failure == f"module {rank + 1}: ValueError('fault on purpose')"
    assert "in strike" in traceback or "in forward" in traceback
    assert text in err  # torchrun shows it as the root cause
    assert not ranks_of(tmp_path)


@nightly
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_hanging_rank_ends_all_and_shows_where(rank: int, tmp_path: Path) -> None:
    process = start(tmp_path, 3, [endless(("hang", rank, 40), timeout_s=5.0)])
    process.communicate(timeout=100)
    text, traceback, _ = error_of(tmp_path, 0)
    assert text == f"module {rank + 1}: hangs: one operation has not ended after 5 s"
    assert "faulty_layers.py" in traceback
    assert not ranks_of(tmp_path)


@nightly
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_and_keeps_what_was_done(number: int, tmp_path: Path) -> None:
    hurt(tmp_path, number, 0)
    found, told = results_of(tmp_path)
    assert found[0].failure == INTERRUPTED
    assert told == len(found[0].trace.gradients) > 0


@nightly
def test_a_wrong_number_of_processes_is_one_line(tmp_path: Path) -> None:
    run = [*GRADLAG, "run", "fdg", "--modules", "3", "--batches", "6"]
    process = launch(command(2, *run, "--model", "mlp:3x16"))
    _, err = process.communicate(timeout=100)
    assert process.returncode == 1
    lines = [line for line in err.splitlines() if line.startswith("gradlag:")]
    assert lines == [
        "gradlag: error: number of processes is 2: must be the number of workers of fdg, 3; "
        "start torchrun with --nproc-per-node 3, or fewer on several nodes"
    ]


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("hogwild", {}, "several workers share the weights of block 1"),
        ("bp", {"loaders": 2}, "several workers send to loaded data, which has a capacity"),
        ("fdg", {"modules": 2}, None),
    ],
)
def test_what_has_no_owner_is_refused(name: str, options: dict[str, int], says: str | None) -> None:
    found = obstacle(build(name, batches=4, **options))
    assert found is None if says is None else says in str(found)
