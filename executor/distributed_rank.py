"""One rank of a run: its main thread watches while another one trains."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Final

import torch
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from executor.assembly import finish, mean_state
from executor.clock import now_ns
from executor.distributed_clock import Comparison
from executor.distributed_control import LEADER, Beat, Events, Halt, Lost, Post, Rows, Signal
from executor.distributed_start import Together
from executor.distributed_streams import Network
from executor.distributed_worker import DistantWorker
from executor.drive import Losses
from executor.failure import WorkerError
from executor.training import INTERRUPTED, RunResult, Training
from executor.watchdog import LOOK_S
from simcore.schedule import Schedule
from simcore.trace import Recorder

__all__ = ["LAST_WORDS_S", "REASON_S", "SILENCE_S", "Rank", "ReportedError"]

SILENCE_S: Final = 5.0  # a rank that has not been heard of for so long is lost
# How long a reason for what is seen may take to come: a rank that fails says why, then it goes.
REASON_S: Final = 0.7
LAST_WORDS_S: Final = 1.5
_MOST_BETWEEN_S: Final = 1.0  # what counts at most between two looks: all may have stood still


class ReportedError(WorkerError):
    """A worker's failure, on a rank that need not report it, as rank 0 does."""

    reported = True


class Rank:
    """What leader and members have in common; `run` is the whole life of one of them."""

    def __init__(
        self,
        training: Training,
        schedule: Schedule,
        together: Together,
        progress: Callable[[int], None],
    ) -> None:
        self.training, self.schedule, self.progress = training, schedule, progress
        self.rank, self.hosts = together.rank, together.hosts
        self.events: Events = SimpleQueue()
        self.data = Network(together.data, self.saw_lost)
        self.control = Network(together.control, self.saw_lost)
        others = [rank for rank in range(len(self.hosts)) if rank != LEADER]
        peers = others if self.rank == LEADER else [LEADER]
        self.post = Post(self.control, peers, self.events, now_ns)
        self.bulk = Post(self.data, peers, self.events, now_ns)
        self.worker = DistantWorker(training, schedule, self.rank, self.data, self.own)
        self.rows: dict[int, Recorder] = {rank: Recorder() for rank in range(len(self.hosts))}
        self.losses: dict[int, Losses] = {rank: Losses() for rank in range(len(self.hosts))}
        self.states: dict[int, dict[str, torch.Tensor]] = {}
        self.silent_s = dict.fromkeys(peers, 0.0)
        self.looked_s = self.beat_s = monotonic()
        self.over = False
        self.is_led = self.rank != LEADER
        self.halt: Halt | None = None

    def saw_lost(self, rank: int) -> None:
        """A connection has broken; any thread may say so."""
        self.events.put((self.rank, Lost(rank)))

    def own(self, report: Any) -> None:
        """What this rank's worker reports."""
        self.events.put((self.rank, report))

    def run(self) -> RunResult:
        """Watch until the run is over."""
        with self.signals():
            self.worker.thread.start()
            while not self.over and self.halt is None:
                with suppress(Empty):
                    rank, report = self.events.get(timeout=LOOK_S / 2)
                    if rank in self.silent_s:
                        self.silent_s[rank] = 0.0
                    self.take(rank, report)
                self.look()
            if self.halt is None:
                self.leave()
            else:
                self.break_off(self.halt)
                for stream in self.worker.streams.outgoing:
                    stream.close()
                self.leave()
        return self.end(self.halt)

    def take(self, rank: int, report: Any) -> None:
        """One report."""
        raise NotImplementedError

    def judge(self, passed_s: float) -> None:
        """Is everybody alive?"""
        raise NotImplementedError

    def break_off(self, halt: Halt) -> None:
        """Tell and hear the last words."""
        raise NotImplementedError

    def keep(self, rank: int, rows: Rows) -> None:
        """Rows of a worker."""
        self.rows[rank].add(rows.spans, rows.gradients)
        self.losses[rank].rows.extend(rows.losses)
        self.progress(rows.applied)

    def look(self) -> None:
        """Give and look for signs of life, now and then."""
        now_s = monotonic()
        if now_s - self.looked_s >= LOOK_S:
            self.post.tell_all(Beat(self.worker.beats[0]))
            passed_s = min(now_s - self.looked_s, _MOST_BETWEEN_S)
            self.looked_s = now_s
            for rank in self.silent_s:
                self.silent_s[rank] += passed_s
            self.judge(passed_s)

    def named(self, rank: int) -> str:
        """The process of a rank, in words."""
        return f"its process (rank {rank} on {self.hosts[rank]})"

    def leave(self) -> None:
        """Close what is open, so that no thread waits for anything, and the next run finds none."""
        self.post.close()
        self.bulk.close()
        deadline_s = monotonic() + LAST_WORDS_S
        for stream in (*self.post.incoming, *self.bulk.incoming, *self.worker.streams.incoming):
            stream.thread.join(max(0.0, deadline_s - monotonic()))
        for network in (self.data, self.control):
            network.flush(max(0.0, deadline_s - monotonic()))

    def end(self, halt: Halt | None) -> RunResult:
        """The result, or the error."""
        if halt is None:
            return self.result(None)
        if not halt.worker:
            return self.result(INTERRUPTED)
        kind = ReportedError if self.is_led else WorkerError
        error = kind(halt.worker, halt.reason, halt.traceback)
        error.partial = self.result(str(error))
        try:
            raise error
        except WorkerError:
            if os.environ.get("TORCHELASTIC_ERROR_FILE"):  # torchrun shows the first of them
                get_error_handler().record_exception(error)
            raise

    def result(self, failure: str | None) -> RunResult:
        """What is known here."""
        recorder, losses = Recorder(), Losses()
        for rank, rows in self.rows.items():
            clock = self.clock(rank)
            spans, gradients = rows.drain()
            recorder.add(clock.spans(spans), clock.gradients(gradients))
            for batch, loss, at in self.losses[rank].rows:
                losses.rows.append((batch, loss, clock.time(at)))
        replicas: dict[int, dict[str, torch.Tensor]] = {}
        for rank, part in self.states.items():
            replicas.setdefault(self.schedule.replicas[rank], {}).update(part)
        state = None if failure else mean_state([*replicas.values()])
        about = {"runtime": "torchrun", **self.about()}
        return finish(self.training, self.schedule, recorder, losses, state, about, failure)

    def clock(self, rank: int) -> Comparison:
        """How this rank's clock compares with that of another."""
        return Comparison()

    def about(self) -> dict[str, object]:
        """What the trace says of the run."""
        return {"rank": self.rank, "hosts": list(self.hosts)}

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM come as events, and do not tear anything."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, lambda *_: self.own(Signal()))
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if self.halt is not None and self.rank == LEADER:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
