"""Schedules without delay against ordinary PyTorch training, in float64.

Everything in a network that needs care of an executor is here: whole numbers as inputs, tuples
between blocks, weights with two names, layers that work in place, running statistics, dropout.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from fidelity_runs import assert_close, batches_of, chain, one_core, replayed, seeded
from reference_training import Batch, plain

Case = tuple[str, dict[str, Any]]
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01)
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": SGD,
    "plain sgd": partial(torch.optim.SGD, lr=0.1),
    "adam": partial(torch.optim.Adam, lr=0.01),
    "amsgrad": partial(torch.optim.Adam, lr=0.01, amsgrad=True, weight_decay=0.02),
    "adamw": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
    "rmsprop": partial(torch.optim.RMSprop, lr=0.01, momentum=0.5, centered=True),
}


@pytest.fixture(autouse=True)
def _one_core() -> Iterator[None]:
    with one_core():
        yield


class Fork(nn.Module):
    """One tensor to a tuple: of floating point, and within it one of whole numbers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, width))

    def forward(self, inputs: torch.Tensor) -> Any:
        return inputs * self.scale, (torch.tanh(inputs), inputs.argmax(1))


class Unite(nn.Module):
    """What a `Fork` gives out, in one tensor again."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rows = nn.Embedding(width, width)

    def forward(self, inputs: Any) -> torch.Tensor:
        scaled, (squashed, place) = inputs
        united: torch.Tensor = scaled + squashed * self.rows(place)
        return united


class Tied(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.there, self.back = nn.Linear(width, width), nn.Linear(width, width)
        self.back.weight = self.there.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.back(torch.tanh(self.there(inputs)))
        return found


def peculiar() -> nn.Sequential:
    """Six layers: embedding, linear, fork, unite, tied, linear. Inputs are (samples, 3) tokens."""
    torch.manual_seed(0)
    frozen = nn.LayerNorm(7)
    frozen.weight.requires_grad_(False)
    return nn.Sequential(
        nn.Embedding(9, 4),
        nn.Flatten(),
        nn.Linear(12, 7),
        nn.ReLU(inplace=True),
        Fork(7),
        Unite(7),
        Tied(7),
        nn.ReLU(inplace=True),
        nn.Sequential(frozen, nn.Linear(7, 3, bias=False)),
    ).double()


def normed(*extra: nn.Module) -> nn.Sequential:
    """Four layers with running statistics, over images (samples, 2, 4, 4). What is extra comes
    before the last layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.Conv2d(3, 4, 3),
        nn.Flatten(),
        *extra,
        nn.Linear(16, 3),
    ).double()


SIX = {1: (0, 6), 2: (0, 3, 6), 3: (0, 2, 3, 6), 4: (0, 1, 3, 4, 6)}
FOUR = {1: (0, 4), 2: (0, 2, 4), 3: (0, 1, 2, 4), 4: (0, 1, 2, 3, 4)}


def blocks_of(case: Case) -> int:
    return int(case[1]["modules"]) * int(case[1].get("chunks", 1))


def shown(case: Case) -> str:
    return "-".join([case[0], *(f"{name}={value}" for name, value in case[1].items())])


def split(batches: Sequence[Batch], parts: int) -> list[list[Batch]]:
    """The parts of each mini-batch, as even as can be, the larger ones first."""
    return [
        list(zip(inputs.tensor_split(parts), labels.tensor_split(parts), strict=True))
        for inputs, labels in batches
    ]


