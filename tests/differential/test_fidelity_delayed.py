"""Delayed gradients against the papers' equations: weights after 20 batches, in float64.

The reference (`reference_training.delayed`) takes the batches one after the other. All that it is
told of a method is which version of each module a batch meets, in closed form: so these are checked
with it. It shares neither the executor's code nor its order of operations.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from fidelity_runs import assert_close, batches_of, chain, events, one_core, replayed, training_of
from reference_training import Lockfree, by_the_clock, delayed

from executor.replay import run_replay
from simcore.engine import simulate
from simcore.workload import Workload

BATCHES = 20
Versions = Callable[[int, int], int]


@pytest.fixture(autouse=True)
def _one_core() -> Iterator[None]:
    with one_core():
        yield


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": partial(torch.optim.SGD, lr=0.02, momentum=0.9, nesterov=True),
    "adam": partial(torch.optim.Adam, lr=0.01),
    "adamw": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
}
every_depth = pytest.mark.parametrize("modules", [2, 3, 4])
depths_and_optimizers = pytest.mark.parametrize(
    ("modules", "optimizer"),
    [(2, "sgd"), (4, "sgd"), *((3, optimizer) for optimizer in OPTIMIZERS)],
)


def normed() -> nn.Sequential:
    """Four layers: Linear + BatchNorm is two of them. Children 0..6."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 6),
        nn.Tanh(),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.Linear(6, 6),
        nn.GELU(),
        nn.Linear(6, 3),
    ).double()


BOUNDS = {2: (0, 2, 4), 3: (0, 1, 3, 4), 4: (0, 1, 2, 3, 4)}
CUTS = {2: (0, 4, 7), 3: (0, 2, 6, 7), 4: (0, 2, 4, 6, 7)}  # the same, in children of `normed`


def compare(
    name: str,
    modules: int,
    reads: Versions,
    optimizer: str = "sgd",
    again: Callable[[int, int], int | None] = lambda k, t: None,
    **options: Any,
) -> None:
    make, batches = OPTIMIZERS[optimizer], batches_of(BATCHES, 5, last=4)
    shrink = options.get("shrink", 1.0)
    found = replayed(name, normed(), BOUNDS[modules], batches, make, modules=modules, **options)
    model = normed()
    losses = delayed(model, CUTS[modules], batches, make, reads, again=again, shrink=shrink)
    assert_close(found, losses, model)


def fully_decoupled(modules: int) -> Versions:
    """FDG: module k applies batch t - 2(K-k), then goes forward; the last goes forward first."""
    return lambda k, t: max(0, t + 1 - max(1, 2 * (modules - k)))


def by_hops(modules: int) -> Versions:
    """DDG, PipeDream: each hop from the loss down is an update later."""
    return lambda k, t: max(0, t - (modules - k))


@depths_and_optimizers
@pytest.mark.parametrize("shrink", [1.0, 0.6])
def test_fdg(modules: int, optimizer: str, shrink: float) -> None:
    compare("fdg", modules, fully_decoupled(modules), optimizer, shrink=shrink)


@every_depth
@pytest.mark.parametrize("variant", [{"lockstep": True}, {"recompute": True}, {"loaders": 2}])
def test_fdg_does_not_depend_on_the_way_it_is_run(modules: int, variant: dict[str, Any]) -> None:
    compare("fdg", modules, fully_decoupled(modules), **variant)


@depths_and_optimizers
@pytest.mark.parametrize("name", ["ddg", "pipedream"])
def test_ddg_and_pipedream(name: str, modules: int, optimizer: str) -> None:
    compare(name, modules, by_hops(modules), optimizer)


@pytest.mark.parametrize("windows", [(6, 4, 1), (2, 2, 2), (3, 1, 1)])
def test_pipedream_with_other_windows(windows: tuple[int, ...]) -> None:
    """A batch meets the version that lacks the window's batches before it."""
    compare("pipedream", 3, lambda k, t: max(0, t + 1 - windows[k - 1]), in_flight=windows)


@depths_and_optimizers
def test_features_replay(modules: int, optimizer: str) -> None:
    """Activations are those of the way up; the replay of batch t finds version t."""
    again = partial(below_the_last, modules)
    compare("fr", modules, by_hops(modules), optimizer, again=again)


def below_the_last(modules: int, k: int, t: int) -> int | None:
    """A replay finds all updates of the batches before; the last module has its graph still."""
    return t if k < modules else None


@depths_and_optimizers
def test_dsp(modules: int, optimizer: str) -> None:
    again = partial(below_the_last, modules)
    compare("dsp", modules, fully_decoupled(modules), optimizer, again=again)


@pytest.mark.parametrize("windows", [(5, 3, 1), (4, 4, 2)])
def test_dsp_with_other_windows(windows: tuple[int, ...]) -> None:
    """With a window above 1 the last module replays, too: its loss is that of the first pass."""

    def reads(k: int, t: int) -> int:
        return max(0, t + 1 - windows[k - 1])

    def again(k: int, t: int) -> int | None:
        return t if windows[k - 1] > 1 else None

    compare("dsp", 3, reads, again=again, in_flight=windows)


