"""Images differ from epoch to epoch as the published augmentation wants it, by seed alone."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, chisquare

from executor.data import DATA_SETS, DataSet, open_data
from executor.data.pixels import Pixels, Scale, Variation, padded_crops
from tests.unit.data_files import drawn, write_cifar10, write_cifar100, write_mnist, write_svhn

PLAIN = Scale((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))  # pixels as they are


def located(samples: int, flip: bool = True) -> Pixels:
    """Images that tell, wherever they are cut out and mirrored or not, from where and how.

    The red of a pixel is its row, its green the column, counted from 100; frames are black.
    """
    image = np.zeros((3, 32, 32), np.uint8)
    image[0], image[1] = 100 + np.arange(32)[:, None], 100 + np.arange(32)
    return Pixels(np.stack([image] * samples), PLAIN, Variation(flip=flip))


def found(image: torch.Tensor) -> tuple[int, int, bool]:
    """First row and column of a cut within its frame, and whether it was mirrored."""
    row, column = (round(float(each)) - 96 for each in image[:2, 15, 16])
    other = round(float(image[1, 15, 15])) - 96
    mirrored = other > column
    # The middle of what was cut out is pixel (15, 16), mirrored (15, 15).
    return row - 15, column - (15 if mirrored else 16), mirrored


def test_cuts_and_mirrors_are_as_likely_as_each_other() -> None:
    """The tests would fail by chance once in 10,000 seeds each; this seed is fixed."""
    samples = 6000
    images = located(samples).in_training(torch.arange(samples), seed=0, epoch=0)
    cuts = [found(image) for image in images]
    places = Counter((row, column) for row, column, _ in cuts)
    assert set(places) == {(row, column) for row in range(9) for column in range(9)}
    assert chisquare(list(places.values())).pvalue > 1e-4
    mirrored = sum(flipped for _, _, flipped in cuts)
    assert binomtest(mirrored, samples).pvalue > 1e-4


def test_a_cut_is_the_part_of_the_framed_image_that_it_says() -> None:
    """Against indexing each image by itself."""
    images = torch.from_numpy(drawn((20, 3, 8, 6)))
    generator = np.random.default_rng(1)
    places = torch.from_numpy(generator.integers(0, 5, (20, 2)))
    mirrored = torch.from_numpy(generator.random(20) < 0.5)
    cuts = padded_crops(images, places, mirrored, padding=2)
    for image, (row, column), flipped, cut in zip(images, places, mirrored, cuts, strict=True):
        framed = np.pad(image.numpy(), ((0, 0), (2, 2), (2, 2)))
        expected = framed[:, row : row + 8, column : column + 6]
        assert np.array_equal(cut.numpy(), expected[:, :, ::-1] if flipped else expected)


def test_cuts_equal_those_of_torchvision() -> None:
    transforms = pytest.importorskip("torchvision.transforms.functional", exc_type=ImportError)
    images = torch.from_numpy(drawn((5, 3, 32, 32)))
    places, mirrored = torch.tensor([[0, 0], [8, 8], [4, 4], [3, 7], [1, 2]]), torch.ones(5) > 0
    for image, (row, column), cut in zip(
        images, places.tolist(), padded_crops(images, places, mirrored, padding=4), strict=True
    ):
        framed = transforms.pad(image, [4, 4, 4, 4])
        assert torch.equal(transforms.hflip(transforms.crop(framed, row, column, 32, 32)), cut)


def test_choices_depend_on_seed_epoch_and_sample_alone() -> None:
    images, everything = located(40), torch.arange(40)
    torch.manual_seed(3)
    whole = images.in_training(everything, seed=5, epoch=2)
    state = torch.get_rng_state()
    for one in (7, 39, 0):
        alone = images.in_training(torch.tensor([one]), seed=5, epoch=2)
        assert torch.equal(alone[0], whole[one])
    assert torch.equal(torch.get_rng_state(), state)
    others = [(5, 3), (6, 2), (5 + 2**32, 2), (-5, 2)]
    different = [images.in_training(everything, seed, epoch) for seed, epoch in others]
    for each in different:
        assert not torch.equal(each, whole)
    assert len({found(image) for image in whole}) > 20


def test_tests_see_images_as_they_are() -> None:
    images = located(4)
    assert torch.allclose(images[:2], images.images[:2].float())
    assert torch.allclose(images[torch.tensor([3, 0])], images.images[[3, 0]].float())


def opened(name: str, folder: Path, augment: bool) -> DataSet:
    write = {"cifar10": write_cifar10, "cifar100": write_cifar100, "svhn": write_svhn}
    if not folder.exists():
        write.get(name, write_mnist)(folder)
    return open_data(name, folder, augment)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100", "svhn"])
def test_data_sets_are_varied_if_that_is_asked_for(name: str, tmp_path: Path) -> None:
    """Digits are not mirrored: that would make them something else."""
    plain, varied = (opened(name, tmp_path / "x", augment) for augment in (False, True))
    size = plain.samples
    assert torch.equal(plain.batch(0, size, 0)[0], plain.inputs[plain_order(plain, size, 0)])
    epochs = [varied.batch(epoch, size, 0)[0] for epoch in range(4)]
    as_they_are = [plain.batch(epoch, size, 0)[0] for epoch in range(4)]
    assert not torch.equal(torch.stack(epochs), torch.stack(as_they_are))
    for labels in zip(varied.batch(3, size, 0), plain.batch(3, size, 0), strict=True):
        assert labels[0].shape == labels[1].shape
    assert torch.equal(varied.batch(3, size, 0)[1], plain.batch(3, size, 0)[1])
    assert torch.equal(varied.test_inputs[:], plain.test_inputs[:])
    assert torch.equal(varied.examples(3), plain.examples(3))
    assert any_mirrored(varied) == ("mirrored" in str(DATA_SETS[name].augments))
    assert any_mirrored(varied) == (name in ("fashion-mnist", "cifar10", "cifar100"))


def plain_order(data: DataSet, size: int, epoch: int) -> torch.Tensor:
    """The samples of an epoch of one mini-batch, found by what they look like."""
    inputs = data.inputs[:].flatten(1)
    taken = data.batch(epoch, size, 0)[0].flatten(1)
    return (taken[:, None] == inputs[None]).all(2).int().argmax(1)


def any_mirrored(data: DataSet) -> bool:
    """Whether one of two images is mirrored in some of a dozen epochs, wherever it is cut."""
    inputs = data.inputs
    assert isinstance(inputs, Pixels)
    middle = slice(8, -8)  # in every cut
    for epoch in range(12):
        for number, image in enumerate(inputs.in_training(torch.arange(2), 0, epoch)):
            mirrored = inputs[number : number + 1][0].flip(2)[:, middle, middle]
            windows = image.unfold(1, mirrored.shape[1], 1).unfold(2, mirrored.shape[2], 1)
            if (windows.permute(1, 2, 0, 3, 4) == mirrored).flatten(2).all(2).any():
                return True
    return False
