"""The times of many replicas of a static schedule at once: an interpreter whose clock is an array.

Where each worker does the same in the same order whatever the times, an operation starts when the
last thing that it waits for is over, and ends a duration later. So times follow from maxima and
sums (the max-plus algebra of Baccelli et al., Synchronization and Linearity, 1992), operation by
operation, each for all replicas together.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simcore.cluster import Cluster
from simcore.costs import Costs
from simcore.draws import Ticks
from simcore.ops import Arrive, Channel, Join, Operation, Program, Receive, Select, Send
from simcore.rules import Holdings
from simcore.schedule import Schedule
from simcore.static_rounds import NotStaticError, StaticRounds

__all__ = ["NotStaticError", "Told", "obstacle", "static_times"]

Times = NDArray[np.int64]
# Worker, index, start and end of an operation, as in the rows of a trace.
Told = Callable[[int, int, Times, Times], None]


def obstacle(schedule: Schedule, costs: Costs, cluster: Cluster) -> str | None:
    """Why the order of operations may depend on times, or times on more than this order.

    None if nothing that is declared speaks against `static_times`; a program may still do.
    """
    for channel in schedule.channels:
        senders, receivers = len(schedule.senders[channel]), len(schedule.receivers[channel])
        if receivers > 1 or (not channel.source and senders > 1):
            return f"{channel.name} has several senders or receivers"
    if cluster.faults:
        return "workers pause or are lost"
    places = [cluster.device_of(worker) for worker in range(len(schedule.workers))]
    if len(set(places)) < len(places):
        return "workers share a device"
    if any(cluster.device(place).speed(1) != 1 for place in places):
        return "a device is slower than the workload says"
    return _shared_wire(schedule, costs, cluster)


def _shared_wire(schedule: Schedule, costs: Costs, cluster: Cluster) -> str | None:
    """Messages that take time on a wire must be of one channel, one after the other."""
    by_wire: dict[object, list[int]] = {}
    for number, channel in enumerate(schedule.channels):
        link = cluster.link_of(channel.name)
        named = link.wire is not None and not schedule.is_local(channel)
        by_wire.setdefault(link.wire if named else number, []).append(number)
        if costs.delays[number].transmit and link.transfers == "shared":
            return f"messages of {channel.name} share the bandwidth"
    for name, numbers in by_wire.items():
        if len(numbers) > 1 and any(costs.delays[number].transmit for number in numbers):
            return f"channels share the wire {name}"
    return None


def static_times(
    schedule: Schedule,
    costs: Costs,
    durations: Sequence[Iterator[Ticks]],
    replicas: int,
    told: Told | None = None,
) -> tuple[Times, Times]:
    """First start and last end of an operation in each replica, in ticks, both shape (replicas,).

    `durations` gives those of each worker's computations in its order. `told` hears of every
    operation that leaves a row in a trace.

    Raises `NotStaticError` for a program whose order of operations may depend on times.
    """
    run = _Replicas(schedule, costs, durations, replicas, told)
    run.run()
    first = [running.first for running in run.workers if running.first is not None]
    last = [running.last for running in run.workers if running.last is not None]
    nothing = np.zeros(replicas, np.int64)
    if not first:
        return nothing, nothing
    return np.min(first, axis=0), np.max(last, axis=0)


@dataclass(slots=True)
class _Running:
    """A worker's program, its clock, and what it is at."""

    program: Program
    clock: Times
    holdings: Holdings
    operation: Operation | None = None
    index: int = -1
    answer: Any = None
    ended: bool = False
    first: Times | None = None
    last: Times | None = None


@dataclass(slots=True)
class _Box:
    """A channel: messages that are under way, with their arrivals, and when slots became free."""

    capacity: int | None
    messages: deque[tuple[Times, int]]
    closed: Times | None = None  # when its sender ended
    wire_free: Times | None = None
    slots: int = 0
    freed: deque[Times] = field(default_factory=deque)


