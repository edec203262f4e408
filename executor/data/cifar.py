"""CIFAR-10 and CIFAR-100: the binary and the Python version of https://www.cs.toronto.edu/~kriz."""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import torch

from executor.data.dataset import Contents
from executor.data.files import (
    bad_file,
    check_samples,
    labels_below,
    missing,
    places,
    reading,
    whole_set,
)
from executor.data.pixels import Pixels, Scale, Variation

__all__ = ["CIFAR10", "CIFAR100", "Cifar", "read_binary", "read_cifar", "read_pickled"]

_SHAPE: Final = (3, 32, 32)
_PIXELS: Final = 3 * 32 * 32


@dataclass(frozen=True, slots=True)
class Cifar:
    """What differs between the two: files, the labels that precede an image, what they are called.

    `labels` are the bytes before the pixels of a record, of which the last is the label.
    """

    title: str
    classes: int
    train: tuple[str, ...]
    test: str
    labels: int
    key: bytes


CIFAR10: Final = Cifar(
    "CIFAR-10",
    classes=10,
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test="test_batch",
    labels=1,
    key=b"labels",
)
CIFAR100: Final = Cifar(
    "CIFAR-100",
    classes=100,
    train=("train",),
    test="test",
    labels=2,  # the first is that of one of 20 superclasses
    key=b"fine_labels",
)

Samples = tuple[np.ndarray, np.ndarray]


def read_cifar(
    folder: Path, kind: Cifar, inside: Sequence[str], scale: Scale, variation: Variation | None
) -> Contents:
    """Read the binary version, or else the Python version, of a folder or of one inside it.

    Inputs are (samples, 3, 32, 32). Raises `InputError` for files that are missing or damaged.
    """
    names = [*kind.train, kind.test]
    ways: list[tuple[str, Callable[[Path, Cifar], Samples]]] = [
        (".bin", read_binary),
        ("", read_pickled),
    ]
    for ending, read in ways:
        found = whole_set(places(folder, inside), names, [ending])
        if found:
            *training, testing = [read(path, kind) for path in found]
            images = np.concatenate([images for images, _ in training])
            labels = [
                labels_below(kind.classes, labels, path)
                for path, (_, labels) in zip(found, [*training, testing], strict=True)
            ]
            return Contents(
                Pixels(images, scale, variation),
                torch.cat(labels[:-1]),
                Pixels(testing[0], scale, None),
                labels[-1],
                kind.classes,
            )
    raise missing(folder, kind.title, [f"{name}[.bin]" for name in names], inside)


def read_binary(path: Path, kind: Cifar) -> Samples:
    """Images (samples, 3, 32, 32) and labels of a file of records: labels, then red, green, blue.

    Raises `InputError` if the size is no multiple of that of a record.
    """
    record = kind.labels + _PIXELS
    with reading(path, f"a binary file of {kind.title}"):
        data = np.fromfile(path, np.uint8)
    if len(data) == 0 or len(data) % record:
        rule = f"must be a multiple of the {record} bytes of a record"
        raise bad_file(f"size of {path}", len(data), rule)
    records = data.reshape(-1, record)
    images = records[:, kind.labels :].reshape(-1, *_SHAPE)
    return np.ascontiguousarray(images), records[:, kind.labels - 1]


def read_pickled(path: Path, kind: Cifar) -> Samples:
    """Images (samples, 3, 32, 32) and labels of a pickled dictionary of the Python version.

    Nothing but numpy arrays and Python's own plain types is unpickled. Raises `InputError` for
    anything else, or if what is in it does not fit together.
    """
    what = f"a pickled file of {kind.title}"
    with reading(path, what, Exception), path.open("rb") as file:
        found = _Unpickler(file).load()
    if not isinstance(found, dict):
        raise bad_file("file", path, f"must be {what}: a dictionary, not {type(found).__name__}")
    named = {key if isinstance(key, bytes) else str(key).encode(): found[key] for key in found}
    for key in (b"data", kind.key):
        if key not in named:
            raise bad_file("file", path, f"must be {what}, with a key '{key.decode()}'")
    data = named[b"data"]
    with reading(path, what, TypeError, ValueError, OverflowError):
        labels = np.array(named[kind.key], np.int64)
    is_rows = isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim == 2
    if not is_rows or data.shape[1] != _PIXELS or labels.ndim != 1:
        rule = f"must hold rows of {_PIXELS} bytes under 'data', and a label for each"
        raise bad_file("file", path, rule)
    check_samples(path, len(data), len(labels))
    return np.ascontiguousarray(data.reshape(-1, *_SHAPE)), labels


def _text_as_bytes(text: str, encoding: str) -> bytes:
    """What Python 3 pickles bytes by for Python 2; nothing but this encoding is wanted."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"_codecs.encode to {encoding} is not allowed")
    return text.encode("latin1")


# How numpy's own pickles make arrays: by this function, of whichever name, then by their state.
_RECONSTRUCT: Final = np.empty(0).__reduce__()[0]
_FROM_BUFFER: Final = np.empty(0).__reduce_ex__(5)[0]
_ALLOWED: Final[dict[tuple[str, str], Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _text_as_bytes,
}


class _Unpickler(pickle.Unpickler):
    """Finds nothing but what arrays are made of, so that a file cannot run code of its own."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="bytes")  # the published files are of Python 2

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle names. Raises `UnpicklingError` for all but a few."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            reason = f"{module}.{name} is not allowed in a file of data"
            raise pickle.UnpicklingError(reason) from None
