"""Families of networks by size, DEPTHxWIDTH: perceptrons and ConvNets of even layers."""

from torch import nn

from executor.data import DataSet
from executor.models.initial import empty
from executor.models.shapes import as_images, features_of

__all__ = ["conv", "mlp"]


def mlp(data: DataSet, depth: int, width: int) -> nn.Sequential:
    """A perceptron of `depth` layers, each with one linear map of width x width and a ReLU.

    Before the first comes a linear map from the features with a ReLU, after the last one to the
    classes; both are small beside the others where width is much more than features and classes.
    So the layers are nearly even, and from a width of 1024 on their passes take milliseconds.
    """
    features = features_of(data)
    layers: list[list[nn.Module]] = [
        [empty(nn.Linear, width, width), nn.ReLU()] for _ in range(depth)
    ]
    layers[0][:0] = [empty(nn.Linear, features, width), nn.ReLU()]
    if len(data.sample_shape) != 1:
        layers[0].insert(0, nn.Flatten())
    layers[-1].append(empty(nn.Linear, width, data.classes))
    return nn.Sequential(*(nn.Sequential(*parts) for parts in layers))


def conv(data: DataSet, depth: int, channels: int) -> nn.Sequential:
    """A ConvNet of `depth` layers: a 3 x 3 convolution of as many channels, batch norm, ReLU.

    Before the first comes such a layer from the image's own channels, after the last the mean over
    all pixels and a linear map to the classes. So the layers are nearly even. Rows of features are
    taken as square images of one channel, the digits (samples, 64) as (samples, 1, 8, 8).

    Raises:
        InputError: the samples are no images (channels, height, width), and not square either.
    """
    shape, image = as_images(data)
    layers = [_convolution(channels, channels) for _ in range(depth)]
    layers[0][:0] = image + _convolution(shape[0], channels)
    layers[-1] += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]  # (batch, channels)
    layers[-1].append(empty(nn.Linear, channels, data.classes))
    return nn.Sequential(*(nn.Sequential(*parts) for parts in layers))


def _convolution(channels: int, made: int) -> list[nn.Module]:
    # Batch norm takes out what a bias would add.
    return [
        empty(nn.Conv2d, channels, made, 3, padding=1, bias=False),
        nn.BatchNorm2d(made),
        nn.ReLU(),
    ]
