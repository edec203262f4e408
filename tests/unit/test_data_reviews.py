"""IMDb: words become numbers by their frequency in training."""

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from executor.data import open_data
from executor.data.reviews import LENGTH, PADDING, UNKNOWN, read_imdb, words_of
from simcore.errors import InputError
from tests.unit.data_files import REVIEWS, write_imdb

# Of the training reviews: bad 3, film 3, good 3, then the others with 1 each (best .. the), by
# alphabet where equally frequent; from 2 on.
NUMBERS = {"bad": 2, "film": 3, "good": 4, "a": 5, "best": 6, "isn't": 7, "it": 8}
NUMBERS |= {"plot": 9, "the": 10}


def numbers_of(text: str) -> list[int]:
    return [NUMBERS.get(word, UNKNOWN) for word in words_of(text)]


def test_words_are_numbered_by_frequency(tmp_path: Path) -> None:
    write_imdb(tmp_path / "aclImdb")
    data = open_data("imdb", tmp_path)
    assert (data.samples, data.sample_shape, data.classes) == (4, (LENGTH,), 2)
    assert (data.vocabulary, data.inputs.dtype) == (11, torch.int64)
    for inputs, part in ((data.inputs, "train"), (data.test_inputs, "test")):
        texts = [text for kind in ("neg", "pos") for _, text in sorted(REVIEWS[part, kind].items())]
        assert inputs.tolist() == [
            [PADDING] * (LENGTH - len(numbers_of(text))) + numbers_of(text) for text in texts
        ]
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert data.test_labels.tolist() == [0, 1, 1]


def test_numbers_of_the_test_that_training_does_not_know(tmp_path: Path) -> None:
    write_imdb(tmp_path)
    found = read_imdb(tmp_path, (), words=20, length=4)
    assert found.test_inputs[0].tolist() == [0, 1, 1, 3]  # an awful film
    assert found.test_inputs[2].tolist() == [0, 0, 0, 0]  # no word at all


def test_of_a_long_review_the_end_is_kept(tmp_path: Path) -> None:
    write_imdb(tmp_path)
    found = read_imdb(tmp_path, (), length=2)
    assert found.inputs.shape == (4, 2)
    assert found.inputs[0].tolist() == numbers_of("isn't good")


def test_a_small_vocabulary_keeps_the_most_frequent_words(tmp_path: Path) -> None:
    write_imdb(tmp_path)
    found = read_imdb(tmp_path, (), words=4, length=6)
    assert found.vocabulary == 4
    assert found.inputs[0].tolist() == [2, 2, 3, 1, 1, 1]  # bad bad film it isn't good
    assert int(found.inputs.max()) == 3


some_texts = st.lists(st.text(st.sampled_from("ab c'."), max_size=12), min_size=1, max_size=6)


@given(some_texts.filter(lambda texts: any(words_of(text) for text in texts)))
def test_numbers_give_the_words_back(texts: list[str]) -> None:
    """Frequencies fall with the numbers, and every word that is kept can be read back."""
    with TemporaryDirectory() as name:
        for part in ("train", "test"):
            for kind in ("neg", "pos"):
                place = Path(name, part, kind)
                place.mkdir(parents=True)
                for number, text in enumerate(texts):
                    (place / f"{number}.txt").write_text(text)
        found = read_imdb(Path(name), (), length=12)
    counts = Counter(word for text in texts for word in words_of(text))
    by_frequency = [PADDING, UNKNOWN, *sorted(counts, key=lambda word: (-counts[word], word))]
    assert found.vocabulary == len(by_frequency)
    for row, text in zip(found.inputs[: len(texts)].tolist(), texts, strict=True):
        assert [by_frequency[number] for number in row if number] == words_of(text)[-12:]


def test_reviews_that_cannot_be_read(tmp_path: Path) -> None:
    write_imdb(tmp_path)
    path = tmp_path / "train" / "pos" / "0_9.txt"
    path.write_bytes(b"caf\xe9")
    with pytest.raises(InputError) as caught:
        open_data("imdb", tmp_path)
    assert str(caught.value).startswith(f"file is '{path}': must be a text in UTF-8 (Unicode")


def test_reviews_without_a_word(tmp_path: Path) -> None:
    write_imdb(tmp_path)
    for path in (tmp_path / "train").rglob("*.txt"):
        path.write_text("...")
    with pytest.raises(InputError, match=r"must hold words, in train/neg or train/pos"):
        open_data("imdb", tmp_path)


def test_a_folder_of_one_kind_alone(tmp_path: Path) -> None:
    write_imdb(tmp_path)
    for path in (tmp_path / "test" / "pos").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"data dir is .*test/pos/\*\.txt of IMDb"):
        open_data("imdb", tmp_path)
