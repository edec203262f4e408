"""What a sweep found, to read: how many answers there are, and the best of them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from analysis.cli.views import print_facts, print_table, seconds, size
from analysis.sweeps.view import value_of, varying

if TYPE_CHECKING:
    from rich.console import Console

    from analysis.sweeps.store import Found

__all__ = ["print_sweep"]

_BEST: Final = 10
_MOST_REASONS: Final = 3
_MOST_AXES: Final = 4


def print_sweep(screen: "Console", document: Mapping[str, Any], found: "Sequence[Found]") -> None:
    """The document of `gradlag sweep`, in short."""
    print_facts(screen, "sweep", f"({document['configurations']} configurations)", _facts(document))
    done = [row for row in found if row.answer.values.get("speedup") is not None]
    best = sorted(done, key=lambda row: -(row.answer.values["speedup"] or 0))[:_BEST]
    sized = any(row.answer.values["peak_bytes"] is not None for row in done)
    axes = varying(done)[:_MOST_AXES]
    columns = ("speedup", "makespan", "mean gap", "memory")
    heads = ("fastest", *(name.replace("_", " ") for name in axes), *columns)
    if best:
        rows = [_row(row, axes, sized) for row in best]
        print_table(screen, heads if sized else heads[:-1], rows)


def _facts(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [("simulated", f"{document['done']}")]
    for state in ("refused", "failed"):
        rows = [each for each in document["answers"] if each["state"] == state]
        if rows:
            reasons = list(dict.fromkeys(each["reason"] for each in rows))
            facts.append((state, f"{len(rows)}, such as: {reasons[0]}"))
            facts += [("", reason) for reason in reasons[1:_MOST_REASONS]]
    if document["from_other_studies"]:
        facts.append(("from other studies", f"{document['from_other_studies']} answers"))
    facts.append(("kept in", f"{document['store']}, study {document['study'][:12]}"))
    return facts


def _row(row: "Found", axes: Sequence[str], sized: bool) -> tuple[str, ...]:
    """An answer, with the values that not all have."""
    values: Mapping[str, Any] = row.answer.values
    places = [value_of(row, name) for name in axes]
    mean, memory = values["mean_gap"], values["peak_bytes"]
    shown = (
        row.schedule,
        *(f"{place:g}" if isinstance(place, float) else str(place) for place in places),
        f"{values['speedup']:.2f}x",
        seconds(values["makespan_s"]),
        "-" if mean is None else f"{mean:.2f}",
        "-" if memory is None else size(memory),
    )
    return shown if sized else shown[:-1]
