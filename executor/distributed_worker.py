"""What a rank does with its worker: a thread that trains, and what it tells of itself."""

import os
import traceback
from collections.abc import Callable
from threading import Event
from typing import Any, Final

import torch

from executor.assembly import Parts
from executor.clock import now_ns
from executor.distributed_clock import machine
from executor.distributed_control import Failed, Finished, Ready, Rows
from executor.distributed_port import Streams, distant_ends
from executor.distributed_streams import Network
from executor.drive import Losses, Numbers, drive
from executor.failure import reason_of
from executor.forward_gradients import dual_level_of
from executor.ports import Exchange
from executor.ring import Stopped
from executor.supervision import WorkerThread, stack_of
from executor.training import Training
from executor.watchdog import Pulse
from simcore.schedule import Schedule
from simcore.trace import Recorder

__all__ = ["DistantWorker"]

# How often a worker reports: what it measured since is lost if its process is killed.
_REPORT_NS: Final = 250_000_000


class DistantWorker:
    """The worker of this rank, in a thread of its own; `tell` is given its reports."""

    def __init__(
        self,
        training: Training,
        schedule: Schedule,
        rank: int,
        network: Network,
        tell: Callable[[Any], object],
    ) -> None:
        self.training, self.schedule, self.rank = training, schedule, rank
        self.network, self.tell = network, tell
        self.exchange, self.begin = Exchange(), Event()
        self.beats = [0]
        self.pulse = Pulse(self.beats, 0)
        self.streams = Streams()
        self._recorder, self._losses = Recorder(), Losses()
        self._reported_ns, self._applied = now_ns(), 0
        self.thread = WorkerThread(schedule.workers[rank].name, self._work)

    def stop(self, timeout_s: float) -> Rows:
        """End the thread, if it still can be ended; what it has not yet reported."""
        self.exchange.stop()
        self.begin.set()
        if self.thread.ident is not None:
            self.thread.ended.wait(timeout_s)
        return self._rows()

    def stack(self) -> str:
        """Where the thread is now."""
        return stack_of(self.thread)

    def _work(self) -> None:
        try:
            self._train()
        except Stopped:
            pass
        except BaseException as error:
            self.tell(Failed(reason_of(error), traceback.format_exc()))
        finally:
            self.pulse.end()

    def _train(self) -> None:
        torch.set_num_threads(self.training.threads)
        worker = self.schedule.workers[self.rank]
        parts = Parts(self.training, self.schedule, [self.rank])
        tensors = parts.warm_tensors_of(self.rank, self.pulse)
        ends, self.streams = distant_ends(parts, self.rank, self.exchange, self.network)
        self.tell(Ready(machine(), os.getpid()))
        self.pulse.wait()
        self.begin.wait()
        numbers = Numbers(self.schedule.channels, self.schedule.groups)
        with dual_level_of(self.schedule):
            drive(
                self.rank,
                worker,
                numbers,
                tensors,
                ends,
                self._recorder,
                self._losses,
                self._between,
                self.pulse,
            )
        self.pulse.be_patient()
        self.tell(self._rows())
        self.tell(Finished(parts.state()))

    def _between(self) -> None:
        """Between two operations: report now and then; has the run been stopped?"""
        if self.exchange.stopped:
            raise Stopped("the run was stopped")
        if now_ns() - self._reported_ns >= _REPORT_NS:
            self.tell(self._rows())

    def _rows(self) -> Rows:
        """What was recorded since the last report."""
        applied = self._recorder.applied - self._applied
        self._reported_ns, self._applied = now_ns(), self._recorder.applied
        return Rows(*self._recorder.drain(), self._losses.drain(), applied)
