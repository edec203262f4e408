"""Forward gradients against gradients from autograd, in float64.

With directions of signs, a step of size 1 shows everything: u <gradient, u> has the same size c in
all weights, its signs are u, and c must be <gradient, u>. No part of the executor is asked for u.
Where several steps are compared, the reference draws the same directions from the same seeds.
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).parent))

from fidelity_runs import (
    assert_close,
    batches_of,
    chain,
    losses_of,
    one_core,
    replayed,
    seeded,
)
from reference_training import Batch, Leaves, Module, forward_descent, modules_of

from executor.learning import Learning
from executor.models.recurrent import LSTM, Elman, LastStep

BOUNDS = {1: (0, 4), 2: (0, 2, 4), 3: (0, 1, 3, 4), 4: (0, 1, 2, 3, 4)}
CHILDREN = {1: (0, 7), 2: (0, 4, 7), 3: (0, 2, 6, 7), 4: (0, 2, 4, 6, 7)}  # of `chain(4)`
UNIT = partial(torch.optim.SGD, lr=1.0)
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.01, momentum=0.5),
    "adam": partial(torch.optim.Adam, lr=0.01),
}


@pytest.fixture(autouse=True)
def _one_core() -> Iterator[None]:
    with one_core():
        yield


# The derivative along a direction


class Attention(nn.Module):
    """Self-attention of elementary operations over (samples, places, width), with a bypass."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.maps = width, nn.Linear(width, 3 * width)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        query, key, value = self.maps(inputs).chunk(3, dim=-1)
        scores = query @ key.transpose(1, 2) / math.sqrt(self.width)
        return inputs + torch.softmax(scores, dim=-1) @ value


class Twice(nn.Module):
    """Gives out a tuple, or takes one in."""

    def __init__(self, width: int, joins: bool) -> None:
        super().__init__()
        self.scale, self.joins = nn.Parameter(torch.linspace(0.5, 1.5, width)), joins

    def forward(self, inputs: Any) -> Any:
        if self.joins:
            one, (other, place) = inputs
            return one * self.scale[place].unsqueeze(1) + other
        return inputs * self.scale, (torch.sigmoid(inputs), inputs.argmax(1))


