"""The errors that gradlag raises on purpose, one class per exit status of the command line."""

__all__ = ["DeadlockError", "GradlagError", "IllegalOperationError", "InputError", "RunError"]


class GradlagError(Exception):
    """Base of every error that gradlag raises on purpose; its text is one line."""


class InputError(GradlagError, ValueError):
    """Bad input: names the thing, its value, the rule that it breaks, and the remedy.

    The command line prints it as one line and exits with status 2.

    >>> raise InputError("--modules", 0, "must be at least 1", "give 1 or more")
    Traceback (most recent call last):
    ...
    simcore.errors.InputError: --modules is 0: must be at least 1; give 1 or more
    """

    def __init__(self, what: str, value: object, rule: str, remedy: str) -> None:
        self.what, self.value, self.rule, self.remedy = what, value, rule, remedy
        text = str(value) if isinstance(value, int | float) else f"'{value}'"
        line = f"{what} is {text}: {rule}; {remedy}"
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in line))

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.what, self.value, self.rule, self.remedy)


class RunError(GradlagError, RuntimeError):
    """A run that failed; what was finished before is kept. The command line exits with 1."""


class _ProgramError(RunError):
    """A mistake of worker programs.

    `grid`, if known, is the worker x step table of what each worker did and where it is.
    """

    def __init__(self, message: str, grid: str = "") -> None:
        self.grid = grid
        super().__init__(f"{message}\n{grid}" if grid else message)


class IllegalOperationError(_ProgramError):
    """A worker program broke a rule of `simcore.rules`."""


class DeadlockError(_ProgramError):
    """Every unfinished worker waits for a message that nobody will send."""
