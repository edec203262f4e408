"""Recurrent networks: whole sequences, one time step at a time, and derivatives of a step."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call

from executor.data import DataSet
from executor.models import is_recurrent, make_model
from executor.models.initial import initialise
from executor.models.recurrent import LSTM, Elman, LastStep, Recurrent, Sequences
from executor.network import layers_of
from simcore.errors import InputError

CELLS = [Elman, LSTM]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """More threads than cores are what makes tests slow that run beside each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def samples(*shape: int, classes: int = 3) -> DataSet:
    inputs, labels = torch.randn(6, *shape), torch.arange(6) % classes
    return DataSet("samples", inputs, labels, inputs, labels, classes=classes)


def reviews(*shape: int, vocabulary: int | None = None, least: int = 0) -> DataSet:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(least, 20, (6, *shape), generator=generator)
    labels = torch.arange(6) % 2
    return DataSet("reviews", inputs, labels, inputs[:2], labels[:2], 2, vocabulary)


def cell(kind: type[Recurrent], features: int = 5, width: int = 4) -> Recurrent:
    made = kind(features, width)
    initialise(made, torch.Generator().manual_seed(0))
    nn.init.normal_(made.given.bias)
    return made.double()


def steps(model: nn.Module, inputs: torch.Tensor) -> list[torch.Tensor]:
    """What a network answers at each step of sequences (batch, time, ...)."""
    states: list[Any] = [None] * len(list(model.children()))
    found = []
    for value in inputs.unbind(1):
        for number, child in enumerate(model.children()):
            if is_recurrent(child):
                value, states[number] = child.step(value, states[number])
            else:
                value = child(value)
        found.append(value)
    return found


@pytest.mark.parametrize(("kind", "theirs"), [(Elman, nn.RNN), (LSTM, nn.LSTM)])
def test_cells_compute_what_those_of_pytorch_do(
    kind: type[Recurrent], theirs: type[nn.RNNBase]
) -> None:
    ours, reference = cell(kind), theirs(5, 4, batch_first=True).double()
    with torch.no_grad():
        reference.weight_ih_l0.copy_(ours.given.weight)
        reference.weight_hh_l0.copy_(ours.past.weight)
        reference.bias_ih_l0.copy_(ours.given.bias)
        reference.bias_hh_l0.zero_()
    inputs = torch.randn(3, 7, 5, dtype=torch.float64)
    expected, state = reference(inputs)
    output, last = ours.step(inputs)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(ours(inputs), expected)
    for one, other in zip(
        last if kind is LSTM else [last], state if kind is LSTM else [state], strict=True
    ):
        torch.testing.assert_close(one, other[0])


@pytest.mark.parametrize("kind", CELLS)
def test_steps_make_the_sequence(kind: type[Recurrent]) -> None:
    ours, inputs = cell(kind), torch.randn(3, 7, 5, dtype=torch.float64)
    expected, state, found = ours(inputs), None, []
    for now in inputs.unbind(1):
        assert now.shape == (3, 5)
        output, state = ours.step(now, state)
        assert output.shape == (3, 4)
        found.append(output)
    torch.testing.assert_close(torch.stack(found, 1), expected)


@pytest.mark.parametrize("kind", CELLS)
def test_runs_of_steps_make_the_sequence(kind: type[Recurrent]) -> None:
    ours, inputs = cell(kind), torch.randn(3, 7, 5, dtype=torch.float64)
    state, found = None, []
    for run in inputs.split([1, 4, 2], dim=1):
        output, state = ours.step(run, state)
        found.append(output)
    torch.testing.assert_close(torch.cat(found, 1), ours(inputs))


