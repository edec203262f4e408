"""What a network learns of a data set: the shape and kind of a sample."""

import math

from torch import nn

from executor.data import DataSet
from simcore.errors import InputError

__all__ = ["as_images", "features_of", "has_tokens"]


def has_tokens(data: DataSet) -> bool:
    """Whether samples are whole numbers, each of which names something, as words of a text."""
    return not data.dtype.is_floating_point


def features_of(data: DataSet) -> int:
    """The numbers of a sample. Raises `InputError` for samples of whole numbers, as tokens are."""
    _refuse_whole_numbers(data)
    return math.prod(data.sample_shape)


def as_images(data: DataSet) -> tuple[tuple[int, int, int], list[nn.Module]]:
    """The samples as images (channels, height, width), and what makes them so.

    Rows of features are taken as square images of one channel, the digits (samples, 64) as
    (samples, 1, 8, 8).

    Raises:
        InputError: the samples are no images (channels, height, width), and not square either, or
            they are whole numbers.
    """
    _refuse_whole_numbers(data)
    shape = data.sample_shape
    if len(shape) == 1 and math.isqrt(shape[0]) ** 2 == shape[0]:
        image = (1, math.isqrt(shape[0]), math.isqrt(shape[0]))
        return image, [nn.Unflatten(1, image)]
    if len(shape) != 3:
        rule = "must be (channels, height, width), or a square number, for a ConvNet"
        raise InputError(f"shape of a sample of {data.name}", shape, rule, "use an mlp")
    return (shape[0], shape[1], shape[2]), []


def _refuse_whole_numbers(data: DataSet) -> None:
    if has_tokens(data):
        rule = "must be floating-point numbers for this network"
        kind = str(data.dtype).removeprefix("torch.")
        raise InputError(f"type of the samples of {data.name}", kind, rule, "use lstm:2x256, say")
