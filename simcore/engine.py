"""The reference simulator: runs a schedule's programs on SimPy's event calendar.

Time is integer ticks. An instant is settled in this order, until nothing is left: completions, by
worker number; pauses and losses; deliveries, in the order of departure; then the lowest-numbered
runnable worker runs until it blocks or reaches an operation that takes time, and again from the
start. Only then do the pending timed operations start, together. So whatever takes no time precedes
whatever takes time.
"""

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import simpy

from simcore.cluster import Cluster
from simcore.costs import Costs
from simcore.durations import Variations, chosen
from simcore.grid import deadlock
from simcore.interruptions import Interruptions
from simcore.ledger import Ledger
from simcore.ops import (
    Arrive,
    Join,
    Load,
    Merge,
    Operation,
    Pass,
    Program,
    Receive,
    Select,
    Send,
    Snapshot,
    Update,
    kind_of,
)
from simcore.patience import Patience
from simcore.post import Post
from simcore.rounds import Rounds
from simcore.rules import Holdings, check_declared, shown
from simcore.schedule import Schedule
from simcore.sharing import Devices
from simcore.timing import Timing
from simcore.trace import KIND, Header, Recorder, Trace
from simcore.workload import Workload

__all__ = ["simulate", "simulate_timed"]


def simulate(
    schedule: Schedule,
    blocks: Workload,
    cluster: Cluster | None = None,
    *,
    jitter: float = 0.0,
    variation: Variations | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Trace:
    """Simulate a schedule whose block k costs what layer k of `blocks` does.

    Without a cluster each worker has a device of its own and links are free. `variation` gives the
    distributions of factors on compute times, drawn from `seed`; `jitter`, for short, is the
    coefficient of variation of lognormal ones. `progress` is told how many gradients an update has
    applied, each time.

    Where the cluster loses workers, the trace is of what the others could do without them: `lost`
    of the header's `about` says when whom, in seconds, and `waiting` what each other worker that
    did not end waits for.

    Raises `InputError` for a workload or cluster that does not fit the schedule,
    `IllegalOperationError` for a program that breaks a rule, `DeadlockError` (with the worker x
    step grid) for programs that wait for ever although no worker was lost.
    """
    cluster = cluster or Cluster.private()
    variations = chosen(jitter, variation)
    about: dict[str, Any] = {"engine": "simpy", "jitter": jitter}
    about |= {"variation": f"{variation}"} if variation else {}
    costs = Costs.of(schedule, blocks, cluster, variations.random)
    timing = Timing(schedule, costs, cluster, variations, seed)
    return simulate_timed(
        schedule, costs, cluster, timing, seed=seed, progress=progress, about=about
    )


def simulate_timed(
    schedule: Schedule,
    costs: Costs,
    cluster: Cluster,
    timing: Timing,
    *,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    about: Mapping[str, Any] | None = None,
) -> Trace:
    """As `simulate`, with what everything costs in ticks; `about` is for the trace's header."""
    run = _Simulation(schedule, costs, cluster, timing, seed, progress)
    about = {**(about or {}), **run.run()}
    return run.recorder.trace(Header.of(schedule, "simulated", costs.tick.seconds, seed, about))


@dataclass(slots=True)
class _Running:
    """A worker's program: the operation that it is at, and what it will be sent afterwards."""

    program: Program
    holdings: Holdings
    operation: Operation | None = None
    index: int = -1
    started: int = 0
    version: int = -1
    has_slot: bool = False
    reached: int = -1
    served: tuple[int, int | None] | None = None
    answer: Any = None
    ended: bool = False


class _Simulation:
    def __init__(
        self,
        schedule: Schedule,
        costs: Costs,
        cluster: Cluster,
        timing: Timing,
        seed: int,
        progress: Callable[[int], None] | None,
    ) -> None:
        self.schedule, self.costs, self.timing = schedule, costs, timing
        self.progress = progress
        self.calendar = simpy.Environment(0)
        self.now = 0
        self.recorder = Recorder()
        self.ledger = Ledger(schedule.blocks, schedule.weights, schedule.replicas)
        self.workers = [
            _Running(worker.program(), Holdings(worker.name, schedule.blocks))
            for worker in schedule.workers
        ]
        self.post = Post(schedule, costs, cluster, self.at)
        self.devices = Devices(cluster, len(self.workers), self.at)
        self.interruptions = Interruptions(cluster, costs.tick, seed, self.at)
        self.runnable = list(range(len(self.workers)))
        wake = partial(heapq.heappush, self.runnable)
        self.rounds = Rounds(schedule, lambda n, block: costs.rounds[n][block], self.at, wake)
        self.starting: list[tuple[int, int]] = []
        self.patience = Patience(schedule)

    def run(self) -> dict[str, Any]:
        """Run to the end; what there is to say of workers that were lost on the way."""
        self.settle()
        while (moment := self.calendar.peek()) != float("inf"):
            self.now = int(moment)
            while self.calendar.peek() == moment:
                self.calendar.step()
            self.settle()
        waiting = self.waiting()
        ended = [worker for worker, running in enumerate(self.workers) if running.ended]
        lost = self.interruptions.report(self.schedule, ended, waiting)
        if waiting and not lost:
            raise deadlock(self.schedule, self.recorder, waiting)
        return lost

    def at(self, moment: int, action: Callable[[], None]) -> None:
        """Do something at a later tick, before that instant is settled."""
        timeout = self.calendar.timeout(moment - self.now)
        timeout.callbacks.append(lambda _: action())

    def settle(self) -> None:
        """Settle the present instant, then start together what takes time."""
        while True:
            for worker in self.devices.complete(self.now):
                self.finish(worker)
                heapq.heappush(self.runnable, worker)
            if self.interruptions.due:
                self.interrupt()
            for worker, served in self.post.deliver():
                self.workers[worker].served = served
                heapq.heappush(self.runnable, worker)
            if not self.runnable:
                break
            worker = heapq.heappop(self.runnable)
            if not self.interruptions.stands(worker):
                self.advance(worker)
        for worker, duration in self.starting:
            self.devices.start(worker, duration, self.now)
            self.begin(worker)
        self.starting.clear()
        self.devices.plan()

    def interrupt(self) -> None:
        """Let workers stop and go on; who goes on stands at the end of every line."""
        stopped, resumed = self.interruptions.change()
        for worker in stopped:
            self.devices.suspend(worker, self.now)
            self.post.withdraw(worker)
            self.rounds.withdraw(worker)
        for worker in resumed:
            if not self.devices.resume(worker, self.now):
                heapq.heappush(self.runnable, worker)

    # One worker

    def advance(self, worker: int) -> None:
        """Run a worker until it blocks or reaches an operation that takes time."""
        running = self.workers[worker]
        while not running.ended:
            if running.operation is None:
                try:
                    running.operation = running.program.send(running.answer)
                except StopIteration:
                    self.end(worker)
                    return
                running.index += 1
                running.answer = None
                check_declared(self.schedule.workers[worker], running.operation)
                self.patience.note(worker, running.operation)
            duration = self.prepare(worker, running.operation)
            if duration is None:
                return
            if duration > 0:
                self.starting.append((worker, duration))
                return
            self.begin(worker)
            self.finish(worker)

    def prepare(self, worker: int, operation: Operation) -> int | None:
        """How long the operation takes now that it can start; None if it has to wait."""
        running = self.workers[worker]
        match operation:
            case Send(channel, batch):
                if not running.has_slot and not self.post.take_slot(worker, channel):
                    return None
                running.has_slot = False
                running.holdings.take(channel.carries, batch, operation)
                return self.costs.delays[self.post.number[channel]].send
            case Receive() | Select():
                offered = (
                    operation.channels if isinstance(operation, Select) else (operation.channel,)
                )
                running.served = running.served or self.post.serve(offered)
                if running.served is None:
                    self.post.wait(worker, offered)
                    return None
                number, answer = running.served
                return 0 if answer is None else self.costs.delays[number].receive
            case Arrive() | Join():
                return self.meet(worker, operation)
            case _:
                running.holdings.compute(operation)
                return self.timing.ticks(worker, operation)

    def meet(self, worker: int, operation: Arrive | Join) -> int | None:
        """Arrive for a round of a group; None if its result has to be waited for."""
        running, group, block = self.workers[worker], operation.group, operation.block
        if running.reached < 0:
            running.reached = self.now
            if isinstance(operation, Arrive) or not self.rounds.has_arrived(worker, group, block):
                contributes = running.holdings.arrive(operation)
                self.rounds.arrive(worker, group, block, contributes, self.now)
        if isinstance(operation, Join):
            finished = self.rounds.join(worker, group, block)
            if finished is None:
                return None
            running.reached = max(running.reached, finished.began)
            running.holdings.join(block, others=bool(finished.contributors - {worker}))
            running.answer = bool(finished.contributors)
        return 0

    def begin(self, worker: int) -> None:
        """The operation starts: versions are read."""
        running = self.workers[worker]
        running.started = self.now
        if isinstance(running.operation, Pass | Snapshot):
            running.version = self.ledger.begin(worker, running.operation)

    def finish(self, worker: int) -> None:
        """The operation completes: versions are raised, messages depart, a row is recorded."""
        running = self.workers[worker]
        operation = running.operation
        assert operation is not None
        match operation:
            case Update(block):
                update = self.ledger.update(worker, block)
                self.record(worker, operation, block, -1, update.version)
                self.recorder.update(self.now, worker, update)
                if self.progress:
                    self.progress(len(update.gradients))
            case Merge(block):
                version = self.ledger.merge(worker, block)
                self.record(worker, operation, block, -1, version)
            case Snapshot(block):
                self.record(worker, operation, block, -1, running.version)
            case Load(batch):
                self.record(worker, operation, 0, batch, -1)
            case Send(channel, batch):
                self.record(worker, operation, self.post.number[channel], batch, -1)
                self.post.depart(channel, batch, self.now)
            case Receive() | Select():
                self.receive(worker)
            case Arrive(group, block) | Join(group, block):
                running.started, running.reached = running.reached, -1
                self.record(worker, operation, self.rounds.number[group], block, -1)
            case _:
                self.ledger.end(worker, operation)
                self.record(worker, operation, operation.block, operation.batch, running.version)
        running.operation = None

    def receive(self, worker: int) -> None:
        running = self.workers[worker]
        assert running.served is not None
        assert running.operation is not None
        (number, batch), running.served = running.served, None
        if batch is None:
            return
        channel = self.schedule.channels[number]
        running.holdings.give(channel.carries, batch, running.operation)
        self.record(worker, Receive(channel), number, batch, -1)
        running.answer = batch
        if isinstance(running.operation, Select):
            running.answer = channel, batch
        heir = self.post.free_slot(number)
        if heir is not None:
            self.workers[heir].has_slot = True
            heapq.heappush(self.runnable, heir)

    def end(self, worker: int) -> None:
        """The program has ended: nothing may be left over, and its channels lose a sender."""
        running = self.workers[worker]
        running.ended = True
        running.holdings.end()
        self.post.close(self.schedule.workers[worker].sends)
        self.rounds.leave(worker, self.now)

    # Small things

    def record(
        self, worker: int, operation: Operation, block: int, batch: int, version: int
    ) -> None:
        running = self.workers[worker]
        code = KIND[kind_of(type(operation))]
        self.recorder.span(
            running.started, self.now, worker, running.index, code, block, batch, version
        )

    def waiting(self) -> dict[int, str]:
        """What each worker that has not ended waits for."""
        return {
            w: shown(running.operation)
            for w, running in enumerate(self.workers)
            if running.operation is not None
        }
