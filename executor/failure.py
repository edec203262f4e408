"""How a worker fails: its name and its own traceback travel to whoever started the run."""

from simcore.errors import RunError

__all__ = ["WorkerError"]


class WorkerError(RunError):
    """A worker failed or died. `partial` is the `RunResult` of what was done until then."""

    def __init__(self, worker: str, reason: str, traceback: str = "") -> None:
        self.worker, self.reason, self.traceback = worker, reason, traceback
        self.partial: object = None
        super().__init__(f"{worker}: {reason}")
        if traceback:
            self.add_note(f"In {worker}:\n{traceback}")
