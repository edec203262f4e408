"""Residual networks for images of 32 x 32 pixels: three stages, each residual block a layer.

ResNet-20, 56, 98, 110 and 1202 have basic blocks (6 n + 2 layers of weights) and shortcuts without
parameters (option A): only so does ResNet-56 have the 0.85 M of He et al., where projections would
make 0.86 M. FDG's tables print 0.46 M for it, which is ResNet-32's number; its code has option A.

ResNet-164 is the bottleneck network of He et al., "Identity mappings", in whose blocks norm and
ReLU come first (9 n + 2 layers, 1.7 M). ADL names it, but cites the paper before, which has none of
164 layers; its 5.36 % of backpropagation are near that network's published 5.46 %.
"""

from functools import partial
from itertools import pairwise
from typing import Final

from torch import nn

from executor.data import DataSet
from executor.models.named import NamedNetwork, Reference, Split, runs
from executor.models.residual import PreActivation, basic, convolution, head
from executor.models.shapes import as_images

__all__ = ["CIFAR"]

_STEM_CHANNELS: Final = 16
_STAGES: Final = 3


def _plain(data: DataSet, variant: str, *, blocks: int) -> nn.Sequential:
    (channels, _, _), image = as_images(data)
    stem = [convolution(channels, _STEM_CHANNELS), nn.BatchNorm2d(_STEM_CHANNELS), nn.ReLU()]
    made = _widths(_STEM_CHANNELS, blocks)
    layers = [
        basic(before, after, 1 if after == before else 2, "padding")
        for before, after in pairwise([_STEM_CHANNELS, *made])
    ]
    last = nn.Sequential(*head(made[-1], data.classes))
    return nn.Sequential(nn.Sequential(*image, *stem), *layers, last)


def _pre_activation(
    data: DataSet, variant: str, *, blocks: int, widening: int, inside: int
) -> nn.Sequential:
    """With bottlenecks to a part of the channels, one `inside`-th; wide networks have none (1)."""
    (channels, _, _), image = as_images(data)
    made = _widths(_STEM_CHANNELS * widening, blocks)
    layers: list[nn.Module] = [nn.Sequential(*image, convolution(channels, _STEM_CHANNELS))]
    for number, (before, after) in enumerate(pairwise([_STEM_CHANNELS, *made])):
        stride = 2 if number and after != before else 1
        body = _wide(before, after, stride)
        if inside > 1:
            body = _narrow(before, after, stride, inside)
        projection = convolution(before, after, 1, stride) if after != before else None
        layers.append(PreActivation(before, body, projection))
    last = [nn.BatchNorm2d(made[-1]), nn.ReLU(), *head(made[-1], data.classes)]
    return nn.Sequential(*layers, nn.Sequential(*last))


def _widths(channels: int, blocks: int) -> list[int]:
    return [channels * 2**stage for stage in range(_STAGES) for _ in range(blocks)]


def _wide(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        convolution(before, after, stride=stride),
        nn.BatchNorm2d(after),
        nn.ReLU(),
        convolution(after, after),
    )


def _narrow(before: int, after: int, stride: int, inside: int) -> nn.Sequential:
    middle = after // inside
    return nn.Sequential(
        convolution(before, middle, 1, stride),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        convolution(middle, middle),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        convolution(middle, after, 1),
    )


_HE: Final = "He et al. 2016, section 4.2"
_FDG: Final = "FDG, released code"
_CIFAR10: Final = (3, 32, 32)

_PLAIN: Final = tuple(
    NamedNetwork(
        f"resnet{6 * blocks + 2}",
        source,
        layers=_STAGES * blocks + 2,
        make=partial(_plain, blocks=blocks),
        reference=Reference(_CIFAR10, 10, parameters, printed),
        splits={len(counts): Split(runs(*counts), _FDG) for counts in splits},
    )
    for blocks, source, parameters, printed, splits in (
        (3, _HE, 269_722, "0.27M", [(4, 5), (3, 3, 3)]),
        (9, _HE, 853_018, "0.85M", [(13, 14), (9, 9, 9), (6, 7, 7, 7)]),
        (16, f"{_HE}, n = 16: ADL, table I", 1_533_530, "", []),
        (
            18,
            _HE,
            1_727_962,
            "1.7M",
            [(27, 27), (18, 18, 18), (13, 14, 14, 13), (10, 11, 11, 11, 11)],
        ),
        (
            200,
            _HE,
            19_421_274,
            "19.4M",
            [(250, 350), (200, 200, 200), (75, 175, 175, 175), (60, 160, 60, 160, 160)],
        ),
    )
)
CIFAR: Final = (
    *_PLAIN,
    NamedNetwork(
        "resnet164",
        "He et al. 2016 (Identity mappings), table 3",
        layers=_STAGES * 18 + 2,
        make=partial(_pre_activation, blocks=18, widening=4, inside=4),
        reference=Reference(_CIFAR10, 10, 1_703_258, "1.7M"),
    ),
    NamedNetwork(
        "wrn-28-10",
        "Zagoruyko and Komodakis 2016, table 1",
        layers=_STAGES * 4 + 2,
        make=partial(_pre_activation, blocks=4, widening=10, inside=1),
        reference=Reference(_CIFAR10, 10, 36_479_194, "36.5M"),
        splits={
            len(counts): Split(runs(*counts), _FDG) for counts in [(6, 6), (4, 4, 4), (3, 3, 3, 3)]
        },
    ),
)
