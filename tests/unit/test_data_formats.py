"""MNIST, FashionMNIST, CIFAR and SVHN from files in their published formats."""

import gzip
import os
import pickle
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat

from executor.data import DataSet, open_data
from executor.data.registry import SCALES
from simcore.errors import InputError
from tests.unit.data_files import (
    CIFAR10,
    IDX,
    drawn,
    idx,
    python_2_pickle,
    write_cifar10,
    write_cifar100,
    write_mnist,
    write_svhn,
)


def scaled(name: str, images: np.ndarray) -> torch.Tensor:
    """Pixels from 0 to 1, less the mean, over the deviation, in twice the precision."""
    scale = SCALES[name]
    mean, deviation = (np.reshape(each, (-1, 1, 1)) for each in (scale.mean, scale.deviation))
    return torch.from_numpy((images / 255 - mean) / deviation)


def same(found: Any, expected: torch.Tensor) -> None:
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, atol=1e-6)


def refused(name: str, folder: Path, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        open_data(name, folder)
    line = str(caught.value)
    assert "\n" not in line
    assert line.endswith("; get the file again")
    assert not [word for word in words if word not in line], line


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_files(name: str, packed: bool, tmp_path: Path) -> None:
    arrays = write_mnist(tmp_path, packed=packed)
    data = open_data(name, tmp_path)
    assert (data.name, data.samples, data.sample_shape, data.classes) == (name, 12, (1, 28, 28), 10)
    same(data.inputs[:], scaled(name, arrays[IDX[0]][:, None]))
    same(data.test_inputs[1:3], scaled(name, arrays[IDX[2]][1:3, None]))
    assert data.labels.tolist() == arrays[IDX[1]].tolist()
    assert data.test_labels.tolist() == arrays[IDX[3]].tolist()
    assert data.labels.dtype == torch.int64


def test_names_with_a_dot(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    for name in IDX:
        (tmp_path / name).rename(tmp_path / name.replace("-idx", ".idx"))
    assert open_data("mnist", tmp_path).samples == 12


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ("magic number of", "is '0x'", "must be 0x00000803")),
        (idx(np.zeros(3, np.uint8)), ("is '0x00000801'", "must be 0x00000803")),
        (b"<html>not found</html>", ("is '0x3c68746d'",)),
        (idx(drawn((2, 28, 28)))[:9], ("size of", "is 9: must be at least the 16 bytes")),
        (idx(drawn((2, 28, 28)))[:-1], ("is 1583: must be 1584 bytes, for 2 x 28 x 28",)),
        (idx(drawn((2, 28, 28))) + b"x", ("is 'more than 1584': must be 1584 bytes",)),
        (idx(drawn((0, 28, 28))), ("number of samples", "is 0: must be at least 1")),
        (idx(drawn((7, 28, 28))), ("number of labels", "is 12: must equal the 7 images")),
        (idx(drawn((12, 28, 27))), ("(28, 28)", "must be those of training, (28, 27)")),
    ],
)
def test_damaged_images(content: bytes, words: tuple[str, ...], tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / IDX[0]).write_bytes(content)
    refused("mnist", tmp_path, *words)


def test_a_size_that_nobody_has_memory_for(tmp_path: Path) -> None:
    """The file's own size counts, not what its header promises."""
    write_mnist(tmp_path)
    header = struct.pack(">4B3I", 0, 0, 8, 3, *[2**32 - 1] * 3)
    (tmp_path / IDX[0]).write_bytes(header)
    refused("mnist", tmp_path, "is 16: must be 79228162458924105385300197391 bytes")


