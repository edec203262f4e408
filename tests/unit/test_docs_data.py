"""The page of data says what the registry of data sets says."""

from pathlib import Path

import pytest

from executor.data import DATA_SETS
from executor.data.registry import SCALES
from executor.data.reviews import LENGTH, WORDS

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "data.md").read_text()


def rows(table: str) -> list[str]:
    return PAGE.split(f"<!-- {table} -->\n")[1].split("\n\n")[0].splitlines()[2:]


def test_the_page_has_every_data_set() -> None:
    assert rows("names") == [
        f"| `{name}` | {entry.title} | {', '.join(f'`{each}`' for each in entry.inside) or '-'} "
        f"| {entry.augments or '-'} |"
        for name, entry in DATA_SETS.items()
    ]


def test_the_page_has_every_scale() -> None:
    assert rows("scales") == [
        f"| `{name}` | {', '.join(f'{each:.4f}' for each in scale.mean)} "
        f"| {', '.join(f'{each:.4f}' for each in scale.deviation)} |"
        for name, scale in SCALES.items()
    ]


@pytest.mark.parametrize("name", [name for name, entry in DATA_SETS.items() if entry.read])
def test_the_page_says_which_files_there_must_be(name: str) -> None:
    section = PAGE.split("\n## Files\n")[1].split("\n## ")[0]
    assert sum(
        f"`{name}`" in line.split("|")[1] for line in section.splitlines()[2:] if line[:1] == "|"
    )


def test_the_page_says_how_words_are_numbered() -> None:
    assert f"Its last {LENGTH} words" in PAGE
    assert f"the\n{WORDS - 2:,} most frequent" in PAGE
