"""The page of operations says what the table of rules says."""

from pathlib import Path

from simcore.rules import RULES

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "operations.md"


def items(pairs: tuple[tuple[str, int | str], ...]) -> str:
    names = [
        f"{kind} of the last block" if at == "last" else f"{kind} of block k{at or ''}"
        for kind, at in pairs
    ]
    return ", ".join(names) or "-"


def test_the_page_is_the_table() -> None:
    rows = [
        f"| `{operation.__name__}` | {items(rule.consumes)} | {items(rule.needs)} | "
        f"{items(rule.makes)} | "
        f"{'the same' if rule.makes_last is None else items(rule.makes_last)} | {rule.meaning} |"
        for operation, rule in RULES.items()
    ]
    written = PAGE.read_text().split("<!-- rules -->\n")[1].splitlines()[2:]
    assert written == rows
