"""Workers that share weights without locks, against the same done by hand, in float64.

The reference (`reference_training.by_the_clock`) is told what was done in which order of time, and
does it with gradients of linear layers that are written out. It knows nothing of versions.
"""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from fidelity_runs import assert_close, batches_of, chain, events, one_core, replayed, training_of
from reference_training import Lockfree, by_the_clock, plain

from executor.replay import run_replay
from simcore.engine import simulate
from simcore.workload import Layer, Workload

LAYERS, BATCHES = 3, 20


@pytest.fixture(autouse=True)
def _one_core() -> Iterator[None]:
    with one_core():
        yield


def with_weights(weights: list[list[torch.Tensor]]) -> nn.Sequential:
    model = chain(LAYERS)
    linear = [child for child in model if isinstance(child, nn.Linear)]
    with torch.no_grad():
        for layer, tensors in zip(linear, weights, strict=True):
            layer.weight.copy_(tensors[0])
            layer.bias.copy_(tensors[1])
    return model


CASES: list[tuple[str, dict[str, Any]]] = [
    ("hogwild", {"processes": 1}),
    ("hogwild", {"processes": 3}),
    ("hogwild", {"processes": 3, "momentum": "shared"}),
    ("hogwild", {"processes": 3, "write": "assign"}),
    ("async-lu", {"forward_threads": 1, "backward_threads": 2}),
    ("async-lu", {"forward_threads": 2, "backward_threads": 3, "momentum": "shared"}),
    ("async-lu", {"forward_threads": 2, "backward_threads": 2, "write": "assign"}),
    ("async-bu", {"forward_threads": 2, "backward_threads": 3}),
    ("async-bu", {"forward_threads": 1, "backward_threads": 2, "write": "assign"}),
    ("lapsgd", {"replicas": 2, "processes": 2, "averaging": 2}),
    ("lapsgd", {"replicas": 3, "processes": 1, "averaging": 1}),
    ("lppsgd", {"replicas": 1, "processes": 2, "averaging": 30}),
    ("lppsgd", {"replicas": 2, "processes": 3, "averaging": 3}),
]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_what_is_done_is_what_the_trace_says(name: str, options: dict[str, Any], seed: int) -> None:
    """Every interleaving of reads and writes counts: one that is another leaves other weights."""
    batches = batches_of(BATCHES, 5)
    make = partial(torch.optim.SGD, lr=0.1, momentum=0.5)
    bounds = tuple(range(LAYERS + 1))
    arguments: Any = (name, chain(LAYERS), bounds, batches, make)
    asked = training_of(*arguments, layers=LAYERS, **options)
    schedule = asked.make_schedule()
    layer = Layer("", forward_s=1, backward_s=2, update_s=0.3, merge_s=0.4)
    trace = simulate(schedule, Workload("", (layer,) * LAYERS), jitter=0.3, seed=seed)
    shared = options.get("momentum") == "shared"
    rules = Lockfree(0.1, 0.5, shared, options.get("write") == "assign")
    linear = [child for child in chain(LAYERS) if isinstance(child, nn.Linear)]
    replica_of = schedule.replicas.__getitem__
    done = events(trace)
    losses, weights = by_the_clock(
        linear, batches, done, replica_of, max(schedule.replicas) + 1, rules
    )
    assert_close(run_replay(asked, trace), losses, with_weights(weights))
    if options.get("averaging", BATCHES) < BATCHES // 2:
        assert any(kind == "merge" for kind, *_ in done)


@pytest.mark.parametrize("name", ["hogwild", "lapsgd", "async-lu"])
def test_alone_a_process_trains_plainly(name: str) -> None:
    batches = batches_of(BATCHES, 5)
    make = partial(torch.optim.SGD, lr=0.1, momentum=0.5)
    options: dict[str, Any] = {"hogwild": {"processes": 1}, "async-lu": {}}.get(
        name, {"processes": 1, "replicas": 1, "averaging": 5}
    )
    if name == "async-lu":
        options = {"forward_threads": 1, "backward_threads": 1}
        batches = batches[:1]  # of two batches, the second goes forward meanwhile
    found = replayed(name, chain(3), (0, 1, 2, 3), batches, make, layers=3, **options)
    model = chain(3)
    losses = plain(model, [[batch] for batch in batches], make(model.parameters()))
    assert_close(found, losses, model, 1e-12)


def test_averaging_by_hand() -> None:
    """Two replicas of one process, averaged once, when both have trained: they keep the mean."""
    batches = batches_of(4, 5)
    make = partial(torch.optim.SGD, lr=0.1)
    options = {"replicas": 2, "processes": 1, "averaging": 2}
    found = replayed("lapsgd", chain(1), (0, 1), batches, make, layers=1, **options)
    ends = []
    for own in (batches[::2], batches[1::2]):
        model = chain(1)
        plain(model, [[batch] for batch in own], make(model.parameters()))
        ends.append(model.state_dict())
    assert found.state is not None
    mean = {name: (ends[0][name] + ends[1][name]) / 2 for name in ends[0]}
    torch.testing.assert_close(found.state, mean, rtol=1e-12, atol=1e-12)
    assert not torch.equal(ends[0]["0.bias"], ends[1]["0.bias"])
