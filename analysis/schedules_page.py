"""The page of schedules, `docs/reference/schedules.md`, made from their registry.

`python -m analysis.schedules_page` renews it.
"""

import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from analysis.cli.options import FLAGS, with_default
from simcore.options import OPTIONS
from simcore.registry import Entry
from simcore.schedules import SCHEDULES

__all__ = ["PAGE", "schedules_page"]

PAGE: Final = Path(__file__).parents[1] / "docs" / "reference" / "schedules.md"
_HEAD: Final = """\
# Schedules

This page is made from the registry of schedules: `make docs` renews it. `gradlag schedules` prints
the same table, and `--json` all of it.

A schedule breaks the forward locking if the first module may start a mini-batch before the last has
finished the one before; the backward locking if modules may go backward at the same time; the
update locking if a module may be updated while a mini-batch is on its way up. The *gap* of a
gradient is the number of updates between the weights that it was computed with and those that it is
applied to. *Memory* is what a module keeps beside its weights.
*Per update* is the number of mini-batches that an update sees; compare schedules where it is equal.
Letters are those of [the notation page](notation.md).
"""
_COLUMNS: Final = (
    "schedule",
    "breaks",
    "gap",
    "memory",
    "extra parameters",
    "per update",
    "source",
)


def schedules_page() -> str:
    """The whole page."""
    entries = sorted(SCHEDULES.values(), key=lambda entry: entry.name)
    parts = [_HEAD, _table(entries), *map(_section, entries), _options(entries)]
    return "\n".join(parts)


def _table(entries: list[Entry]) -> str:
    lines = [_row(_COLUMNS), _row(["---"] * len(_COLUMNS))]
    for entry in entries:
        facts = entry.lockings_broken, entry.gap, entry.memory, entry.extra_parameters
        lines.append(_row([_link(entry), *facts, entry.per_update, entry.source]))
    return "\n".join(lines) + "\n"


def _link(entry: Entry) -> str:
    return f"[{entry.name}](#{entry.name})"


def _section(entry: Entry) -> str:
    """Name and title, what its docstring says, and its options with their defaults."""
    defaults = [f"`{with_default(entry, name)}`" for name in entry.defaults]
    doc = inspect.getdoc(entry.factory) or ""
    title = f"## {entry.name}\n\n*{entry.title}*\n"
    return f"{title}\n{_as_markdown(doc)}\n\nOptions: {', '.join(defaults)}.\n"


def _as_markdown(doc: str) -> str:
    """A docstring whose examples are shown by what they print.

    >>> print(_as_markdown("Text.\\n\\n>>> print(1)\\n1"))
    Text.
    <BLANKLINE>
    ```text
    1
    ```
    """
    paragraphs = []
    for paragraph in doc.split("\n\n"):
        if paragraph.startswith(">>>"):
            printed = re.sub(r"^(>>>|\.\.\.).*\n?", "", paragraph, flags=re.M).rstrip()
            paragraph = f"```text\n{printed}\n```" if printed else ""
        elif paragraph.startswith("    "):
            paragraph = f"```text\n{inspect.cleandoc(paragraph)}\n```"
        paragraphs.append(paragraph)
    return "\n\n".join(filter(None, paragraphs))


def _options(entries: list[Entry]) -> str:
    lines = ["## Options\n", _row(["option", "meaning", "rule", "schedules"]), _row(["---"] * 4)]
    for name, option in OPTIONS.items():
        having = [_link(entry) for entry in entries if name in entry.defaults]
        where = "all" if len(having) == len(entries) else ", ".join(having)
        lines.append(_row([f"`{FLAGS.get(name, name)}`", option.meaning, option.rule, where]))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    PAGE.write_text(schedules_page())
