"""Running a training in a runtime by its name."""

from collections.abc import Callable
from typing import Literal, get_args

from executor.checkpoint import Checkpoints
from executor.processes import run_processes
from executor.replay import run_replay
from executor.threads import run_threads
from executor.training import RunResult, Training
from simcore.errors import InputError
from simcore.trace import Trace

__all__ = ["RUNTIMES", "Runtime", "run"]

Runtime = Literal["threads", "processes", "replay", "torchrun"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)


def run(
    training: Training,
    runtime: Runtime,
    *,
    trace: Trace | None = None,
    progress: Callable[[int], None] | None = None,
    checkpoints: Checkpoints | None = None,
) -> RunResult:
    """Train in a runtime; `replay` needs the trace whose order it follows.

    `progress` is told how many gradients have been applied since it was last told. `checkpoints`
    say when the run is saved. Raises what the runtime raises.
    """
    if runtime == "threads":
        return run_threads(training, progress, checkpoints)
    if runtime == "processes":
        return run_processes(training, progress, checkpoints)
    if runtime == "torchrun":
        if checkpoints is not None or training.start is not None:
            rule = "cannot be saved or resumed"
            raise InputError("runtime", runtime, rule, "use threads, processes or replay")
        # Only torchrun's processes need what it imports.
        from executor.distributed import run_torchrun

        return run_torchrun(training, progress)
    if trace is None:
        raise InputError("runtime", runtime, "must have a trace to follow", "simulate one first")
    return run_replay(training, trace, progress, checkpoints)
