"""The data sets by name, and how to open one."""

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from executor.data.bundled import digits, generated
from executor.data.cifar import CIFAR10, CIFAR100, read_cifar
from executor.data.dataset import Contents, DataSet
from executor.data.idx import read_mnist
from executor.data.image_folder import read_image_folder
from executor.data.pixels import Scale, Variation
from executor.data.reviews import read_imdb
from executor.data.svhn import read_svhn
from simcore.errors import InputError

__all__ = ["DATA_SETS", "FOLDER_VARIABLE", "SCALES", "Entry", "open_data"]

FOLDER_VARIABLE: Final = "GRADLAG_DATA"
_DEFAULT_FOLDER: Final = "data"


@dataclass(frozen=True, slots=True)
class Entry:
    """A data set that can be opened by name.

    It is made by `bundled`, or else by `read` from a folder or one of those `inside` it. `augments`
    says how training varies the samples if that is asked for; None where it cannot.
    """

    title: str
    bundled: Callable[[], DataSet] | None = None
    read: Callable[[Path, tuple[str, ...], bool], Contents] | None = None
    inside: tuple[str, ...] = ()
    augments: str | None = None


# Of all pixels of the training set, 0 to 1, each channel by itself; of ImageNet those that the
# torchvision models were trained with.
SCALES: Final = {
    "mnist": Scale((0.1307,), (0.3081,)),
    "fashion-mnist": Scale((0.2860,), (0.3530,)),
    "cifar10": Scale((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": Scale((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": Scale((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "images": Scale((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
_CROP: Final = "a random crop out of a frame of 4 black pixels"
_CROP_FLIP: Final = f"{_CROP}, mirrored or not"


def _both(own: str, *unpacked: str) -> tuple[str, ...]:
    """The folders that the published archives unpack to, there or in a folder of one's own."""
    return (*unpacked, own, *(f"{own}/{name}" for name in unpacked))


def _mnist(name: str, flip: bool, folder: Path, inside: tuple[str, ...], vary: bool) -> Contents:
    title, variation = DATA_SETS[name].title, Variation(flip=flip) if vary else None
    return read_mnist(folder, title, inside, SCALES[name], variation)


def _cifar(name: str, folder: Path, inside: tuple[str, ...], vary: bool) -> Contents:
    kind = CIFAR10 if name == "cifar10" else CIFAR100
    return read_cifar(folder, kind, inside, SCALES[name], Variation() if vary else None)


def _svhn(folder: Path, inside: tuple[str, ...], vary: bool) -> Contents:
    return read_svhn(folder, inside, SCALES["svhn"], Variation(flip=False) if vary else None)


def _imdb(folder: Path, inside: tuple[str, ...], vary: bool) -> Contents:
    return read_imdb(folder, inside)


def _images(folder: Path, inside: tuple[str, ...], vary: bool) -> Contents:
    return read_image_folder(folder, inside, SCALES["images"], vary)


DATA_SETS: Final[dict[str, Entry]] = {
    "digits": Entry("digits of scikit-learn", bundled=digits),
    "generated": Entry("generated clouds", bundled=generated),
    "mnist": Entry(
        "MNIST",
        read=partial(_mnist, "mnist", False),
        inside=("mnist", "MNIST/raw", "MNIST"),
        augments=_CROP,
    ),
    "fashion-mnist": Entry(
        "FashionMNIST",
        read=partial(_mnist, "fashion-mnist", True),
        inside=("fashion-mnist", "FashionMNIST/raw", "FashionMNIST"),
        augments=_CROP_FLIP,
    ),
    "cifar10": Entry(
        "CIFAR-10",
        read=partial(_cifar, "cifar10"),
        inside=_both("cifar10", "cifar-10-batches-bin", "cifar-10-batches-py"),
        augments=_CROP_FLIP,
    ),
    "cifar100": Entry(
        "CIFAR-100",
        read=partial(_cifar, "cifar100"),
        inside=_both("cifar100", "cifar-100-binary", "cifar-100-python"),
        augments=_CROP_FLIP,
    ),
    "svhn": Entry("SVHN", read=_svhn, inside=("svhn", "SVHN"), augments=_CROP),
    "imdb": Entry("IMDb", read=_imdb, inside=("aclImdb", "imdb/aclImdb", "imdb")),
    "images": Entry(
        "images in folders of classes, as ImageNet's",
        read=_images,
        inside=("images", "imagenet", "ImageNet"),
        augments="a random part, resized to 224 x 224, mirrored or not",
    ),
}


def open_data(name: str, folder: str | Path | None = None, augment: bool = False) -> DataSet:
    """Open a data set by name.

    Those in files are looked for in `folder`; if it is None in the folder that the environment
    variable GRADLAG_DATA names, or else in `data`. With `augment` training sees each sample varied.

    Raises:
        InputError: an unknown name; files that are missing or damaged; a folder for a data set that
            has no files; `augment` for one whose samples cannot be varied.
    """
    entry = DATA_SETS.get(name)
    if entry is None:
        near = difflib.get_close_matches(name, DATA_SETS, n=1)
        remedy = f"did you mean {near[0]}?" if near else "choose one"
        raise InputError("data set", name, f"must be one of {', '.join(DATA_SETS)}", remedy)
    if augment and entry.augments is None:
        rule = f"must be left out for {name}, whose samples cannot be varied"
        raise InputError("augment", augment, rule, "choose a data set of images")
    if entry.bundled is not None:
        if folder is not None:
            rule = f"must be left out for {name}, which has no files"
            raise InputError("data dir", folder, rule, "choose a data set that has")
        return entry.bundled()
    assert entry.read is not None
    chosen = os.environ.get(FOLDER_VARIABLE) or _DEFAULT_FOLDER if folder is None else folder
    # A copy that is read in another process may have another current folder.
    return DataSet.reading(
        name, partial(entry.read, Path(chosen).absolute(), entry.inside, augment)
    )
