"""SVHN, cropped digits: MATLAB files of http://ufldl.stanford.edu/housenumbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch

from executor.data.dataset import Contents
from executor.data.files import (
    bad_file,
    check_samples,
    labels_below,
    missing,
    places,
    reading,
    whole_set,
)
from executor.data.pixels import Pixels, Scale, Variation

__all__ = ["read_svhn"]

_FILES: Final = ("train_32x32.mat", "test_32x32.mat")
_CLASSES: Final = 10


def read_svhn(
    folder: Path, inside: Sequence[str], scale: Scale, variation: Variation | None
) -> Contents:
    """Read the two files of a folder or of one inside it; label 10, of the digit 0, becomes 0.

    Inputs are (samples, 3, 32, 32). Raises `InputError` for files that are missing or damaged.
    """
    found = whole_set(places(folder, inside), _FILES, [""])
    if not found:
        raise missing(folder, "SVHN", _FILES, inside)
    (images, labels), (test_images, test_labels) = (_read(path) for path in found)
    return Contents(
        Pixels(images, scale, variation), labels, Pixels(test_images, scale, None), test_labels, 10
    )


def _read(path: Path) -> tuple[np.ndarray, torch.Tensor]:
    from scipy.io import loadmat

    # Damaged files make scipy raise whatever its reading of them comes upon.
    with reading(path, "a MATLAB file of version 5, with X and y", Exception):
        found = loadmat(path, variable_names=["X", "y"])
        images, labels = np.asarray(found["X"]), np.asarray(found["y"]).reshape(-1)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3):
        rule = "must be bytes (32, 32, 3, samples)"
        raise bad_file(f"X of {path}", f"{images.dtype} {images.shape}", rule)
    check_samples(path, images.shape[3], len(labels))
    # (height, width, channels, samples) to (samples, channels, height, width)
    images = np.ascontiguousarray(images.transpose(3, 2, 0, 1))
    return images, labels_below(_CLASSES, np.where(labels == 10, 0, labels), path)
