"""When a run is saved, and under which name; and how it ends on SIGTERM.

A run is saved with all that is in flight (`carry`): its workers stop between two operations or out
of a wait, wherever they are, and go on when the checkpoint is on disk. Or it is saved only when it
has come to its end and nothing is in flight (`drain`): see `executor.segments`.
"""

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import nn

from executor.checkpoint_files import Manifest, commit, latest, prepare, read
from executor.checkpoint_items import obstacle_to_carry
from executor.clock import now_ns
from executor.training import Training
from simcore.errors import InputError
from simcore.schedule import Schedule

__all__ = [
    "STOPPED",
    "Checkpoints",
    "Opened",
    "ending_on_sigterm",
    "losses_of",
    "manifest_of",
    "opened",
    "resumed",
]

STOPPED: Final = "stopped, and can be resumed from its checkpoint"
Policy = Literal["carry", "drain"]
Opened = tuple[Manifest, list[dict[str, Any]]] | None


class Checkpoints:
    """Where and how often a run is saved.

    `every` is a number of mini-batches (None: only in the end, or when it is told to stop), after
    which the run is saved as soon as its workers can pause. `stop_after` so many mini-batches,
    since the beginning of the training, it is saved and ends. The newest `keep` checkpoints stay.
    With the policy `drain` a run is saved at its end, and earlier only when it has to stop. Raises
    `InputError` for numbers below 1.
    """

    def __init__(
        self,
        folder: str | Path,
        every: int | None = None,
        keep: int = 3,
        stop_after: int | None = None,
        policy: Policy = "carry",
    ) -> None:
        for what, value in (("every", every), ("keep", keep), ("stop_after", stop_after)):
            if value is not None and value < 1:
                raise InputError(f"{what} of checkpoints", value, "must be at least 1", "give more")
        self.folder, self.every, self.keep = Path(folder), every, keep
        self.stop_after, self.policy = stop_after, policy
        self.ending = False
        self.written: list[Path] = []
        self._can_carry = True
        self._manifest: Manifest | None = None
        self._micro_batches = 1
        self._before = self._last = 0  # passes of the schedule, and mini-batches

    def begin(self, training: Training, schedule: Schedule, runtime: str) -> None:
        """A run begins. Raises `InputError` for a schedule whose flight cannot be carried."""
        reason = obstacle_to_carry(schedule)
        if runtime not in ("threads", "replay"):
            shared = [c.name for c in schedule.channels if c.source and _shared(schedule, c)]
            reason = reason or (f"several workers share the source {shared[0]}" if shared else None)
        if reason and self.policy == "carry":
            rule = f"cannot be saved in flight, as {reason}"
            raise InputError("schedule", schedule.name, rule, "use --epoch-policy drain")
        self._can_carry = reason is None
        self._manifest = manifest_of(training, schedule, runtime)
        self._micro_batches = schedule.micro_batches
        self._before = _passes_before(training)
        self._last = self._batches(0)

    def end_soon(self, *_: object) -> None:
        """Let the run stop as soon as it can, saved if it can be; fit for a signal's handler."""
        self.ending = True

    def is_stopping(self, batches: int) -> bool:
        """Whether no more is to be trained after so many mini-batches of the training."""
        return self.ending or (self.stop_after is not None and batches >= self.stop_after)

    def is_due(self, passes: int) -> bool:
        """Whether a run should pause now that the loss of so many of its passes is known."""
        batches = self._batches(passes)
        if self.is_stopping(batches):
            return True
        if self.policy == "drain" or self.every is None:
            return False
        return batches >= self._last + self.every

    def write(
        self,
        losses: Sequence[tuple[int, float, int]],
        *,
        drained: bool,
        write_parts: Callable[[Path], Sequence[str]],
    ) -> bool:
        """Save a run that has paused; `write_parts` writes its files and returns their names.

        `losses` are (pass, loss, ns) of all passes so far. Returns whether the run is to go on: not
        if it has come to its end, or is to stop.
        """
        assert self._manifest is not None
        parts = self._micro_batches
        passed = Counter(number // parts for number, _, _ in losses)
        unfinished = tuple((n, loss) for n, loss, _ in losses if passed[n // parts] < parts)
        passes = len(losses) - len(unfinished)
        batches = self._batches(passes)
        if drained or self._can_carry:
            writing = prepare(self.folder, batches)
            manifest = replace(
                self._manifest,
                kind="drained" if drained else "carried",
                batches=batches,
                passes=self._before + passes,
                unfinished=unfinished,
                parts=tuple(write_parts(writing)),
            )
            self.written.append(commit(writing, manifest, self.keep))
        self._last = batches
        return not (drained or self.is_stopping(batches))

    def _batches(self, passes: int) -> int:
        assert self._manifest is not None
        return self._manifest.first_batch + (self._before + passes) // self._micro_batches


def _shared(schedule: Schedule, channel: Any) -> bool:
    return len(schedule.receivers[channel]) > 1


def manifest_of(training: Training, schedule: Schedule, runtime: str) -> Manifest:
    """What a checkpoint of a training is of."""
    parameters = [nn.Parameter(torch.zeros(1))]
    state = training.model.state_dict()
    return Manifest(
        kind="drained",
        runtime=runtime,
        schedule=schedule.name,
        options=dict(schedule.options),
        bounds=training.bounds,
        seed=training.seed,
        batches=0,
        passes=0,
        first_batch=training.first_batch,
        optimizer=type(training.make_optimizer(parameters)).__name__,
        tensors={name: tuple(tensor.shape) for name, tensor in state.items()},
        about={"micro_batches": schedule.micro_batches, "torch": torch.__version__},
    )


def opened(training: Training, schedule: Schedule, runtime: str) -> Opened:
    """The checkpoint that a training starts from; None if it has none.

    Raises `InputError`, in one line, if it is damaged or one of another training.
    """
    if training.start is None:
        return None
    manifest, parts = read(Path(training.start))
    manifest.require(manifest_of(training, schedule, runtime))
    return manifest, parts


def _passes_before(training: Training) -> int:
    """How many passes of its schedule have been done when a run begins."""
    if training.start is None:
        return 0
    manifest, _ = read(Path(training.start))
    return manifest.passes if manifest.kind == "carried" else 0


def losses_of(manifest: Manifest) -> list[tuple[int, float, int]]:
    """Rows (pass, loss, ns) that a resumed run begins with."""
    return [(number, loss, now_ns()) for number, loss in manifest.unfinished]


def resumed(training: Training, folder: str | Path) -> Training:
    """The training, to be gone on with from the newest checkpoint of a folder.

    Where nothing was in flight its schedule begins anew, with the mini-batches that are next.
    Raises `InputError` where there is no checkpoint.
    """
    found = latest(Path(folder))
    if found is None:
        rule = "must hold a checkpoint"
        raise InputError("checkpoints", str(folder), rule, "start without resuming")
    manifest, _ = read(found)
    first = manifest.batches if manifest.kind == "drained" else manifest.first_batch
    return replace(training, start=str(found), first_batch=first)


@contextmanager
def ending_on_sigterm(checkpoints: Checkpoints) -> Iterator[None]:
    """Within it, SIGTERM makes a run stop with a checkpoint; only in the main thread.

    A second SIGTERM ends the process at once, with the newest complete checkpoint on disk.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("signals are the main thread's")

    def handle(*_: object) -> None:
        checkpoints.end_soon()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
