"""Versions of weights: fake workers act in orders that are chosen here, without threads.

The weight of each block is one whole number. The n-th step anyone takes adds 2**n, so that the bits
of a weight say which steps are in it and which were lost.
"""

import itertools
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adam, Optimizer

from executor.perform import perform
from executor.slicing import Passes
from executor.tensors import Settings, WorkerTensors, skeleton
from executor.weights import BlockWeights, MakeOptimizer
from simcore.errors import InputError
from simcore.ledger import Ledger
from simcore.ledger import Update as Landed
from simcore.ops import Backward, Forward, Item, Update
from simcore.schedule import WeightRules


class Tagging(Optimizer):
    """Adds the next power of two, whatever the gradient is."""

    def __init__(self, parameters: Any, tags: Iterator[int]) -> None:
        super().__init__(parameters, {})
        self.tags = tags

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                with torch.no_grad():
                    parameter.add_(2.0 ** next(self.tags))


class Whole(Passes):
    """Every pass is a mini-batch."""

    def __init__(self) -> None:
        self.parts, self.by_time = 1, False


def settings(rules: WeightRules, blocks: int) -> Settings:
    return Settings(rules, blocks, lambda output, labels: output.sum(), Whole())


class Scene:
    """Fake workers that share a network of one-weight blocks."""

    def __init__(self, rules: WeightRules, blocks: int, workers: int, make: Any = None) -> None:
        self.tags = itertools.count()
        self.ledger = Ledger(blocks, rules)
        modules = {k: nn.Linear(1, 1, bias=False).double() for k in range(1, blocks + 1)}
        for module in modules.values():
            nn.init.zeros_(module.weight)
        self.weights = {
            k: BlockWeights(
                module,
                rules,
                make or partial(Tagging, tags=self.tags),
                exclusive=workers == 1,
                lock=self.ledger.lock,
            )
            for k, module in modules.items()
        }
        self.workers = [
            WorkerTensors(
                number,
                self.ledger,
                {k: skeleton(module) for k, module in modules.items()},
                self.weights,
                settings(rules, blocks),
            )
            for number in range(workers)
        ]
        self.blocks, self.batches = blocks, itertools.count()

    def forward(self, worker: int) -> int:
        """A whole forward pass. Returns its batch."""
        batch = next(self.batches)
        data = torch.ones(1, 1, dtype=torch.float64)
        self.workers[worker].give((Item("activation", 0),), batch, [(data, None)])
        for block in range(1, self.blocks + 1):
            perform(self.workers[worker], Forward(block, batch))
        return batch

    def backward(self, worker: int, block: int, batch: int) -> None:
        perform(self.workers[worker], Backward(block, batch))

    def update(self, worker: int, block: int) -> Landed:
        landed = perform(self.workers[worker], Update(block)).landed
        assert landed is not None
        return landed

    def value(self, block: int = 1) -> int:
        [parameter] = self.weights[block].current.parameters.values()
        return int(parameter.item())


def steps_of(worker: int, blocks: int, kind: str) -> list[tuple[int, str, int]]:
    """A backward pass with its updates, layer by layer or at the end."""
    downwards = range(blocks, 0, -1)
    if kind == "lu":
        return [(worker, what, k) for k in downwards for what in ("backward", "update")]
    return [(worker, what, k) for what in ("backward", "update") for k in downwards]


@st.composite
def interleavings(draw: st.DrawFn, workers: int, blocks: int) -> list[tuple[int, str, int]]:
    """A few backward passes of each worker, mixed in any way that keeps each one's own order."""
    kind = draw(st.sampled_from(["lu", "bu"]))
    passes = draw(st.integers(1, 3))
    left = [steps_of(w, blocks, kind) * passes for w in range(workers)]
    mixed = []
    while any(left):
        worker = draw(st.sampled_from([w for w in range(workers) if left[w]]))
        mixed.append(left[worker].pop(0))
    return mixed


WRITES = [
    WeightRules("stash"),
    WeightRules("stash", momentum="shared"),
    WeightRules("mixed"),
    WeightRules("mixed", momentum="shared"),
    WeightRules("mixed", "assign", "layer"),
    WeightRules("mixed", "assign", "pass"),
]


@pytest.mark.parametrize("rules", WRITES, ids=str)
@given(st.data(), st.integers(1, 3), st.integers(1, 3))
def test_weights_hold_what_the_ledger_says(
    rules: WeightRules, data: st.DataObject, workers: int, blocks: int
) -> None:
    """Version v + 1 is the base of its update and that update's own step, and nothing else.

    With `write=add` the base is v and nothing is lost; with `assign` it is the version that the
    worker copied, and the `v - base` updates between are overwritten.
    """
    scene = Scene(rules, blocks, workers)
    contents: dict[int, list[int]] = {block: [0] for block in range(1, blocks + 1)}
    at: dict[int, int] = {}
    count = 0
    for worker, what, block in data.draw(interleavings(workers, blocks)):
        if what == "backward":
            if block == blocks:
                at[worker] = scene.forward(worker)
            scene.backward(worker, block, at[worker])
            continue
        landed = scene.update(worker, block)
        assert landed.version == len(contents[block]) - 1
        if rules.write == "add":
            assert landed.base == landed.version
        contents[block].append(contents[block][landed.base] + 2**count)
        count += 1
        assert scene.value(block) == contents[block][-1]


