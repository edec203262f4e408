"""Segments that drain the pipeline: what goes on from one to the next, and what is evaluated."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from faulty_layers import network
from test_checkpoints_carry import asked_of, same_states, simulated
from test_methods import Case, shown

from executor.checkpoint import STOPPED, Checkpoints, resumed
from executor.replay import run_replay
from executor.segments import evaluate, train_in_segments
from executor.threads import run_threads
from executor.training import Learning, RunResult
from simcore.engine import simulate
from simcore.errors import InputError
from simcore.schedule import Schedule
from simcore.trace import Trace
from simcore.workload import Workload


def trace_of(schedule: Schedule) -> Trace:
    return simulate(schedule, Workload.even(schedule.blocks, 1, 2, 1))


def falling(batch: int) -> float:
    return 0.9**batch


@pytest.mark.parametrize(
    "case",
    [("bp", {"modules": 1}), ("gpipe", {"modules": 2}), ("ddp", {"replicas": 2}), ("fgd", {})],
    ids=shown,
)
def test_without_staleness_segments_change_nothing(case: Case, tmp_path: Path) -> None:
    # Data, dropout, directions, learning rates and Adam's steps all go on.
    asked = replace(asked_of(case), learning=Learning(rate=falling))
    whole = run_replay(asked, simulated(asked))
    checkpoints = Checkpoints(tmp_path, policy="drain")
    drained = train_in_segments(asked, 8, 4, "replay", checkpoints, trace_of=trace_of)
    same_states(drained, whole)
    assert [row[:2] for row in drained.losses] == [row[:2] for row in whole.losses]
    rows = "block", "batch", "version_forward", "version_backward", "version_applied"
    for name in rows:
        assert sorted(drained.trace.gradients[name]) == sorted(whole.trace.gradients[name])
    assert drained.trace.header.batches == whole.trace.header.batches


CASES: list[Case] = [
    ("fdg", {"modules": 3}),
    ("pipedream-2bw", {"modules": 2}),
    ("dni", {"modules": 2}),
    ("fa", {"modules": 2}),
]


@pytest.mark.parametrize("case", CASES, ids=shown)
def test_segments_go_on_in_another_run(case: Case, tmp_path: Path) -> None:
    asked = asked_of(case)
    whole = train_in_segments(asked, 9, 3, "threads", Checkpoints(tmp_path / "a", policy="drain"))
    seen: list[int] = []

    def after(batches: int, result: RunResult) -> None:
        seen.append(batches)
        assert result.state is not None

    two = Checkpoints(tmp_path / "b", policy="drain", stop_after=6)
    train_in_segments(asked, 9, 3, "threads", two, after=after)
    rest = Checkpoints(tmp_path / "b", policy="drain")
    going = resumed(asked, tmp_path / "b")
    last = train_in_segments(going, 9, 3, "threads", rest, after=after)
    same_states(last, whole)
    assert seen[-1] == 9
    assert [row[0] for row in whole.losses] == [*range(9)]
    assert [row[:2] for row in last.losses] == [
        row[:2] for row in whole.losses if row[0] >= last.losses[0][0]
    ]


def test_what_cannot_be_carried_is_drained(tmp_path: Path) -> None:
    asked = asked_of(("hogwild", {"processes": 2}))
    checkpoints = Checkpoints(tmp_path, policy="drain")
    result = train_in_segments(asked, 8, 4, "threads", checkpoints)
    assert result.failure is None
    assert [path.name for path in checkpoints.written] == ["batch-0000000004", "batch-0000000008"]
    assert sorted(result.trace.gradients["version_applied"].tolist()) == sorted(
        [*range(8)] * result.trace.header.blocks
    )


def test_a_drained_run_goes_on_in_another_runtime(tmp_path: Path) -> None:
    asked = asked_of(("fdg", {"modules": 2}))
    train_in_segments(asked, 4, 4, "threads", Checkpoints(tmp_path, policy="drain"))
    going = resumed(asked, tmp_path)
    results = [
        train_in_segments(going, 8, 4, runtime, Checkpoints(tmp_path / runtime), trace_of=trace_of)
        for runtime in ("threads", "replay", "processes")
    ]
    same_states(results[0], results[1])
    same_states(results[0], results[2])


def test_a_request_to_end_saves_what_is_in_flight_too(tmp_path: Path) -> None:
    asked = asked_of(("fdg", {"modules": 3}))
    whole = train_in_segments(asked, 8, 4, "threads", Checkpoints(tmp_path / "a", policy="drain"))
    ending = Checkpoints(tmp_path / "b", policy="drain", stop_after=6)  # within a segment
    first = train_in_segments(asked, 8, 4, "threads", ending)
    assert first.failure == STOPPED
    rest = Checkpoints(tmp_path / "b", policy="drain")
    last = train_in_segments(resumed(asked, tmp_path / "b"), 8, 4, "threads", rest)
    same_states(last, whole)


def test_nothing_left_to_train_is_said(tmp_path: Path) -> None:
    asked = asked_of(("bp", {"modules": 1}))
    train_in_segments(asked, 4, 4, "threads", Checkpoints(tmp_path, policy="drain"))
    with pytest.raises(InputError, match="more than the 4 that were trained already"):
        train_in_segments(resumed(asked, tmp_path), 4, 4, "threads", Checkpoints(tmp_path))


def test_evaluation_is_in_evaluation_mode() -> None:
    model = network(3, nn.BatchNorm1d(6), nn.Dropout(0.5))
    inputs, labels = torch.randn(10, 4), torch.arange(10) % 3
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loss = nn.CrossEntropyLoss()
    found = evaluate(model, state, inputs, labels, loss, batch_size=3)
    model.eval()
    with torch.no_grad():
        output = model(inputs)
    assert found.loss == pytest.approx(float(loss(output, labels)), rel=1e-6)
    assert found.accuracy == float((output.argmax(1) == labels).double().mean())
    assert all(torch.equal(model.state_dict()[name], state[name]) for name in state)


def test_a_run_to_its_end_can_be_trained_further(tmp_path: Path) -> None:
    asked = asked_of(("dgl", {"modules": 2}))
    checkpoints = Checkpoints(tmp_path)
    run_threads(asked, checkpoints=checkpoints)
    assert resumed(asked, tmp_path).first_batch == 8
