"""The page of methods: its families, and its tables, made from the results that are kept beside it.

The tables stand between markers; what is around them is written by hand.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final

from simcore.errors import InputError

__all__ = ["FAMILIES", "METHODS", "PAGE", "RECURRENT", "SCHEMA", "renewed", "table", "write_page"]

SCHEMA: Final = "gradlag.methods/1"
PAGE: Final = Path(__file__).parents[2] / "docs" / "explanation" / "methods.md"
RECURRENT: Final = "bp-recurrent"  # backpropagation on the network of asyncfgd-recursive
FAMILIES: Final[Mapping[str, Sequence[str]]] = {
    "synchronous": ("bp", "bp-mp", "ddp", "gpipe", "1f1b", "interleaved-1f1b", "zb-h1"),
    "asynchronous pipelines": ("pipedream", "pipedream-2bw", "async-1f1b"),
    "delayed gradients": ("ddg", "fr", "fdg", "adl", "dsp"),
    "local losses": ("dgl", "dni"),
    "lock-free": ("async-lu", "async-bu", "hogwild", "lapsgd", "lppsgd"),
    "forward gradients": (
        *("fgd", "fgd-mp", "fgd-dp", "fgd-pipeline"),
        *("asyncfgd", "asyncfgd-recursive"),
    ),
    "random feedback": ("fa", "dfa", "sdfa", "drtp"),
}
_ADAM: Final = tuple(f"{name}, adam" for name in FAMILIES["forward gradients"])
_TANH: Final = tuple(
    f"{name}, tanh" for name in ("bp", "fgd", "asyncfgd", *FAMILIES["random feedback"])
)
_OTHERS: Final = ("asyncfgd, 16 directions", "async-lu, stash", "async-bu, stash")
METHODS: Final = (
    *(n for names in FAMILIES.values() for n in names),
    RECURRENT,
    *_ADAM,
    *_TANH,
    *_OTHERS,
)
_UNKNOWN: Final = "-"
Document = Mapping[str, Any]


def write_page(folder: Path) -> None:
    """Put the tables of `methods.json` of a folder between the markers of its `methods.md`.

    Raises `InputError` for results of another schema and for a page without the markers.
    """
    page = folder / PAGE.name
    document = json.loads((folder / "methods.json").read_text("utf-8"))
    page.write_text(renewed(page.read_text("utf-8"), document), "utf-8")


def renewed(text: str, document: Document) -> str:
    """The text of a page with the tables of a document between its markers.

    Raises `InputError` for a document of another schema, and for a page without the markers.
    """
    if document.get("schema") != SCHEMA:
        rule = f"must be {SCHEMA}"
        raise InputError("schema", document.get("schema"), rule, "measure again")
    for name, made in (("methods", table(document)), ("variants", _variants(document))):
        marker = f"<!-- {name} -->"
        parts = text.split(marker)
        if len(parts) != 3:
            raise InputError("page", PAGE.name, f"must have {marker} twice", "add the markers")
        text = f"{parts[0]}{marker}\n\n{made}\n\n{marker}{parts[2]}"
    return text


def table(document: Document) -> str:
    """The table of all methods, family by family, with what must be said of some of them.

    What was not measured is a dash.
    """
    heads = [*("family", "method", "learning rate", "accuracy", "ms a batch", "error")]
    heads += ["one thread = 1", "all cores = 1", "gap"]
    numbers = len(heads) - 2
    lines = [_line(heads), _line([*("---",) * 2, *("---:",) * numbers])]
    for family, names in FAMILIES.items():
        for name in names:
            lines.append(
                _line([family, _link(name), *_accuracy(document, name), *_speed(document, name)])
            )
    return "\n".join([*lines, "", *_about(document), "", *_notes(document)])


def _variants(document: Document) -> str:
    """Accuracies with another optimiser, with another nonlinearity, and of the other network."""
    heads = ("schedule", "as above", "Adam", "tanh for ReLU", "16 directions", "stashed weights")
    lines = [_line(heads), _line(["---", *["---:"] * 5])]
    for name in METHODS:
        keys = [f"{name}, {variant}" for variant in ("adam", "tanh", "16 directions", "stash")]
        if not set(keys).isdisjoint(METHODS):
            cells = (_rate_and_accuracy(document, key) for key in (name, *keys))
            lines.append(_line([f"`{name}`", *cells]))
    own = _rate_and_accuracy(document, RECURRENT)
    lines.append(_line(["`bp` on the network of `asyncfgd-recursive`", own, *[_UNKNOWN] * 4]))
    return "\n".join(lines)


def _rate_and_accuracy(document: Document, key: str) -> str:
    found = _accuracy(document, key)
    return _UNKNOWN if _UNKNOWN in found else f"{found[1]} at {found[0]}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _link(name: str) -> str:
    return f"[{name}](../reference/schedules.md#{name})"


def _accuracy(document: Document, key: str) -> list[str]:
    """Learning rate, and mean and standard deviation of the accuracies in percent."""
    row = document.get("accuracy", {}).get(key)
    if row is None:
        return [_UNKNOWN, _UNKNOWN]
    found = [100 * each for each in row["accuracies"]]
    return [f"{row['learning_rate']:g}", f"{fmean(found):.1f} ± {stdev(found):.1f} %"]


def _speed(document: Document, name: str) -> list[str]:
    """Milliseconds a batch, error of the prediction, both speedups, and mean gap."""
    row = document.get("speed", {}).get(name)
    if row is None:
        return [_UNKNOWN] * 5
    error = row["prediction_error"]
    return [
        _pair(row["batch_s"], 1000, 1),
        _UNKNOWN if error is None else f"{100 * error:+.0f} %",
        _pair(row["speedup_one_thread"], 1, 2),
        _pair(row["speedup_all_cores"], 1, 2),
        _pair(row["gap_mean"], 1, 2),
    ]


def _pair(found: Mapping[str, float | None], factor: float, digits: int) -> str:
    """Predicted and measured."""
    values = found["predicted"], found["measured"]
    return " / ".join(_UNKNOWN if v is None else f"{factor * v:.{digits}f}" for v in values)


def _about(document: Document) -> list[str]:
    """Machines and dates, and the baselines of each family."""
    lines = []
    for part, what in (("accuracy", "Accuracy"), ("speed", "Speed and gap")):
        machines = [row["machine"] for row in document.get(part, {}).values()]
        if not machines:
            lines.append(f"* {what}: not measured yet.")
            continue
        days = sorted({str(machine["date"])[:10] for machine in machines})
        kinds = sorted({_machine(machine) for machine in machines})
        lines.append(f"* {what}: {'; '.join(kinds)}; {' to '.join(sorted({days[0], days[-1]}))}.")
    sessions: dict[tuple[Any, ...], list[str]] = {}
    for name, row in document.get("speed", {}).items():
        about = row["model"], *row["baselines"].values(), row["drift"]
        sessions.setdefault(about, []).append(name)
    for (model, one, every, drift), names in sessions.items():
        lines.append(
            f"* {model}: {1000 * one:.1f} ms a batch of `bp` on one thread, {1000 * every:.1f} ms "
            f"on all cores; at the end of the session {drift} against its beginning. Beside: "
            f"{', '.join(names)}."
        )
    return lines


def _machine(machine: Mapping[str, Any]) -> str:
    return f"{machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}"


def _notes(document: Document) -> list[str]:
    """What must be said of single rows: options, runs that diverged, disturbed measurements."""
    lines = []
    for name in (name for names in FAMILIES.values() for name in names):
        trained = document.get("accuracy", {}).get(name, {})
        timed = document.get("speed", {}).get(name, {})
        notes = list(timed.get("notes", ()))
        if timed.get("workers", 0) > timed.get("machine", {}).get("cores", 0):
            notes.append(f"{timed['workers']} workers on {timed['machine']['cores']} cores")
        if trained.get("diverged"):
            notes.append(f"{trained['diverged']} of {len(trained['accuracies'])} runs diverged")
        if trained.get("runtime", "replay") != "replay":
            gap = trained["gap_mean"]
            notes.append(f"accuracy of runs in {trained['runtime']}, mean gap {gap:.2f}")
        options = {k: v for k, v in trained.get("options", {}).items() if k != "modules"}
        notes += [f"{option} {value}" for option, value in options.items()]
        if notes:
            lines.append(f"* `{name}`: {'; '.join(notes)}.")
    return lines
