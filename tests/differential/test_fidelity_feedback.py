"""DGL, DNI, FA, DFA, sDFA and DRTP against steps written out by hand, in float64.

The references get the same auxiliary networks and random matrices, from the same seeds; what is
done with them is written again here, from the papers' equations.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, cross_entropy, mse_loss, one_hot, softmax

sys.path.insert(0, str(Path(__file__).parent))

from fidelity_runs import SEED, assert_close, batches_of, one_core, replayed
from reference_training import Batch

from executor.auxiliary import align, head, matrix, synthesizer
from simcore.errors import InputError

CLASSES, BATCHES = 3, 12
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.02, momentum=0.9, weight_decay=0.01),
    "adam": partial(torch.optim.Adam, lr=0.01),
}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)


@pytest.fixture(autouse=True)
def _one_core() -> Iterator[None]:
    with one_core():
        yield


def perceptron() -> nn.Sequential:
    torch.manual_seed(0)
    parts: list[nn.Module] = [nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 6), nn.ReLU()]
    parts += [nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, CLASSES)]
    return nn.Sequential(*parts).double()


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    parts: list[nn.Module] = [nn.Conv2d(2, 3, 3, padding=1), nn.ReLU()]
    parts += [nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), nn.Tanh()]
    parts += [nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.Flatten(), nn.Linear(36, CLASSES)]
    return nn.Sequential(*parts).double()


NETWORKS: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...]]] = {
    "perceptron": (perceptron, (5,)),
    "convolutions": (convolutions, (2, 6, 6)),
}
every_network = pytest.mark.parametrize("network", NETWORKS)
BOUNDS = {2: (0, 2, 4), 4: (0, 1, 2, 3, 4)}


def cuts_of(model: nn.Sequential, modules: int) -> list[int]:
    """The children where blocks begin: of the layers that learn, each with what follows it."""
    starts = [n for n, child in enumerate(model) if [*child.parameters()]] + [len(model)]
    return [starts[bound] for bound in BOUNDS[modules]]


def seed_of(block: int) -> int:
    """The seed of a block's auxiliary network or matrix."""
    seeds = np.random.SeedSequence(SEED, spawn_key=(0, block))
    return int(seeds.generate_state(1)[0])


def generator_of(block: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(block))


def trained(
    name: str,
    network: str,
    modules: int,
    optimizer: str,
    by_hand: Callable[..., list[float]],
    **options: Any,
) -> None:
    """Compare a run of the executor with a reference on the same batches."""
    make_model, shape = NETWORKS[network]
    batches = batches_of(BATCHES, *shape, last=4)
    make = OPTIMIZERS[optimizer]
    arguments = BOUNDS[modules], batches, make
    found = replayed(name, make_model(), *arguments, modules=modules, **options)
    model = make_model()
    parts = [model[a:b] for a, b in pairwise(cuts_of(model, modules))]
    outputs = [batches[0][0]]
    with torch.no_grad():
        for part in parts:
            outputs.append(part(outputs[-1]))
    losses = by_hand(parts, outputs[1:], batches, make)
    assert_close(found, losses, model)


# Gradients of the modules' own


def greedy(
    parts: Sequence[nn.Sequential], outputs: Sequence[torch.Tensor], batches: Any, make: Any
) -> list[float]:
    """DGL, Algorithm 1: each module and its head descend on the head's loss."""
    heads: list[nn.Module] = [
        head(output, CLASSES, generator_of(k)) for k, output in enumerate(outputs[:-1], 1)
    ]
    heads.append(nn.Identity())
    steppers = [
        make([*part.parameters(), *own.parameters()])
        for part, own in zip(parts, heads, strict=True)
    ]
    losses = []
    for inputs, labels in batches:
        value = inputs
        for part, own, stepper in zip(parts, heads, steppers, strict=True):
            output = part(value.detach())
            loss = cross_entropy(own(output), labels)
            stepper.zero_grad()
            loss.backward()
            value = output.detach()  # from before the step
            stepper.step()
        losses.append(loss.item())
    return losses


