"""Recurrent networks, over whole sequences or one time step at a time.

A sequence is (batch, time, features), a time step (batch, features). Recurrent modules have
`step(inputs, state)` beside `forward`; all others here, and those of PyTorch that act on the last
dimension, are called the same for both. So a schedule may go through a sequence step by step, as
AsyncFGD-recursive (appendix G.3) does: with the state kept between two calls it computes what one
call over the whole sequence does, and the classifier gives an answer at each step.

Everything is made of linear maps, sigmoid and tanh: forward-mode differentiation has no formula for
PyTorch's fused LSTM.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import nn

from executor.data import DataSet
from executor.models.initial import empty
from executor.models.shapes import features_of, has_tokens
from simcore.errors import InputError

__all__ = ["LSTM", "Elman", "LastStep", "Recurrent", "Sequences", "is_recurrent", "lstm", "rnn"]

State = Any  # a tensor, or a tuple of tensors


class Recurrent(nn.Module, ABC):
    """A recurrent layer of `width` outputs.

    Weights begin evenly within +- 1 / sqrt(width), as those of PyTorch's recurrent layers, biases
    at zero.
    """

    gates: ClassVar[int]

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.given = empty(nn.Linear, features, self.gates * width)
        self.past = empty(nn.Linear, width, self.gates * width, bias=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The outputs (batch, time, width) of sequences (batch, time, features)."""
        return self.step(inputs)[0]

    def step(self, inputs: torch.Tensor, state: State = None) -> tuple[torch.Tensor, State]:
        """The output (batch, width) of a time step (batch, features), and the state after it.

        `state` is what the step before returned, None at the start of a sequence. A run of time
        steps (batch, time, features) may be given at once, and has outputs (batch, time, width).
        """
        given = self.given(inputs)  # of all steps of a run in one go
        if state is None:
            state = self._start(given.new_zeros(len(given), self.width))
        if inputs.dim() == 2:
            return self._advance(given, state)
        outputs = []
        for now in given.unbind(1):
            output, state = self._advance(now, state)
            outputs.append(output)
        return torch.stack(outputs, dim=1), state

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the weights."""
        bound = 1 / math.sqrt(self.width)
        for linear in (self.given, self.past):
            nn.init.uniform_(linear.weight, -bound, bound, generator=generator)
        nn.init.zeros_(self.given.bias)

    @abstractmethod
    def _start(self, zeros: torch.Tensor) -> State:
        """The state at the start of a sequence, made of zeros (batch, width)."""

    @abstractmethod
    def _advance(self, given: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Output and state of a time step; `given` is what the inputs say, (batch, gates width)."""


class Elman(Recurrent):
    """h = tanh(W x + b + V h): Elman 1990; the state is h."""

    gates = 1

    def _start(self, zeros: torch.Tensor) -> State:
        return zeros

    def _advance(self, given: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        output = torch.tanh(given + self.past(state))
        return output, output


class LSTM(Recurrent):
    """Hochreiter and Schmidhuber 1997, with a forget gate; the state is (h, c).

    Gates input i, forget f, cell g and output o are parts of W x + b + V h, in PyTorch's order:
    c = sigmoid(f) c + sigmoid(i) tanh(g), h = sigmoid(o) tanh(c).
    """

    gates = 4

    def _start(self, zeros: torch.Tensor) -> State:
        return zeros, zeros

    def _advance(self, given: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        output, cell = state
        enter, forget, new, leave = (given + self.past(output)).chunk(4, dim=1)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
        output = torch.sigmoid(leave) * torch.tanh(cell)
        return output, (output, cell)


class LastStep(nn.Module):
    """The last time step of sequences (batch, time, width); a single step is left as it is."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """What the classifier reads, (batch, width)."""
        return inputs[:, -1] if inputs.dim() == 3 else inputs


class Sequences(nn.Module):
    """Samples of `shape` as sequences (batch, time, features): each row of an image is a time step.

    Rows of features are taken as square images, (batch, 64) as (batch, 8, 8); of images (batch,
    channels, height, width) the height is time. Inputs of another shape are time steps that were
    cut before, and left as they are.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The sequences, or the time step."""
        if tuple(inputs.shape[1:]) != self.shape:
            return inputs
        if inputs.dim() == 4:
            return inputs.transpose(1, 2).flatten(2)
        side = math.isqrt(self.shape[0])
        return inputs.reshape(-1, side, side)


def is_recurrent(module: nn.Module) -> bool:
    """Whether a module goes on from a state, by `step`; what only contains such ones does not."""
    return isinstance(module, Recurrent)


def rnn(data: DataSet, depth: int, width: int) -> nn.Sequential:
    """Elman's network: `depth` recurrent layers of that width, then a linear map to the classes.

    Samples are tokens (samples, time), before whose first layer comes an embedding of the same
    width, sequences (samples, time, features), or images, row by row (see `Sequences`). The
    classifier reads the last time step. Layers: embedding, if any, each recurrent one, classifier.

    Raises:
        InputError: the samples are no sequences, nor images.
    """
    return _recurrent(Elman, data, depth, width)


def lstm(data: DataSet, depth: int, width: int) -> nn.Sequential:
    """The same network as `rnn`, of LSTM layers: 2 x 256 on IMDb is that of Async BP, section 4.2.

    The paper leaves the size of its embedding open; here it is the width.
    """
    return _recurrent(LSTM, data, depth, width)


def _recurrent(kind: type[Recurrent], data: DataSet, depth: int, width: int) -> nn.Sequential:
    if has_tokens(data):
        parts: list[nn.Module] = [empty(nn.Embedding, _vocabulary(data), width)]
        features = width
    else:
        parts, features = _rows(data, features_of(data))
    for _ in range(depth):
        parts.append(kind(features, width))
        features = width
    # LastStep is no part of the classifier, so that the last recurrent layer sends one step only.
    return nn.Sequential(*parts, LastStep(), empty(nn.Linear, width, data.classes))


def _rows(data: DataSet, numbers: int) -> tuple[list[nn.Module], int]:
    """What makes sequences of samples of so many numbers, and the features of a time step."""
    shape = data.sample_shape
    if len(shape) == 2:
        return [], shape[1]
    if len(shape) == 3:
        return [Sequences(shape)], numbers // shape[1]
    if len(shape) == 1 and math.isqrt(numbers) ** 2 == numbers:
        return [Sequences(shape)], math.isqrt(numbers)
    rule = "must be (time, features), (channels, height, width) or a square number, for sequences"
    raise InputError(f"shape of a sample of {data.name}", shape, rule, "use an mlp")


def _vocabulary(data: DataSet) -> int:
    """The number of different tokens, which are numbered from 0."""
    if len(data.sample_shape) != 1:
        rule = "must be (time,) for samples of whole numbers, which are tokens"
        remedy = "convert other data to floating point"
        raise InputError(f"shape of a sample of {data.name}", data.sample_shape, rule, remedy)
    if data.vocabulary is not None:
        return data.vocabulary
    tokens = data.inputs[:], data.test_inputs[:]
    least = min(int(each.min()) for each in tokens)
    if least < 0:
        rule = "must be at least 0"
        raise InputError(f"a token of {data.name}", least, rule, "number tokens from 0")
    return max(int(each.max()) for each in tokens) + 1
