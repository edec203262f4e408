"""Auxiliary networks and fixed random matrices, for methods without gradients from above.

All draw their weights from seeds, never from torch's global random state.
"""

import math
from collections.abc import Callable, Iterable
from typing import Final

import torch
from torch import nn
from torch.nn import functional
from torch.nn.grad import conv2d_input, conv2d_weight

from executor.tensors import Extras
from executor.tree import Value
from simcore.errors import InputError
from simcore.ops import Estimate, Synthesize
from simcore.schedule import Schedule
from simcore.validate import operations_used

__all__ = ["align", "extras_of", "head", "matrix", "synthesizer"]

_POOLED = 2  # rows and columns that a head leaves of an image


def extras_of(
    schedule: Schedule,
    block: int,
    output: Value,
    logits: Value,
    seed: int,
    make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
) -> Extras:
    """What a block of the schedule learns with.

    `output` is a template of the block's output, `logits` (samples, classes) of the last one's. The
    last block has the true loss and needs nothing.
    """
    found, feedback = Extras(), schedule.weights.feedback
    if block == schedule.blocks or feedback in ("weights", "random"):
        return found
    if not isinstance(output, torch.Tensor) or not isinstance(logits, torch.Tensor):
        rule = "must give out one tensor, for its gradient is to be guessed"
        raise InputError("block", block, rule, "cut the network elsewhere")
    generator, classes = torch.Generator().manual_seed(seed), logits.shape[-1]
    used = operations_used(schedule)
    if feedback == "local" and Synthesize in used:
        found.synthesizer = synthesizer(output, generator)
        found.optimizer = make_optimizer(found.synthesizer.parameters())
    elif feedback == "local" and Estimate in used:
        found.head = head(output, classes, generator)
    else:
        found.matrix = matrix(output, classes, generator)
    return found


def head(output: torch.Tensor, classes: int, generator: torch.Generator) -> nn.Module:
    """A local classifier of DGL: a block's output (samples, ...) to (samples, classes).

    Images are pooled to 2 x 2 pixels; then come a hidden layer and the classes (Belilovsky et al.
    2019, section 4, "MLP-SR", with one hidden layer).
    """
    pool: list[nn.Module] = []
    features = math.prod(output.shape[1:])
    if output.dim() == 4:
        pool = [nn.AdaptiveAvgPool2d(_POOLED)]
        features = output.shape[1] * _POOLED**2
    hidden = min(features, 256)
    return _drawn(
        nn.Sequential(
            *pool,
            nn.Flatten(),
            nn.Linear(features, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        ),
        output,
        generator,
    )


def synthesizer(output: torch.Tensor, generator: torch.Generator) -> nn.Module:
    """A model of DNI that guesses gradients: (samples, ...) to the same shape.

    One hidden layer, of units or of 3 x 3 convolutions; the last layer starts at zero, so that the
    first guesses are zero (Jaderberg et al. 2017, appendix C).
    """
    if output.dim() == 4:
        channels = output.shape[1]
        layers: list[nn.Module] = [
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        ]
    else:
        features = math.prod(output.shape[1:])
        layers = [nn.Flatten(), nn.Linear(features, features), nn.ReLU()]
        layers += [nn.Linear(features, features), nn.Unflatten(1, output.shape[1:])]
    model = _drawn(nn.Sequential(*layers), output, generator)
    last = next(layer for layer in reversed(layers) if isinstance(layer, nn.Linear | nn.Conv2d))
    nn.init.zeros_(last.weight)
    return model


def matrix(output: torch.Tensor, classes: int, generator: torch.Generator) -> torch.Tensor:
    """A fixed random matrix (classes, outputs), uniform with the variance 1 / classes."""
    outputs = math.prod(output.shape[1:])
    limit = math.sqrt(3 / classes)
    drawn = torch.rand(classes, outputs, generator=generator)
    return ((2 * drawn - 1) * limit).to(output)


class _AlignedLinear(nn.Linear):
    """A linear layer whose gradient goes down through a fixed random matrix."""

    feedback: torch.Tensor

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        through: Callable[..., torch.Tensor] = _LinearFeedback.apply
        return through(inputs, self.weight, self.bias, self.feedback)


class _AlignedConv2d(nn.Conv2d):
    """A convolution whose gradient goes down through fixed random kernels."""

    feedback: torch.Tensor

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        where = self.stride, self.padding, self.dilation, self.groups
        through: Callable[..., torch.Tensor] = _ConvFeedback.apply
        return through(inputs, self.weight, self.bias, self.feedback, where)


class _LinearFeedback(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs, weight, bias, feedback):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(inputs, feedback)
        ctx.has_bias = bias is not None
        return functional.linear(inputs, weight, bias)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        inputs, feedback = ctx.saved_tensors
        # Under autocasting the gradient has the type of the output.
        feedback, inputs = feedback.to(gradient.dtype), inputs.to(gradient.dtype)
        below = gradient @ feedback if ctx.needs_input_grad[0] else None
        rows = gradient.flatten(0, -2)
        weight = rows.T @ inputs.flatten(0, -2) if ctx.needs_input_grad[1] else None
        return below, weight, rows.sum(0) if ctx.has_bias else None, None


class _ConvFeedback(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs, weight, bias, feedback, where):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(inputs, feedback)
        ctx.where, ctx.has_bias = where, bias is not None
        return functional.conv2d(inputs, weight, bias, *where)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        inputs, feedback = ctx.saved_tensors
        feedback, inputs = feedback.to(gradient.dtype), inputs.to(gradient.dtype)
        below = weight = bias = None
        if ctx.needs_input_grad[0]:
            below = conv2d_input(inputs.shape, feedback, gradient, *ctx.where)
        if ctx.needs_input_grad[1]:
            weight = conv2d_weight(inputs, feedback.shape, gradient, *ctx.where)
        if ctx.has_bias:
            bias = gradient.sum((0, 2, 3))
        return below, weight, bias, None, None


_ALIGNED: Final[dict[type[nn.Module], type[nn.Module]]] = {
    nn.Linear: _AlignedLinear,
    nn.Conv2d: _AlignedConv2d,
}


def align(module: nn.Module, generator: torch.Generator) -> None:
    """Let gradients go down a module's linear layers and convolutions through random weights.

    Their scale is that of the weights. Parameters keep their names and objects. Raises `InputError`
    for layers of other kinds with matrices of weights, and for convolutions that are padded in
    words or with other numbers than zero.
    """
    for name, layer in module.named_modules():
        own = [p for p in layer.parameters(recurse=False) if p.dim() > 1]
        if not own:
            continue
        if type(layer) not in _ALIGNED:
            rule = "must be linear or a convolution for feedback alignment"
            raise InputError(f"layer {name}", type(layer).__name__, rule, "use another method")
        padding = getattr(layer, "padding", 0), getattr(layer, "padding_mode", "zeros")
        if isinstance(padding[0], str) or padding[1] != "zeros":
            rule = "must be padded by numbers, with zeros, for feedback alignment"
            raise InputError(f"padding of layer {name}", padding, rule, "give padding=1, say")
        [weight] = own
        layer.__class__ = _ALIGNED[type(layer)]
        drawn = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        layer.feedback = (drawn * weight.detach().std()).to(weight.device)


def _drawn(model: nn.Module, output: torch.Tensor, generator: torch.Generator) -> nn.Module:
    """The model with weights of the type of the output, drawn in single precision."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model.to(output.device, output.dtype)
