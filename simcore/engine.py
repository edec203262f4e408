"""The reference simulator: runs a schedule's programs on SimPy's event calendar.

Time is integer ticks. An instant is settled in this order, until nothing is left: completions, by
worker number; deliveries, in the order of departure; then the lowest-numbered runnable worker runs
until it blocks or reaches an operation that takes time, and again from the start. Only then do the
pending timed operations start, together. So whatever takes no time precedes whatever takes time.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import simpy

from simcore.cluster import Cluster
from simcore.costs import Costs
from simcore.errors import IllegalOperationError
from simcore.grid import deadlock
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
from simcore.post import Post
from simcore.randomness import lognormal_factor
from simcore.rounds import Rounds
from simcore.rules import Holdings, check_declared, shown
from simcore.schedule import Schedule
from simcore.sharing import SharedDevice
from simcore.trace import KIND, Header, Recorder, Trace
from simcore.workload import Workload

__all__ = ["simulate"]


def simulate(
    schedule: Schedule,
    blocks: Workload,
    cluster: Cluster | None = None,
    *,
    jitter: float = 0.0,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Trace:
    """Simulate a schedule whose block k costs what layer k of `blocks` does.

    Without a cluster each worker has a device of its own and links are free. `jitter` is the
    coefficient of variation of lognormal factors on all compute times, drawn from `seed`.
    `progress` is told how many gradients an update has applied, each time.

    Raises `InputError` for a workload that does not fit the schedule, `IllegalOperationError` for
    a program that breaks a rule, `DeadlockError` (with the worker x step grid) for programs that
    wait for ever.
    """
    cluster = cluster or Cluster.private()
    costs = Costs.of(schedule, blocks, cluster, jitter)
    run = _Simulation(schedule, costs, cluster, jitter, seed, progress)
    run.run()
    about = {"engine": "simpy", "jitter": jitter}
    return run.recorder.trace(Header.of(schedule, "simulated", costs.tick.seconds, seed, about))


@dataclass(slots=True)
class _Running:
    """A worker's program: the operation that it is at, and what it will be sent afterwards."""

    program: Program
    holdings: Holdings
    operation: Operation | None = None
    index: int = -1
    computed: int = 0
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
        jitter: float,
        seed: int,
        progress: Callable[[int], None] | None,
    ) -> None:
        self.schedule, self.costs, self.jitter, self.seed = schedule, costs, jitter, seed
        self.progress = progress
        self.calendar = simpy.Environment(0)
        self.now = 0
        self.recorder = Recorder()
        self.ledger = Ledger(schedule.blocks, schedule.weights, schedule.replicas)
        self.workers = [
            _Running(worker.program(), Holdings(worker.name, schedule.blocks))
            for worker in schedule.workers
        ]
        self.post = Post(schedule, costs, self.at)
        self.rounds = Rounds(schedule, self.round_ticks, self.at, self.wake)
        self.placement = [cluster.device_of(worker) for worker in range(len(self.workers))]
        self.devices = {
            device: SharedDevice.of(cluster.device(device), self.placement.count(device))
            for device in self.placement
        }
        self.runnable = list(range(len(self.workers)))
        self.starting: list[tuple[int, int]] = []
        self.due_devices: set[int] = set()
        self.wake_up: dict[int, int] = {}
        self.changed: set[int] = set()

    def run(self) -> None:
        self.settle()
        while (moment := self.calendar.peek()) != float("inf"):
            while self.calendar.peek() == moment:
                self.calendar.step()
            self.now = int(moment)
            self.settle()
        if waiting := self.waiting():
            raise deadlock(self.schedule, self.recorder, waiting)

    def at(self, moment: int, action: Callable[[], None]) -> None:
        """Do something at a later tick, before that instant is settled."""
        timeout = self.calendar.timeout(moment - self.now)
        timeout.callbacks.append(lambda _: action())

    def settle(self) -> None:
        """Settle the present instant, then start together what takes time."""
        while True:
            done = [w for n in self.due_devices for w in self.devices[n].advance(self.now)]
            self.changed |= self.due_devices
            self.due_devices.clear()
            for worker in sorted(done):
                self.finish(worker)
                heapq.heappush(self.runnable, worker)
            for worker, served in self.post.deliver():
                self.workers[worker].served = served
                heapq.heappush(self.runnable, worker)
            if not self.runnable:
                break
            self.advance(heapq.heappop(self.runnable))
        for worker, duration in self.starting:
            device = self.devices[self.placement[worker]]
            device.advance(self.now)
            device.start(worker, duration)
            self.begin(worker)
            self.changed.add(self.placement[worker])
        self.starting.clear()
        for number in self.changed:
            moment = self.devices[number].next_completion()
            if moment is not None and moment != self.wake_up.get(number):
                self.wake_up[number] = moment
                self.at(moment, partial(self.due_devices.add, number))
        self.changed.clear()

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
                return self.duration(worker, operation)

    def meet(self, worker: int, operation: Arrive | Join) -> int | None:
        """Arrive for a round of a group; None if its result has to be waited for."""
        running, group, block = self.workers[worker], operation.group, operation.block
        if running.reached < 0:
            running.reached = self.now
            if isinstance(operation, Arrive) or not self.rounds.has_arrived(worker, group, block):
                contributes = block in running.holdings.pending
                self.rounds.arrive(worker, group, block, contributes, self.now)
        if isinstance(operation, Join):
            finished = self.rounds.join(worker, group, block)
            if finished is None:
                return None
            running.reached = min(max(running.reached, finished.began), self.now)
            if finished.contributors - {worker}:
                running.holdings.joined.add(block)
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

    def duration(self, worker: int, operation: Pass | Update | Snapshot | Merge | Load) -> int:
        running = self.workers[worker]
        block = 0 if isinstance(operation, Load) else operation.block
        table = self.costs.compute.get(kind_of(type(operation)))
        if table is None:
            raise IllegalOperationError(
                f"{self.schedule.workers[worker].name} may not do {shown(operation)}: "
                "its schedule does not say that it splits backward passes"
            )
        ticks = table[block]
        running.computed += 1
        if ticks and self.jitter:
            factor = lognormal_factor(self.jitter, self.seed, worker, running.computed)
            ticks = max(1, round(ticks * factor))
        return ticks

    def round_ticks(self, group: int, block: int) -> int:
        return self.costs.rounds[group][block]

    def wake(self, worker: int) -> None:
        """A round that the worker waits for is over."""
        heapq.heappush(self.runnable, worker)

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
