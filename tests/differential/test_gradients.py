"""Gradients against plain PyTorch, and against the papers' equations, in float64.

The references use no part of gradlag: a training loop, and a loop over the equations of delayed
gradients that keeps every version of every module's weights.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from executor.data import DataSet
from executor.failure import WorkerError
from executor.threads import run_threads
from executor.training import DataSource, RunResult, Training, optimizer
from executor.weights import MakeOptimizer
from simcore.errors import InputError
from simcore.schedules import build

BATCH_SIZE, SEED = 8, 3
Tensors = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def _one_core() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def data_set(*shape: int) -> DataSet:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(44, *shape, dtype=torch.float64, generator=generator)
    labels = torch.randint(3, (44,), generator=generator)
    return DataSet("noise", inputs, labels, inputs[:0], labels[:0], 3)


def perceptron(*extra: nn.Module) -> nn.Sequential:
    """Layers: Linear, BatchNorm + ReLU, Linear + Tanh, Linear. What is extra follows ReLU."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 7),
        nn.BatchNorm1d(7),
        nn.ReLU(),
        *extra,
        nn.Linear(7, 6),
        nn.Tanh(),
        nn.Linear(6, 3),
    ).double()


def convolutions() -> nn.Sequential:
    """Layers: Conv, BatchNorm + ReLU, Conv + Flatten, Linear."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Conv2d(3, 2, 3),
        nn.Flatten(),
        nn.Linear(8, 3),
    ).double()


NETWORKS: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...]]] = {
    "perceptron": (perceptron, (5,)),
    "convolutions": (convolutions, (2, 4, 4)),
}
BOUNDS = {1: (0, 4), 2: (0, 2, 4), 3: (0, 1, 3, 4), 4: (0, 1, 2, 3, 4)}
# The children of the nn.Sequential that belong to each module: four layers in six children.
CHILDREN = {1: (0, 6), 2: (0, 3, 6), 3: (0, 1, 5, 6)}

every_network = pytest.mark.parametrize("network", NETWORKS)
every_optimizer = pytest.mark.parametrize(
    "make_optimizer",
    [
        optimizer("sgd", 0.05, momentum=0.9, weight_decay=0.01),
        optimizer("adam", 0.02, weight_decay=0.01),
    ],
    ids=["sgd", "adam"],
)


def source_of(network: str) -> DataSource:
    return DataSource(data_set(*NETWORKS[network][1]), BATCH_SIZE, SEED)


def run(
    network: str,
    make_optimizer: MakeOptimizer,
    name: str,
    model: nn.Sequential | None = None,
    **options: Any,
) -> RunResult:
    """Train with threads."""
    training = Training(
        partial(build, name, **options),
        model or NETWORKS[network][0](),
        BOUNDS[options["modules"]],
        source_of(network),
        make_optimizer,
        seed=SEED,
    )
    return run_threads(training)


def batches_of(network: str, count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    source = source_of(network)
    for number in range(count):
        yield source.data.batch(number, BATCH_SIZE, SEED)


def plain(
    network: str,
    make_optimizer: MakeOptimizer,
    batches: int,
    accumulation: int = 1,
    model: nn.Sequential | None = None,
) -> tuple[list[float], Tensors]:
    """Ordinary PyTorch training; the mean of several gradients is taken at each update."""
    model = model or NETWORKS[network][0]()
    stepper, losses = make_optimizer(model.parameters()), []
    torch.manual_seed(SEED)
    for number, (inputs, labels) in enumerate(batches_of(network, batches), 1):
        loss = nn.functional.cross_entropy(model(inputs), labels)
        torch.autograd.backward(loss)
        losses.append(loss.item())
        if number % accumulation == 0:
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.grad /= accumulation
            stepper.step()
            stepper.zero_grad()
    return losses, model.state_dict()


def losses_of(result: RunResult) -> list[float]:
    return [loss for _, loss, _ in result.losses]


def assert_same_bits(result: RunResult, losses: list[float], state: Mapping[str, Any]) -> None:
    assert losses_of(result) == losses
    assert result.state is not None
    assert result.state.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(result.state[name], tensor), name


# No delay: plain PyTorch, bit for bit


@every_network
@every_optimizer
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bp", {"modules": 1}),
        ("bp", {"modules": 2}),
        ("bp", {"modules": 3, "weights": "mixed"}),
        ("bp", {"modules": 4}),
        ("fdg", {"modules": 1}),
        ("fdg", {"modules": 1, "weights": "mixed", "shrink": 0.5}),  # nothing hops
        ("adl", {"modules": 1}),
        ("adl", {"modules": 1, "order": "update-first", "window": "gradient"}),
        ("adl", {"modules": 1, "reduce": "sum"}),
    ],
)
def test_without_delay_it_is_plain_training(
    network: str, make_optimizer: MakeOptimizer, name: str, options: dict[str, Any]
) -> None:
    result = run(network, make_optimizer, name, batches=14, **options)
    assert_same_bits(result, *plain(network, make_optimizer, 14))


@every_optimizer
@pytest.mark.parametrize("accumulation", [2, 4])
def test_one_module_accumulates_as_plain_training_does(
    make_optimizer: MakeOptimizer, accumulation: int
) -> None:
    options: dict[str, Any] = {"modules": 1, "batches": 16, "accumulation": accumulation}
    result = run("perceptron", make_optimizer, "adl", **options)
    assert_same_bits(result, *plain("perceptron", make_optimizer, 16, accumulation))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.there, self.back = nn.Linear(7, 7), nn.Linear(7, 7)
        self.back.weight = self.there.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.back(torch.tanh(self.there(inputs)))
        return found


class Scaled(nn.Module):
    """A buffer that is no part of the state, and one that is."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.full((7,), 0.5), persistent=False)
        self.register_buffer("shift", torch.full((7,), 0.1))
        self.weight = nn.Parameter(torch.ones(7))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs * self.weight * self.scale + self.shift


