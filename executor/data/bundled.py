"""Data sets that need no files: the digits of scikit-learn, and generated clouds."""

from functools import partial

import torch

from executor.data.dataset import Contents, DataSet

__all__ = ["digits", "generated"]


def digits() -> DataSet:
    """The handwritten digits that scikit-learn brings along: 1,797 images of 8 x 8 pixels.

    Every fifth sample is for testing. Pixels are scaled to mean 0 and standard deviation 1.
    """
    return DataSet.reading("digits", _digits)


def generated(samples: int = 2048, features: int = 64, classes: int = 10, seed: int = 0) -> DataSet:
    """Gaussian clouds around one random centre per class; a fifth is for testing."""
    return DataSet.reading("generated", partial(_generated, samples, features, classes, seed))


def _digits() -> Contents:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    inputs = torch.tensor(bunch.data, dtype=torch.float32)
    inputs = (inputs - inputs.mean()) / inputs.std()
    return _parted(inputs, torch.tensor(bunch.target, dtype=torch.int64), classes=10)


def _generated(samples: int, features: int, classes: int, seed: int) -> Contents:
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(classes, features, generator=generator)
    labels = torch.randint(classes, (samples,), generator=generator)
    inputs = centres[labels] + torch.randn(samples, features, generator=generator)
    return _parted(inputs, labels, classes)


def _parted(inputs: torch.Tensor, labels: torch.Tensor, classes: int) -> Contents:
    test = torch.arange(len(inputs)) % 5 == 0
    return Contents(inputs[~test], labels[~test], inputs[test], labels[test], classes)