@pytest.mark.parametrize("kind", CELLS)
def test_a_step_has_the_derivative_along_weights_inputs_and_state(kind: type[Recurrent]) -> None:
    """Forward mode against a central difference; its error is of order eps squared."""
    ours = cell(kind)
    weights = {name: weight.detach() for name, weight in ours.named_parameters()}
    _, state = ours.step(torch.randn(3, 5, dtype=torch.float64))
    parts = [part.detach() for part in (state if isinstance(state, tuple) else (state,))]
    values = [*weights.values(), torch.randn(3, 5, dtype=torch.float64), *parts]
    along = [torch.randn_like(value) for value in values]

    def outputs(numbers: list[torch.Tensor]) -> list[torch.Tensor]:
        named = dict(zip(weights, numbers, strict=False))
        now, *rest = numbers[len(weights) :]
        state = tuple(rest) if kind is LSTM else rest[0]
        output, after = functional_call(Step(ours), named_within("cell", named), (now, state))
        return [output, *(after if kind is LSTM else [after])]

    eps = 1e-5
    ahead = outputs([value + eps * u for value, u in zip(values, along, strict=True)])
    behind = outputs([value - eps * u for value, u in zip(values, along, strict=True)])
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(value, u) for value, u in zip(values, along, strict=True)]
        found = [forward_ad.unpack_dual(each).tangent for each in outputs(duals)]
    for tangent, after, before in zip(found, ahead, behind, strict=True):
        torch.testing.assert_close(tangent, (after - before) / (2 * eps), rtol=1e-6, atol=1e-8)


class Step(nn.Module):
    """`step` as a forward pass, so that it can be called with other weights."""

    def __init__(self, cell: Recurrent) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, inputs: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        return self.cell.step(inputs, state)


def named_within(name: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{name}.{key}": weight for key, weight in weights.items()}


@pytest.mark.parametrize("family", ["rnn", "lstm"])
def test_forward_derivatives_of_sequences_are_those_of_backpropagation(family: str) -> None:
    data = reviews(5)
    model = make_model(f"{family}:2x4", data, 0).double()
    weights = dict(model.named_parameters())
    along = {name: torch.randn_like(weight) for name, weight in weights.items()}
    loss = nn.functional.cross_entropy(model(data.inputs[:]), data.labels)
    gradients = torch.autograd.grad(loss, [*weights.values()])
    expected = sum((g * along[name]).sum() for name, g in zip(weights, gradients, strict=True))
    with forward_ad.dual_level(), torch.no_grad():
        duals = {
            name: forward_ad.make_dual(weight.detach(), along[name])
            for name, weight in weights.items()
        }
        outputs = functional_call(model, duals, (data.inputs[:],))
        dual = nn.functional.cross_entropy(outputs, data.labels)
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, expected)


def test_pytorchs_own_lstm_has_no_such_derivative() -> None:
    """The reason for cells of our own; where this fails, nn.LSTM may take their place."""
    theirs, inputs = nn.LSTM(5, 4, batch_first=True), torch.randn(3, 7, 5)
    weights = {name: weight.detach() for name, weight in theirs.named_parameters()}
    with forward_ad.dual_level():
        duals = {
            name: forward_ad.make_dual(weight, torch.randn_like(weight))
            for name, weight in weights.items()
        }
        with pytest.raises(NotImplementedError):
            functional_call(theirs, duals, (inputs,))


@pytest.mark.parametrize("family", ["rnn", "lstm"])
@pytest.mark.parametrize(
    ("data", "sequences"),
    [
        (samples(36), lambda inputs: inputs.reshape(6, 6, 6)),
        (samples(4, 3), lambda inputs: inputs),
        (samples(2, 4, 3), lambda inputs: inputs.permute(0, 2, 1, 3).reshape(6, 4, 6)),
        (reviews(7), lambda inputs: inputs),
        (reviews(7), lambda inputs: inputs.unsqueeze(2)),
    ],
    ids=["features", "sequences", "images", "tokens", "tokens-as-runs-of-one"],
)
def test_the_last_step_answers_as_the_whole_sequence(
    family: str, data: DataSet, sequences: Any
) -> None:
    model = make_model(f"{family}:2x8", data, 0)
    inputs = data.inputs[:]
    answers = steps(model, sequences(inputs))
    assert all(answer.shape == (6, data.classes) for answer in answers)
    torch.testing.assert_close(answers[-1], model(inputs))
    assert not torch.allclose(answers[0], answers[-1])


def test_rows_of_images_are_time_steps() -> None:
    images = torch.arange(48.0).reshape(1, 2, 4, 6)  # (batch, channels, height, width)
    sequence = Sequences((2, 4, 6))(images)
    assert sequence.shape == (1, 4, 12)
    assert torch.equal(sequence[0, 1], torch.cat([images[0, 0, 1], images[0, 1, 1]]))
    step = torch.randn(5, 12)
    assert Sequences((2, 4, 6))(step) is step


