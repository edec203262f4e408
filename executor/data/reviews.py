"""IMDb: the folder aclImdb of https://ai.stanford.edu/~amaas/data/sentiment, a file per review."""

import os
import re
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch

from executor.data.dataset import Contents
from executor.data.files import bad_file, missing, places, reading

__all__ = ["LENGTH", "PADDING", "UNKNOWN", "WORDS", "read_imdb", "words_of"]

WORDS: Final = 20_000
LENGTH: Final = 256
PADDING: Final = 0
UNKNOWN: Final = 1
_FIRST_WORD: Final = 2
_KINDS: Final = ("neg", "pos")  # labels 0 and 1
_WORD: Final = re.compile(r"\w+(?:'\w+)*")


def words_of(text: str) -> list[str]:
    """The words of a review, in lower case; its line breaks are HTML.

    >>> words_of("It isn't <br />GOOD, it's 10/10!")
    ['it', "isn't", 'good', "it's", '10', '10']
    """
    return _WORD.findall(text.lower().replace("<br />", " "))


def read_imdb(
    folder: Path, inside: Sequence[str], words: int = WORDS, length: int = LENGTH
) -> Contents:
    """Read reviews as numbers of words, (samples, length) of int64, and labels 0 (bad), 1 (good).

    0 fills a short review up at its beginning, so that its last word stands last; of a long one the
    end is kept. 1 is a word that is not among the most frequent ones of training; those follow by
    falling frequency, equally frequent ones by alphabet. With 0 and 1 there are at most `words`
    numbers. Raises `InputError` for files that are missing or cannot be read.
    """
    names = [f"{part}/{kind}/*.txt" for part in ("train", "test") for kind in _KINDS]
    for place in places(folder, inside):
        files = {
            (part, kind): _texts(place / part / kind)
            for part in ("train", "test")
            for kind in _KINDS
        }
        if all(files.values()):
            break
    else:
        raise missing(folder, "IMDb", names, inside)
    numbers: dict[str, int] = {}
    read = {
        part: [_numbered(path, numbers, part == "train") for k in _KINDS for path in files[part, k]]
        for part in ("train", "test")
    }
    if not numbers:
        rule = "must hold words, in train/neg or train/pos"
        raise bad_file("folder of data", place, rule)
    rank = _ranks(numbers, read["train"], words)
    inputs = {part: _rows(reviews, rank, length) for part, reviews in read.items()}
    labels = {
        part: torch.tensor([label for label, k in enumerate(_KINDS) for _ in files[part, k]])
        for part in ("train", "test")
    }
    vocabulary = min(words, len(numbers) + _FIRST_WORD)
    return Contents(
        inputs["train"], labels["train"], inputs["test"], labels["test"], len(_KINDS), vocabulary
    )


def _texts(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    with reading(folder, "a folder of reviews"):
        return [folder / name for name in sorted(os.listdir(folder)) if name.endswith(".txt")]


def _numbered(path: Path, numbers: dict[str, int], learn: bool) -> "array[int]":
    """Numbers of a review's words; new words get the next number, or -1 where nothing is learned.

    Only the numbers are kept of a review, as its words would take ten times the memory.
    """
    with reading(path, "a text in UTF-8", UnicodeDecodeError):
        words = words_of(path.read_text("utf-8"))
    if learn:
        return array("i", [numbers.setdefault(word, len(numbers)) for word in words])
    return array("i", [numbers.get(word, -1) for word in words])


def _ranks(numbers: dict[str, int], reviews: "Sequence[array[int]]", words: int) -> np.ndarray:
    """What each number becomes, by frequency; the last entry is for -1."""
    everything = np.concatenate([np.frombuffer(review, np.intc) for review in reviews if review])
    counts = np.bincount(everything, minlength=len(numbers))
    by_frequency = sorted(numbers, key=lambda word: (-counts[numbers[word]], word))
    rank = np.full(len(numbers) + 1, UNKNOWN, np.int64)
    kept = [numbers[word] for word in by_frequency[: max(0, words - _FIRST_WORD)]]
    rank[kept] = np.arange(_FIRST_WORD, _FIRST_WORD + len(kept))
    return rank


def _rows(reviews: "Sequence[array[int]]", rank: np.ndarray, length: int) -> torch.Tensor:
    rows = np.full((len(reviews), length), PADDING, np.int64)  # (samples, words)
    for row, review in zip(rows, reviews, strict=True):
        last = np.frombuffer(review[-length:], np.intc) if review else np.empty(0, np.intc)
        if len(last):
            row[-len(last) :] = rank[last]
    return torch.from_numpy(rows)
