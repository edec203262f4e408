"""Writes small data sets in their published formats."""

import gzip
import struct
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

IDX = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CIFAR10 = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")


def drawn(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def write_mnist(
    folder: Path, samples: int = 12, tests: int = 4, packed: bool = False, size: int = 28
) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for name, count in zip(IDX, (samples, samples, tests, tests), strict=True):
        images = drawn((count, size, size), len(name) + count)
        arrays[name] = images if "images" in name else np.arange(count, dtype=np.uint8) % 10
        data = idx(arrays[name])
        path = folder / (name + ".gz" * packed)
        path.write_bytes(gzip.compress(data) if packed else data)
    return arrays


def binary_cifar(images: np.ndarray, *labels: np.ndarray) -> bytes:
    """Records of CIFAR: labels (coarse ones first), then the pixels."""
    return np.column_stack([*labels, images.reshape(len(images), -1)]).astype(np.uint8).tobytes()


def python_2_pickle(images: np.ndarray, key: str, labels: list[int]) -> bytes:
    """The published pickles, opcode by opcode: protocol 2, and strings as Python 2 has them."""

    def text(string: str) -> bytes:
        return b"U" + bytes([len(string)]) + string.encode()

    def whole(number: int) -> bytes:
        return b"J" + struct.pack("<i", number)

    rows = images.reshape(len(images), images[0].size if len(images) else 3072)
    made = b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + whole(0) + b"\x85"
    made += text("b") + b"\x87R"
    kind = b"cnumpy\ndtype\n" + text("u1") + whole(0) + whole(1) + b"\x87R"
    kind += b"(" + whole(3) + text("|") + b"NNN" + whole(-1) + whole(-1) + whole(0) + b"tb"
    shape = whole(rows.shape[0]) + whole(rows.shape[1]) + b"\x86"
    data = b"T" + struct.pack("<I", rows.size) + rows.tobytes()
    state = b"(" + whole(1) + shape + kind + b"\x89" + data + b"tb"
    items = text("batch_label") + text("one of several")
    items += text(key) + b"](" + b"".join(map(whole, labels)) + b"e"
    items += text("data") + made + state
    return b"\x80\x02}(" + items + b"u."


def write_cifar10(folder: Path, each: int = 4, pickled: bool = False) -> np.ndarray:
    """Every file has samples of labels 0, 1, ...; returns all images, those of the test last."""
    folder.mkdir(parents=True, exist_ok=True)
    everything = drawn((6 * each, 3, 32, 32))
    labels = np.arange(each) % 10
    for name, images in zip(CIFAR10, everything.reshape(6, each, 3, 32, 32), strict=True):
        if pickled:
            (folder / name).write_bytes(python_2_pickle(images, "labels", labels.tolist()))
        else:
            (folder / f"{name}.bin").write_bytes(binary_cifar(images, labels))
    return everything


def write_cifar100(folder: Path, pickled: bool = False) -> dict[str, np.ndarray]:
    """Labels count down from 99; the coarse ones, which nobody is to read, are all 3."""
    folder.mkdir(parents=True, exist_ok=True)
    images = {"train": drawn((6, 3, 32, 32)), "test": drawn((2, 3, 32, 32), 1)}
    for name, each in images.items():
        fine, coarse = 99 - np.arange(len(each)), np.full(len(each), 3)
        if pickled:
            data = python_2_pickle(each, "fine_labels", fine.tolist())
            (folder / name).write_bytes(data)
        else:
            (folder / f"{name}.bin").write_bytes(binary_cifar(each, coarse, fine))
    return images


def write_svhn(folder: Path) -> dict[str, np.ndarray]:
    """Labels 1 to 10 in turn, as published: (samples, 1), and 10 for the digit 0."""
    folder.mkdir(parents=True, exist_ok=True)
    images = {"train": drawn((32, 32, 3, 11)), "test": drawn((32, 32, 3, 3), 1)}
    for name, each in images.items():
        labels = np.arange(each.shape[3], dtype=np.uint8)[:, None] % 10 + 1
        savemat(folder / f"{name}_32x32.mat", {"X": each, "y": labels}, do_compression=True)
    return images


REVIEWS = {
    ("train", "neg"): {"0_2": "Bad, bad film.<br /><br />It isn't good", "10_1": "bad plot"},
    ("train", "pos"): {"0_9": "A good film", "1_8": "The best film: good!"},
    ("test", "neg"): {"0_3": "An awful film"},
    ("test", "pos"): {"0_10": "good GOOD film", "1_7": "..."},
}


def write_imdb(folder: Path) -> None:
    for (part, kind), reviews in REVIEWS.items():
        place = folder / part / kind
        place.mkdir(parents=True)
        for name, text in reviews.items():
            (place / f"{name}.txt").write_text(text, "utf-8")
    (folder / "train" / "unsup").mkdir()
    (folder / "train" / "unsup" / "0_0.txt").write_text("unlabelled words count for nothing")


def write_images(folder: Path) -> None:
    """Two classes, three training images each, of several formats and shapes; two of test."""
    names = ("a.png", "b.JPEG", "nested/c.jpg")
    for number, kind in enumerate(("cat", "dog")):
        for seed, name in enumerate(names):
            path = folder / "train" / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = drawn((40 + 8 * seed, 64, 3), 10 * number + seed)
            Image.fromarray(pixels).save(path)
        (folder / "train" / kind / "notes.txt").write_text("no image")
        path = folder / "val" / kind / "only.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(drawn((50, 40), 90 + number)).save(path)