WHOLE: list[Case] = [
    *(("bp", {"modules": modules}) for modules in (1, 2, 3, 4)),
    *(("bp-mp", {"modules": modules}) for modules in (1, 2, 3, 4)),
    ("bp", {"modules": 3, "weights": "mixed"}),
    ("bp-mp", {"modules": 3, "recompute": True}),
    ("bp-mp", {"modules": 3, "loaders": 2}),
]
# At one module nothing is delayed.
ALONE: list[Case] = [
    (name, {"modules": 1} | extra)
    for name, extra in [
        ("gpipe", {}),
        ("1f1b", {}),
        ("zb-h1", {}),
        ("pipedream", {}),
        ("async-1f1b", {}),
        ("ddg", {}),
        ("fr", {}),
        ("dsp", {}),
        ("fdg", {"shrink": 0.5}),
        ("adl", {"order": "update-first"}),
        ("dgl", {}),
        ("dni", {}),
        ("dfa", {}),
        ("drtp", {}),
    ]
]
PARTS: list[Case] = [
    *(("gpipe", {"modules": k, "micro_batches": m}) for k, m in ((1, 2), (2, 4), (3, 2), (4, 4))),
    *(("1f1b", {"modules": k, "micro_batches": m}) for k, m in ((1, 4), (2, 2), (3, 4), (4, 2))),
    *(("zb-h1", {"modules": k, "micro_batches": m}) for k, m in ((1, 2), (2, 4), (3, 4), (4, 4))),
    ("interleaved-1f1b", {"modules": 2, "chunks": 2, "micro_batches": 2}),
    ("interleaved-1f1b", {"modules": 2, "chunks": 2, "micro_batches": 4}),
    ("interleaved-1f1b", {"modules": 1, "chunks": 3, "micro_batches": 2}),
    ("1f1b", {"modules": 3, "micro_batches": 4, "in_flight": (3, 2, 2)}),
    ("gpipe", {"modules": 3, "micro_batches": 4, "recompute": True}),
    ("zb-h1", {"modules": 3, "micro_batches": 4, "recompute": True}),
    ("zb-h1", {"modules": 2, "micro_batches": 2, "weights": "mixed"}),
]


@pytest.mark.parametrize("case", [*WHOLE, *ALONE], ids=shown)
def test_whole_mini_batches(case: Case) -> None:
    """Also where the last one has fewer samples."""
    batches = batches_of(9, 2, 4, 4, samples=7, last=3)
    name, options = case
    found = replayed(name, normed(), FOUR[blocks_of(case)], batches, SGD, **options)
    model = normed()
    losses = plain(model, [[batch] for batch in batches], SGD(model.parameters()))
    assert_close(found, losses, model, 1e-12)


@pytest.mark.parametrize("case", PARTS, ids=shown)
def test_equal_parts_have_statistics_of_their_own(case: Case) -> None:
    batches = batches_of(6, 2, 4, 4, samples=8, last=4)
    name, options = case
    found = replayed(name, normed(), FOUR[blocks_of(case)], batches, SGD, **options)
    model = normed()
    parts = split(batches, options["micro_batches"])
    losses = plain(model, parts, SGD(model.parameters()))
    assert_close(found, losses, model, 1e-12, options["micro_batches"])


@pytest.mark.parametrize("case", [*WHOLE, *PARTS], ids=shown)
def test_peculiar_networks(case: Case) -> None:
    batches = batches_of(6, 3, samples=8, tokens=9)
    name, options = case
    found = replayed(name, peculiar(), SIX[blocks_of(case)], batches, SGD, **options)
    model = peculiar()
    parts = split(batches, options.get("micro_batches", 1))
    losses = plain(model, parts, SGD(p for p in model.parameters() if p.requires_grad))
    assert_close(found, losses, model, 1e-12, options.get("micro_batches", 1))


class Summed(nn.Module):
    """Autograd's gradient of the weight is one number, for all of its elements."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-0.1, 0.2, 5))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs + self.weight.sum()


class Placed(nn.Module):
    """Autograd's gradients of the weight and of the input, (1, 5), are one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-0.1, 0.2, 5).view(1, 5))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs + self.weight