@every_depth
@pytest.mark.parametrize("accumulation", [1, 2, 3])
@pytest.mark.parametrize(
    ("reduce", "window", "order"),
    [
        ("mean", "batch", "forward-first"),  # the paper
        ("sum", "gradient", "update-first"),  # the released code
        ("mean", "gradient", "forward-first"),
        ("sum", "batch", "update-first"),
    ],
)
def test_adl(modules: int, accumulation: int, reduce: str, window: str, order: str) -> None:
    """Algorithm 1, iteration by iteration: versions are counted here, not given by a formula."""
    reads: dict[tuple[int, int], int] = {}
    closing: set[tuple[int, int]] = set()
    for k in range(1, modules + 1):
        lag, version = 2 * (modules - k), 0
        for iteration in range(BATCHES + lag):
            goes = ["forward", "backward"]
            if order == "update-first" and k < modules:
                goes.reverse()
            for half in goes:
                if half == "forward" and iteration < BATCHES:
                    reads[k, iteration] = version
                batch = iteration - lag
                if half == "backward" and batch >= 0:
                    counted = iteration if window == "batch" else batch
                    if (counted + 1) % accumulation == 0 or batch == BATCHES - 1:
                        closing.add((k, batch))
                        version += 1
    make = partial(torch.optim.SGD, lr=0.02, momentum=0.9, weight_decay=0.01)
    batches, model = batches_of(BATCHES, 5, last=4), normed()
    options = {"accumulation": accumulation, "reduce": reduce, "window": window, "order": order}
    arguments = BOUNDS[modules], batches, make
    found = replayed("adl", normed(), *arguments, modules=modules, **options)
    losses = delayed(
        model,
        CUTS[modules],
        batches,
        make,
        lambda k, t: reads[k, t],
        closes=lambda k, t: (k, t) in closing,
        mean=reduce == "mean",
    )
    assert_close(found, losses, model)


@depths_and_optimizers
@pytest.mark.parametrize("parts", [4, 6])
def test_pipedream_2bw(modules: int, optimizer: str, parts: int) -> None:
    """All micro-batches of mini-batch t meet version t - 1 in all modules."""
    whole = batches_of(8, 5, samples=2 * parts)
    make, model = OPTIMIZERS[optimizer], chain(4)
    found = replayed(
        "pipedream-2bw",
        chain(4),
        BOUNDS[modules],
        whole,
        make,
        modules=modules,
        micro_batches=parts,
    )
    split = [
        part
        for inputs, labels in whole
        for part in zip(inputs.split(2), labels.split(2), strict=True)
    ]
    losses = delayed(
        model,
        {2: (0, 4, 7), 3: (0, 2, 6, 7), 4: (0, 2, 4, 6, 7)}[modules],
        split,
        make,
        lambda k, t: max(0, t // parts - 1),
        closes=lambda k, t: (t + 1) % parts == 0,
    )
    assert_close(found, losses, model, parts=parts)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(
            (name, {"modules": modules, "weights": "mixed"} | extra)
            for modules in (2, 3, 4)
            for name, extra in (
                ("fdg", {}),
                ("fdg", {"recompute": True}),
                ("adl", {"accumulation": 3}),
                ("ddg", {}),
                ("pipedream", {}),
                ("async-1f1b", {}),
            )
        ),
        ("bp", {"modules": 3, "weights": "mixed", "accumulation": 2}),
        ("gpipe", {"modules": 4, "weights": "mixed", "micro_batches": 1}),
    ],
)
def test_mixed_is_old_activations_with_the_weights_found(
    name: str, options: dict[str, Any]
) -> None:
    """The reference does by hand what the simulation did, at its times; it keeps no old weights."""
    modules, batches = options["modules"], batches_of(BATCHES, 5)
    bounds = tuple(range(modules + 1))
    make = partial(torch.optim.SGD, lr=0.1, momentum=0.5)
    asked = training_of(name, chain(modules), bounds, batches, make, **options)
    schedule = asked.make_schedule()
    trace = simulate(schedule, Workload.even(modules, 1, 2, 0.5), jitter=0.3, seed=5)
    rules = Lockfree(0.1, 0.5)
    layers = [child for child in chain(modules) if isinstance(child, nn.Linear)]
    losses, weights = by_the_clock(layers, batches, events(trace), lambda worker: 0, 1, rules)
    model = chain(modules)
    learnt = [child for child in model if isinstance(child, nn.Linear)]
    with torch.no_grad():
        for layer, tensors in zip(learnt, weights, strict=True):
            layer.weight.copy_(tensors[0])
            layer.bias.copy_(tensors[1])
    assert_close(run_replay(asked, trace), losses, model)


@every_depth
def test_delays_matter_to_these_comparisons(modules: int) -> None:
    """A reference that is wrong by one version in one module is told from the right one."""
    make, batches = OPTIMIZERS["sgd"], batches_of(BATCHES, 5)
    found = replayed("fdg", normed(), BOUNDS[modules], batches, make, modules=modules)
    model, right = normed(), fully_decoupled(modules)

    def wrong(k: int, t: int) -> int:
        return max(0, right(k, t) - (k == 1))

    losses = delayed(model, CUTS[modules], batches, make, wrong)
    with pytest.raises(AssertionError):
        assert_close(found, losses, model, tolerance=1e-4)
