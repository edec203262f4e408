"""How a worker fails: its name and its own traceback travel to whoever started the run."""

from simcore.errors import GradlagError, RunError

__all__ = ["GRACE_S", "WorkerError", "reason_of"]

# How long the others may take to end after a failure, a hang or an interrupt.
GRACE_S = 3.0


class WorkerError(RunError):
    """A worker failed, died or hangs. `partial` is the `RunResult` of what was done until then."""

    def __init__(self, worker: str, reason: str, traceback: str = "") -> None:
        self.worker, self.reason, self.traceback = worker, reason, traceback
        self.partial: object = None
        super().__init__(f"{worker}: {reason}")
        if traceback:
            self.add_note(f"In {worker}:\n{traceback}")


def reason_of(error: BaseException) -> str:
    """What an error says, in one line: gradlag's own errors do, others need their name."""
    return str(error) if isinstance(error, GradlagError) else repr(error)
