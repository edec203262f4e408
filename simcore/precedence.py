"""Which event of a static schedule comes after which, recorded with the times of all of them.

Where every channel has one sender and one receiver, no program uses `Select`, and nothing shares a
device or a wire, what each worker does is the same whatever the times. Then every event ends at the
latest end of those that it comes after, each with a fixed time added: a system that is linear in
the max-plus algebra (Baccelli, Cohen, Olsder and Quadrat, Synchronization and Linearity, 1992).

What is recorded are the lanes of `simcore.event_lanes`.
"""

from collections import Counter, deque
from collections.abc import Iterator
from math import ceil
from typing import Any, Final

from simcore.cluster import Cluster
from simcore.costs import Costs
from simcore.errors import IllegalOperationError
from simcore.event_lanes import After, Lanes, NotStaticError, Recording
from simcore.group_rounds import GroupRounds
from simcore.ops import (
    Arrive,
    Join,
    Merge,
    Operation,
    Program,
    Receive,
    Select,
    Send,
    Snapshot,
    Update,
    kind_of,
)
from simcore.patience import Patience
from simcore.rules import RULES
from simcore.schedule import Schedule
from simcore.validate import validate

__all__ = ["record", "refuse_sharing"]


def refuse_sharing(schedule: Schedule, cluster: Cluster, costs: Costs) -> None:
    """Raise `NotStaticError` where times depend on who comes first to a device or a wire."""
    devices = [cluster.device_of(worker) for worker in range(len(schedule.workers))]
    remedy = "give each worker a device of its own"
    for device, count in Counter(devices).items():
        if count > 1:
            raise NotStaticError("device", device, f"is shared by {count} workers", remedy)
    if cluster.faults:
        rule = "stop workers at times of their own"
        raise NotStaticError("faults", len(cluster.faults), rule, "leave out pauses and losses")
    timed: Counter[str] = Counter()
    sharing: Counter[str] = Counter()
    for channel, delays in zip(schedule.channels, costs.delays, strict=True):
        link = cluster.link_of(channel.name)
        if channel.source or schedule.is_local(channel):
            continue
        if link.transfers == "shared" and delays.transmit:
            rule = "has transfers that share its bandwidth"
            raise NotStaticError("link", channel.name, rule, "give it serial transfers")
        if link.wire is not None:
            sharing[link.wire] += 1
            timed[link.wire] += bool(delays.transmit)
    for wire, count in sharing.items():
        if count > 1 and timed[wire]:
            rule = f"is shared by {count} channels"
            raise NotStaticError("wire", wire, rule, "give each channel a wire of its own")


def record(schedule: Schedule, cluster: Cluster, costs: Costs) -> Recording:
    """Run the programs once, in any order, and note what comes after what, and when.

    Raises `NotStaticError` if the order or the times of events are not fixed by the programs, and
    what `simcore.validate.validate` raises for programs that are not legal.
    """
    refuse_sharing(schedule, cluster, costs)
    for channel in schedule.channels:
        ends = {"receivers": len(schedule.receivers[channel])}
        if not channel.source:
            ends["senders"] = len(schedule.senders[channel])
        for who, count in ends.items():
            if count > 1:
                rule = f"has {count} {who}, of whom the first to come is served"
                raise NotStaticError("channel", channel.name, rule, "simulate this schedule")
    recorder = _Recorder(schedule, cluster, costs)
    moved = [True]
    while any(moved):
        moved = [recorder.advance(worker) for worker in range(len(schedule.workers))]
    if not all(recorder.ended):
        validate(schedule, orders=0)  # says what is wrong
        raise AssertionError("only the recorder waits for ever")
    return Recording(recorder.lanes.all, len(schedule.workers), recorder.lanes.order)


_KIND: Final = {each: kind_of(each) for each in RULES if each is not Select}


