"""The torchrun runtime: each rank of torch.distributed is one worker, on one machine or many."""

from collections.abc import Callable
from time import monotonic
from typing import Any

import torch

from executor.distributed_control import (
    LEADER,
    Bye,
    Explain,
    Failed,
    Finished,
    Go,
    Halt,
    Lost,
    Over,
    Ready,
    Rows,
    Signal,
)
from executor.distributed_leader import Leader
from executor.distributed_rank import LAST_WORDS_S, REASON_S, SILENCE_S, Rank
from executor.distributed_start import come_together
from executor.training import RunResult, Training

__all__ = ["run_torchrun"]


def run_torchrun(training: Training, progress: Callable[[int], None] | None = None) -> RunResult:
    """Train with one process per worker, started by torchrun on one machine or many.

    Every rank calls this with the same training; the bounds are those of rank 0. There the result
    is that of the whole run. Elsewhere it has this rank's operations, losses and blocks. `progress`
    is told on rank 0, now and then, how many gradients have been applied since it was last told.
    Ctrl-C and SIGTERM end the run and return what was done.

    Raises `InputError` for a process that torchrun has not started and for a schedule or a number
    of processes that does not fit; `RunError` where ranks differ in what they train or do not come;
    and `WorkerError` on all ranks for the first worker that fails, hangs or cannot be reached (as
    `ReportedError`, where rank 0 reports it). After that, SIGTERM is ignored on rank 0, because
    torchrun sends it while rank 0 is still reporting.
    """
    schedule = training.make_schedule()
    together, training = come_together(training, schedule)
    kind = Leader if together.rank == LEADER else _Member
    threads_before = torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            return kind(training, schedule, together, progress or (lambda _: None)).run()
    finally:
        torch.set_num_threads(threads_before)


class _Member(Rank):
    """A rank that is not 0."""

    def __init__(self, *made_of: Any) -> None:
        super().__init__(*made_of)
        self.lost_s: float | None = None

    def take(self, rank: int, report: Any) -> None:
        """One report, of this rank's worker or of the leader."""
        match report:
            case Rows():
                self.keep(rank, report)
                self.bulk.tell(LEADER, report)
            case Finished(state):
                self.states[rank] = dict(state)
                self.bulk.tell(LEADER, report)
            case Lost(other) if other == LEADER:
                self.lost_s = self.lost_s or monotonic()
            case Ready() | Failed() | Lost() | Signal():
                self.post.tell(LEADER, report)
            case Go():
                self.worker.begin.set()
            case Explain(reason):
                self.post.tell(LEADER, Failed(reason, self.worker.stack()))
            case Halt():
                self.halt = report
            case Over():
                self.over = True

    def judge(self, passed_s: float) -> None:
        """Is the leader alive?"""
        if self.lost_s is not None and monotonic() - self.lost_s > REASON_S:
            reason = f"{self.named(LEADER)} has gone"
        elif self.silent_s[LEADER] > SILENCE_S:
            reason = f"{self.named(LEADER)} has not been heard of for {SILENCE_S:g} s"
        else:
            return
        self.halt = Halt(self.schedule.workers[LEADER].name, reason, "")
        self.is_led = False

    def break_off(self, halt: Halt) -> None:
        """Tell what is left."""
        rows = self.worker.stop(LAST_WORDS_S / 2)
        self.keep(self.rank, rows)
        self.bulk.tell(LEADER, rows)
        self.bulk.tell(LEADER, Bye())
        self.data.flush(LAST_WORDS_S / 2)
