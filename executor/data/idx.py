"""MNIST and FashionMNIST: the IDX format of http://yann.lecun.com/exdb/mnist."""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Final

import numpy as np

from executor.data.dataset import Contents
from executor.data.files import (
    bad_file,
    check_samples,
    labels_below,
    missing,
    places,
    read_at_most,
    reading,
    whole_set,
)
from executor.data.pixels import Pixels, Scale, Variation

__all__ = ["read_idx", "read_mnist"]

_FILES: Final = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_ENDINGS: Final = ("", ".gz")
_CLASSES: Final = 10


def read_mnist(
    folder: Path, title: str, inside: Sequence[str], scale: Scale, variation: Variation | None
) -> Contents:
    """Read the four files, plain or gzipped, of a folder or of one of those `inside` it.

    Inputs are (samples, 1, 28, 28). Raises `InputError` for files that are missing or damaged.
    """
    where = places(folder, inside)
    found = whole_set(where, _FILES, _ENDINGS)
    if not found:
        # Some who pass the files on write a dot for the hyphen.
        found = whole_set(where, [name.replace("-idx", ".idx") for name in _FILES], _ENDINGS)
    if not found:
        raise missing(folder, title, [f"{name}[.gz]" for name in _FILES], inside)
    images, labels, test_images, test_labels = (
        read_idx(path, dimensions) for path, dimensions in zip(found, (3, 1, 3, 1), strict=True)
    )
    check_samples(found[1], len(images), len(labels))
    check_samples(found[3], len(test_images), len(test_labels))
    if images.shape[1:] != test_images.shape[1:]:
        rule = f"must be those of training, {images.shape[1:]}"
        raise bad_file(f"height and width of the images of {found[2]}", test_images.shape[1:], rule)
    return Contents(
        Pixels(images[:, None], scale, variation),
        labels_below(_CLASSES, labels, found[1]),
        Pixels(test_images[:, None], scale, None),
        labels_below(_CLASSES, test_labels, found[3]),
        _CLASSES,
    )


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The bytes of an IDX file, in its shape; unpacked if its name ends in .gz.

    The file is a magic number (two zeros, 8 for bytes, the number of dimensions), the dimensions as
    32-bit numbers, most significant byte first, then the data, last dimension fastest.

    Raises `InputError` for another magic number or size.
    """
    length, expected = 4 + 4 * dimensions, 0x800 + dimensions
    with reading(path, "an IDX file"):
        header = read_at_most(path, length)
        magic = int.from_bytes(header[:4], "big")
        if len(header) < 4 or magic != expected:
            value = f"0x{header[:4].hex()}"
            rule = f"must be 0x{expected:08x}, of bytes in {dimensions} dimensions"
            raise bad_file(f"magic number of {path}", value, rule)
        if len(header) < length:
            rule = f"must be at least the {length} bytes of a header"
            raise bad_file(f"size of {path}", len(header), rule)
        shape = [int(number) for number in np.frombuffer(header, ">u4", offset=4)]
        size = length + prod(shape)
        # One byte more than there should be, so that what is too long shows.
        data = read_at_most(path, size + 1)
    if len(data) != size:
        found = f"more than {size}" if len(data) > size else len(data)
        rule = f"must be {size} bytes, for {' x '.join(map(str, shape))} after its header"
        raise bad_file(f"{'unpacked ' * (path.suffix == '.gz')}size of {path}", found, rule)
    return np.frombuffer(data, np.uint8, offset=length).reshape(shape).copy()
