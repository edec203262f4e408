"""Data sets, and the order of their mini-batches, which is the same for every schedule."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from simcore.errors import InputError

__all__ = ["DATA_SETS", "DataSet", "digits", "generated"]


@dataclass(frozen=True, slots=True, eq=False)
class DataSet:
    """Training and test samples: inputs (samples, features...) and integer labels (samples,)."""

    name: str
    inputs: torch.Tensor
    labels: torch.Tensor
    test_inputs: torch.Tensor
    test_labels: torch.Tensor
    classes: int

    def batches_per_epoch(self, batch_size: int) -> int:
        """Mini-batches of an epoch; the last may be smaller."""
        return -(-len(self.inputs) // batch_size)

    def batch(self, number: int, batch_size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and labels of mini-batch `number`; each epoch is shuffled by (seed, epoch) anew.

        Raises `InputError` if the batch size exceeds the number of samples.
        """
        if not 1 <= batch_size <= len(self.inputs):
            raise InputError(
                "batch size",
                batch_size,
                f"must be between 1 and the {len(self.inputs)} samples of {self.name}",
                "choose a smaller one",
            )
        epoch, position = divmod(number, self.batches_per_epoch(batch_size))
        chosen = _order(len(self.inputs), seed, epoch)[
            position * batch_size : (position + 1) * batch_size
        ]
        return self.inputs[chosen], self.labels[chosen]


@lru_cache(maxsize=4)
def _order(samples: int, seed: int, epoch: int) -> torch.Tensor:
    # torch's generator would use 32 bits of its seed only, too few for both numbers.
    seeds = np.random.SeedSequence(seed % 2**64, spawn_key=(epoch,))
    return torch.from_numpy(np.random.default_rng(seeds).permutation(samples))


def digits() -> DataSet:
    """The handwritten digits that scikit-learn brings along: 1,797 images of 8 x 8 pixels.

    Every fifth sample is for testing. Pixels are scaled to mean 0 and standard deviation 1.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    inputs = torch.tensor(bunch.data, dtype=torch.float32)
    inputs = (inputs - inputs.mean()) / inputs.std()
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    test = torch.arange(len(inputs)) % 5 == 0
    return DataSet("digits", inputs[~test], labels[~test], inputs[test], labels[test], classes=10)


def generated(samples: int = 2048, features: int = 64, classes: int = 10, seed: int = 0) -> DataSet:
    """Gaussian clouds around one random centre per class; a fifth is for testing."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(classes, features, generator=generator)
    labels = torch.randint(classes, (samples,), generator=generator)
    inputs = centres[labels] + torch.randn(samples, features, generator=generator)
    test = torch.arange(samples) % 5 == 0
    return DataSet("generated", inputs[~test], labels[~test], inputs[test], labels[test], classes)


DATA_SETS = {"digits": digits, "generated": generated}
