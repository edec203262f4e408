"""Where the files of data sets are looked for, and what is said when they are not there."""

from collections.abc import Callable
from pathlib import Path

import pytest

from executor.data import DATA_SETS, open_data
from simcore.errors import InputError
from tests.unit.data_files import (
    IDX,
    write_cifar10,
    write_cifar100,
    write_images,
    write_imdb,
    write_mnist,
    write_svhn,
)

IN_FILES = [name for name, entry in DATA_SETS.items() if entry.read]
WRITERS: dict[str, Callable[[Path], object]] = {
    "mnist": write_mnist,
    "fashion-mnist": write_mnist,
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "svhn": write_svhn,
    "imdb": write_imdb,
    "images": write_images,
}
WANTED = {
    "mnist": "train-images-idx3-ubyte[.gz], train-labels-idx1-ubyte[.gz], "
    "t10k-images-idx3-ubyte[.gz] and t10k-labels-idx1-ubyte[.gz] of MNIST",
    "fashion-mnist": "of FashionMNIST",
    "cifar10": "data_batch_1[.bin], data_batch_2[.bin], data_batch_3[.bin], data_batch_4[.bin], "
    "data_batch_5[.bin] and test_batch[.bin] of CIFAR-10",
    "cifar100": "train[.bin] and test[.bin] of CIFAR-100",
    "svhn": "train_32x32.mat and test_32x32.mat of SVHN",
    "imdb": "train/neg/*.txt, train/pos/*.txt, test/neg/*.txt and test/pos/*.txt of IMDb",
    "images": "train/CLASS/*.jpg and val/CLASS/*.jpg",
}


def test_every_data_set_in_files_is_tested() -> None:
    assert WANTED.keys() == WRITERS.keys() == {*IN_FILES}


@pytest.mark.parametrize("name", IN_FILES)
def test_files_that_are_missing(name: str, tmp_path: Path) -> None:
    for folder, rule in ((tmp_path, "must hold"), (tmp_path / "no", "must be a folder and hold")):
        with pytest.raises(InputError) as caught:
            open_data(name, folder)
        line = str(caught.value)
        assert line.startswith(f"data dir is '{folder}': {rule} ")
        assert WANTED[name] in line
        assert "\n" not in line
        assert line.endswith("; put them there or name another folder")


@pytest.mark.parametrize("name", WRITERS)
def test_the_places_that_an_error_names_are_those_that_are_searched(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        open_data(name, tmp_path)
    inside = str(caught.value).partition(", in it or in its ")[2].partition(";")[0].split(", ")
    assert len(inside) >= 2
    for number, place in enumerate([".", *inside]):
        root = tmp_path / str(number)
        WRITERS[name](root / place)
        assert open_data(name, root).samples > 0


def test_the_folder_of_the_environment_and_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "here" / "data" / "MNIST" / "raw", samples=5)
    write_mnist(tmp_path / "there" / "mnist", samples=6)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("GRADLAG_DATA", raising=False)
    assert open_data("mnist").samples == 5
    monkeypatch.setenv("GRADLAG_DATA", str(tmp_path / "there"))
    assert open_data("mnist").samples == 6
    assert open_data("mnist", "data").samples == 5


def test_the_data_set_s_own_folder_comes_before_files_that_may_be_another_s(
    tmp_path: Path,
) -> None:
    write_mnist(tmp_path, samples=5)
    write_mnist(tmp_path / "FashionMNIST" / "raw", samples=6)
    assert open_data("mnist", tmp_path).samples == 5
    assert open_data("fashion-mnist", tmp_path).samples == 6


def test_some_files_of_a_set(tmp_path: Path) -> None:
    write_mnist(tmp_path / "mnist")
    for name in IDX[2:]:
        (tmp_path / "mnist" / name).unlink()
    with pytest.raises(InputError) as caught:
        open_data("mnist", tmp_path)
    assert str(caught.value) == (
        f"folder of data is '{tmp_path / 'mnist'}': must hold t10k-images-idx3-ubyte and "
        "t10k-labels-idx1-ubyte too; put the missing files there"
    )
    write_mnist(tmp_path)  # a whole set elsewhere will do
    assert open_data("mnist", tmp_path).samples == 12