def peculiar() -> nn.Sequential:
    """Named children, a weight with two names, frozen weights, buffers of both sorts."""
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("frozen", nn.Linear(5, 5).requires_grad_(False))
    model.add_module("stem", nn.Linear(5, 7))
    model.add_module("tied", Tied())
    model.add_module("act", nn.ReLU(inplace=True))
    model.add_module("scaled", Scaled())
    model.add_module("head", nn.Linear(7, 3))
    model.get_submodule("head").register_parameter("bias", None)
    return model.double()


@every_optimizer
@pytest.mark.parametrize("modules", [1, 2, 4])
@pytest.mark.parametrize("weights", ["stash", "mixed"])
def test_peculiar_networks_are_trained_alike(
    make_optimizer: MakeOptimizer, modules: int, weights: str
) -> None:
    options: dict[str, Any] = {"batches": 8, "modules": modules, "weights": weights}
    result = run("perceptron", make_optimizer, "bp", peculiar(), **options)
    model = peculiar()
    learning = partial(trained_by, make_optimizer)
    losses, state = plain_learning(learning, model, 8)
    assert_same_bits(result, losses, state)
    assert result.state is not None
    peculiar().load_state_dict(result.state, strict=True)


def trained_by(make_optimizer: MakeOptimizer, model: nn.Module) -> torch.optim.Optimizer:
    return make_optimizer(p for p in model.parameters() if p.requires_grad)


def plain_learning(
    learning: Callable[[nn.Module], torch.optim.Optimizer], model: nn.Module, batches: int
) -> tuple[list[float], Tensors]:
    stepper, losses = learning(model), []
    for inputs, labels in batches_of("perceptron", batches):
        loss = nn.functional.cross_entropy(model(inputs), labels)
        stepper.zero_grad()
        torch.autograd.backward(loss)
        stepper.step()
        losses.append(loss.item())
    return losses, model.state_dict()


# Delayed gradients: the papers' equations


def delayed(
    network: str,
    batches: int,
    modules: int,
    reads: Callable[[int, int], int],
    closes: Callable[[int, int], bool],
    shrink: float = 1.0,
    mean: bool = True,
    learning_rate: float = 0.05,
    momentum: float = 0.9,
    decay: float = 0.01,
) -> tuple[list[float], Tensors]:
    """Delayed gradients by definition.

    Batch t meets version `reads(k, t)` of module k. The gradient of the loss at that composite
    point, shrunk by `shrink ** (K - k)`, becomes pending; once `closes(k, t)`, the mean or sum of
    what is pending makes the next version, by SGD with momentum and weight decay.
    """
    model = NETWORKS[network][0]()
    cuts = list(pairwise(CHILDREN[modules]))
    of_module = {
        name: next(k for k, cut in enumerate(cuts, 1) if int(name[0]) in range(*cut))
        for name, _ in model.named_parameters()
    }
    versions = {name: [parameter.detach()] for name, parameter in model.named_parameters()}
    velocity: Tensors = {}
    pending: dict[str, list[torch.Tensor]] = {name: [] for name in versions}
    losses = []
    for t, (inputs, labels) in enumerate(batches_of(network, batches)):
        point = {
            name: versions[name][reads(k, t)].clone().requires_grad_()
            for name, k in of_module.items()
        }
        loss = nn.functional.cross_entropy(torch.func.functional_call(model, point, inputs), labels)
        losses.append(loss.item())
        for name, gradient in zip(point, torch.autograd.grad(loss, [*point.values()]), strict=True):
            k = of_module[name]
            pending[name].append(gradient * shrink ** (modules - k))
            if closes(k, t):
                step = torch.stack(pending[name]).sum(0) / (len(pending[name]) if mean else 1)
                step = step + decay * versions[name][-1]
                velocity[name] = momentum * velocity.get(name, torch.zeros_like(step)) + step
                versions[name].append(versions[name][-1] - learning_rate * velocity[name])
                pending[name].clear()
    trained = {name: found[-1] for name, found in versions.items()}
    return losses, {**model.state_dict(), **trained}


