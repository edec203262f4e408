"""Clipping by the norm of all gradients, across modules, against plain PyTorch."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from faulty_layers import network, training

from executor.learning import Learning
from executor.processes import run_processes
from executor.replay import run_replay
from executor.threads import run_threads
from executor.training import Training
from simcore.engine import simulate
from simcore.schedules import SCHEDULES, build
from simcore.workload import Workload

LIMIT, BATCHES = 0.05, 10
NAMES = [name for name, entry in SCHEDULES.items() if "global_norm" in entry.compositions]


def clipped(name: str, **options: Any) -> Training:
    options = {"modules": 2, "global_norm": True, "batches": BATCHES, **options}
    blocks = build(name, **options).blocks
    asked = training(name, (*range(blocks), 4), network(4), **options)
    return replace(asked, learning=Learning(global_norm=LIMIT))


def plain(asked: Training) -> tuple[dict[str, torch.Tensor], int]:
    """The same training with `clip_grad_norm_`, and how often it had something to do."""
    model = network(4)
    optimizer = asked.make_optimizer(model.parameters())
    often = 0
    for batch in range(BATCHES):
        inputs, labels = asked.source.data.batch(batch, 8, 3)  # type: ignore[union-attr]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        often += bool(nn.utils.clip_grad_norm_(model.parameters(), LIMIT) > LIMIT)
        optimizer.step()
    return model.state_dict(), often


@pytest.mark.parametrize("name", [name for name in NAMES if name != "fa"])
def test_gradients_of_all_modules_are_clipped_together(name: str) -> None:
    asked = clipped(name)
    schedule = asked.make_schedule()
    result = run_replay(asked, simulate(schedule, Workload.even(schedule.blocks)))
    expected, often = plain(asked)
    assert often == BATCHES
    assert result.state is not None
    for key, value in expected.items():
        torch.testing.assert_close(result.state[key], value, rtol=1e-5, atol=1e-6)


def test_all_runtimes_do_it() -> None:
    asked = clipped("gpipe", micro_batches=2, replicas=2, recompute=True)
    schedule = asked.make_schedule()
    simulated = simulate(schedule, Workload.even(schedule.blocks))
    runs = [run_replay(asked, simulated), run_threads(asked), run_processes(asked)]
    states = [run.state or {} for run in runs]
    assert states[0]
    assert all(torch.equal(states[0][key], state[key]) for state in states for key in states[0])


def test_feedback_alignment_has_its_own_norm() -> None:
    asked = clipped("fa")
    schedule = asked.make_schedule()
    simulated = simulate(schedule, Workload.even(schedule.blocks))
    loose = replace(asked, learning=Learning(global_norm=1e9))
    without = replace(asked, learning=Learning())
    states = [run_replay(each, simulated).state or {} for each in (asked, loose, without)]
    assert all(torch.equal(states[1][key], states[2][key]) for key in states[1])
    assert any(not torch.equal(states[0][key], states[1][key]) for key in states[1])
