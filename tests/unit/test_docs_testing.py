"""The page of testing names what is public, and nothing else."""

import re
from pathlib import Path

from simcore import invariants, testing

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "testing.md").read_text()


def rows(heading: str) -> list[str]:
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `(\w+)", section, re.M)


def test_the_page_has_every_strategy() -> None:
    assert sorted(rows("Strategies")) == sorted(testing.__all__)


def test_the_page_has_every_invariant_in_its_order() -> None:
    assert rows("Invariants") == [each.__name__ for each in invariants.INVARIANTS]
    for name in invariants.__all__:
        assert f"`{name}" in PAGE