def test_two_workers_that_assign_lose_an_update() -> None:
    scene = Scene(WeightRules("mixed", "assign"), 1, 2)
    batches = [scene.forward(worker) for worker in (0, 1)]
    for worker, batch in enumerate(batches):
        scene.backward(worker, 1, batch)
    assert (scene.update(0, 1).base, scene.value()) == (0, 0b01)
    landed = scene.update(1, 1)
    assert (landed.version, landed.base, scene.value()) == (1, 0, 0b10)


def test_two_workers_that_add_lose_nothing() -> None:
    for policy in ("stash", "mixed"):
        scene = Scene(WeightRules(policy), 1, 2)
        batches = [scene.forward(worker) for worker in (0, 1)]
        for worker, batch in enumerate(batches):
            scene.backward(worker, 1, batch)
            scene.update(worker, 1)
        assert scene.value() == 0b11


# Copies on write


def test_no_copy_where_no_graph_lives() -> None:
    """Every update of a plain step writes in place: the parameter stays the same object."""
    scene = Scene(WeightRules("stash"), 1, 1)
    first = scene.weights[1].current
    for count in range(1, 4):
        batch = scene.forward(0)
        scene.backward(0, 1, batch)
        scene.update(0, 1)
        assert scene.weights[1].current is first
        assert scene.value() == 2**count - 1


def test_a_copy_where_a_graph_lives() -> None:
    """A second batch is on its way: its graph keeps the old weights, new passes use the new."""
    scene = Scene(WeightRules("stash"), 1, 1)
    old = scene.weights[1].current
    first, second = scene.forward(0), scene.forward(0)
    assert old.graphs == 2
    scene.backward(0, 1, first)
    scene.update(0, 1)
    new = scene.weights[1].current
    assert new is not old
    assert (old.graphs, new.graphs) == (1, 0)
    assert old.parameters["weight"].item() == 0
    assert new.parameters["weight"].item() == 1
    third = scene.forward(0)
    assert new.graphs == 1
    scene.backward(0, 1, second)
    scene.backward(0, 1, third)
    assert (old.graphs, new.graphs) == (0, 0)
    scene.update(0, 1)
    assert scene.weights[1].current is new  # nobody holds it: in place again


def test_graphs_of_mixed_weights_see_the_update() -> None:
    """In place: the same parameter throughout, and no error of autograd's."""
    scene = Scene(WeightRules("mixed"), 2, 1)
    before = {k: weights.current for k, weights in scene.weights.items()}
    first, second = scene.forward(0), scene.forward(0)
    for batch in (first, second):
        for block in (2, 1):
            scene.backward(0, block, batch)
            scene.update(0, block)
    assert all(weights.current is before[k] for k, weights in scene.weights.items())


def stash_and_mixed_gradients() -> Iterator[tuple[str, float]]:
    """The gradient of block 1 is the weight of block 2: at the forward pass, or now."""
    for policy in ("stash", "mixed"):
        scene = Scene(WeightRules(policy), 2, 1)
        first, second = scene.forward(0), scene.forward(0)
        scene.backward(0, 2, first)
        scene.update(0, 2)  # weight 2 becomes 1
        scene.backward(0, 2, second)
        scene.backward(0, 1, second)
        [gradient] = scene.workers[0].pending[1]
        yield policy, gradient.item()


def test_a_backward_pass_uses_the_weights_of_its_policy() -> None:
    assert dict(stash_and_mixed_gradients()) == {"stash": 0, "mixed": 1}


# Optimiser states


def plain(make: MakeOptimizer, gradients: list[float]) -> list[float]:
    """What the optimiser does by itself."""
    parameter = nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))
    optimizer = make([parameter])
    values = []
    for gradient in gradients:
        parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
        values.append(parameter.item())
    return values


MAKERS: list[MakeOptimizer] = [
    partial(SGD, lr=0.1, momentum=0.9, weight_decay=0.01),
    partial(SGD, lr=0.1, momentum=0.9, nesterov=True),
    partial(Adam, lr=0.1, weight_decay=0.01),
    partial(Adam, lr=0.1, amsgrad=True),
]
GRADIENTS = [1.0, -2.0, 0.5, 3.0, -1.0, 0.25]


def apply(scene: Scene, worker: int, gradient: float) -> float:
    scene.ledger.forward(1, 0)
    scene.ledger.backward(worker, 1, 0)
    scene.ledger.computed(worker, 1, 0)
    tensor = torch.full((1, 1), gradient, dtype=torch.float64)
    scene.weights[1].step(worker, [tensor], lambda: scene.ledger.update(worker, 1))
    [parameter] = scene.weights[1].current.parameters.values()
    return parameter.item()


