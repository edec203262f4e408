"""Replay: real tensors with exactly the versions of a trace."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from faulty_layers import network, training

from executor.replay import run_replay
from executor.threads import run_threads
from simcore.engine import simulate
from simcore.errors import InputError
from simcore.invariants import operations_of
from simcore.trace import Trace
from simcore.workload import Workload

LAYERS = 4
EVERY = tuple(range(LAYERS + 1))
ASYNC: list[tuple[str, dict[str, Any]]] = [
    ("async-lu", {}),
    ("async-lu", {"forward_threads": 2, "backward_threads": 3, "queue_capacity": 2}),
    ("async-lu", {"weights": "stash"}),
    ("async-bu", {"write": "assign"}),
    ("async-bu", {"write": "assign", "refresh": "pass"}),
    ("async-bu", {"momentum": "shared"}),
]


def versions(trace: Trace) -> Any:
    """All that the ledger said, but for the order among blocks."""
    columns = [name for name in trace.gradients.dtype.names or () if name != "time"]
    return np.sort(trace.gradients[columns], order=["block", "version_applied", "batch"])


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("name", "options"), ASYNC)
def test_replay_has_the_versions_of_a_simulated_trace(
    name: str, options: dict[str, Any], seed: int
) -> None:
    asked = training(name, EVERY, network(LAYERS), layers=LAYERS, batches=12, **options)
    simulated = simulate(
        asked.make_schedule(), Workload.even(LAYERS, 1, 2, 0.5), jitter=0.3, seed=seed
    )
    replayed = run_replay(asked, simulated)
    assert (versions(replayed.trace) == versions(simulated)).all()
    assert operations_of(replayed.trace) == operations_of(simulated)
    assert len(replayed.losses) == 12


def test_exact_ties_replay_too() -> None:
    """Zero update times put updates and reads at the same tick."""
    asked = training("async-lu", EVERY, network(LAYERS), layers=LAYERS, batches=12)
    simulated = simulate(asked.make_schedule(), Workload.even(LAYERS, 1, 2, 0))
    assert (versions(run_replay(asked, simulated).trace) == versions(simulated)).all()


@pytest.mark.parametrize(
    ("name", "options", "bounds"),
    [
        ("fdg", {"modules": 4}, EVERY),
        ("adl", {"modules": 2, "accumulation": 2, "weights": "mixed"}, (0, 2, 4)),
        ("async-bu", {"layers": LAYERS, "weights": "stash", "backward_threads": 3}, EVERY),
    ],
    ids=["fdg", "adl", "async-bu"],
)
def test_the_replay_of_a_measured_trace_ends_with_the_same_weights(
    name: str, options: dict[str, Any], bounds: tuple[int, ...]
) -> None:
    asked = training(name, bounds, network(LAYERS), batches=20, **options)
    measured = run_threads(asked)
    replayed = run_replay(asked, measured.trace)
    assert (versions(replayed.trace) == versions(measured.trace)).all()
    assert measured.state is not None
    assert replayed.state is not None
    assert all(torch.equal(measured.state[key], replayed.state[key]) for key in measured.state)


def test_a_trace_that_was_cut_short_is_replayed_to_its_end() -> None:
    asked = training("fdg", (0, 2, 4), network(LAYERS), modules=2, batches=20)
    simulated = simulate(asked.make_schedule(), Workload.even(2, 1, 2, 1))
    half = simulated.spans[simulated.spans["end"] <= simulated.end // 2]
    replayed = run_replay(asked, Trace(simulated.header, half, simulated.gradients[:0]))
    assert len(replayed.trace.spans) == len(half)


def test_a_trace_of_another_schedule_is_refused() -> None:
    asked = training("fdg", (0, 2, 4), network(LAYERS), modules=2, batches=6)
    other = training("adl", (0, 2, 4), network(LAYERS), modules=2, batches=6)
    trace = simulate(other.make_schedule(), Workload.even(2, 1, 2, 1))
    with pytest.raises(InputError, match="must be one of the schedule"):
        run_replay(asked, trace)
