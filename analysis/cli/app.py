"""The commands, and what each of them takes."""

from typing import Any

import typer

from analysis.cli import bounds, compare, profile, replay, run, schedules, simulate, sweep
from analysis.cli.help import Command, Group

__all__ = ["MODULES", "app", "flags_of", "root"]

MODULES = (schedules, profile, simulate, sweep, run, replay, compare, bounds)

app = typer.Typer(
    cls=Group,
    help="Predict what an asynchronous training schedule will do - speed, staleness, memory -, "
    "run the same schedule with PyTorch, and see where prediction and reality differ.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _module in MODULES:
    app.command(_module.NAME, cls=Command, epilog=_module.EXAMPLES)(_module.command)


def root() -> Any:
    """The commands as typer runs them."""
    return typer.main.get_command(app)


def flags_of(name: str) -> list[str]:
    """The flags of a command; none for an unknown one."""
    command = root().commands.get(name)
    return [flag for param in command.params for flag in param.opts] if command else []