def assert_close(result: RunResult, losses: list[float], state: Tensors) -> None:
    assert losses_of(result) == pytest.approx(losses, rel=1e-12, abs=1e-12)
    assert result.state is not None
    torch.testing.assert_close(result.state, dict(state), rtol=1e-12, atol=1e-12)


@every_network
@pytest.mark.parametrize("modules", [2, 3])
@pytest.mark.parametrize("shrink", [1.0, 0.7])
def test_fdg_is_what_its_paper_says(network: str, modules: int, shrink: float) -> None:
    """Equations 6 and 7: at its own iteration t, module k first applies the gradient of batch
    t - 2(K - k), then takes batch t forward. (The last module has its gradient of batch t - 1.)
    """
    batches = 20

    def reads(k: int, t: int) -> int:
        return max(0, t + 1 - max(1, 2 * (modules - k)))

    reference = delayed(network, batches, modules, reads, lambda k, t: True, shrink)
    make = optimizer("sgd", 0.05, momentum=0.9, weight_decay=0.01)
    result = run(network, make, "fdg", batches=batches, modules=modules, shrink=shrink)
    assert_close(result, *reference)


@pytest.mark.parametrize("modules", [2, 3])
@pytest.mark.parametrize("accumulation", [1, 2, 3])
@pytest.mark.parametrize("order", ["forward-first", "update-first"])
@pytest.mark.parametrize("window", ["batch", "gradient"])
@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_adl_is_what_its_paper_says(
    modules: int, accumulation: int, order: str, window: str, reduce: str
) -> None:
    """Algorithm 1: iteration t of module k takes batch t forward and batch t - 2(K - k) backward;
    a window of M iterations ends with an update. The variants are those of the released code.
    """
    batches, many = 20, accumulation

    def delay(k: int) -> int:
        return 2 * (modules - k)

    def closes(k: int, t: int) -> bool:
        counted = t + delay(k) if window == "batch" else t
        return (counted + 1) % many == 0 or t == batches - 1

    def reads(k: int, t: int) -> int:
        # With forward first, iteration t reads what iterations before it have updated.
        lag = delay(k) if order == "forward-first" else max(1, delay(k))
        gradients = t - lag + (order == "update-first")
        return sum(closes(k, done) for done in range(max(0, gradients)))

    reference = delayed(
        "perceptron", batches, modules, reads, closes, mean=reduce == "mean", learning_rate=0.02
    )
    make = optimizer("sgd", 0.02, momentum=0.9, weight_decay=0.01)
    options: dict[str, Any] = {"order": order, "window": window, "reduce": reduce}
    options |= {"batches": batches, "modules": modules, "accumulation": accumulation}
    assert_close(run("perceptron", make, "adl", **options), *reference)


def test_the_reference_without_delay_is_plain_training() -> None:
    make = optimizer("sgd", 0.05, momentum=0.9, weight_decay=0.01)
    losses, state = delayed("perceptron", 20, 3, lambda k, t: t, lambda k, t: True)
    expected_losses, expected = plain("perceptron", make, 20)
    assert losses == pytest.approx(expected_losses, rel=1e-12)
    torch.testing.assert_close(state, dict(expected), rtol=1e-12, atol=1e-12)


@every_network
def test_stash_and_mixed_differ_where_gradients_are_delayed(network: str) -> None:
    make = optimizer("sgd", 0.05)
    for name, modules, alike in (("fdg", 3, False), ("adl", 2, False), ("bp", 3, True)):
        stash, mixed = (
            run(network, make, name, modules=modules, batches=10, weights=weights)
            for weights in ("stash", "mixed")
        )
        same = [a == b for a, b in zip(losses_of(stash), losses_of(mixed), strict=True)]
        assert same[0]
        assert all(same) is alike, name


