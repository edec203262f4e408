"""The command line of every benchmark."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from executor.allocator import tune_allocator
from simcore.errors import InputError
from tests.benchmarks.harness import Scale
from tests.benchmarks.results import PAGE, Result, markdown, written

__all__ = ["TINY", "main"]

TINY: Final = Scale(rounds=1, phase_s=0.0, repeats=0, tiny=True)


def main(measure: Callable[[Scale], Result], arguments: Sequence[str] | None = None) -> None:
    """Measure, and print what was found; Markdown on stdout, progress on stderr."""
    usual = Scale()
    parser = argparse.ArgumentParser(description=sys.modules[measure.__module__].__doc__)
    parser.add_argument("--rounds", type=int, default=usual.rounds, help="A B A B rounds")
    parser.add_argument("--phase", type=float, default=usual.phase_s, help="seconds of a phase")
    parser.add_argument("--device", default=usual.device, help="cpu or cuda")
    parser.add_argument("--tiny", action="store_true", help="try it out: figures mean nothing")
    parser.add_argument("--json", type=Path, help="file for the result as JSON")
    parser.add_argument("--page", action="store_true", help=f"renew {PAGE.name}")
    asked = parser.parse_args(arguments)
    scale = TINY if asked.tiny else replace(usual, rounds=asked.rounds, phase_s=asked.phase)
    given = sys.argv[1:] if arguments is None else list(arguments)
    told = [word for word in given if word != "--page"]
    try:
        tune_allocator()  # as the workers of all runtimes do
        result = measure(replace(scale, device=_device(asked.device), told=_say))
        name = f"python -m tests.benchmarks.{result.name}"
        result = replace(result, command=" ".join([name, *_without_files(told)]))
        if asked.json is not None:
            asked.json.write_text(json.dumps(result.document(), indent=1) + "\n", "utf-8")
        sys.stdout.write(markdown(result) + "\n")
        if asked.page:
            written(result)
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from error


def _without_files(words: Sequence[str]) -> list[str]:
    """The words of a command that matter for what is measured."""
    if "--json" not in words:
        return list(words)
    place = words.index("--json")
    return [*words[:place], *words[place + 2 :]]


def _device(name: str) -> str:
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("--device", name, "must be there, and torch sees none", "use cpu")
    return name


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