class _Recorder:
    def __init__(self, schedule: Schedule, cluster: Cluster, costs: Costs) -> None:
        self.schedule, self.costs = schedule, costs
        self.lanes = Lanes([worker.name for worker in schedule.workers])
        count = len(schedule.workers)
        self.programs: list[Program] = [worker.program() for worker in schedule.workers]
        self.answers: list[Any] = [None] * count
        self.at: list[Operation | None] = [None] * count
        self.ended = [False] * count
        self.patience = Patience(schedule)
        self.slowdowns = [cluster.slowdown(worker) for worker in range(count)]
        speeds = [cluster.device(cluster.device_of(w)).speed(1) for w in range(count)]
        self.speeds = [1 if speed == 1 else speed for speed in speeds]
        self.number = {channel: n for n, channel in enumerate(schedule.channels)}
        self.sources: dict[int, Iterator[int]] = {
            n: iter(channel.held(schedule.batches))
            for n, channel in enumerate(schedule.channels)
            if channel.source
        }
        # Messages that are there, with the event that they come after.
        self.messages: list[deque[tuple[int, After]]] = [deque() for _ in schedule.channels]
        self.sent = [0] * len(schedule.channels)
        self.received: list[list[After]] = [[] for _ in schedule.channels]
        self.wires: dict[int, int] = {}
        self.groups = {group: n for n, group in enumerate(schedule.groups)}
        self.rounds = GroupRounds(schedule, costs, self.lanes, self.ended)
        self.pending: list[set[int]] = [set() for _ in range(count)]
        self.snapshots: list[set[int]] = [set() for _ in range(count)]

    def advance(self, worker: int) -> bool:
        """Run a worker until it must wait or ends; whether it did anything."""
        moved = False
        while not self.ended[worker]:
            operation = self.at[worker]
            if operation is None:
                try:
                    operation = self.programs[worker].send(self.answers[worker])
                except StopIteration:
                    self.ended[worker] = True
                    self.rounds.leave(worker)
                    return True
                self.at[worker] = operation
                self.answers[worker] = None
                self.patience.note(worker, operation)
            if not self.perform(worker, operation):
                return moved
            self.at[worker], moved = None, True
        return moved

    def busy(self, worker: int, ticks: int) -> int:
        """Ticks that take so many at full speed, on the worker's device."""
        speed = self.speeds[worker]
        return ticks if speed == 1 else ceil(ticks / speed)

    def perform(self, worker: int, operation: Operation) -> bool:
        """Do an operation if it can be done now."""
        match operation:
            case Send():
                return self.send(worker, operation)
            case Receive():
                return self.receive(worker, operation)
            case Select():
                name = self.schedule.workers[worker].name
                rule = "takes whichever message is there first"
                raise NotStaticError("worker", name, rule, "simulate this schedule")
            case Arrive() | Join():
                return self.meet(worker, operation)
        self.compute(worker, operation)
        return True

    def compute(self, worker: int, operation: Any) -> None:
        kind, block = _KIND[type(operation)], getattr(operation, "block", 0)
        if kind not in self.costs.compute:
            raise IllegalOperationError(f"the schedule does not say that it splits {kind} passes")
        ticks = self.costs.compute[kind][block]
        if ticks and self.slowdowns[worker] != 1:
            ticks = max(1, round(ticks * self.slowdowns[worker]))
        ticks = self.busy(worker, ticks)
        event = kind, block, getattr(operation, "batch", -1), None
        self.lanes.add(worker, event, ticks, self.lanes.before(worker, ticks))
        match operation:
            case Update():
                self.pending[worker].discard(block)
            case Snapshot():
                self.snapshots[worker].add(block)
            case Merge():
                self.snapshots[worker].discard(block)
            case _ if RULES[type(operation)].pending:
                self.pending[worker].add(block)

    def send(self, worker: int, operation: Send) -> bool:
        number = self.number[operation.channel]
        delays, sent = self.costs.delays[number], self.sent[number]
        ticks = self.busy(worker, delays.send)
        after = self.lanes.before(worker, ticks)
        if operation.channel.capacity is not None and sent >= operation.channel.capacity:
            freed = self.received[number]
            if len(freed) <= sent - operation.channel.capacity:
                return False
            lane, place, _ = freed[sent - operation.channel.capacity]
            after = (*after, (lane, place, ticks))
        batch = operation.batch
        gone = self.lanes.add(worker, ("send", number, batch, None), ticks, after)
        if delays.transmit:
            wire = self.wires.get(number)
            if wire is None:
                wire = self.wires[number] = self.lanes.new(f"wire of {operation.channel.name}")
            after = (worker, gone[1], delays.transmit), *self.lanes.before(wire, delays.transmit)
            gone = self.lanes.add(wire, ("transfer", number, batch, None), delays.transmit, after)
        self.messages[number].append((batch, gone))
        self.sent[number] += 1
        return True

    def receive(self, worker: int, operation: Receive) -> bool:
        channel = operation.channel
        number = self.number[channel]
        delays = self.costs.delays[number]
        ticks = self.busy(worker, delays.receive)
        after = self.lanes.before(worker, ticks)
        if channel.source:
            batch = next(self.sources[number], None)
            if batch is None:
                return True
        elif self.messages[number]:
            batch, (lane, place, _) = self.messages[number].popleft()
            after = (*after, (lane, place, delays.latency + ticks))
        else:
            return all(self.ended[sender] for sender in self.schedule.senders[channel])
        done = self.lanes.add(worker, ("receive", number, batch, None), ticks, after)
        self.received[number].append(done)
        self.answers[worker] = batch
        return True

    def meet(self, worker: int, operation: Arrive | Join) -> bool:
        """Arrive for a round of a group, join one that has been held, or both."""
        number, block = self.groups[operation.group], operation.block
        if isinstance(operation, Arrive) or not self.rounds.has_arrived(worker, number, block):
            contributes = block in self.pending[worker] or block in self.snapshots[worker]
            self.rounds.arrive(worker, number, block, contributes)
        if isinstance(operation, Arrive):
            return True
        result = self.rounds.join(worker, number, block)
        self.answers[worker] = result
        return result is not None
