"""What went wrong, as one line on stderr: value, rule, remedy."""

import difflib
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, Final

from analysis.cli.app import flags_of, root
from simcore.errors import GradlagError, InputError

__all__ = ["complain"]

_FAILED, _BAD_INPUT = 1, 2
_DEBUG: Final = "GRADLAG_TRACEBACK"


def complain(error: Exception, arguments: Sequence[str]) -> int:
    """Tell the user what went wrong with a command line. Returns the exit status.

    Nobody sees a traceback but that of a worker of a real run, or with the environment variable
    GRADLAG_TRACEBACK.
    """
    if os.environ.get(_DEBUG):
        import traceback

        traceback.print_exception(error)
    command = arguments[0] if arguments and arguments[0] in root().commands else ""
    if isinstance(error, InputError):
        return _line(_BAD_INPUT, f"error: {_with_flag(error, flags_of(command))}")
    if isinstance(error, GradlagError):
        # A worker's traceback, or the grid of a deadlock, comes before the one line.
        first, _, grid = str(error).partition("\n")
        notes = getattr(error, "__notes__", [])[1:]  # the first is the traceback
        for text in filter(None, (grid, getattr(error, "traceback", ""), *notes)):
            print(text.rstrip(), file=sys.stderr)
        return _line(_FAILED, f"error: {first}")
    if hasattr(error, "format_message"):  # typer's own: its class moves between versions
        return _line(_BAD_INPUT, f"error: {_usage(error, command)}")
    if isinstance(error, MemoryError):
        return _line(_FAILED, "error: not enough memory; give fewer batches or a smaller network")
    if isinstance(error, OSError):
        return _line(_FAILED, f"error: {error}")
    report = f"please report it, with what {_DEBUG}=1 shows"
    return _line(_FAILED, f"internal error: {' '.join(repr(error).split())}; {report}")


def _line(status: int, text: str) -> int:
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    print(f"gradlag: {shown}", file=sys.stderr)
    return status


def _with_flag(error: InputError, flags: Sequence[str]) -> InputError:
    """The same error, naming the command's flag where the library named its parameter."""
    name = f"--{error.what.removeprefix('--').replace('_', '-').replace(' ', '-')}"
    if name not in flags or error.what == "schedule":  # which mostly is given without a flag
        return error
    remedy = re.sub(r"\b(\w+)=(\w+)", r"--\1 \2", error.remedy)
    return InputError(name, error.value, error.rule, remedy)


def _usage(error: Any, command: str) -> str:
    """A usage error of typer, in the words of all other errors."""
    path = f"gradlag {command}".rstrip()
    see = f"see '{path} --help'"
    kind, option = type(error).__name__, getattr(error, "option_name", "")
    message = " ".join(error.format_message().split()).rstrip(".")
    if kind == "NoSuchOption":
        near = difflib.get_close_matches(option, flags_of(command), n=1, cutoff=0.6)
        return (
            f"{option} is not an option of '{path}'; {f'did you mean {near[0]}?' if near else see}"
        )
    if kind == "BadOptionUsage":
        return f"{option} is without a value: it must have one; {see}"
    if kind == "MissingParameter":
        return f"{error.param.metavar or error.param.name} is missing: it is required; {see}"
    if message.startswith("No such command"):
        commands = list(root().commands)
        typed = message.split("'")[1]
        near = difflib.get_close_matches(typed, commands, n=1, cutoff=0.0)
        return (
            f"command is '{typed}': must be one of {', '.join(commands)}; did you mean {near[0]}?"
        )
    if "unexpected extra argument" in message:
        extra = message.partition("(")[2].rpartition("(")[2].rstrip(")")
        return f"argument is '{extra}': must be left out; {see}"
    return f"{message[:1].lower()}{message[1:]}; {see}"
