"""The flags of long runs, and training in parts that can be gone on with."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from analysis.cli.options import flag
from analysis.cli.output import note
from analysis.cli.values import one_of, whole
from simcore.errors import InputError

if TYPE_CHECKING:
    from executor.checkpoint import Checkpoints
    from executor.run import Runtime
    from executor.training import RunResult, Training
    from simcore.schedule import Schedule
    from simcore.trace import Trace

__all__ = ["TERMINATED", "LongRun", "LongRunFlags"]

TERMINATED: Final = 143  # of a run that SIGTERM has ended
_PANEL: Final = "Long runs"
_POLICIES: Final = ("carry", "drain")


@dataclass(frozen=True, slots=True)
class LongRunFlags:
    """Where a run is saved, how often, and whether it goes on from there."""

    checkpoints: Annotated[
        str | None,
        flag("--checkpoints", "DIR", "save the run there at its end and on SIGTERM", _PANEL),
    ] = None
    checkpoint_every: Annotated[
        str | None, flag("--checkpoint-every", "N", "and after every N batches", _PANEL)
    ] = None
    keep_checkpoints: Annotated[
        str, flag("--keep-checkpoints", "N", "keep the newest N", _PANEL)
    ] = "3"
    stop_after: Annotated[
        str | None,
        flag("--stop-after", "N", "stop after N batches in all, to be resumed", _PANEL),
    ] = None
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="go on from the newest checkpoint, if there is one",
            rich_help_panel=_PANEL,
        ),
    ] = False
    epoch_policy: Annotated[
        str,
        flag(
            "--epoch-policy",
            "|".join(_POLICIES),
            "between epochs, go on with what is in flight, or let it drain and evaluate",
            _PANEL,
        ),
    ] = "carry"

    def read(self, per_epoch: int) -> "LongRun":
        """What is asked for. Raises `InputError` for flags that do not go together."""
        policy = one_of(self.epoch_policy, "--epoch-policy", _POLICIES)
        given = (
            ("--checkpoint-every", self.checkpoint_every),
            ("--stop-after", self.stop_after),
            ("--resume", self.resume or None),
        )
        for name, value in given:
            if value is not None and self.checkpoints is None:
                raise InputError(name, value, "needs a folder", "give --checkpoints DIR as well")
        keep = whole(self.keep_checkpoints, "--keep-checkpoints")
        every = self.checkpoint_every
        count = None if every is None else whole(every, "--checkpoint-every")
        stop = None if self.stop_after is None else whole(self.stop_after, "--stop-after")
        folder = None if self.checkpoints is None else Path(self.checkpoints)
        return LongRun(folder, count, keep, stop, self.resume, policy, per_epoch)


@dataclass(frozen=True, slots=True)
class LongRun:
    """A run that may be saved, stopped and gone on with; an epoch has `per_epoch` batches."""

    folder: Path | None
    every: int | None
    keep: int
    stop_after: int | None
    resume: bool
    policy: str
    per_epoch: int

    @property
    def is_asked_for(self) -> bool:
        """Whether the run is to be more than a plain one."""
        return self.folder is not None or self.policy == "drain"

    def bounds(self) -> tuple[int, ...] | None:
        """Where the network was cut in the run that is gone on with; None if there is none."""
        from executor.checkpoint_files import latest, read

        found = None if self.folder is None or not self.resume else latest(self.folder)
        return None if found is None else tuple(read(found)[0].bounds)

    def train(
        self,
        training: "Training",
        batches: int,
        runtime: "Runtime",
        trace_of: "Callable[[Schedule], Trace]",
        progress: Callable[[int], None],
        evaluated: "Callable[[int, RunResult], None]",
    ) -> "tuple[RunResult, bool]":
        """Train so many mini-batches in all; the result, and whether SIGTERM has ended it.

        `trace_of` gives the trace that the runtime replay follows, and `evaluated` is told of each
        epoch at whose end nothing is in flight.
        """
        from tempfile import TemporaryDirectory

        with TemporaryDirectory() as scratch:
            return self._train(
                Path(scratch), training, batches, runtime, trace_of, progress, evaluated
            )

    def _train(
        self,
        scratch: Path,
        training: "Training",
        batches: int,
        runtime: "Runtime",
        trace_of: "Callable[[Schedule], Trace]",
        progress: Callable[[int], None],
        evaluated: "Callable[[int, RunResult], None]",
    ) -> "tuple[RunResult, bool]":
        from executor.checkpoint import Checkpoints, ending_on_sigterm
        from executor.run import run
        from executor.segments import train_in_segments

        drains = self.policy == "drain"
        checkpoints = Checkpoints(
            self.folder or scratch,
            self.every,
            self.keep,
            self.stop_after,
            "drain" if drains else "carry",
        )
        training = self._resumed(training, batches)
        with ending_on_sigterm(checkpoints):
            if drains:
                per_segment = self.every or self.per_epoch
                result = train_in_segments(
                    training,
                    batches,
                    per_segment,
                    runtime,
                    checkpoints,
                    trace_of=trace_of if runtime == "replay" else None,
                    progress=progress,
                    after=evaluated,
                )
            else:
                schedule = training.make_schedule()
                trace = trace_of(schedule) if runtime == "replay" else None
                result = run(
                    training, runtime, trace=trace, progress=progress, checkpoints=checkpoints
                )
        self._say(checkpoints, result)
        return result, checkpoints.ending

    def _resumed(self, training: "Training", batches: int) -> "Training":
        from executor.checkpoint import resumed
        from executor.checkpoint_files import latest

        if not self.resume or self.folder is None:
            return training
        found = latest(self.folder)
        if found is None:
            note(f"{self.folder} has no checkpoint: the run begins at the beginning")
            return training
        note(f"going on from {found}")
        going_on = resumed(training, self.folder)
        if going_on.first_batch and self.policy == "carry":
            again: Callable[..., Any] = going_on.make_schedule
            left = batches - going_on.first_batch
            if left < 1:
                rule = f"must be more than the {going_on.first_batch} that were trained already"
                raise InputError("--batches", batches, rule, "train for longer")
            going_on = replace(going_on, make_schedule=partial(again, batches=left))
        return going_on

    def _say(self, checkpoints: "Checkpoints", result: "RunResult") -> None:
        from executor.checkpoint import STOPPED

        if self.folder is not None and checkpoints.written:
            note(f"saved {checkpoints.written[-1]}")
        if result.failure == STOPPED:
            note(STOPPED if self.folder is not None else "stopped")
