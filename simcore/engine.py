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
from simcore.grid import deadlock
from simcore.ledger import Ledger
from simcore.mailbox import Mailbox
from simcore.ops import (
    Backward,
    Forward,
    Operation,
    Program,
    Receive,
    Select,
    Send,
    Update,
)
from simcore.randomness import lognormal_factor
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
    return run.recorder.trace(
        Header(
            origin="simulated",
            schedule=schedule.name,
            options=schedule.options,
            blocks=schedule.blocks,
            batches=schedule.batches,
            workers=tuple(worker.name for worker in schedule.workers),
            channels=tuple(channel.name for channel in schedule.channels),
            tick_s=costs.tick.seconds,
            seed=seed,
            about={"engine": "simpy", "jitter": jitter},
        )
    )


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
        self.ledger = Ledger(schedule.blocks, schedule.weights)
        self.workers = [
            _Running(worker.program(), Holdings(worker.name, schedule.blocks))
            for worker in schedule.workers
        ]
        self.number = {channel: n for n, channel in enumerate(schedule.channels)}
        self.mailboxes = [Mailbox.of(schedule, channel) for channel in schedule.channels]
        self.link_free = [0] * len(self.mailboxes)
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
        self.deliveries: list[tuple[int, int, int]] = []
        self.departures = 0
        self.waits = 0
        self.touched: set[int] = set()

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
            for _, channel, batch in sorted(self.deliveries):
                self.mailboxes[channel].arrive(batch)
                self.touched.add(channel)
            self.deliveries.clear()
            self.serve_waiting()
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

    def serve_waiting(self) -> None:
        """Give arrived messages to waiting workers: first come, first served."""
        candidates = {
            (since, worker)
            for channel in self.touched
            for worker, since in self.mailboxes[channel].waiting.items()
        }
        self.touched.clear()
        for _, worker in sorted(candidates):
            served = self.serve(worker)
            if served is not None:
                self.workers[worker].served = served
                for channel in self.listened(worker):
                    self.mailboxes[channel].waiting.pop(worker, None)
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
            case Forward() | Backward() | Update():
                running.holdings.compute(operation)
                return self.duration(worker, operation)
            case Send(channel, batch):
                number = self.number[channel]
                mailbox = self.mailboxes[number]
                if not running.has_slot and not mailbox.take_slot():
                    mailbox.blocked.append(worker)
                    return None
                running.has_slot = False
                running.holdings.take(channel.carries, batch, operation)
                return self.costs.delays[number].send
            case Receive() | Select():
                if running.served is None:
                    running.served = self.serve(worker)
                if running.served is None:
                    self.waits += 1
                    for number in self.listened(worker):
                        self.mailboxes[number].waiting[worker] = self.waits
                    return None
                number, answer = running.served
                return 0 if answer is None else self.costs.delays[number].receive

    def begin(self, worker: int) -> None:
        """The operation starts: versions are read."""
        running = self.workers[worker]
        running.started = self.now
        match running.operation:
            case Forward(block, batch):
                running.version = self.ledger.forward(block, batch)
            case Backward(block, batch):
                running.version = self.ledger.backward(worker, block, batch)

    def finish(self, worker: int) -> None:
        """The operation completes: versions are raised, messages depart, a row is recorded."""
        running = self.workers[worker]
        match running.operation:
            case Forward(block, batch):
                self.record(worker, Forward, block, batch, running.version)
            case Backward(block, batch):
                self.ledger.computed(worker, block, batch)
                self.record(worker, Backward, block, batch, running.version)
            case Update(block):
                update = self.ledger.update(worker, block)
                self.record(worker, Update, block, -1, update.version)
                self.recorder.update(self.now, worker, update)
                if self.progress:
                    self.progress(len(update.gradients))
            case Send(channel, batch):
                self.record(worker, Send, self.number[channel], batch, -1)
                self.depart(self.number[channel], batch)
            case Receive() | Select():
                self.receive(worker)
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
        self.record(worker, Receive, number, batch, -1)
        running.answer = batch
        if isinstance(running.operation, Select):
            running.answer = channel, batch
        if not channel.source:
            heir = self.mailboxes[number].free_slot()
            if heir is not None:
                self.workers[heir].has_slot = True
                heapq.heappush(self.runnable, heir)

    def depart(self, number: int, batch: int) -> None:
        """Put a message on its link: transfers one at a time, then the latency."""
        delays = self.costs.delays[number]
        self.mailboxes[number].depart()
        self.link_free[number] = max(self.now, self.link_free[number]) + delays.transmit
        arrival = self.link_free[number] + delays.latency
        message = (self.departures, number, batch)
        self.departures += 1
        if arrival == self.now:
            self.deliveries.append(message)
        else:
            self.at(arrival, partial(self.deliveries.append, message))

    def end(self, worker: int) -> None:
        """The program has ended: nothing may be left over, and its channels lose a sender."""
        running = self.workers[worker]
        running.ended = True
        running.holdings.end()
        for channel in self.schedule.workers[worker].sends:
            self.mailboxes[self.number[channel]].open_senders -= 1
            self.touched.add(self.number[channel])

    # Small things

    def listened(self, worker: int) -> list[int]:
        """The channels that the worker's present operation would receive from, in its order."""
        match self.workers[worker].operation:
            case Receive(channel):
                return [self.number[channel]]
            case Select(channels):
                return [self.number[channel] for channel in channels]
        return []

    def serve(self, worker: int) -> tuple[int, int | None] | None:
        """Take the message that the worker gets now; batch None if all is closed; else None."""
        channels = self.listened(worker)
        for number in channels:
            if self.mailboxes[number].arrived:
                return number, self.mailboxes[number].arrived.popleft()
        if all(self.mailboxes[number].closed for number in channels):
            return channels[0], None
        return None

    def duration(self, worker: int, operation: Forward | Backward | Update) -> int:
        running = self.workers[worker]
        table = getattr(self.costs, type(operation).__name__.lower())
        ticks: int = table[operation.block - 1]
        running.computed += 1
        if ticks and self.jitter:
            factor = lognormal_factor(self.jitter, self.seed, worker, running.computed)
            ticks = max(1, round(ticks * factor))
        return ticks

    def record(self, worker: int, kind: type, block: int, batch: int, version: int) -> None:
        running = self.workers[worker]
        code = KIND[kind.__name__.lower()]
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
