"""What a benchmark answers: its rows, targets and machine, as JSON, as a table, and on a page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from executor.machine import describe_machine
from simcore.errors import InputError
from tests.benchmarks.harness import Rounds

__all__ = ["PAGE", "SCHEMA", "Phases", "Result", "Target", "markdown", "written"]

SCHEMA: Final = "gradlag.benchmark/1"
PAGE: Final = Path(__file__).parents[2] / "docs" / "explanation" / "benchmarks.md"
Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class Target:
    """What was asked for and what was measured; `at_least` or at most, dimensionless."""

    claim: str
    wanted: float
    measured: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        if self.at_least:
            return self.measured >= self.wanted
        return self.measured <= self.wanted

    def __str__(self) -> str:
        bound = "at least" if self.at_least else "at most"
        verdict = "met" if self.met else f"missed by {abs(self.measured - self.wanted):.2g}"
        return f"{self.claim}: {self.measured:.3g}, wanted {bound} {self.wanted:g}: {verdict}"


@dataclass(frozen=True, slots=True)
class Phases:
    """How many phases were measured, dropped and repeated, and kept although disturbed."""

    kept: int = 0
    dropped: int = 0
    disturbed: int = 0

    def __add__(self, other: "Phases") -> "Phases":
        return Phases(
            self.kept + other.kept,
            self.dropped + other.dropped,
            self.disturbed + other.disturbed,
        )

    @classmethod
    def of(cls, rounds: Rounds) -> "Phases":
        """Those of paired rounds."""
        kept = sum(map(len, rounds.phases.values()))
        return cls(kept, rounds.dropped, rounds.disturbed)

    def __str__(self) -> str:
        told = f"{self.kept} phases, {self.dropped} more dropped as others disturbed them"
        return told + (f", {self.disturbed} kept although disturbed" if self.disturbed else "")


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to one question. All rows have the same keys, which head the columns."""

    name: str
    question: str
    rows: Sequence[Mapping[str, Cell]]
    phases: Phases
    targets: Sequence[Target] = ()
    notes: Sequence[str] = ()
    machine: Mapping[str, str | int] = field(default_factory=describe_machine)
    command: str = ""

    def document(self) -> dict[str, Any]:
        """As JSON."""
        targets = [{**asdict(target), "met": target.met} for target in self.targets]
        return {"schema": SCHEMA, **asdict(self), "targets": targets}

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> "Result":
        """What `document` made. Raises `InputError` for anything else."""
        if document.get("schema") != SCHEMA:
            rule = f"must be {SCHEMA}"
            raise InputError("schema", document.get("schema"), rule, "write it with --json")
        found = {key: value for key, value in document.items() if key != "schema"}
        targets = [
            Target(**{key: value for key, value in each.items() if key != "met"})
            for each in found.pop("targets")
        ]
        return cls(**{**found, "phases": Phases(**found["phases"]), "targets": targets})


def markdown(result: Result) -> str:
    """Question, command, machine and result, for a page and for a terminal."""
    machine = result.machine
    lines = [
        f"**Question.** {result.question}",
        "",
        f"**Command.** `{result.command}`",
        "",
        f"**Machine.** {machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, "
        f"torch {machine['torch']}, {str(machine['date'])[:10]}; {result.phases}.",
        "",
        *_table(result.rows),
    ]
    if result.targets:
        lines += ["", *(f"* {target}" for target in result.targets)]
    for note in result.notes:
        lines += ["", note]
    return "\n".join(lines)


def _table(rows: Sequence[Mapping[str, Cell]]) -> list[str]:
    heads = list(rows[0])
    cells = [heads, *([_shown(row[head]) for head in heads] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [all(isinstance(row[head], int | float | None) for row in rows) for head in heads]
    rule = ["-" * (w - 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)]
    lines = [
        [
            text.rjust(w) if r else text.ljust(w)
            for text, w, r in zip(line, widths, right, strict=True)
        ]
        for line in cells
    ]
    return [f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]]]


def _shown(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.3g}" if abs(cell) < 100 else f"{cell:.0f}"
    return str(cell)


def written(result: Result, page: Path = PAGE) -> None:
    """Put a result between its markers on a page.

    Raises `InputError` for a page without the two markers.
    """
    marker = f"<!-- benchmark {result.name} -->"
    before, *rest = page.read_text("utf-8").split(marker)
    if len(rest) != 2:
        rule = f"must have {marker} twice"
        raise InputError("page", str(page), rule, "add the markers")
    page.write_text(f"{before}{marker}\n\n{markdown(result)}\n\n{marker}{rest[1]}", "utf-8")
