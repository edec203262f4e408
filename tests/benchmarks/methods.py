"""How accurate, how fast and how stale is every registered schedule?

    python -m tests.benchmarks.methods --part rates --part accuracy --part speed

Accuracy: the same small network, on digits, for as many mini-batches, with several seeds. Where
timing decides nothing, training follows a simulated trace in one process, which gives the same
weights as processes do; what is lock-free really runs, in threads. Every method has the learning
rate that is best for it on held-out training samples, found by climbing one ladder for all.

Speed: each schedule is calibrated, simulated and really run on a network of long operations, family
by family, each with plain backpropagation on one thread and on all cores beside it.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from analysis.study import study
from executor.allocator import tune_allocator
from executor.machine import describe_machine
from simcore.errors import InputError
from simcore.schedules import SCHEDULES
from tests.benchmarks.methods_accuracy import Method, Scale, accuracy, rate
from tests.benchmarks.methods_page import FAMILIES, METHODS, PAGE, SCHEMA, write_page

__all__ = ["Timing", "main", "speed"]

# What is measured in one session, between two measurements of the baseline.
_SESSIONS: Final = (
    ("synchronous", "asynchronous pipelines", "delayed gradients"),
    ("local losses", "lock-free", "random feedback"),
    ("forward gradients",),
)


@dataclass(frozen=True, slots=True)
class Timing:
    """On what speed is measured, and for how many mini-batches."""

    batches: int = 40
    model: str = "mlp:8x1024"
    recurrent: str = "rnn:7x512"


def speed(
    names: Sequence[str], timing: Timing, told: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Rows of `analysis.comparison` by name, of schedules measured together on one network.

    Each has the baselines of its session beside it, in seconds per mini-batch.
    """
    methods = [Method.of(name) for name in names]
    [spec] = {timing.recurrent if each.is_recurrent else timing.model for each in methods}
    scale = Scale(timing.batches, model=spec, recurrent=spec)
    # The rate is small, so that no method diverges: a value that is not finite takes other times.
    experiment = methods[0].experiment(scale, 1e-4, 0, held_out=False)
    wanted = [method.wanted for method in methods if method.name != "bp"]
    document = study(experiment, wanted, told=told).comparison.to_json()
    # The first row of a schedule counts: backpropagation on one thread, not on all cores.
    rows = {row["schedule"]: row for row in reversed(document["rows"])}
    about = {
        "model": spec,
        "batches": timing.batches,
        "baselines": document["baselines"],
        "drift": document["settings"]["baseline at the end against the beginning"],
        "machine": describe_machine(),
    }
    return {name: {**rows[name], **about} for name in names}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure parts of the table, keep them beside the page, and renew the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("rates", "accuracy", "speed", "page")
    parser.add_argument("--part", action="append", choices=parts, help="default all")
    parser.add_argument(
        "--only", action="append", metavar="METHOD", help="may be repeated; 'fgd, adam' is one too"
    )
    parser.add_argument("--out", type=Path, default=PAGE.parent, help="folder of the page")
    asked = parser.parse_args(arguments)
    chosen, scale = asked.part or parts, Scale()
    keep = partial(_keep, asked.out / "methods.json")
    try:
        methods = [Method.of(key) for key in asked.only or METHODS]
        tune_allocator()  # as the processes of workers do
        if "rates" in chosen:
            _find_rates(methods, scale, keep)
        if "accuracy" in chosen:
            _train(methods, scale, keep)
        if "speed" in chosen:
            for group in _groups(methods):
                for name, row in speed(group, Timing(), _say).items():
                    keep("speed", name, row)
        write_page(asked.out)
    except InputError as error:
        _say(f"error: {error}")
        raise SystemExit(2) from error


def _find_rates(methods: Iterable[Method], scale: Scale, keep: Callable[..., Any]) -> None:
    for method in methods:
        search = rate(method, scale)
        tried = {str(each): score[0] for each, score in search.tried.items()}
        _say(f"{method.key}: {search.best} of {tried}")
        keep("rates", method.key, {"learning_rate": search.best, "held_out_accuracy": tried})


def _train(methods: Iterable[Method], scale: Scale, keep: Callable[..., Any]) -> None:
    for method in methods:
        row = accuracy(method, scale, keep("rates", method.key)["learning_rate"])
        _say(f"{method.key}: {row['accuracies']}, {row['diverged']} diverged")
        keep("accuracy", method.key, row)


def _groups(methods: Iterable[Method]) -> list[list[str]]:
    """Schedules that are measured in one session: some families, and what has its own network."""
    asked = {method.key: method for method in methods if method.key in SCHEDULES}
    sessions = [
        [name for family in families for name in FAMILIES[family] if name in asked]
        for families in _SESSIONS
    ]
    groups = [
        [name for name in session if asked[name].is_recurrent == recurrent]
        for session in sessions
        for recurrent in (False, True)
    ]
    return [group for group in groups if group]


def _keep(path: Path, part: str, name: str, value: Any = None) -> Any:
    """Put a value, if there is one, into a file of results; what the file has now.

    Raises `InputError` for what was not measured yet.
    """
    known: dict[str, Any] = {"schema": SCHEMA}
    if path.exists():
        known = json.loads(path.read_text("utf-8"))
    values = known.setdefault(part, {})
    if value is not None:
        values[name] = value
        path.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
    if name not in values:
        raise InputError(part, name, "must be measured before", f"add --part {part}")
    return values[name]


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    main()
