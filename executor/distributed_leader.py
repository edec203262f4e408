"""Rank 0 of a run: it hears of all others, decides when to begin and why to end."""

import os
import signal
from contextlib import suppress
from functools import partial
from queue import Empty
from time import monotonic
from typing import Any, Final

from executor.distributed_clock import Ahead, Comparison, compared
from executor.distributed_control import (
    LEADER,
    Beat,
    Bye,
    Explain,
    Failed,
    Finished,
    Go,
    Halt,
    Lost,
    Over,
    Question,
    Ready,
    Rows,
    Signal,
)
from executor.distributed_rank import LAST_WORDS_S, REASON_S, SILENCE_S, Rank
from executor.hygiene import CpuWatch
from executor.training import INTERRUPTED
from executor.watchdog import Watchdog

__all__ = ["Leader"]

_ANSWER_S: Final = 1.0


class Leader(Rank):
    """Rank 0."""

    def __init__(self, *made_of: Any) -> None:
        super().__init__(*made_of)
        count = len(self.hosts)
        self.ready: dict[int, Ready] = {}
        self.first: dict[int, Ahead] = {}
        self.last: dict[int, Ahead] = {}
        self.values = [0] * count
        self.watchdog = Watchdog(self.values, self.training.timeout_s)
        self.failure: Halt | None = None
        self.lost: list[tuple[float, int, str]] = []
        self.told_s: float | None = None
        self.explaining_s: float | None = None
        self.cpu: CpuWatch | None = None
        self.other_cpu_share: float | None = None

    def take(self, rank: int, report: Any) -> None:
        """One report."""
        match report:
            case Beat(pulse):
                self.values[rank] = pulse
            case Ready():
                self.ready[rank] = report
                if len(self.ready) == len(self.hosts):
                    self.begin()
            case Rows():
                self.keep(rank, report)
            case Finished(state):
                self.states[rank] = dict(state)
                if len(self.states) == len(self.hosts):
                    self.finish()
            case Failed(reason, traceback):
                name = self.schedule.workers[rank].name
                self.failure = self.failure or Halt(name, reason, traceback)
            case Lost(other):
                self.lost.append((monotonic(), other, "has gone"))
            case Signal():
                self.told_s = self.told_s or monotonic()

    def begin(self) -> None:
        """All are warmed up."""
        self.first = self.compare_clocks()
        here = self.ready[LEADER].machine
        self.cpu = CpuWatch(each.process for each in self.ready.values() if each.machine == here)
        self.post.tell_all(Go())
        self.worker.begin.set()

    def finish(self) -> None:
        """All have finished."""
        if self.cpu is not None:
            self.other_cpu_share = self.cpu.other_share()
        self.last = self.compare_clocks()
        self.post.tell_all(Over())
        self.over = True

    def compare_clocks(self) -> dict[int, Ahead]:
        """The clocks of other machines, compared with this one's."""
        here = self.ready[LEADER].machine
        found: dict[int, Ahead] = {}
        for rank, ready in self.ready.items():
            if ready.machine != here:
                clock = compared(partial(self.ask, rank))
                if clock is not None:
                    found[rank] = clock
        return found

    def ask(self, rank: int) -> int | None:
        """The clock of a rank."""
        self.post.tell(rank, Question())
        try:
            return self.post.answers.get(timeout=_ANSWER_S)
        except Empty:
            return None

    def judge(self, passed_s: float) -> None:
        """Has anybody failed, gone, or got stuck?"""
        self.values[LEADER] = self.worker.beats[0]
        hang = self.watchdog.look()
        now_s = monotonic()
        for rank, silent_s in self.silent_s.items():
            if silent_s > SILENCE_S:
                reason = f"has not been heard of for {SILENCE_S:g} s"
                self.lost.append((now_s - REASON_S, rank, reason))
        if self.failure is not None:
            self.halt = self.failure
        elif self.lost and now_s - self.lost[0][0] >= REASON_S:
            _, rank, reason = self.lost[0]
            name = self.schedule.workers[rank].name
            self.halt = Halt(name, f"{self.named(rank)} {reason}", "")
        elif self.told_s is not None and now_s - self.told_s >= REASON_S:
            self.halt = Halt("", INTERRUPTED, "")
        elif hang is not None and self.explaining_s is None:
            self.explaining_s = now_s
            if hang.worker == LEADER:
                self.own(Failed(hang.reason, self.worker.stack()))
            else:
                self.post.tell(hang.worker, Explain(hang.reason))
        elif hang is not None and now_s - (self.explaining_s or now_s) >= REASON_S:
            self.halt = Halt(self.schedule.workers[hang.worker].name, hang.reason, "")

    def break_off(self, halt: Halt) -> None:
        """Stop all, and hear what they still have to tell."""
        self.post.tell_all(halt)
        self.kill_silent()
        self.keep(LEADER, self.worker.stop(LAST_WORDS_S / 2))
        deadline_s = monotonic() + LAST_WORDS_S
        waiting = set(self.silent_s) - {rank for _, rank, _ in self.lost}
        while waiting and (left_s := deadline_s - monotonic()) > 0:
            with suppress(Empty):
                rank, report = self.events.get(timeout=left_s)
                match report:
                    case Rows():
                        self.keep(rank, report)
                    case Bye():
                        waiting.discard(rank)
                    case Lost(other):
                        waiting.discard(other)
        self.control.flush(LAST_WORDS_S / 2)

    def kill_silent(self) -> None:
        """End the processes on this machine that do not even give signs of life."""
        here = self.ready[LEADER].machine if LEADER in self.ready else ""
        for rank, silent_s in self.silent_s.items():
            ready = self.ready.get(rank)
            if silent_s > SILENCE_S and ready is not None and ready.machine == here:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(ready.process, signal.SIGKILL)

    def clock(self, rank: int) -> Comparison:
        """How this rank's clock compares with that of another."""
        if rank not in self.first:
            return Comparison()
        return Comparison(self.first[rank], self.last.get(rank))

    def about(self) -> dict[str, object]:
        """What the trace says of the run: its machines and their clocks."""
        ranks = range(len(self.hosts))
        known = [self.first.get(rank, Ahead()) for rank in ranks]
        return {
            "hosts": list(self.hosts),
            "other_cpu_share": self.other_cpu_share,
            "clocks_ahead_ns": [clock.ahead_ns for clock in known],
            "clocks_known_within_ns": [clock.within_ns for clock in known],
        }
