"""Images in memory: kept as bytes, scaled and varied when a mini-batch is taken."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import torch

from executor.data.dataset import Inputs

__all__ = ["Pixels", "Scale", "Variation", "padded_crops"]

_CHOICES: Final = 1  # tells these random numbers from those of the order of an epoch


@dataclass(frozen=True, slots=True)
class Scale:
    """Mean and standard deviation of each channel of the training set, of pixels from 0 to 1."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def apply(self, images: torch.Tensor) -> torch.Tensor:
        """Bytes (samples, channels, height, width) as numbers of about mean 0 and deviation 1."""
        shape = (1, -1, 1, 1)
        scaled = images.to(torch.float32).div_(255)
        return scaled.sub_(torch.tensor(self.mean).view(shape)).div_(
            torch.tensor(self.deviation).view(shape)
        )


@dataclass(frozen=True, slots=True)
class Variation:
    """How images differ from epoch to epoch: cut out of a black frame, mirrored left to right."""

    padding: int = 4
    flip: bool = True


class Pixels(Inputs):
    """Images as bytes (samples, channels, height, width), scaled when they are asked for.

    With a variation, training sees each image cut out of a frame of black pixels around it at a
    random place and, if it flips, mirrored with probability 1/2: He et al., "Deep residual learning
    for image recognition" (2016), section 4.2. What is drawn for an image depends on the seed, the
    epoch and the number of the sample alone.
    """

    def __init__(self, images: np.ndarray, scale: Scale, variation: Variation | None) -> None:
        self.images = torch.from_numpy(images)
        self.scale, self.variation = scale, variation
        self.shape, self.dtype = self.images.shape, torch.float32

    def __getitem__(self, chosen: slice | torch.Tensor) -> torch.Tensor:
        return self.scale.apply(self.images[chosen])

    def in_training(self, chosen: torch.Tensor, seed: int, epoch: int) -> torch.Tensor:
        """The chosen samples as an epoch of training sees them."""
        if self.variation is None:
            return self[chosen]
        places, mirrored = _choices(len(self), self.variation.padding, seed, epoch)
        mirrored = mirrored[chosen] & self.variation.flip
        cut = padded_crops(
            self.images[chosen], places[chosen], mirrored, padding=self.variation.padding
        )
        return self.scale.apply(cut)


@lru_cache(maxsize=4)
def _choices(
    samples: int, padding: int, seed: int, epoch: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """First row and column (samples, 2) of what is cut out, and what is mirrored (samples,)."""
    seeds = np.random.SeedSequence(seed % 2**64, spawn_key=(epoch, _CHOICES))
    generator = np.random.default_rng(seeds)
    places = generator.integers(0, 2 * padding + 1, (samples, 2))
    return torch.from_numpy(places), torch.from_numpy(generator.random(samples) < 0.5)


def padded_crops(
    images: torch.Tensor, places: torch.Tensor, mirrored: torch.Tensor, padding: int
) -> torch.Tensor:
    """Cut images (samples, channels, height, width) of their own size out of a frame of zeros.

    `places` (samples, 2) are the first row and column within the framed image, from 0 to twice the
    padding; where `mirrored` (samples,) is true, what is cut out is mirrored left to right.
    """
    samples, channels, height, width = images.shape
    framed = torch.nn.functional.pad(images, (padding,) * 4)
    across = torch.arange(width)
    columns = torch.where(mirrored[:, None], width - 1 - across, across) + places[:, 1:]
    rows = torch.arange(height) + places[:, :1]
    return framed[  # (samples, channels, height, width)
        torch.arange(samples)[:, None, None, None],
        torch.arange(channels)[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]