def sequential(*parts: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    for part in parts:
        for module in part.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
                module.reset_parameters()
            elif isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return nn.Sequential(*parts).double()


# Four layers each: the network, its input's shape, its tokens.
NETWORKS: dict[str, Callable[[], tuple[nn.Sequential, tuple[int, ...], int]]] = {
    "linear": lambda: (
        sequential(
            *(nn.Linear(5, 6), nn.GELU(), nn.LayerNorm(6), nn.SiLU()),
            *(nn.Linear(6, 6), nn.BatchNorm1d(6, affine=False), nn.ReLU(), nn.Linear(6, 3)),
        ),
        (5,),
        0,
    ),
    "convolutions": lambda: (
        sequential(
            *(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
            *(nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, groups=2, bias=False), nn.Hardswish()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
        ),
        (2, 8, 8),
        0,
    ),
    "attention": lambda: (
        sequential(
            *(nn.Embedding(9, 4), Attention(4), nn.LayerNorm(4)),
            *(nn.Flatten(), nn.Linear(20, 3)),
        ),
        (5,),
        9,
    ),
    "tuples": lambda: (
        sequential(nn.Linear(5, 6), Twice(6, False), Twice(6, True), nn.Tanh(), nn.Linear(6, 3)),
        (5,),
        0,
    ),
    "elman": lambda: (
        sequential(nn.Linear(3, 4), Elman(4, 5), Elman(5, 5), LastStep(), nn.Linear(5, 3)),
        (4, 3),
        0,
    ),
    "lstm": lambda: (
        sequential(nn.Embedding(9, 4), LSTM(4, 5), LSTM(5, 5), LastStep(), nn.Linear(5, 3)),
        (6,),
        9,
    ),
}


def step_and_gradient(
    network: str, name: str, modules: int, parts: int = 1, **options: Any
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What one step of size 1 takes away from each weight, and the gradient, from autograd."""
    model, shape, tokens = NETWORKS[network]()
    for module in model.modules():
        if isinstance(module, Elman | LSTM):
            module.initialise(torch.Generator().manual_seed(7))
    batches = batches_of(1, *shape, samples=8, tokens=tokens)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    arguments = BOUNDS[modules], batches, UNIT
    if parts > 1:
        options["micro_batches"] = parts
    found = replayed(name, model, *arguments, modules=modules, directions="rademacher", **options)
    assert found.state is not None
    taken = {name: tensor - found.state[name] for name, tensor in before.items()}
    [(inputs, labels)] = batches
    cross_entropy(model(inputs), labels).backward()
    return taken, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    ("modules", "name"), [(1, "fgd"), (2, "fgd-mp"), (3, "fgd"), (3, "fgd-mp"), (4, "fgd-mp")]
)
def test_the_derivative_is_that_along_the_direction(network: str, modules: int, name: str) -> None:
    taken, gradient = step_and_gradient(network, name, modules)
    check(taken, gradient, dict.fromkeys(taken, 1.0))


def check(
    taken: dict[str, torch.Tensor],
    gradient: dict[str, torch.Tensor],
    scales: dict[str, float],
) -> None:
    """The step is c u, with c = <gradient, u>, where u is a sign times the scale of its weight."""
    sizes = torch.cat([taken[name].abs().flatten() / scales[name] for name in taken])
    size = sizes[0].item()
    assert size > 1e-5  # or rounding would be compared
    torch.testing.assert_close(sizes, torch.full_like(sizes, size), rtol=1e-9, atol=1e-12)
    along = sum((gradient[name] * taken[name].sign() * scales[name]).sum().item() for name in taken)
    assert along == pytest.approx(size, rel=1e-9)


@pytest.mark.parametrize("modules", [1, 2, 4])
@pytest.mark.parametrize("alpha", [0.5, 0.0])
def test_alpha_scales_the_directions_below_the_classifier(modules: int, alpha: float) -> None:
    taken, gradient = step_and_gradient("linear", "fgd-mp", modules, alpha=alpha)
    scales = {name: 1.0 if name.startswith("7.") else alpha for name in taken}
    if alpha == 0:
        below = [name for name in taken if not name.startswith("7.")]
        assert all(not taken.pop(name).any() for name in below)
    check(taken, gradient, scales)


@pytest.mark.parametrize("modules", [2, 3])
@pytest.mark.parametrize("parts", [2, 3])
def test_parts_of_a_mini_batch_share_its_direction(modules: int, parts: int) -> None:
    """Also 8 samples in parts of 3, 3 and 2: the step is that of the whole mini-batch."""
    taken, gradient = step_and_gradient("tuples", "fgd-pipeline", modules, parts)
    check(taken, gradient, dict.fromkeys(taken, 1.0))


def test_several_directions_count_a_pass_once_and_learn_from_their_mean() -> None:
    model, shape, _ = NETWORKS["convolutions"]()
    batches = batches_of(4, *shape)
    frozen = partial(torch.optim.SGD, lr=0.0)
    found = replayed("fgd-mp", model, BOUNDS[2], batches, frozen, modules=2, tangents=3)
    for inputs, _ in batches:
        model(inputs)
    assert found.state is not None
    torch.testing.assert_close(found.state, dict(model.state_dict()), rtol=1e-12, atol=1e-12)


# Methods, step by step


def drawn(
    modules: Sequence[Module],
    tangents: int,
    number: Callable[[int], int],
    replica: Callable[[int], int],
    signs: bool,
    k: int,
    t: int,
) -> list[list[torch.Tensor]]:
    """The directions of module k for batch t."""
    generator = torch.Generator().manual_seed(seeded(replica(t), k, number(t)))
    shapes = [parameter.shape for parameter in modules[k - 1].learning.values()]
    if signs:
        return [
            [
                torch.randint(2, shape, generator=generator, dtype=torch.int8).double() * 2 - 1
                for shape in shapes
            ]
            for _ in range(tangents)
        ]
    return [
        [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        for _ in range(tangents)
    ]


def whole(modules: Sequence[Module], point: Sequence[Leaves], batch: Batch) -> torch.Tensor:
    value, labels = batch
    for module, leaves in zip(modules, point, strict=True):
        value = module.output(leaves, value)
    return cross_entropy(value, labels)


def compare(
    name: str,
    count: int,
    optimizer: str,
    reads: Callable[[int, int], int],
    replicas: int = 1,
    **options: Any,
) -> None:
    make, batches = OPTIMIZERS[optimizer], batches_of(16, 5, last=4)
    signs, tangents = options.get("directions") == "rademacher", options.get("tangents", 1)
    if replicas > 1:
        options["replicas"] = replicas
    found = replayed(name, chain(4), BOUNDS[count], batches, make, modules=count, **options)
    model = chain(4)
    modules = modules_of(model, CHILDREN[count], make)
    losses = forward_descent(
        modules,
        batches,
        reads,
        partial(whole, modules),
        partial(drawn, modules, tangents, lambda t: t, lambda t: t % replicas, signs),
        lambda t: (t + 1) % replicas == 0 or t == len(batches) - 1,
    )
    # What differs is rounding, of derivatives forward and gradients backward.
    assert_close(found, losses, model, 1e-9)


@pytest.mark.parametrize(
    ("count", "optimizer"), [(1, "sgd"), (2, "adam"), (3, "sgd"), (3, "adam"), (4, "sgd")]
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tangents": 3},
        {"keep": "seed", "directions": "rademacher"},
        {"lockstep": True},
        {"loaders": 1},
    ],
)
def test_asyncfgd(count: int, optimizer: str, options: dict[str, Any]) -> None:
    """Algorithms 1 and 2: batch t meets version t - (K-k) of module k, and all modules step by the
    scalar of that composite point."""
    compare("asyncfgd", count, optimizer, lambda k, t: max(0, t - (count - k)), **options)


@pytest.mark.parametrize("name", ["fgd", "fgd-mp", "fgd-pipeline"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("tangents", [1, 2])
def test_without_delay(name: str, optimizer: str, tangents: int) -> None:
    options = {"micro_batches": 1} if name == "fgd-pipeline" else {}
    compare(name, 3, optimizer, lambda k, t: t, tangents=tangents, **options)


@pytest.mark.parametrize("replicas", [2, 3])
def test_replicas_have_directions_of_their_own(replicas: int) -> None:
    compare("fgd-dp", 2, "sgd", lambda k, t: t // replicas, replicas)


@pytest.mark.parametrize("name", ["asyncfgd", "fgd-pipeline", "asyncfgd-recursive"])
@pytest.mark.parametrize("tangents", [1, 2])
def test_a_kept_seed_is_as_good_as_the_direction(name: str, tangents: int) -> None:
    recursive = name == "asyncfgd-recursive"
    batches = batches_of(9, *((3, 4) if recursive else (5,)))
    make = OPTIMIZERS["adam"]

    def model() -> nn.Sequential:
        if recursive:
            return sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Linear(5, 3))
        return chain(3)

    one, other = (
        replayed(
            *(name, model(), (0, 1, 2, 3), batches, make),
            modules=3,
            tangents=tangents,
            keep=keep,
            alpha=0.7,
            about={"learning": Learning(alpha=lambda number: min(1.0, number / 5))},
            **({"time_steps": 3} if recursive else {}),
        )
        for keep in ("tangent", "seed")
    )
    assert losses_of(one) == losses_of(other)
    assert one.state is not None
    assert other.state is not None
    assert all(torch.equal(one.state[key], other.state[key]) for key in one.state)


# Sequences


def recurrent(kind: type[Elman] | type[LSTM]) -> nn.Sequential:
    """Layers: linear, two recurrent ones, classifier. Children 0, 2, 3, 4."""
    first, second = kind(4, 5), kind(5, 5)
    generator = torch.Generator().manual_seed(3)
    first.initialise(generator)
    second.initialise(generator)
    return sequential(nn.Linear(3, 4), nn.Tanh(), first, second, nn.Linear(5, 3))


def elman_step(leaves: Leaves, name: str, given: torch.Tensor, state: Any) -> tuple[Any, Any]:
    now = given @ leaves[f"{name}.given.weight"].T + leaves[f"{name}.given.bias"]
    if state is not None:
        now = now + state @ leaves[f"{name}.past.weight"].T
    output = torch.tanh(now)
    return output, output


def lstm_step(leaves: Leaves, name: str, given: torch.Tensor, state: Any) -> tuple[Any, Any]:
    now = given @ leaves[f"{name}.given.weight"].T + leaves[f"{name}.given.bias"]
    cell = torch.zeros(len(given), 5, dtype=given.dtype)
    if state is not None:
        now, cell = now + state[0] @ leaves[f"{name}.past.weight"].T, state[1]
    enter, forget, new, leave = now.split(5, dim=1)
    cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
    output = leave.sigmoid() * cell.tanh()
    return output, (output, cell)


def unrolled(
    modules: Sequence[Module], time_steps: int, point: Sequence[Leaves], batch: Batch
) -> torch.Tensor:
    """The sum of the losses after each of the time steps; what recurs is written out."""
    inputs, labels = batch
    states: dict[tuple[int, str], Any] = {}
    total = torch.zeros((), dtype=torch.float64)
    for step in range(time_steps):
        value: Any = inputs[:, 3 * step : 3 * step + 3]
        for number, (module, leaves) in enumerate(zip(modules, point, strict=True)):
            for name, child in module.part.named_children():
                if isinstance(child, Elman | LSTM):
                    advance = elman_step if isinstance(child, Elman) else lstm_step
                    before = states.get((number, name))
                    value, states[number, name] = advance(leaves, name, value, before)
                elif isinstance(child, nn.Linear):
                    value = value @ leaves[f"{name}.weight"].T + leaves[f"{name}.bias"]
                else:
                    value = child(value)
        total = total + cross_entropy(value, labels)
    return total


@pytest.mark.parametrize("kind", [Elman, LSTM])
@pytest.mark.parametrize(
    ("count", "time_steps", "tangents"),
    [(1, 4, 1), (2, 4, 1), (3, 4, 2), (4, 4, 1), (4, 2, 1), (4, 1, 1), (3, 1, 2)],
)
def test_asyncfgd_recursive(
    kind: type[Elman] | type[LSTM], count: int, time_steps: int, tangents: int
) -> None:
    """Appendix G.3: the sum of a sequence's losses has one direction; module k steps after its
    sequence i with the version that the sequence ceil((K-k) / n) before has made."""
    make, batches = OPTIMIZERS["sgd"], batches_of(8, 3 * time_steps, last=4)
    options = {"time_steps": time_steps, "tangents": tangents}
    bounds = BOUNDS[count]
    name = "asyncfgd-recursive"
    found = replayed(name, recurrent(kind), bounds, batches, make, modules=count, **options)
    model = recurrent(kind)
    cuts = [(0, 2, 3, 4, 5)[bound] for bound in bounds]
    modules = modules_of(model, cuts, make)

    def reads(k: int, i: int) -> int:
        return max(0, i - math.ceil((count - k) / time_steps))

    losses = forward_descent(
        modules,
        batches,
        reads,
        partial(unrolled, modules, time_steps),
        partial(drawn, modules, tangents, lambda t: t, lambda t: 0, False),
    )
    # A run tells the mean over the steps.
    assert_close(found, [loss / time_steps for loss in losses], model, 1e-9)


def test_cuts_of_the_networks_are_those_of_the_executor() -> None:
    assert [len(chain(4)[a:b]) for a, b in pairwise(CHILDREN[3])] == [2, 4, 1]
