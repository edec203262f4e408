"""The four small networks of AsyncFGD, appendix H.2, tables 8 to 11, in its three modules.

`act` is ReLU or tanh, `pool` the maximum of 2 x 2 with stride 2, `|` ends a module:

- ConvS: conv 32 k5 p2, act | pool, flatten, fc 1000 | act, fc
- ConvL: [conv k3 p2, batch norm, act, pool] x 32, 64 | 128, 256 | 512, flatten, fc
- FCS: flatten, fc 1024, act | fc 512, act | fc 256, act, fc
- FCL: flatten, [fc 1024, batch norm, act] x 2 | x 2 | fc 512, batch norm, act, fc

The paper's table of FCS ends with 256 outputs and has no layer of the classes, which all others
have: it is added here. Inputs of the first linear map follow from the data.
"""

from functools import partial
from typing import Final

from torch import nn

from executor.data import DataSet
from executor.models.initial import empty
from executor.models.named import NamedNetwork, Reference, Split
from executor.models.shapes import as_images, features_of
from simcore.errors import InputError

__all__ = ["SMALL"]

_ACTIVATIONS: Final[dict[str, type[nn.Module]]] = {"relu": nn.ReLU, "tanh": nn.Tanh}
_MNIST: Final = (1, 28, 28)
_TABLES: Final = "AsyncFGD, appendix H.2, table"
_SPLITS: Final = "AsyncFGD, appendix H.3.1"


def _conv_s(data: DataSet, activation: str) -> nn.Sequential:
    act = _ACTIVATIONS[activation]
    (channels, height, width), image = as_images(data)
    pixels = (height // 2) * (width // 2)
    if not pixels:
        what, shape = f"shape of a sample of {data.name}", (channels, height, width)
        raise InputError(what, shape, "must have at least 2 x 2 pixels for convs", "use convl")
    return nn.Sequential(
        nn.Sequential(*image, empty(nn.Conv2d, channels, 32, 5, padding=2), act()),
        nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), empty(nn.Linear, 32 * pixels, 1000)),
        nn.Sequential(act(), empty(nn.Linear, 1000, data.classes)),
    )


def _conv_l(data: DataSet, activation: str) -> nn.Sequential:
    act = _ACTIVATIONS[activation]
    (channels, height, width), image = as_images(data)
    layers: list[list[nn.Module]] = []
    for made in (32, 64, 128, 256, 512):
        convolution = empty(nn.Conv2d, channels, made, 3, padding=2)
        layers.append([convolution, nn.BatchNorm2d(made), act(), nn.MaxPool2d(2)])
        channels, height, width = made, (height + 2) // 2, (width + 2) // 2
    layers[0][:0] = image
    last = [nn.Flatten(), empty(nn.Linear, channels * height * width, data.classes)]
    return nn.Sequential(*(nn.Sequential(*parts) for parts in layers), nn.Sequential(*last))


def _fully_connected(
    data: DataSet, activation: str, *, widths: tuple[int, ...], batch_norm: bool
) -> nn.Sequential:
    act, features = _ACTIVATIONS[activation], features_of(data)
    layers: list[list[nn.Module]] = []
    for width in widths:
        norm = [nn.BatchNorm1d(width)] if batch_norm else []
        layers.append([empty(nn.Linear, features, width), *norm, act()])
        features = width
    layers[0].insert(0, nn.Flatten())
    layers.append([empty(nn.Linear, features, data.classes)])
    return nn.Sequential(*(nn.Sequential(*parts) for parts in layers))


_FC_S: Final = partial(_fully_connected, widths=(1024, 512, 256), batch_norm=False)
_FC_L: Final = partial(_fully_connected, widths=(1024, 1024, 1024, 1024, 512), batch_norm=True)

SMALL: Final = tuple(
    NamedNetwork(
        name,
        f"{_TABLES} {table}",
        layers=bounds[-1],
        make=make,
        reference=Reference(_MNIST, 10, parameters),
        splits={3: Split(bounds, _SPLITS)},
        variants=tuple(_ACTIVATIONS),
    )
    for name, table, make, bounds, parameters in (
        ("convs", 8, _conv_s, (0, 1, 2, 3), 6_283_842),
        ("convl", 11, _conv_l, (0, 2, 4, 6), 1_590_474),
        ("fcs", 9, _FC_S, (0, 1, 2, 4), 1_462_538),
        ("fcl", 10, _FC_L, (0, 2, 4, 6), 4_491_786),
    )
)
