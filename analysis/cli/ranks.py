"""Commands that torchrun starts several times over: rank 0 speaks for all."""

import functools
import time
from collections.abc import Callable
from typing import Any, Final

import typer

from analysis.cli.output import Bar
from executor.launched import launched
from simcore.errors import GradlagError, InputError

__all__ = ["Silent", "follows", "led"]

_FAILED, _BAD_INPUT, _INTERRUPTED = 1, 2, 130
# Rank 0 has by then said what is wrong, and torchrun has ended the others.
_SPEAKING_S: Final = 20.0


def follows(runtime: str) -> bool:
    """Whether this process is a rank other than 0 of a run."""
    found = launched()
    return found is not None and found.rank > 0 and runtime in ("auto", "torchrun")


def led(command: Callable[..., None]) -> Callable[..., None]:
    """A command that says and writes nothing on ranks other than 0, but what only they know."""

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:
        if not follows(values["runtime"]):
            command(**values)
            return
        try:
            command(**{**values, "json": False, "out": None})
        except InputError:  # the arguments are the same everywhere
            time.sleep(_SPEAKING_S)
            raise typer.Exit(_BAD_INPUT) from None
        except KeyboardInterrupt:
            raise typer.Exit(_INTERRUPTED) from None
        except GradlagError as error:
            if not getattr(error, "reported", False):
                raise
            raise typer.Exit(_FAILED) from None

    return wrapped


class Silent(Bar):
    """A bar that nobody sees."""

    def told(self, count: int) -> None:
        """Nothing is shown."""

    def stage(self, what: str, total: int | None = None, per_batch: int = 0) -> None:
        """Nothing is shown."""
