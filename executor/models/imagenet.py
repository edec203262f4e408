"""Residual networks of four stages: ResNet-18, 50 and 101, and ResNet-18 with squeeze-excitation.

They were made for images of 224 x 224 pixels (variant `imagenet`: a first convolution of 7 x 7 with
stride 2, and a pool). For small images people use the same blocks behind a convolution of 3 x 3
without pool (variant `cifar`), which has the 11.2 M parameters that FDG gives for its ResNet-18.
Without a variant the images decide: those of up to 32 x 32 pixels are small. Each residual block is
a layer, and so are stem and head: ResNet-18 has the ten that ADL splits it into.
"""

from functools import partial
from itertools import pairwise
from typing import Final

from torch import nn

from executor.data import DataSet
from executor.models.named import NamedNetwork, Reference, Split, runs
from executor.models.residual import (
    Residual,
    SqueezeExcitation,
    basic,
    bottleneck,
    convolution,
    head,
)
from executor.models.shapes import as_images

__all__ = ["IMAGENET"]

_STEM_CHANNELS: Final = 64
_SMALL_PIXELS: Final = 32  # the longer side of an image that gets the small stem
_KINDS: Final = {"basic": 1, "squeeze-excitation": 1, "bottleneck": 4}  # widening of the stages


def _resnet(data: DataSet, variant: str, *, kind: str, blocks: tuple[int, ...]) -> nn.Sequential:
    (channels, height, width), image = as_images(data)
    if variant == "":
        variant = "cifar" if max(height, width) <= _SMALL_PIXELS else "imagenet"
    widths = [_STEM_CHANNELS * _KINDS[kind] * 2**stage for stage in range(len(blocks))]
    made = [width for width, count in zip(widths, blocks, strict=True) for _ in range(count)]
    layers: list[nn.Module] = [nn.Sequential(*image, *_stem(channels, variant))]
    for before, after in pairwise([_STEM_CHANNELS, *made]):
        # A stage begins where channels change; all but the first halve the image.
        stride = 2 if len(layers) > 1 and after != before else 1
        layers.append(_block(kind, before, after, stride))
    return nn.Sequential(*layers, nn.Sequential(*head(made[-1], data.classes)))


def _stem(channels: int, variant: str) -> list[nn.Module]:
    after = [nn.BatchNorm2d(_STEM_CHANNELS), nn.ReLU()]
    if variant == "cifar":
        return [convolution(channels, _STEM_CHANNELS), *after]
    pool = nn.MaxPool2d(3, stride=2, padding=1)
    return [convolution(channels, _STEM_CHANNELS, 7, 2), *after, pool]


def _block(kind: str, before: int, after: int, stride: int) -> Residual:
    if kind == "bottleneck":
        return bottleneck(before, after, stride)
    extra = [SqueezeExcitation(after)] if kind == "squeeze-excitation" else []
    return basic(before, after, stride, "projection", *extra)


_FDG: Final = "FDG, released code"
_MAXIMUM: Final = Split(runs(0, *(8 * [1]), 0), "ADL, section VI.A.2: a block or a layer each")

IMAGENET: Final = tuple(
    NamedNetwork(
        name,
        source,
        layers=sum(blocks) + 2,
        make=partial(_resnet, kind=kind, blocks=blocks),
        reference=Reference((3, 224, 224), 1000, parameters, printed),
        splits=splits,
        variants=("", "cifar", "imagenet"),
    )
    for name, source, kind, blocks, parameters, printed, splits in (
        (
            "resnet18",
            "He et al. 2016, table 1",
            "basic",
            (2, 2, 2, 2),
            11_689_512,
            "11,689,512 (torchvision)",
            {
                2: Split(runs(4, 4), _FDG),
                3: Split(runs(2, 3, 3), _FDG),
                4: Split(runs(2, 2, 2, 2), "AsyncFGD, appendix H.3.2"),
                10: _MAXIMUM,
            },
        ),
        (
            "resnet50",
            "He et al. 2016, table 1",
            "bottleneck",
            (3, 4, 6, 3),
            25_557_032,
            "25,557,032 (torchvision)",
            {
                2: Split(runs(7, 9), _FDG),
                3: Split(runs(5, 5, 6), _FDG),
                4: Split(runs(4, 4, 4, 4), _FDG),
            },
        ),
        (
            "resnet101",
            "He et al. 2016, table 1",
            "bottleneck",
            (3, 4, 23, 3),
            44_549_160,
            "44,549,160 (torchvision)",
            {
                2: Split(runs(16, 17), _FDG),
                3: Split(runs(11, 11, 11), _FDG),
                4: Split(runs(8, 8, 8, 9), _FDG),
                5: Split(runs(6, 7, 7, 7, 6), _FDG),
            },
        ),
        (
            "se-resnet18",
            "Hu et al. 2018, figure 3",
            "squeeze-excitation",
            (2, 2, 2, 2),
            11_778_592,
            "",
            {10: _MAXIMUM},
        ),
    )
)
