"""Residual blocks: a body beside a shortcut."""

from typing import Final, Literal

import torch
from torch import nn
from torch.nn import functional

from executor.models.initial import empty

__all__ = [
    "PreActivation",
    "Residual",
    "SqueezeExcitation",
    "basic",
    "bottleneck",
    "convolution",
    "head",
]

Shortcut = Literal["projection", "padding"]
_REDUCTION: Final = 16  # Hu et al. 2018, section 4: of the channels, inside squeeze and excitation


def convolution(channels: int, made: int, size: int = 3, stride: int = 1) -> nn.Module:
    """A convolution without bias, which batch norm would take out, padded to keep the pixels."""
    padding = size // 2
    return empty(nn.Conv2d, channels, made, size, stride=stride, padding=padding, bias=False)


def head(channels: int, classes: int) -> list[nn.Module]:
    """The mean over all pixels, and a linear map to the classes."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), empty(nn.Linear, channels, classes)]


class Residual(nn.Module):
    """relu(body(x) + shortcut(x)): He et al. 2016, "Deep residual learning", equation 2.

    Images (batch, channels, height, width) to images of the body's shape.
    """

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The block's output."""
        return functional.relu(self.body(inputs) + self.shortcut(inputs))


class PreActivation(nn.Module):
    """x + body(relu(norm(x))): He et al. 2016, "Identity mappings", figure 1 (b).

    Where the shape changes, x is replaced by a 1 x 1 convolution of relu(norm(x)), as the authors'
    code has it, theirs and that of wide residual networks.
    """

    def __init__(self, channels: int, body: nn.Module, projection: nn.Module | None) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.body = body
        self.projection = projection

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The block's output."""
        active = self.first(inputs)
        kept = inputs if self.projection is None else self.projection(active)
        total: torch.Tensor = kept + self.body(active)
        return total


class SqueezeExcitation(nn.Module):
    """Channels scaled by what two linear maps make of their means: Hu et al. 2018, equation 3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = empty(nn.Linear, channels, channels // _REDUCTION)
        self.excite = empty(nn.Linear, channels // _REDUCTION, channels)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Images of the same shape."""
        means = inputs.mean(dim=(2, 3))  # (batch, channels)
        scale = torch.sigmoid(self.excite(functional.relu(self.squeeze(means))))
        return inputs * scale[:, :, None, None]


class _Padding(nn.Module):
    """Every other pixel, and zeros as the new channels: He et al. 2016, option A."""

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels = new_channels
        self.stride = stride

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        before = self.new_channels // 2
        kept = inputs[:, :, :: self.stride, :: self.stride]
        return functional.pad(kept, (0, 0, 0, 0, before, self.new_channels - before))


def basic(channels: int, made: int, stride: int, shortcut: Shortcut, *extra: nn.Module) -> Residual:
    """Two convolutions of 3 x 3; `extra` parts follow them before the sum."""
    body = nn.Sequential(
        convolution(channels, made, stride=stride),
        nn.BatchNorm2d(made),
        nn.ReLU(),
        convolution(made, made),
        nn.BatchNorm2d(made),
        *extra,
    )
    return Residual(body, _shortcut(channels, made, stride, shortcut))


def bottleneck(channels: int, made: int, stride: int) -> Residual:
    """Convolutions of 1 x 1, 3 x 3 and 1 x 1, with a quarter of the channels inside.

    The stride is that of the 3 x 3 one, as in torchvision; He et al. have it in the first.
    """
    inside = made // 4
    body = nn.Sequential(
        convolution(channels, inside, 1),
        nn.BatchNorm2d(inside),
        nn.ReLU(),
        convolution(inside, inside, stride=stride),
        nn.BatchNorm2d(inside),
        nn.ReLU(),
        convolution(inside, made, 1),
        nn.BatchNorm2d(made),
    )
    return Residual(body, _shortcut(channels, made, stride, "projection"))


def _shortcut(channels: int, made: int, stride: int, kind: Shortcut) -> nn.Module:
    if channels == made and stride == 1:
        return nn.Identity()
    if kind == "padding":
        return _Padding(made - channels, stride)
    return nn.Sequential(convolution(channels, made, 1, stride), nn.BatchNorm2d(made))
