"""Workers on GPUs: the same training as on the CPU, up to rounding."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from test_methods import PLAIN, Case, shares_weights, shown, training_of, versions

from executor.obstacles import obstacle
from executor.processes import run_processes
from executor.replay import run_replay
from executor.threads import run_threads
from executor.training import RunResult
from simcore.engine import simulate
from simcore.workload import Workload

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def close(one: RunResult, other: RunResult) -> None:
    assert one.state is not None
    assert other.state is not None
    for name, tensor in one.state.items():
        assert tensor.device.type == "cpu"
        torch.testing.assert_close(tensor, other.state[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("case", PLAIN, ids=shown)
def test_threads_and_replay_on_a_gpu_do_what_the_cpu_does(case: Case) -> None:
    asked = training_of(case)
    schedule = asked.make_schedule()
    simulated = simulate(schedule, Workload.even(schedule.blocks, 1, 2, 1))
    # Several GPUs cannot share weights.
    on_gpu = replace(asked, devices=("cuda:0" if shares_weights(schedule) else "cuda",))
    replayed = run_replay(on_gpu, simulated)
    close(run_replay(asked, simulated), replayed)
    assert versions(replayed.trace) == versions(simulated)
    assert run_threads(on_gpu).failure is None


@pytest.mark.parametrize("devices", [("cuda:0",), ("cuda:0", "cpu")], ids=str)
@pytest.mark.parametrize("name", ["fdg", "gpipe", "asyncfgd"])
def test_processes_on_a_gpu(name: str, devices: tuple[str, ...]) -> None:
    options: dict[str, Any] = {"modules": 2}
    asked = training_of((name, options))
    assert obstacle(asked.make_schedule()) is None
    close(run_processes(asked), run_processes(replace(asked, devices=devices)))