# Batch statistics


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bp", {"modules": 4}),
        ("fdg", {"modules": 4}),
        ("adl", {"modules": 4, "accumulation": 3, "weights": "mixed"}),
        ("async-lu", {"layers": 4}),
        ("async-bu", {"layers": 4, "weights": "stash"}),
    ],
)
def test_batch_statistics_count_each_batch_once(name: str, options: dict[str, Any]) -> None:
    """Neither finding shapes nor warming up counts."""
    training = Training(
        partial(build, name, batches=11, **options),
        perceptron(),
        BOUNDS[4],
        source_of("perceptron"),
        optimizer("sgd", 0.01),
    )
    state = run_threads(training).state
    assert state is not None
    assert state["1.num_batches_tracked"] == 11


# Failures


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_fused_optimiser_is_refused_in_one_line(name: str) -> None:
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[name]
    make: Any = partial(kind, lr=0.1, fused=True)
    with pytest.raises(InputError, match=r"\(fused=True\)': must not be fused under") as caught:
        run("perceptron", make, "fdg", modules=2, batches=3)
    assert "\n" not in str(caught.value)
    result = run("perceptron", make, "fdg", modules=2, batches=3, weights="mixed")
    assert result.failure is None


class Faulty(nn.Module):
    """Fails in its n-th training pass."""

    def __init__(self, fails_at: int) -> None:
        super().__init__()
        self.passes, self.fails_at = 0, fails_at

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        # Shapes are found in evaluation mode, and warming up works on copies.
        self.passes += self.training
        if self.passes == self.fails_at:
            raise ZeroDivisionError("a fault of the network")
        return inputs


def threads_of_workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "module" in thread.name]


def test_a_fault_names_the_worker_and_shows_where_it_was() -> None:
    model = perceptron(Faulty(100))
    with pytest.raises(WorkerError) as caught:
        run("perceptron", optimizer("sgd", 0.01), "fdg", model, modules=2, batches=200)
    error = caught.value
    assert str(error) == "module 1: ZeroDivisionError('a fault of the network')"
    assert (error.worker, error.reason) == (
        "module 1",
        "ZeroDivisionError('a fault of the network')",
    )
    assert "in forward\n    raise ZeroDivisionError" in error.traceback
    partial_result = error.partial
    assert isinstance(partial_result, RunResult)
    assert partial_result.failure == str(error)
    assert partial_result.state is None
    forwards = partial_result.trace.of_kind("forward")
    assert int((forwards["block"] == 1).sum()) == 99
    assert [batch for batch, _, _ in partial_result.losses] == list(
        range(len(partial_result.losses))
    )
    assert not threads_of_workers()


def test_a_fault_before_the_first_batch_ends_all_workers() -> None:
    model = perceptron(Faulty(1))
    with pytest.raises(WorkerError, match=r"^module 1: ZeroDivisionError"):
        run("perceptron", optimizer("sgd", 0.01), "fdg", model, modules=2, batches=200)
    assert not threads_of_workers()


@pytest.mark.parametrize("modules", [1])
def test_a_loss_that_is_not_a_number_ends_the_run(modules: int) -> None:
    make = optimizer("sgd", 1e200)
    with pytest.raises(WorkerError) as caught:
        run("perceptron", make, "fdg", modules=modules, batches=50)
    error = caught.value
    assert error.worker == f"module {modules}"
    line = str(error)
    assert line.startswith(f"module {modules}: the loss of batch ")
    assert line.endswith(": training diverged; use a smaller learning rate")
    assert "\n" not in line
    assert isinstance(error.partial, RunResult)
    losses = losses_of(error.partial)
    assert losses
    assert all(isfinite(loss) for loss in losses)
    assert not threads_of_workers()


def test_an_interrupted_run_keeps_what_it_did(tmp_path: Path) -> None:
    """A real SIGINT to a real process: partial results, no thread left, an orderly end."""
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED)
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    found = json.loads(output)
    assert found["failure"] == "interrupted"
    assert found["state"] is None
    assert 0 < found["losses"] < 10**6
    assert found["gradients"] > 0
    assert found["threads"] == 1


INTERRUPTED = """
import json, signal, threading
from functools import partial
import torch
from torch import nn
from executor.data import generated
from executor.threads import run_threads
from executor.training import DataSource, Training, optimizer
from simcore.schedules import build

# A shell may have told its background jobs to ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
told = []

def progress(count):
    if count and not told:
        told.append(count)
        print("working", flush=True)

training = Training(
    partial(build, "fdg", modules=2, batches=10**6),
    nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)),
    (0, 1, 2),
    DataSource(generated(100, 8, 3), 8, 0),
    optimizer("sgd", 0.01),
)
result = run_threads(training, progress)
print(json.dumps({
    "failure": result.failure,
    "state": result.state,
    "losses": len(result.losses),
    "gradients": len(result.trace.gradients),
    "threads": threading.active_count(),
}))
"""