def test_layers_are_embedding_recurrent_ones_and_classifier() -> None:
    layers = layers_of(make_model("lstm:2x8", reviews(7), 0))
    names = [[type(part).__name__ for part in layer] for layer in layers]
    assert names == [["Embedding"], ["LSTM"], ["LSTM", "LastStep"], ["Linear"]]
    assert layers[0](torch.zeros(6, 7, dtype=torch.int64)).shape == (6, 7, 8)
    # What the classifier is sent is one step, not the sequence.
    assert layers[2](torch.zeros(6, 7, 8)).shape == (6, 8)
    names = [
        [type(part).__name__ for part in layer]
        for layer in layers_of(make_model("rnn:1x8", samples(16), 0))
    ]
    assert names == [["Sequences", "Elman", "LastStep"], ["Linear"]]


def test_the_network_of_async_bp_has_the_size_of_pytorchs() -> None:
    """2 layers of 256, of which PyTorch has two vectors of biases each."""
    model = make_model("lstm:2x256", reviews(7, vocabulary=20_000), 0)
    embedding, *rest = (sum(p.numel() for p in layer.parameters()) for layer in layers_of(model))
    theirs = nn.LSTM(256, 256, num_layers=2)
    recurrent = sum(p.numel() for p in theirs.parameters()) - 2 * 4 * 256
    assert embedding == 20_000 * 256
    assert sum(rest[:2]) == recurrent
    assert rest[2] == 257 * 2


def test_the_vocabulary_is_the_datas_or_that_of_its_tokens() -> None:
    data = reviews(7)
    for known, size in [(None, int(data.inputs[:].max()) + 1), (50, 50)]:
        model = make_model("lstm:1x4", reviews(7, vocabulary=known), 0)
        assert model[0].num_embeddings == size


@pytest.mark.parametrize("family", ["rnn", "lstm"])
def test_weights_follow_the_seed_and_begin_as_pytorchs(family: str) -> None:
    data = samples(9)
    before = torch.get_rng_state()
    one, again, other = (make_model(f"{family}:2x64", data, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for a, b, c in zip(one.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not a.any() if a.dim() == 1 else not torch.equal(a, c)
    weight = one[1].past.weight
    # Evenly within +- 1/8: the largest of 4,096 or more falls short of it by 1 % less than once in
    # 10^17 times, and the variance is a third of its square, to 4 standard errors of sqrt(4/5n).
    assert 0.99 / 8 < weight.abs().max() <= 1 / 8
    off = weight.square().mean().item() * 3 * 64 - 1
    assert abs(off) < 4 * (0.8 / weight.numel()) ** 0.5


@pytest.mark.parametrize("kind", CELLS)
def test_what_is_recurrent(kind: type[Recurrent]) -> None:
    assert is_recurrent(kind(2, 3))
    for other in (nn.Linear(2, 3), LastStep(), nn.Sequential(kind(2, 3)), nn.LSTM(2, 3)):
        assert not is_recurrent(other)


def test_it_learns_which_token_came_first() -> None:
    """What a network without memory cannot."""
    inputs = torch.randint(2, 10, (64, 6), generator=torch.Generator().manual_seed(0))
    inputs[:, 0] = torch.arange(64) % 2
    data = DataSet("first", inputs, inputs[:, 0], inputs, inputs[:, 0], classes=2)
    model = make_model("lstm:1x16", data, 0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), data.labels).backward()
        optimizer.step()
    assert (model(inputs).argmax(1) == data.labels).all()


@pytest.mark.parametrize(
    ("spec", "data", "line"),
    [
        (
            "lstm:2",
            samples(9),
            "model is 'lstm:2': must be lstm:DEPTHxWIDTH, in whole numbers from 1 to 999999; "
            "write lstm:8x64, for instance",
        ),
        (
            "rnn:1x4",
            samples(50),
            "shape of a sample of samples is '(50,)': must be (time, features), (channels, "
            "height, width) or a square number, for sequences; use an mlp",
        ),
        (
            "lstm:1x4",
            reviews(3, 4),
            "shape of a sample of reviews is '(3, 4)': must be (time,) for samples of whole "
            "numbers, which are tokens; convert other data to floating point",
        ),
        (
            "lstm:1x4",
            reviews(30, least=-1),
            "a token of reviews is -1: must be at least 0; number tokens from 0",
        ),
    ],
)
def test_what_does_not_fit_is_one_clear_line(spec: str, data: DataSet, line: str) -> None:
    with pytest.raises(InputError) as caught:
        make_model(spec, data, 0)
    assert str(caught.value) == line
