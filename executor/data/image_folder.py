"""Folders of images, a folder for each class, as ImageNet has them; decoded when they are taken."""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from executor.data.dataset import Contents, Inputs
from executor.data.files import missing, places, reading
from executor.data.pixels import Scale
from simcore.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ImageFiles", "centre_crop", "random_crop_box", "read_image_folder"]

_ENDINGS: Final = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_SIZE: Final = 224
_RESIZED: Final = 256  # the shorter side, before the middle is cut out
_CHOICES: Final = 2  # tells these random numbers from others of a seed and an epoch
_AREAS: Final = (0.08, 1.0)
_RATIOS: Final = (3 / 4, 4 / 3)
_TRIES: Final = 10

Box = tuple[int, int, int, int]  # left, upper, right, lower


class ImageFiles(Inputs):
    """Images of files as (samples, 3, size, size); none is kept in memory.

    In tests the shorter side is resized (to 256 for 224), and the middle is cut out. Training sees
    the same or, with `augment`, a random part (see `random_crop_box`), resized and, with
    probability 1/2, mirrored. What is drawn for an image depends on the seed, the epoch and the
    number of the sample alone.
    """

    def __init__(self, files: list[str], scale: Scale, augment: bool, size: int = _SIZE) -> None:
        self.files, self.scale, self.augment, self.size = files, scale, augment, size
        self.shape, self.dtype = torch.Size((len(files), 3, size, size)), torch.float32

    def __getitem__(self, chosen: slice | torch.Tensor) -> torch.Tensor:
        numbers = range(len(self))[chosen] if isinstance(chosen, slice) else chosen.tolist()
        images = [self._decoded(number) for number in numbers]
        return self._tensor([centre_crop(image, self.size) for image in images])

    def in_training(self, chosen: torch.Tensor, seed: int, epoch: int) -> torch.Tensor:
        """The chosen samples as an epoch of training sees them."""
        if not self.augment:
            return self[chosen]
        return self._tensor([self._varied(number, seed, epoch) for number in chosen.tolist()])

    def _varied(self, number: int, seed: int, epoch: int) -> "Image":
        from PIL.Image import Resampling, Transpose

        seeds = np.random.SeedSequence(seed % 2**64, spawn_key=(epoch, _CHOICES, number))
        generator = np.random.default_rng(seeds)
        image = self._decoded(number)
        part = image.crop(random_crop_box(*image.size, generator))
        part = part.resize((self.size, self.size), Resampling.BILINEAR)
        return part.transpose(Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else part

    def _decoded(self, number: int) -> "Image":
        from PIL import Image

        path = Path(self.files[number])
        # Damaged images make Pillow raise whatever its decoders come upon.
        with reading(path, "an image that can be decoded", Exception), Image.open(path) as image:
            return image.convert("RGB")

    def _tensor(self, images: "list[Image]") -> torch.Tensor:
        if not images:
            return torch.empty(0, *self.shape[1:])
        stacked = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
        # (samples, height, width, channels) to (samples, channels, height, width)
        return self.scale.apply(stacked.permute(0, 3, 1, 2).contiguous())


def centre_crop(image: "Image", size: int) -> "Image":
    """The middle (size x size) of an image whose shorter side is resized to 8/7 of it."""
    from PIL.Image import Resampling

    resized = size * _RESIZED // _SIZE
    width, height = image.size
    if width <= height:
        new = resized, max(size, resized * height // width)
    else:
        new = max(size, resized * width // height), resized
    left, upper = round((new[0] - size) / 2), round((new[1] - size) / 2)
    return image.resize(new, Resampling.BILINEAR).crop((left, upper, left + size, upper + size))


def random_crop_box(width: int, height: int, generator: np.random.Generator) -> Box:
    """A random part of an image: 8 to 100 % of its area, 3:4 to 4:3 in shape.

    Szegedy et al., "Going deeper with convolutions" (2015), section 6: area and the logarithm of
    the ratio of the sides are uniform, as in torchvision's RandomResizedCrop. If ten such do not
    fit into the image, its middle is taken, as large as the ratio allows.
    """
    for _ in range(_TRIES):
        area = width * height * generator.uniform(*_AREAS)
        ratio = math.exp(generator.uniform(math.log(_RATIOS[0]), math.log(_RATIOS[1])))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            upper = int(generator.integers(0, height - down + 1))
            left = int(generator.integers(0, width - across + 1))
            return left, upper, left + across, upper + down
    across = min(width, max(1, round(height * _RATIOS[1])))
    down = min(height, max(1, round(width / _RATIOS[0])))
    left, upper = (width - across) // 2, (height - down) // 2
    return left, upper, left + across, upper + down


def read_image_folder(
    folder: Path, inside: tuple[str, ...], scale: Scale, augment: bool, size: int = _SIZE
) -> Contents:
    """Find the images of train/CLASS and of val/CLASS, or else test/CLASS; classes by alphabet.

    Raises `InputError` for folders that are missing or have no images; for an image that cannot be
    decoded only when it is taken.
    """
    for place in places(folder, inside):
        test = next((name for name in ("val", "test") if (place / name).is_dir()), None)
        if test is not None and (place / "train").is_dir():
            break
    else:
        raise missing(folder, "images", ["train/CLASS/*.jpg", "val/CLASS/*.jpg"], inside)
    classes = _classes(place / "train")
    files, labels = _images(place / "train", classes)
    test_files, test_labels = _images(place / test, _classes(place / test, within=classes))
    numbers = {name: number for number, name in enumerate(classes)}
    return Contents(
        ImageFiles(files, scale, augment, size),
        torch.tensor([numbers[name] for name in labels]),
        ImageFiles(test_files, scale, False, size),
        torch.tensor([numbers[name] for name in test_labels]),
        len(classes),
    )


def _classes(folder: Path, within: list[str] | None = None) -> list[str]:
    """The folders of a folder by name. Raises `InputError` for one that is not `within` others."""
    with reading(folder, "a folder of classes"):
        found = sorted(
            entry.name
            for entry in os.scandir(folder)
            if entry.is_dir() and not entry.name.startswith(".")
        )
    if not found:
        rule = "must hold a folder for each class, with its images"
        raise InputError("folder of images", folder, rule, "sort them into such")
    for name in found:
        if within is not None and name not in within:
            rule = "must be one of the classes of training"
            raise InputError("class", folder / name, rule, "put its images where they belong")
    return found


def _images(folder: Path, classes: list[str]) -> tuple[list[str], list[str]]:
    """The paths of all images, by class and then by path, and the class of each."""
    files: list[str] = []
    labels: list[str] = []
    for name in classes:
        found = sorted(
            os.path.join(parent, file)
            for parent, _, names in os.walk(folder / name, followlinks=True)
            for file in names
            if file.lower().endswith(_ENDINGS) and not file.startswith(".")
        )
        if not found:
            rule = f"must hold images ({', '.join(_ENDINGS)})"
            raise InputError("class", folder / name, rule, "put some there or remove the folder")
        files += found
        labels += [name] * len(found)
    return files, labels