def test_damaged_labels_and_packing(tmp_path: Path) -> None:
    arrays = write_mnist(tmp_path, packed=True)
    path = tmp_path / f"{IDX[3]}.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    refused("mnist", tmp_path, f"file is '{path}': must be an IDX file (EOFError")
    path.write_bytes(idx(arrays[IDX[3]]))
    refused("mnist", tmp_path, "must be an IDX file (BadGzipFile")
    path.write_bytes(whole[:-8] + bytes(8))
    refused("mnist", tmp_path, "must be an IDX file (BadGzipFile: CRC check failed")
    path.write_bytes(gzip.compress(idx(np.full(4, 10, np.uint8))))
    refused("mnist", tmp_path, f"a label in {path} is 10: must be from 0 to 9")


@pytest.mark.parametrize("pickled", [False, True])
def test_cifar10(pickled: bool, tmp_path: Path) -> None:
    images = write_cifar10(tmp_path, pickled=pickled)
    data = open_data("cifar10", tmp_path)
    assert (data.samples, data.sample_shape, data.classes) == (20, (3, 32, 32), 10)
    same(data.inputs[:], scaled("cifar10", images[:20]))
    same(data.test_inputs[:], scaled("cifar10", images[20:]))
    assert data.labels.tolist() == [0, 1, 2, 3] * 5
    assert data.test_labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("pickled", [False, True])
def test_cifar100_has_the_fine_labels(pickled: bool, tmp_path: Path) -> None:
    images = write_cifar100(tmp_path, pickled=pickled)
    data = open_data("cifar100", tmp_path)
    same(data.inputs[:], scaled("cifar100", images["train"]))
    same(data.test_inputs[:], scaled("cifar100", images["test"]))
    assert data.labels.tolist() == [99, 98, 97, 96, 95, 94]
    assert (data.test_labels.tolist(), data.classes) == ([99, 98], 100)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_that_python_3_makes(protocol: int, tmp_path: Path) -> None:
    images = write_cifar10(tmp_path, pickled=True)
    for name, part in zip(CIFAR10, images.reshape(6, 4, -1), strict=True):
        made = {b"data": part, b"labels": [3, 2, 1, 0]}
        (tmp_path / name).write_bytes(pickle.dumps(made, protocol))
    data = open_data("cifar10", tmp_path)
    assert data.labels.tolist() == [3, 2, 1, 0] * 5
    same(data.test_inputs[:], scaled("cifar10", images[20:]))


class Dangerous:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("harmed",)


def evaluating(text: str) -> bytes:
    return b"cbuiltins\neval\n(V" + text.encode() + b"\ntR."


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps({b"data": Dangerous(), b"labels": [0]}), ("posix.mkdir is not allowed",)),
        (evaluating("__import__('os').mkdir('harmed')"), ("builtins.eval is not allowed",)),
        (b"c_codecs\nencode\n(VeA==\nVbase64\ntR.", ("_codecs.encode to base64 is not allowed",)),
        (pickle.dumps({b"data": np.zeros(1, object)}, 2), ("with a key 'labels'",)),
        (b"", ("EOFError",)),
        (b"\x80\x02}q", ("must be a pickled file of CIFAR-10",)),
        (pickle.dumps([1, 2]), ("a dictionary, not list",)),
        (pickle.dumps({b"labels": [1]}), ("with a key 'data'",)),
        (pickle.dumps({b"data": [1], b"labels": [1]}), ("rows of 3072 bytes",)),
        (python_2_pickle(drawn((2, 3, 32, 31)), "labels", [0, 1]), ("rows of 3072 bytes",)),
        (python_2_pickle(drawn((2, 3, 32, 32)), "labels", [0]), ("is 1: must equal the 2 images",)),
        (python_2_pickle(drawn((0, 3, 32, 32)), "labels", []), ("is 0: must be at least 1",)),
        (python_2_pickle(drawn((1, 3, 32, 32)), "labels", [-1]), ("is -1: must be from 0 to 9",)),
        (python_2_pickle(drawn((2, 3, 32, 32)), "labels", [0, 1])[:-40], ("pickled file",)),
        (pickle.dumps({b"data": drawn((1, 3072)), b"labels": ["x"]}), ("ValueError",)),
    ],
)
def test_pickles_that_are_damaged_or_run_code(
    content: bytes, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_cifar10(tmp_path, pickled=True)
    (tmp_path / CIFAR10[2]).write_bytes(content)
    refused("cifar10", tmp_path, CIFAR10[2], *words)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("size", [0, 1, 3072, 3074])
def test_records_that_are_cut_off(size: int, tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    (tmp_path / "test_batch.bin").write_bytes(bytes(size))
    refused("cifar10", tmp_path, f"test_batch.bin is {size}: must be a multiple of the 3073 bytes")


def test_labels_of_another_data_set(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    (tmp_path / "data_batch_2.bin").write_bytes(bytes([10]) + bytes(3072))
    refused("cifar10", tmp_path, "data_batch_2.bin is 10: must be from 0 to 9")


def test_svhn_has_label_0_for_10(tmp_path: Path) -> None:
    images = write_svhn(tmp_path)
    data = open_data("svhn", tmp_path)
    assert (data.samples, data.sample_shape, data.classes) == (11, (3, 32, 32), 10)
    assert data.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert data.test_labels.tolist() == [1, 2, 3]
    for number in range(11):  # (height, width, channels) of the file's last index
        one = images["train"][:, :, :, number].transpose(2, 0, 1)
        same(data.inputs[number : number + 1], scaled("svhn", one[None]))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"X": drawn((32, 32, 3, 2))}, ("MATLAB file of version 5, with X and y (KeyError: 'y')",)),
        ({"X": drawn((32, 32, 3, 2)).astype(float), "y": [[1], [2]]}, ("float64", "bytes (32,")),
        ({"X": drawn((32, 31, 3, 2)), "y": [[1], [2]]}, ("uint8 (32, 31, 3, 2)",)),
        ({"X": drawn((32, 32, 3, 2)), "y": [[1]]}, ("is 1: must equal the 2 images",)),
        ({"X": drawn((32, 32, 3, 2)), "y": [[1], [11]]}, ("is 11: must be from 0 to 9",)),
    ],
)
def test_matlab_files_of_something_else(
    content: dict[str, Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    write_svhn(tmp_path)
    savemat(tmp_path / "train_32x32.mat", content)
    refused("svhn", tmp_path, *words)


@pytest.mark.parametrize("length", [0, 50, 128, 400, -1])
def test_matlab_files_that_are_cut_off(length: int, tmp_path: Path) -> None:
    write_svhn(tmp_path)
    path = tmp_path / "test_32x32.mat"
    path.write_bytes(path.read_bytes()[:length])
    refused("svhn", tmp_path, f"file is '{path}': must be a MATLAB file of version 5")


def test_another_process_reads_the_files_anew_when_it_needs_them(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    data = open_data("cifar10", tmp_path, augment=True)
    pickled = pickle.dumps(data)
    assert len(pickled) < 1500
    first, second = pickle.loads(pickled), pickle.loads(pickled)
    for number in (0, 3, 7):
        for one, other in zip(data.batch(number, 6, 1), first.batch(number, 6, 1), strict=True):
            assert torch.equal(one, other)
    (tmp_path / "test_batch.bin").unlink()
    assert second.size_of(3, 6) == 2
    assert [tuple(each.shape) for each in second.template(3, 6)] == [(2, 3, 32, 32), (2,)]
    with pytest.raises(InputError, match=re.escape("must hold test_batch too")):
        second.batch(0, 6, 1)


def test_what_is_kept_of_an_image_is_bytes(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    data: DataSet = open_data("cifar10", tmp_path)
    assert data.inputs.images.dtype == torch.uint8  # type: ignore[union-attr]
    assert (data.inputs.dim(), len(data.inputs), data.inputs.dtype) == (4, 20, torch.float32)