class Passing(nn.Module):
    """Hands its input on, beside what it makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 5)

    def forward(self, inputs: Any) -> Any:
        past, now = inputs if isinstance(inputs, tuple) else (inputs, inputs)
        return past, torch.tanh(self.linear(now))


class Joining(nn.Linear):
    def forward(self, inputs: Any) -> torch.Tensor:
        return super().forward(inputs[0] + inputs[1])


SHARING: dict[str, Callable[[], list[nn.Module]]] = {
    "summed": lambda: [Summed(), nn.Tanh(), Summed(), nn.Linear(5, 3)],
    "placed": lambda: [Placed(), nn.Tanh(), Placed(), nn.Linear(5, 3)],
    "passing": lambda: [Passing(), Passing(), Joining(5, 3)],
    "identity": lambda: [nn.Identity(), nn.Linear(5, 5), nn.Identity(), Placed(), nn.Linear(5, 3)],
}


@pytest.mark.parametrize("network", SHARING)
@pytest.mark.parametrize(
    "case",
    [
        ("bp", {"modules": 2, "accumulation": 2}),
        ("bp-mp", {"modules": 4, "replicas": 2}),
        ("gpipe", {"modules": 4, "micro_batches": 4}),
        ("1f1b", {"modules": 4, "micro_batches": 4, "recompute": True}),
        ("zb-h1", {"modules": 4, "micro_batches": 4}),
        ("zb-h1", {"modules": 2, "micro_batches": 4}),
    ],
    ids=shown,
)
def test_gradients_that_share_memory(network: str, case: Case) -> None:
    """What is pending is added to in place: it must not be what is on its way down."""
    name, options = case
    parts = options.get("micro_batches", 1)
    together = options.get("accumulation", options.get("replicas", 1))

    def make() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 5), *SHARING[network]()).double()

    batches = batches_of(6, 5, samples=parts)
    found = replayed(name, make(), FOUR[options["modules"]], batches, SGD, **options)
    model = make()
    updates = split(batches, parts)
    if together > 1:
        updates = [batches[at : at + together] for at in range(0, 6, together)]
    losses = plain(model, updates, SGD(model.parameters()))
    assert_close(found, losses, model, 1e-11, parts)


UNEVEN: list[Case] = [
    ("gpipe", {"modules": 2, "micro_batches": 3}),
    ("1f1b", {"modules": 4, "micro_batches": 3}),
    ("zb-h1", {"modules": 3, "micro_batches": 3}),
    ("interleaved-1f1b", {"modules": 3, "chunks": 1, "micro_batches": 3}),
]


@pytest.mark.parametrize("case", UNEVEN, ids=shown)
def test_unequal_parts_learn_what_their_mini_batch_would(case: Case) -> None:
    """8 samples in parts of 3, 3, 2, and the last mini-batch's 4 in parts of 2, 1, 1. The losses of
    the parts are weighted, so that their mean is that of the mini-batch."""
    batches = batches_of(7, 3, samples=8, last=4, tokens=9)
    name, options = case
    found = replayed(name, peculiar(), SIX[blocks_of(case)], batches, SGD, **options)
    model = peculiar()
    optimizer = SGD(p for p in model.parameters() if p.requires_grad)
    losses = plain(model, [[batch] for batch in batches], optimizer)
    assert_close(found, losses, model, 1e-12)


@pytest.mark.parametrize("name", ["bp", "1f1b", "zb-h1"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimisers(name: str, optimizer: str) -> None:
    """Each block has an optimiser of its own; together they do what one would. (The pipelines have
    8 samples in 3 parts, which are weighted.)"""
    make, batches = OPTIMIZERS[optimizer], batches_of(6, 3, samples=8, tokens=9)
    found = replayed(name, peculiar(), SIX[3], batches, make, modules=3)
    model = peculiar()
    stepper = make(p for p in model.parameters() if p.requires_grad)
    losses = plain(model, [[batch] for batch in batches], stepper)
    # Adam divides by gradients' sizes: rounding of tiny ones shows.
    assert_close(found, losses, model, 1e-9)


@pytest.mark.parametrize("modules", [1, 3])
@pytest.mark.parametrize("accumulation", [2, 3, 5])
def test_accumulation(modules: int, accumulation: int) -> None:
    """An update takes the mean of its gradients, the last one of those that are left."""
    batches = batches_of(10, 2, 4, 4, samples=7, last=3)
    options = {"modules": modules, "accumulation": accumulation}
    found = replayed("bp", normed(), FOUR[modules], batches, SGD, **options)
    model = normed()
    windows = [batches[at : at + accumulation] for at in range(0, 10, accumulation)]
    losses = plain(model, windows, SGD(model.parameters()))
    assert_close(found, losses, model, 1e-12)


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("name", ["ddp", "bp-mp", "fr"])
def test_replicas_learn_from_the_mean_of_their_gradients(name: str, replicas: int) -> None:
    """Mini-batch b goes to replica b mod R; of 7, some replicas have one more than others."""
    batches = batches_of(7, 3, samples=5, tokens=9)
    modules = 1 if name == "fr" else 2
    options = {"modules": modules, "replicas": replicas}
    found = replayed(name, peculiar(), SIX[modules], batches, SGD, **options)
    model = peculiar()
    together = [batches[at : at + replicas] for at in range(0, 7, replicas)]
    optimizer = SGD(p for p in model.parameters() if p.requires_grad)
    losses = plain(model, together, optimizer)
    assert_close(found, losses, model, 1e-12)


@pytest.mark.parametrize(
    ("case", "place"),
    [
        (("bp", {"modules": 1}), 1),
        (("bp", {"modules": 3}), 3),
        (("bp", {"modules": 3, "recompute": True}), 3),
        (("bp-mp", {"modules": 2}), 2),
        (("gpipe", {"modules": 2, "micro_batches": 4}), 2),
        (("zb-h1", {"modules": 2, "micro_batches": 4, "recompute": True}), 2),
        (("fdg", {"modules": 1}), 1),
    ],
)
def test_dropout_is_drawn_from_the_seed_of_block_and_pass(case: Case, place: int) -> None:
    """So that it is the same in every runtime and order. `place` is the block that has it."""
    name, options = case
    batches = batches_of(6, 2, 4, 4, samples=8)
    drops = nn.Dropout(0.4)
    found = replayed(name, normed(drops), FOUR[blocks_of(case)], batches, SGD, **options)
    model = normed(drops)
    parts = split(batches, options.get("micro_batches", 1))

    def seed(number: int) -> None:
        torch.manual_seed(seeded(0, place, number))

    with torch.random.fork_rng():
        losses = plain(model, parts, SGD(model.parameters()), seed)
    assert_close(found, losses, model, 1e-12, options.get("micro_batches", 1))


RECOMPUTED: list[Case] = [
    ("bp", {"modules": 4, "accumulation": 2}),
    ("bp-mp", {"modules": 4}),
    ("ddp", {"modules": 2}),
    ("gpipe", {"modules": 4, "micro_batches": 4}),
    ("1f1b", {"modules": 4, "micro_batches": 4}),
    ("interleaved-1f1b", {"modules": 2, "micro_batches": 4}),
    ("zb-h1", {"modules": 4, "micro_batches": 4}),
    ("pipedream", {"modules": 4}),
    ("pipedream-2bw", {"modules": 4, "micro_batches": 4}),
    ("ddg", {"modules": 4}),
    ("fdg", {"modules": 4}),
    ("fdg", {"modules": 2, "replicas": 2}),
    ("adl", {"modules": 4, "accumulation": 3}),
    ("dgl", {"modules": 4}),
    ("dni", {"modules": 4}),
    ("dfa", {"modules": 4}),
    ("drtp", {"modules": 4}),
]


@pytest.mark.parametrize("case", RECOMPUTED, ids=shown)
def test_recomputing_changes_no_bit(case: Case) -> None:
    """A pass that is run again draws the same dropout and counts once for running statistics."""
    name, options = case
    batches = batches_of(6, 2, 4, 4, samples=8)
    bounds = FOUR[4] if name == "interleaved-1f1b" else FOUR[options["modules"]]
    once, twice = (
        replayed(name, normed(nn.Dropout(0.4)), bounds, batches, SGD, recompute=again, **options)
        for again in (False, True)
    )
    assert [row[:2] for row in once.losses] == [row[:2] for row in twice.losses]
    assert once.state is not None
    assert twice.state is not None
    assert all(torch.equal(once.state[key], twice.state[key]) for key in once.state)
    kinds = {"replay": twice.trace.of_kind("replay"), "none": once.trace.of_kind("replay")}
    assert len(kinds["replay"]) > len(kinds["none"]) == 0


def test_the_last_layer_of_a_chain_alone_learns_where_the_rest_is_frozen() -> None:
    """Blocks need something to learn; what is frozen within one stays as it was."""
    batches = batches_of(5, 5)

    def frozen() -> nn.Sequential:
        model = chain(3)
        for parameter in (*model[0].parameters(), *model[2].parameters()):
            parameter.requires_grad_(False)
        return model

    found = replayed("bp", frozen(), (0, 1), batches, SGD, modules=1)
    model = frozen()
    losses = plain(model, [[batch] for batch in batches], SGD(model[4].parameters()))
    assert_close(found, losses, model, 1e-12)
