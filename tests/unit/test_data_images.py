"""Folders of images: found by name, decoded when they are taken, cut as ImageNet's are."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from executor.data import open_data
from executor.data.image_folder import (
    ImageFiles,
    centre_crop,
    random_crop_box,
    read_image_folder,
)
from executor.data.pixels import Scale
from executor.data.registry import SCALES
from simcore.errors import InputError
from tests.unit.data_files import drawn, write_images

PLAIN = Scale((0.0,) * 3, (1 / 255,) * 3)  # pixels as they are


def of(image: Image.Image) -> torch.Tensor:
    """(channels, height, width)"""
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()).float()


def test_classes_are_folders_and_samples_files(tmp_path: Path) -> None:
    write_images(tmp_path / "imagenet")
    data = open_data("images", tmp_path)
    assert (data.name, data.samples, data.classes) == ("images", 6, 2)
    assert data.sample_shape == (3, 224, 224)
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test_labels.tolist() == [0, 1]
    inputs = data.inputs
    assert isinstance(inputs, ImageFiles)
    names = [str(Path(path).relative_to(tmp_path / "imagenet")) for path in inputs.files]
    assert names == [
        f"train/{kind}/{name}"
        for kind in ("cat", "dog")
        for name in ("a.png", "b.JPEG", "nested/c.jpg")
    ]
    batch, labels = data.batch(0, 4, 0)
    assert (tuple(batch.shape), batch.dtype, len(labels)) == ((4, 3, 224, 224), torch.float32, 4)
    assert [len(labels) for _, labels in data.test_batches(1)] == [1, 1]


def test_in_tests_the_middle_is_scaled(tmp_path: Path) -> None:
    write_images(tmp_path)
    data = open_data("images", tmp_path)
    with Image.open(tmp_path / "val" / "dog" / "only.png") as image:
        middle = of(centre_crop(image.convert("RGB"), 224)) / 255
    mean, deviation = (
        torch.tensor(each)[:, None, None]
        for each in (SCALES["images"].mean, SCALES["images"].deviation)
    )
    assert torch.allclose(data.test_inputs[1:][0], (middle - mean) / deviation, atol=1e-5)


@pytest.mark.parametrize(
    ("width", "height"), [(640, 427), (427, 640), (300, 300), (20, 31), (1, 9)]
)
def test_the_middle_of_an_image(width: int, height: int) -> None:
    """A gradient from 0 to 255 both ways: what is cut out is symmetric about the middle."""
    across = np.broadcast_to(np.linspace(0, 255, width), (height, width))
    down = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    image = Image.fromarray(np.stack([across, down, down], 2).round().astype(np.uint8))
    cut = np.asarray(centre_crop(image, 224)).astype(float)
    assert cut.shape == (224, 224, 3)
    assert np.abs(cut[:, :, 0] + cut[:, ::-1, 0] - 255).max() <= 4 or width == 1
    assert np.abs(cut[:, :, 1] + cut[::-1, :, 1] - 255).max() <= 4
    # The shorter side of the cut is 224/256 of the image's.
    seen = np.ptp(cut[112, :, 0]) if width <= height else np.ptp(cut[:, 112, 1])
    if min(width, height) > 50:
        assert seen / 255 == pytest.approx(224 / 256, abs=0.01)


def test_cuts_equal_those_of_torchvision() -> None:
    transforms = pytest.importorskip("torchvision.transforms", exc_type=ImportError)
    middle = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    for width, height in ((320, 240), (240, 320), (257, 500), (33, 77)):
        image = Image.fromarray(drawn((height, width, 3)))
        assert np.array_equal(np.asarray(middle(image)), np.asarray(centre_crop(image, 224)))


@pytest.mark.parametrize(
    ("width", "height"), [(400, 300), (30, 40), (1000, 10), (10, 1000), (1, 1)]
)
def test_random_parts_are_of_the_wanted_shape(width: int, height: int) -> None:
    generator = np.random.default_rng(0)
    boxes = np.array([random_crop_box(width, height, generator) for _ in range(400)])
    across, down = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0
    assert (boxes[:, 2] <= width).all()
    assert (boxes[:, 3] <= height).all()
    assert (across >= 1).all()
    assert (down >= 1).all()
    if min(width, height) >= 30:
        shares, ratios = across * down / (width * height), across / down
        assert 0.07 < shares.min() < 0.12
        assert shares.max() > 0.9
        assert 0.70 < ratios.min() < 0.8
        assert 1.25 < ratios.max() < 1.43
        assert len({*map(tuple, boxes)}) > 300
    elif max(width, height) == 1000:  # none fits: the middle, as wide or high as may be
        assert {*map(tuple, boxes)} == {(493, 0, 506, 10) if width > height else (0, 493, 10, 506)}


def test_parts_are_drawn_by_seed_epoch_and_sample_alone(tmp_path: Path) -> None:
    write_images(tmp_path)
    found = read_image_folder(tmp_path, (), PLAIN, augment=True, size=16)
    inputs = found.inputs
    assert isinstance(inputs, ImageFiles)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    whole = inputs.in_training(torch.arange(6), seed=3, epoch=1)
    for number in (5, 0, 2):
        alone = inputs.in_training(torch.tensor([number]), seed=3, epoch=1)
        assert torch.equal(alone[0], whole[number])
    assert torch.equal(torch.get_rng_state(), state)
    for seed, epoch in ((3, 2), (4, 1), (3 + 2**32, 1)):
        other = inputs.in_training(torch.arange(6), seed, epoch)
        assert not any(torch.equal(one, two) for one, two in zip(other, whole, strict=True))
    assert torch.equal(inputs[:3], read_image_folder(tmp_path, (), PLAIN, False, 16).inputs[:3])


def test_half_of_the_parts_are_mirrored(tmp_path: Path) -> None:
    """Brightness rises to the right in the image, so to the left where it is mirrored."""
    ramp = np.broadcast_to(np.arange(0, 250, 5, np.uint8)[:, None], (40, 50, 3))
    for part in ("train", "val"):
        (tmp_path / part / "ramp").mkdir(parents=True)
        Image.fromarray(ramp).save(tmp_path / part / "ramp" / "x.png")
    inputs = read_image_folder(tmp_path, (), PLAIN, augment=True, size=8).inputs
    assert isinstance(inputs, ImageFiles)
    epochs = [
        inputs.in_training(torch.zeros(1, dtype=torch.int64), 0, epoch) for epoch in range(200)
    ]
    mirrored = sum(bool(image[0, 0, 4, 0] > image[0, 0, 4, -1]) for image in epochs)
    assert 70 < mirrored < 130  # within four standard deviations of 100


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_images_of_other_kinds_become_red_green_blue(mode: str, tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / part / "x").mkdir(parents=True)
        ending = "jpg" if mode == "CMYK" else "png"
        Image.new(mode, (30, 20)).save(tmp_path / part / "x" / f"y.{ending}")
    assert read_image_folder(tmp_path, (), PLAIN, False, 8).inputs[:1].shape == (1, 3, 8, 8)


def test_test_may_stand_for_val(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / "val").rename(tmp_path / "test")
    assert open_data("images", tmp_path).test_labels.tolist() == [0, 1]


def test_nothing_is_decoded_before_it_is_taken(tmp_path: Path) -> None:
    write_images(tmp_path)
    path = tmp_path / "train" / "dog" / "b.JPEG"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    copy = pickle.loads(pickle.dumps(open_data("images", tmp_path)))
    assert copy.examples(3).shape == (3, 3, 224, 224)
    with pytest.raises(InputError) as caught:
        copy.batch(0, 6, 0)
    assert str(caught.value).startswith(f"file is '{path}': must be an image that can be decoded (")
    path.write_text("no image")
    with pytest.raises(InputError, match="UnidentifiedImageError"):
        copy.inputs[4:5]


def test_folders_that_are_not_as_they_should_be(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / "val" / "cow").mkdir()
    with pytest.raises(InputError, match=r"class is .*val/cow': must be one of the classes of tra"):
        open_data("images", tmp_path)
    (tmp_path / "val" / "cow").rename(tmp_path / "train" / "cow")
    with pytest.raises(InputError, match=r"class is .*train/cow': must hold images \(\.jpg, "):
        open_data("images", tmp_path)
    for kind in ("cat", "dog"):
        (tmp_path / "val" / kind / "only.png").rename(tmp_path / "val" / f"{kind}.png")
        (tmp_path / "val" / kind).rmdir()
    (tmp_path / "train" / "cow").rmdir()
    with pytest.raises(InputError, match="val': must hold a folder for each class, with its imag"):
        open_data("images", tmp_path)
