"""The page of operations says what the table of rules says."""

from pathlib import Path

from simcore.rules import RULES

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "operations.md"


def items(pairs: tuple[tuple[str, int], ...]) -> str:
    names = [f"{kind} of block k{offset or ''}" for kind, offset in pairs]
    return ", ".join(names) or "-"


def test_the_page_is_the_table() -> None:
    rows = [
        f"| `{operation.__name__}` | {items(rule.consumes)} | {items(rule.makes)} | "
        f"{items(rule.makes_last) if rule.makes_last else 'the same'} | {rule.meaning} |"
        for operation, rule in RULES.items()
    ]
    written = PAGE.read_text().split("<!-- rules -->\n")[1].splitlines()[2:]
    assert written == rows
