"""Finding the files of a data set and reading them whole, with an error line for what is wrong."""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import torch

from simcore.errors import InputError

__all__ = [
    "bad_file",
    "check_samples",
    "labels_below",
    "missing",
    "places",
    "read_at_most",
    "reading",
    "whole_set",
]

_SHOWN_LENGTH: Final = 160  # characters of an exception that an error line repeats
_PART_BYTES: Final = 1 << 20
_GET_AGAIN: Final = "get the file again"


def places(folder: Path, inside: Sequence[str]) -> list[Path]:
    """The folders to look into: those within, which are the data set's own, then `folder` itself.

    >>> [str(place) for place in places(Path("data"), ["mnist", "MNIST/raw"])]
    ['data/mnist', 'data/MNIST/raw', 'data']
    """
    return [*(folder / name for name in inside), folder]


def whole_set(places: Sequence[Path], names: Sequence[str], endings: Sequence[str]) -> list[Path]:
    """The files of these names in the first place that has them all; each may have any ending.

    The list is empty if no place has one of them. Raises `InputError` if some have been found in a
    place and others not.
    """
    partial: tuple[Path, list[str]] | None = None
    for place in places:
        found = [_first_file(place, name, endings) for name in names]
        there = [path for path in found if path is not None]
        if len(there) == len(names):
            return there
        if there and partial is None:
            partial = place, [name for name, path in zip(names, found, strict=True) if not path]
    if partial is None:
        return []
    rule = f"must hold {_listed(partial[1])} too"
    raise InputError("folder of data", partial[0], rule, "put the missing files there")


def _first_file(place: Path, name: str, endings: Sequence[str]) -> Path | None:
    for path in (place / f"{name}{ending}" for ending in endings):
        if path.is_file():
            return path
    return None


def missing(folder: Path, title: str, names: Sequence[str], inside: Sequence[str]) -> InputError:
    """The error of a folder without the files of a data set: which should be where."""
    kind = "" if folder.is_dir() else "be a folder and "
    within = ", ".join(inside)
    rule = f"must {kind}hold {_listed(names)} of {title}, in it or in its {within}"
    return InputError("data dir", folder, rule, "put them there or name another folder")


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def bad_file(what: str, value: object, rule: str) -> InputError:
    """The error of a file that is not what it should be; `what` names the file."""
    return InputError(what, value, rule, _GET_AGAIN)


@contextmanager
def reading(path: Path, kind: str, *also: type[Exception]) -> Iterator[None]:
    """Turn what goes wrong when a file is read into an `InputError`; `kind` is what it should be.

    `also` are exceptions that the file's format raises beside those of reading as such.
    """
    kinds: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error, *also)
    try:
        yield
    except InputError:
        raise
    except kinds as error:
        raise bad_file("file", path, f"must be {kind} ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= _SHOWN_LENGTH else f"{text[: _SHOWN_LENGTH - 3]}..."


def read_at_most(path: Path, size: int) -> bytes:
    """The first `size` bytes of a file, or what there is; unpacked if the name ends in .gz."""
    parts: list[bytes] = []
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        # At once it would take memory for the size asked for, which a damaged header may give.
        while size > 0 and (part := file.read(min(size, _PART_BYTES))):
            parts.append(part)
            size -= len(part)
    return b"".join(parts)


def labels_below(classes: int, labels: np.ndarray, path: Path) -> torch.Tensor:
    """Labels as torch wants them. Raises `InputError` for one that is none of the classes."""
    found = labels.astype(np.int64)
    if len(found) and not 0 <= found.min() <= found.max() < classes:
        worst = int(found.max() if found.max() >= classes else found.min())
        raise bad_file(f"a label in {path}", worst, f"must be from 0 to {classes - 1}")
    return torch.from_numpy(found)


def check_samples(path: Path, images: int, labels: int) -> None:
    """Raise `InputError` for a file without samples, or without a label for each image."""
    if images == 0:
        raise bad_file(f"number of samples in {path}", 0, "must be at least 1")
    if images != labels:
        rule = f"must equal the {images} images"
        raise bad_file(f"number of labels of {path}", labels, rule)
