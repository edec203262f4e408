"""The entry point: what the user typed becomes a command, what went wrong one line on stderr.

Exit status: 0 done; 1 a run that failed; 2 bad arguments or a bad file; 130 Ctrl-C.
"""

import difflib
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import typer

from analysis.cli import bounds, compare, profile, run, schedules, simulate
from analysis.cli.help import Command, Group
from simcore.errors import GradlagError, InputError

__all__ = ["app", "execute", "main"]

_FAILED, _BAD_INPUT, _BROKEN_PIPE, _INTERRUPTED = 1, 2, 141, 130
_DEBUG: Final = "GRADLAG_TRACEBACK"

app = typer.Typer(
    cls=Group,
    help="Predict what an asynchronous training schedule will do - speed, staleness, memory -, "
    "run the same schedule with PyTorch, and see where prediction and reality differ.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _module in (schedules, profile, simulate, run, compare, bounds):
    app.command(_module.NAME, cls=Command, epilog=_module.EXAMPLES)(_module.command)


def main() -> None:
    """Run the command line; the process ends with its exit status."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.exit(execute(sys.argv[1:]))


def execute(arguments: Sequence[str]) -> int:
    """Run a command line, without the program's name. Returns the exit status."""
    try:
        status = _run(list(arguments) or ["--help"])
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone: nothing is left to say, not even when Python flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        status = _INTERRUPTED
    except Exception as error:
        return _told(error, arguments)
    if status == _INTERRUPTED:
        _tell("interrupted")
    return status


def _run(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    result = command.main(arguments, prog_name="gradlag", standalone_mode=False)
    return result if isinstance(result, int) else 0


def _told(error: Exception, arguments: Sequence[str]) -> int:
    """Tell the user what went wrong, in one line. Returns the exit status."""
    if os.environ.get(_DEBUG):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, InputError):
        _tell(f"error: {_with_flag(error, arguments)}")
        return _BAD_INPUT
    if isinstance(error, GradlagError):
        # A worker's own traceback, or the grid of a deadlock, comes before the one line.
        line, _, grid = str(error).partition("\n")
        for text in (grid, getattr(error, "traceback", "")):
            if text:
                print(text.rstrip(), file=sys.stderr)
        _tell(f"error: {line}")
        return _FAILED
    if hasattr(error, "format_message"):  # typer's own: the class has moved between versions
        _tell(f"error: {_usage(error)}")
        return _BAD_INPUT
    if isinstance(error, MemoryError):
        _tell("error: not enough memory; give fewer batches or a smaller network")
        return _FAILED
    if isinstance(error, OSError):
        _tell(f"error: {error}")
        return _FAILED
    _tell(f"internal error: {error!r}; please report it, with what {_DEBUG}=1 shows")
    return _FAILED


def _tell(line: str) -> None:
    print(f"gradlag: {line}", file=sys.stderr)


def _with_flag(error: InputError, arguments: Sequence[str]) -> InputError:
    """The same error, naming the command's flag where the library named its parameter."""
    flags = _flags_of(arguments[0]) if arguments else []
    name = f"--{error.what.replace('_', '-').replace(' ', '-')}"
    if name not in flags:
        return error
    return InputError(name, error.value, error.rule, error.remedy)


def _flags_of(name: str) -> list[str]:
    command = getattr(typer.main.get_command(app), "commands", {}).get(name)
    return [opt for param in command.params for opt in param.opts] if command else []


def _usage(error: Any) -> str:
    """A usage error in the words of all other errors."""
    context = error.ctx
    path = context.command_path if context else "gradlag"
    see = f"see '{path} --help'"
    known = _flags_of(context.info_name) if context and context.info_name else []
    kind, option = type(error).__name__, getattr(error, "option_name", "")
    if kind == "NoSuchOption":
        near = difflib.get_close_matches(option, known, n=1, cutoff=0.5)
        remedy = f"did you mean {near[0]}?" if near else see
        return f"{option} is not an option of '{path}'; {remedy}"
    if kind == "BadOptionUsage":
        return f"{option} is without a value: it must have one; {see}"
    if kind == "MissingParameter" and error.param is not None:
        what = error.param.metavar or error.param.name
        return f"{what} is missing: '{path}' needs it; {see}"
    message = " ".join(error.format_message().split()).rstrip(".")
    commands = getattr(context.command if context else None, "commands", None)
    if commands and message.startswith("No such command"):
        typed = message.split("'")[1]
        near = difflib.get_close_matches(typed, commands, n=1, cutoff=0.0)
        return (
            f"command is '{typed}': must be one of {', '.join(commands)}; did you mean {near[0]}?"
        )
    return f"{message[:1].lower()}{message[1:]}; {see}"