@pytest.mark.parametrize("make", MAKERS, ids=str)
@pytest.mark.parametrize("rules", WRITES, ids=str)
def test_one_worker_steps_as_the_optimiser_does_by_itself(
    make: MakeOptimizer, rules: WeightRules
) -> None:
    """Momentum follows the weights from copy to copy."""
    scene = Scene(rules, 1, 1, make)
    found = []
    for number, gradient in enumerate(GRADIENTS):
        if number % 2:  # a graph lives: under stash, this update must copy
            scene.weights[1].current.graphs += 1
        if rules.write == "assign":
            scene.weights[1].renew_copy(0)
        found.append(apply(scene, 0, gradient))
    assert found == plain(make, GRADIENTS)


@pytest.mark.parametrize("policy", ["stash", "mixed"])
def test_momentum_belongs_to_the_worker_or_to_the_block(policy: Any) -> None:
    """Workers take turns; with lr 1 and momentum 1/2 every value is exact."""
    make = partial(SGD, lr=1.0, momentum=0.5)
    found = {}
    for momentum in ("worker", "shared"):
        scene = Scene(WeightRules(policy, momentum=momentum), 1, 2, make)
        found[momentum] = [apply(scene, worker, -1.0) for worker in (0, 1, 0, 1)]
    # Shared: velocities 1, 1.5, 1.75, 1.875. Own: 1, 1, 1.5, 1.5.
    assert found == {"shared": [1, 2.5, 4.25, 6.125], "worker": [1, 2, 3.5, 5]}


def test_own_copies_have_their_own_momentum() -> None:
    scene = Scene(WeightRules("mixed", "assign"), 1, 2, partial(SGD, lr=1.0, momentum=0.5))
    found = []
    for worker in (0, 1, 0, 1):
        scene.weights[1].renew_copy(worker)
        found.append(apply(scene, worker, -1.0))
    assert found == [1, 2, 3.5, 5]


@pytest.mark.parametrize("make", [SGD, Adam])
def test_a_fused_optimiser_is_refused_under_stash(make: Any) -> None:
    fused: Any = partial(make, lr=0.1, fused=True)
    line = (
        f"optimiser is '{make.__name__}(fused=True)': must not be fused under weights=stash, where "
        "autograd checks what was changed; drop fused=True or use weights=mixed"
    )
    with pytest.raises(InputError, match=f"^{re.escape(line)}$"):
        Scene(WeightRules("stash"), 1, 1, fused)
    Scene(WeightRules("mixed"), 1, 1, fused)


def test_frozen_parameters_are_left_alone() -> None:
    module = nn.Linear(1, 1).double()
    module.bias.requires_grad_(False)
    ledger = Ledger(1, WeightRules())
    weights = BlockWeights(module, ledger.rules, partial(SGD, lr=1.0), True, ledger.lock)
    assert list(weights.current.parameters) == ["weight"]


# Skeletons


def test_a_skeleton_shares_tensors_and_nothing_else() -> None:
    block = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    twin = skeleton(block)
    assert twin is not block
    for one, other in ((block.parameters(), twin.parameters()), (block.buffers(), twin.buffers())):
        assert all(a is b for a, b in zip(one, other, strict=True))
    twin.eval()
    assert block.training


class Tied(nn.Module):
    """x w w: the weight is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.there = nn.Linear(1, 1, bias=False)
        self.back = nn.Linear(1, 1, bias=False)
        self.back.weight = self.there.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.back(self.there(inputs))
        return found


def test_a_weight_with_two_names_stays_one_weight() -> None:
    """After a copy, both uses read the copy: d(w w)/dw = 2 w at w = 3 and then at w = 2."""
    tied = Tied().double()
    nn.init.constant_(tied.there.weight, 3.0)
    module = nn.Sequential(tied)
    ledger = Ledger(1, WeightRules())
    weights = BlockWeights(module, ledger.rules, partial(SGD, lr=1 / 6), True, ledger.lock)
    worker = WorkerTensors(
        0, ledger, {1: skeleton(module)}, {1: weights}, settings(ledger.rules, 1)
    )
    data = torch.ones(1, 1, dtype=torch.float64)
    for batch in (0, 1, 2):
        worker.give((Item("activation", 0),), batch, [(data, None)])
    perform(worker, Forward(1, 0))
    perform(worker, Forward(1, 1))  # its graph forces a copy
    perform(worker, Backward(1, 0))
    assert worker.pending[1][0].item() == 6
    perform(worker, Update(1))
    perform(worker, Forward(1, 2))
    perform(worker, Backward(1, 2))
    assert worker.pending[1][0].item() == pytest.approx(4, rel=1e-15)
    perform(worker, Backward(1, 1))
    assert worker.pending[1][0].item() == pytest.approx(10, rel=1e-15)
