"""Processes that share weights without locks: what is certain about them, and what is not."""

import gc
import multiprocessing
import os
import re
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent))

from faulty_layers import Faulty, network, training

from executor.failure import WorkerError
from executor.obstacles import obstacle
from executor.processes import run_processes
from executor.training import Training, optimizer
from simcore.invariants import check_trace
from simcore.ops import Item
from simcore.schedules import build
from simcore.staleness import gaps
from simcore.trace import KIND, Trace

PATIENCE_S = 60.0
WIDTH = 64
WARM_UP = 8


class Together(nn.Module):
    """Passes its input on; the first time in training it waits until so many processes do."""

    def __init__(self, folder: Path, processes: int) -> None:
        super().__init__()
        self.folder, self.processes, self.calls = folder, processes, 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        if self.calls == WARM_UP + 1:
            (self.folder / str(os.getpid())).touch()
            deadline = time.monotonic() + PATIENCE_S
            while len(list(self.folder.iterdir())) < self.processes:
                assert time.monotonic() < deadline, "the other process never came"
                time.sleep(0.001)
        return inputs


class Ones:
    """Mini-batches of ones."""

    def payload(self, item: Item, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(1, WIDTH), torch.zeros(1)

    def samples(self, batch: int) -> int:
        return 1


def total(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The gradient of each weight of a linear layer is then its input, whatever the weights."""
    return output.sum()


def counting(folder: Path, name: str, *, batches: int, waiting: int, **options: object) -> Training:
    """A training that subtracts 1 from each weight, 0 at first, at each update."""
    layer = nn.Linear(WIDTH, WIDTH, bias=False)
    nn.init.zeros_(layer.weight)
    model = nn.Sequential(layer, Together(folder, waiting))
    make = partial(build, name, layers=1, batches=batches, **options)
    return Training(make, model, (0, 1), Ones(), optimizer("sgd", 1.0), total)


def updates_in(state: dict[str, torch.Tensor] | None) -> torch.Tensor:
    assert state is not None
    return -state["0.weight"]


def check_gaps(trace: Trace, others: int) -> None:
    """Each update of another process adds at most 1 to one gap of each process."""
    for block in set(trace.gradients["block"].tolist()):
        of_block = gaps(trace)[trace.gradients["block"] == block]
        assert 1 <= of_block.sum() <= others * len(of_block)


def test_updates_of_hogwild_are_all_counted_and_few_are_lost(tmp_path: Path) -> None:
    asked = counting(tmp_path, "hogwild", batches=200, waiting=2, processes=2)
    result = run_processes(asked)
    check_trace(asked.make_schedule(), result.trace)
    check_gaps(result.trace, others=1)
    assert set(result.trace.gradients["worker"].tolist()) == {0, 1}
    updates = updates_in(result.state)
    assert torch.equal(updates, updates.round())
    assert updates.max() <= 200
    assert updates.min() >= 1
    assert updates.mean() >= 150


def test_assigned_weights_overwrite_what_others_have_added(tmp_path: Path) -> None:
    options = {"processes": 2, "write": "assign", "recompute": True}
    asked = counting(tmp_path, "hogwild", batches=100, waiting=2, **options)
    result = run_processes(asked)
    check_trace(asked.make_schedule(), result.trace)
    rows = result.trace.gradients
    missed = rows["version_applied"] - rows["version_base"]
    assert (missed >= 0).all()
    updates = updates_in(result.state)
    assert torch.equal(updates, updates.round())
    # For each update that is lost, one has missed another.
    assert updates.max() <= 100
    assert updates.min() >= max(1, 100 - missed.sum())


def test_the_replicas_of_lapsgd_are_averaged_while_they_train(tmp_path: Path) -> None:
    batches, averaging = 60, 5
    options = {"replicas": 2, "processes": 1, "averaging": averaging}
    asked = counting(tmp_path, "lapsgd", batches=batches, waiting=2, **options)
    schedule = asked.make_schedule()
    result = run_processes(asked)
    check_trace(schedule, result.trace)
    rounds = batches // 2 // averaging
    for kind in ("snapshot", "merge", "join"):
        rows = result.trace.spans[result.trace.spans["kind"] == KIND[kind]]
        assert sorted(rows["worker"].tolist()) == [1] * rounds + [3] * rounds
    # What a merge adds to one replica it takes from the other; a few adds may be lost.
    assert (updates_in(result.state) - batches / 2).abs().mean() <= batches / 8


def test_processes_that_share_weights_with_an_idle_one_do_plain_sgd() -> None:
    """Statistics of normalisation and whole numbers are shared as well."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    options = {"layers": 3, "replicas": 1, "processes": 1, "averaging": 50, "batches": 30}
    asked = training("lapsgd", (0, 1, 2, 3), model, **options)
    result = run_processes(asked)
    optimizer = asked.make_optimizer(model.parameters())
    for batch, loss, _ in result.losses:
        inputs, labels = asked.source.payload(Item("activation", 0), batch)
        optimizer.zero_grad()
        expected = functional.cross_entropy(model(inputs), labels)
        assert loss == pytest.approx(expected.item())
        expected.backward()
        optimizer.step()
    assert result.state is not None
    assert result.state["1.num_batches_tracked"] == 30
    assert result.state.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(result.state[name], tensor)


def test_loaders_and_processes_take_turns() -> None:
    asked = training("hogwild", (0, 1, 2), network(2), layers=2, batches=40, loaders=2)
    schedule = asked.make_schedule()
    result = run_processes(asked)
    assert [batch for batch, _, _ in result.losses] == list(range(40))
    for block in (1, 2):
        rows = result.trace.gradients[result.trace.gradients["block"] == block]
        assert sorted(rows["batch"].tolist()) == list(range(40))
        assert sorted(rows["version_applied"].tolist()) == list(range(40))
    assert schedule.receivers[schedule.channels[0]] == (0, 1)


def test_a_killed_process_is_named_and_leaves_nothing() -> None:
    model = network(4, Faulty("kill", at=40))
    asked = training("hogwild", (0, 2, 4), model, layers=2, batches=10**4)
    gc.collect()  # what earlier tests left for the collector
    before = shared_memory()
    says = r"process [12]: its process was killed by SIGKILL"
    with pytest.raises(WorkerError, match=says) as caught:
        run_processes(asked)
    assert caught.value.partial is not None
    assert caught.value.partial.state is None
    assert not multiprocessing.active_children()
    caught.value.__traceback__ = None
    del caught
    gc.collect()
    assert shared_memory() == before == set()


def shared_memory() -> set[str]:
    """What this process maps or holds of the memory that runs share."""
    found = re.findall(r"/memfd:gradlag-\S*|/dev/shm/\S+", Path("/proc/self/maps").read_text())
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:  # that of the listing itself
            continue
        if "memfd:gradlag-" in target or target.startswith("/dev/shm"):
            found.append(target)
    return set(found)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("hogwild", {}, None),
        ("hogwild", {"write": "assign"}, None),
        ("hogwild", {"momentum": "shared"}, r"block 1, and an optimiser's state \(momentum"),
        ("hogwild", {"momentum": "shared", "processes": 1}, None),
        ("lapsgd", {"loaders": 2}, None),
        ("lppsgd", {"recompute": True}, None),
        ("async-1f1b", {"replicas": 2, "loaders": 2}, None),
        ("fdg", {"loaders": 2}, None),
        ("async-lu", {}, "losses hands over autograd graphs"),
        ("async-bu", {"recompute": True, "weights": "stash"}, "losses hands over"),
    ],
)
def test_what_can_run_in_processes(name: str, options: dict[str, str], says: str | None) -> None:
    reason = obstacle(build(name, batches=20, **options))
    assert reason is None if says is None else re.search(says, reason or "")
