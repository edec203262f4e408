"""Networks of torchvision as sequences of layers: those that AsyncFGD trains, appendix H.2.2.

They begin with the weights that torchvision draws; nothing is downloaded. Each inverted residual
block is a layer. Images of one channel are repeated to the three that these networks take.

AsyncFGD's splits are those of its appendix H.3.2. It counts 13 bottlenecks in MobileNetV3-small,
which has 11: `features` in torchvision has 13 parts, stem and last convolution included, and these
are taken. Blocks of EfficientNet-B0, MNASNet and ShuffleNetV2 are its stages.
"""

import importlib
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any, Final

import torch
from torch import nn

from executor.data import DataSet
from executor.examination import one_line
from executor.models.named import NamedNetwork, Reference, Split, runs
from executor.models.shapes import as_images
from simcore.errors import InputError

__all__ = ["VISION", "RepeatedChannels"]


class RepeatedChannels(nn.Module):
    """Images (batch, 1, height, width) as (batch, `channels`, height, width)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The repeated images."""
        return inputs.expand(-1, self.channels, -1, -1)


def _make(
    data: DataSet,
    variant: str,
    *,
    name: str,
    function: str,
    layers: Callable[[Any], list[nn.Module]],
) -> nn.Sequential:
    (channels, height, width), image = as_images(data)
    if channels not in (1, 3):
        what, shape = f"shape of a sample of {data.name}", (channels, height, width)
        raise InputError(what, shape, f"must have 1 or 3 channels for {name}", "use resnet18, say")
    if channels == 1:
        image = [*image, RepeatedChannels(3)]
    stem, *rest = layers(getattr(_torchvision(name), function)(num_classes=data.classes))
    return nn.Sequential(nn.Sequential(*image, stem) if image else stem, *rest)


def _torchvision(name: str) -> Any:
    try:
        return importlib.import_module("torchvision.models")
    except ModuleNotFoundError as error:
        rule = f"needs torchvision ({one_line(error)})"
        raise InputError("model", name, rule, "install gradlag[vision]") from error
    except Exception as error:  # compiled for another torch, it fails in many ways
        rule = f"needs a torchvision that fits torch {torch.__version__} ({one_line(error)})"
        remedy = "install both from one place, as gradlag[vision] names them"
        raise InputError("model", name, rule, remedy) from error


def _pooled(*classifier: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *classifier)


def _mobilenet(model: Any) -> list[nn.Module]:
    return [*model.features, _pooled(*model.classifier)]


def _efficientnet(model: Any) -> list[nn.Module]:
    stem, *stages, last = model.features
    return [stem, *chain(*stages), last, _pooled(*model.classifier)]


def _mnasnet(model: Any) -> list[nn.Module]:
    stem, stacks, last = model.layers[:8], model.layers[8:14], model.layers[14:]
    return [stem, *chain(*stacks), last, _pooled(*model.classifier)]


def _shufflenet(model: Any) -> list[nn.Module]:
    stem = nn.Sequential(*model.conv1, model.maxpool)
    stages = chain(model.stage2, model.stage3, model.stage4)
    return [stem, *stages, model.conv5, _pooled(model.fc)]


_SOURCE: Final = "AsyncFGD, appendix H.3.2"

VISION: Final = tuple(
    NamedNetwork(
        name,
        f"{paper}; torchvision {function}",
        layers=bounds[-1],
        make=partial(_make, name=name, function=function, layers=layers),
        reference=Reference((3, 224, 224), 1000, parameters, f"{parameters:,} (torchvision)"),
        splits={4: Split(bounds, _SOURCE)},
        own_weights=True,
    )
    for name, paper, function, layers, bounds, parameters in (
        (
            "mobilenetv3-small",
            "Howard et al. 2019, table 2",
            "mobilenet_v3_small",
            _mobilenet,
            runs(3, 4, 4, 2, head=0),
            2_542_856,
        ),
        (
            "efficientnet-b0",
            "Tan and Le 2019, table 1",
            "efficientnet_b0",
            _efficientnet,
            runs(1, 4, 10, 1, tail=2),
            5_288_548,
        ),
        (
            "mnasnet0.5",
            "Tan et al. 2019, variant B1",
            "mnasnet0_5",
            _mnasnet,
            runs(0, 6, 9, 1, tail=2),
            2_218_512,
        ),
        (
            "shufflenetv2-0.5",
            "Ma et al. 2018, table 5",
            "shufflenet_v2_x0_5",
            _shufflenet,
            runs(0, 4, 8, 4, tail=2),
            1_366_792,
        ),
    )
)