@every_network
@every_optimizer
@pytest.mark.parametrize("modules", [2, 4])
@pytest.mark.parametrize("recompute", [False, True])
def test_dgl(network: str, optimizer: str, modules: int, recompute: bool) -> None:
    trained("dgl", network, modules, optimizer, greedy, recompute=recompute)


def synthetic(
    parts: Sequence[nn.Sequential],
    outputs: Sequence[torch.Tensor],
    batches: Sequence[Batch],
    make: Callable[..., torch.optim.Optimizer],
) -> list[float]:
    """DNI, section 2.1: a module steps by the gradient that its model guesses from its output; the
    model learns the one that the module above finds for its input, itself with a guess from above.

    A model is used for batch t when it has learnt batches up to t - 2. It guesses the gradient of a
    single sample's loss.
    """
    models = [synthesizer(output, generator_of(k)) for k, output in enumerate(outputs[:-1], 1)]
    learners = [make(model.parameters()) for model in models]
    steppers = [make(part.parameters()) for part in parts]
    losses: list[float] = []
    lessons: list[list[tuple[torch.Tensor, torch.Tensor]]] = []

    def teach(lesson: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        for model, learner, (output, target) in zip(models, learners, lesson, strict=True):
            learner.zero_grad()
            mse_loss(model(output), target * len(output)).backward()
            learner.step()

    for number, (inputs, labels) in enumerate(batches):
        if number >= 2:
            teach(lessons.pop(0))
        value, targets, passed = inputs, [], []
        for k, (part, stepper) in enumerate(zip(parts, steppers, strict=True)):
            given = value.detach().requires_grad_()
            output = part(given)
            stepper.zero_grad()
            if k + 1 < len(parts):
                passed.append(output.detach())
                output.backward(models[k](output.detach()).detach() / len(output))
            else:
                loss = cross_entropy(output, labels)
                loss.backward()
                losses.append(loss.item())
            if k:
                assert given.grad is not None
                targets.append(given.grad)
            value = output
            stepper.step()
        lessons.append(list(zip(passed, targets, strict=True)))
    return losses


@every_network
@every_optimizer
@pytest.mark.parametrize("modules", [2, 4])
def test_dni(network: str, optimizer: str, modules: int) -> None:
    trained("dni", network, modules, optimizer, synthetic)


# Fixed random feedback


def steps_by_output_gradients(
    parts: Sequence[nn.Sequential],
    batches: Sequence[Batch],
    make: Callable[..., torch.optim.Optimizer],
    gradient_of: Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
) -> list[float]:
    """Each module but the last descends by a given gradient of its output, (samples, ...).

    `gradient_of(k, output, logits, labels)` gives it; the last module has that of the loss.
    """
    steppers = [make(part.parameters()) for part in parts]
    losses = []
    for inputs, labels in batches:
        values, value = [], inputs
        for part in parts:
            value = part(value.detach())
            values.append(value)
        loss = cross_entropy(value, labels)
        losses.append(loss.item())
        for stepper in steppers:
            stepper.zero_grad()
        loss.backward()
        for k, output in enumerate(values[:-1], 1):
            output.backward(gradient_of(k, output.detach(), value.detach(), labels))
        for stepper in steppers:
            stepper.step()
    return losses


def error_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The gradient of the mean cross-entropy at the logits, written out."""
    return (softmax(logits, 1) - one_hot(labels, CLASSES)) / len(labels)


def direct(
    projects: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    parts: Sequence[nn.Sequential],
    outputs: Sequence[torch.Tensor],
    batches: Sequence[Batch],
    make: Callable[..., torch.optim.Optimizer],
) -> list[float]:
    matrices = [matrix(output, CLASSES, generator_of(k)) for k, output in enumerate(outputs, 1)]

    def gradient_of(
        k: int, output: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        return (projects(logits, labels) @ matrices[k - 1]).view_as(output)

    return steps_by_output_gradients(parts, batches, make, gradient_of)


def sign_of_error(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.sign(error_of(logits, labels)) / len(labels)


def target(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return one_hot(labels, CLASSES).double() / len(labels)


@every_network
@every_optimizer
@pytest.mark.parametrize("modules", [2, 4])
@pytest.mark.parametrize(
    ("name", "projects"), [("dfa", error_of), ("sdfa", sign_of_error), ("drtp", target)]
)
def test_direct_feedback(
    network: str, optimizer: str, modules: int, name: str, projects: Callable[..., torch.Tensor]
) -> None:
    """Nokland 2016 (error), its sign, Frenkel et al. 2021 (target): gradients of a mean loss."""
    trained(name, network, modules, optimizer, partial(direct, projects))


def feedback_of(layers: Sequence[nn.Module], modules: int) -> dict[int, torch.Tensor]:
    """The random weights of feedback alignment, by layer: normal, as wide as the weights are."""
    found: dict[int, torch.Tensor] = {}
    for k, (first, last) in enumerate(pairwise(BOUNDS[modules]), 1):
        generator = generator_of(k)
        for number in range(first, last):
            weight = layers[number].get_parameter("weight").detach()
            drawn = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
            found[number] = drawn * weight.std()
    return found


def aligned(
    modules: int,
    parts: Sequence[nn.Sequential],
    outputs: Sequence[torch.Tensor],
    batches: Sequence[Batch],
    make: Callable[..., torch.optim.Optimizer],
) -> list[float]:
    """Lillicrap et al. 2016: backpropagation, but the gradient of a layer's input is that of the
    same layer with other weights. Gradients of weights are autograd's, layer by layer."""
    children = [child for part in parts for child in part]
    learning = [child for child in children if [*child.parameters()]]
    feedback = feedback_of(learning, modules)
    steppers = [make(part.parameters()) for part in parts]
    losses = []
    for inputs, labels in batches:
        kept, value = [], inputs
        for child in children:
            given = value.detach().requires_grad_()
            value = child(given)
            kept.append((child, given, value))
        loss = cross_entropy(value, labels)
        losses.append(loss.item())
        gradient = error_of(value.detach(), labels)
        for child, given, value in reversed(kept):
            own = [*child.parameters()]
            inside = torch.autograd.grad(value, [*own, given], gradient)
            for parameter, found in zip(own, inside[:-1], strict=True):
                parameter.grad = found
            if own:
                gradient = down(child, feedback[learning.index(child)], given, gradient)
            else:
                gradient = inside[-1]
        for stepper in steppers:
            stepper.step()
    return losses


def down(
    layer: nn.Module, feedback: torch.Tensor, inputs: torch.Tensor, gradient: torch.Tensor
) -> torch.Tensor:
    """The gradient of a layer's input, had the layer the weights `feedback`."""
    if isinstance(layer, nn.Linear):
        return gradient @ feedback
    assert isinstance(layer, nn.Conv2d)
    other = inputs.detach().requires_grad_()
    assert isinstance(layer.padding, tuple)
    output = conv2d(other, feedback, None, layer.stride, layer.padding, groups=layer.groups)
    [found] = torch.autograd.grad(output, other, gradient)
    return found


@every_network
@every_optimizer
@pytest.mark.parametrize("modules", [2, 4])
@pytest.mark.parametrize("recompute", [False, True])
def test_feedback_alignment(network: str, optimizer: str, modules: int, recompute: bool) -> None:
    trained("fa", network, modules, optimizer, partial(aligned, modules), recompute=recompute)


@pytest.mark.parametrize("padded", [{"padding": "same"}, {"padding_mode": "reflect"}])
def test_alignment_refuses_padding_that_it_cannot_go_back_through(padded: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="must be padded by numbers, with zeros"):
        align(nn.Sequential(nn.Conv2d(2, 3, 3, **padded)), torch.Generator())


def test_alignment_with_the_weights_themselves_would_be_backpropagation() -> None:
    """The reference is one of feedback alignment: its way down, with the layer's own weights, gives
    the gradient."""
    for network, (make_model, shape) in NETWORKS.items():
        model = make_model()
        [(inputs, _)] = batches_of(1, *shape)
        layer = model[0]
        given = inputs.requires_grad_()
        output = layer(given)
        gradient = torch.ones_like(output)
        [expected] = torch.autograd.grad(output, given, gradient)
        found = down(layer, layer.get_parameter("weight").detach(), given, gradient)
        torch.testing.assert_close(found, expected, msg=network)