class _Replicas:
    def __init__(
        self,
        schedule: Schedule,
        costs: Costs,
        durations: Sequence[Iterator[Ticks]],
        replicas: int,
        told: Told | None,
    ) -> None:
        self.schedule, self.costs, self.durations, self.told = schedule, costs, durations, told
        self.start = np.zeros(replicas, np.int64)
        self.number = {channel: n for n, channel in enumerate(schedule.channels)}
        self.boxes = [self._box(channel) for channel in schedule.channels]
        self.workers = [
            _Running(worker.program(), self.start, Holdings(worker.name, schedule.blocks))
            for worker in schedule.workers
        ]
        self.rounds = StaticRounds(schedule, costs.rounds)
        # What is held matters to nothing but to who contributes to a round.
        self.holds = bool(schedule.groups)

    def _box(self, channel: Channel) -> _Box:
        if channel.source:
            held = channel.held(self.schedule.batches)
            return _Box(None, deque((self.start, batch) for batch in held), self.start)
        closed = None if self.schedule.senders[channel] else self.start
        return _Box(channel.capacity, deque(), closed)

    def run(self) -> None:
        """Let workers go on, each until it waits for another, until all have ended."""
        moved = True
        while moved:
            moved = False
            for worker in range(len(self.workers)):
                moved |= self.advance(worker)
        if not all(running.ended for running in self.workers):
            raise NotStaticError("workers wait for ever")

    def advance(self, worker: int) -> bool:
        """Run a worker until it waits; whether it has done anything."""
        running, moved = self.workers[worker], False
        while not running.ended:
            if running.operation is None:
                try:
                    running.operation = running.program.send(running.answer)
                except StopIteration:
                    self.end(worker)
                    return True
                running.index += 1
                running.answer = None
            if not self.perform(worker, running, running.operation):
                return moved
            running.operation, moved = None, True
        return moved

    def perform(self, worker: int, running: _Running, operation: Operation) -> bool:
        """Do an operation; whether what it waits for is known."""
        if isinstance(operation, Send):
            return self.send(worker, running, operation)
        if isinstance(operation, Receive):
            return self.receive(worker, running, operation.channel)
        if isinstance(operation, Arrive | Join):
            return self.meet(worker, running, operation)
        if isinstance(operation, Select):
            if len(operation.channels) > 1:
                raise NotStaticError("a worker takes what comes first")
            return self.receive(worker, running, operation.channels[0])
        if self.holds:
            running.holdings.compute(operation)
        duration = next(self.durations[worker], None)
        if duration is None:
            raise NotStaticError("a worker does more than in another replica")
        start = running.clock
        if not isinstance(duration, int) or duration:
            running.clock = start + duration
        self.row(worker, running, start)
        return True

    def row(self, worker: int, running: _Running, start: Times) -> None:
        """The operation leaves a row in a trace; it ends now."""
        if running.first is None:
            running.first = start
        running.last = running.clock
        if self.told is not None:
            self.told(worker, running.index, start, running.clock)

    def send(self, worker: int, running: _Running, operation: Send) -> bool:
        number = self.number[operation.channel]
        box, delays = self.boxes[number], self.costs.delays[number]
        if box.capacity is not None:
            if box.slots < box.capacity:
                box.slots += 1
            elif box.freed:
                running.clock = np.maximum(running.clock, box.freed.popleft())
            else:
                return False
        if self.holds:
            running.holdings.take(operation.channel.carries, operation.batch, operation)
        start = running.clock
        running.clock = arrives = start + delays.send if delays.send else start
        if delays.transmit:
            free = self.start if box.wire_free is None else box.wire_free
            box.wire_free = arrives = np.maximum(running.clock, free) + delays.transmit
        if delays.latency:
            arrives = arrives + delays.latency
        box.messages.append((arrives, operation.batch))
        self.row(worker, running, start)
        return True

    def receive(self, worker: int, running: _Running, channel: Channel) -> bool:
        number = self.number[channel]
        box = self.boxes[number]
        if not box.messages:
            if box.closed is None:
                return False
            running.clock = np.maximum(running.clock, box.closed)
            return True
        arrives, batch = box.messages.popleft()
        start = np.maximum(running.clock, arrives)
        duration = self.costs.delays[number].receive
        running.clock = start + duration if duration else start
        if box.capacity is not None:
            box.freed.append(running.clock)
        operation = running.operation
        assert operation is not None
        if self.holds:
            running.holdings.give(channel.carries, batch, operation)
        running.answer = (channel, batch) if isinstance(operation, Select) else batch
        self.row(worker, running, start)
        return True

    def meet(self, worker: int, running: _Running, operation: Arrive | Join) -> bool:
        group, block, reached = operation.group, operation.block, running.clock
        if isinstance(operation, Arrive) or not self.rounds.has_arrived(worker, group, block):
            contributes = running.holdings.arrive(operation)
            self.rounds.arrive(worker, group, block, contributes, reached)
        if isinstance(operation, Join):
            finished = self.rounds.join(worker, group, block)
            if finished is None:
                return False
            running.clock = np.maximum(reached, finished.ends)
            reached = np.maximum(reached, finished.began)
            running.holdings.join(block, others=bool(finished.contributors - {worker}))
            running.answer = bool(finished.contributors)
        self.row(worker, running, reached)
        return True

    def end(self, worker: int) -> None:
        """The program has ended, and with it what it sends to."""
        running = self.workers[worker]
        running.ended = True
        for channel in self.schedule.workers[worker].sends:
            self.boxes[self.number[channel]].closed = running.clock
        self.rounds.leave(worker, running.clock)
