"""Which event of a static schedule comes after which, recorded with the times of all of them.

Where every channel has one sender and one receiver, no program uses `Select`, and nothing shares a
device or a wire, what each worker does is the same whatever the times. Then every event ends at the
latest end of those that it comes after, each with a fixed time added: a system that is linear in
the max-plus algebra (Baccelli, Cohen, Olsder and Quadrat, Synchronization and Linearity, 1992).

Events are kept in *lanes*: one for the operations of each worker, one for each wire that takes
time, and one for the rounds of each group over each block.
"""

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from math import ceil
from typing import Any

from simcore.cluster import Cluster
from simcore.costs import Costs
from simcore.errors import IllegalOperationError, InputError
from simcore.ops import (
    Arrive,
    Group,
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

__all__ = ["Event", "Lane", "NotStaticError", "Recording", "record", "refuse_sharing"]

# Kind, block (or channel, or group), batch (-1: none), and of rounds the block that is averaged and
# whether anything is contributed.
Event = tuple[str, int, int, tuple[int, bool] | None]
# An event that another one comes after: its lane, its place there, and the ticks from its end to
# the end of the other at least.
After = tuple[int, int, int]


class NotStaticError(InputError):
    """What a schedule does, or the times of it, depend on more than a fixed order of events."""


@dataclass(slots=True)
class Lane:
    """Events in their order: what each is, when it ends, and what it comes after."""

    name: str
    events: list[Event] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    after: list[tuple[After, ...]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Recording:
    """All lanes of a schedule, those of its workers first.

    `order` lists the lanes of all events, each of which comes after what is listed before it.
    """

    lanes: list[Lane]
    workers: int
    order: list[int]

    @property
    def end(self) -> int:
        """The tick at which the last event ends."""
        return max((lane.ends[-1] for lane in self.lanes if lane.ends), default=0)


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
    return Recording(recorder.lanes, len(schedule.workers), recorder.order)


_kind = cache(kind_of)


@dataclass(slots=True)
class _Round:
    """Rounds of a group over a block: arrivals of each member, and what has come of them."""

    lane: int
    arrivals: dict[int, list[After]]
    contributes: dict[int, list[bool]]
    joined: Counter[int] = field(default_factory=Counter)
    results: list[bool] = field(default_factory=list)


class _Recorder:
    def __init__(self, schedule: Schedule, cluster: Cluster, costs: Costs) -> None:
        self.schedule, self.costs = schedule, costs
        self.lanes = [Lane(worker.name) for worker in schedule.workers]
        self.order: list[int] = []
        count = len(schedule.workers)
        self.programs: list[Program] = [worker.program() for worker in schedule.workers]
        self.answers: list[Any] = [None] * count
        self.at: list[Operation | None] = [None] * count
        self.ended = [False] * count
        self.arrived = [False] * count
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
        self.members = [
            [w for w, worker in enumerate(schedule.workers) if group in worker.joins]
            for group in schedule.groups
        ]
        self.timed = [any(each.values()) for each in costs.rounds]
        self.rounds: dict[tuple[int, int], _Round] = {}
        self.turns: list[list[int]] = [[] for _ in schedule.groups]
        self.turn: Counter[tuple[int, int]] = Counter()
        self.last_round: dict[int, After] = {}
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
                    self.end(worker)
                    return True
                self.at[worker] = operation
                self.answers[worker] = None
                self.patience.note(worker, operation)
            if not self.perform(worker, operation):
                return moved
            self.at[worker], moved = None, True
        return moved

    def add(self, lane: int, event: Event, duration: int, after: tuple[After, ...]) -> After:
        """Add an event; returns what comes after it, as yet without time in between."""
        to = self.lanes[lane]
        ends = (self.lanes[other].ends[place] + ticks for other, place, ticks in after)
        to.ends.append(max(ends, default=duration))
        to.events.append(event)
        to.after.append(after)
        self.order.append(lane)
        return lane, len(to.events) - 1, 0

    def before(self, worker: int, duration: int) -> tuple[After, ...]:
        """What a worker did last, if anything."""
        done = len(self.lanes[worker].events)
        return ((worker, done - 1, duration),) if done else ()

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
        kind, block = _kind(type(operation)), getattr(operation, "block", 0)
        if kind not in self.costs.compute:
            raise IllegalOperationError(f"the schedule does not say that it splits {kind} passes")
        ticks = self.costs.compute[kind][block]
        if ticks and self.slowdowns[worker] != 1:
            ticks = max(1, round(ticks * self.slowdowns[worker]))
        ticks = self.busy(worker, ticks)
        event = kind, block, getattr(operation, "batch", -1), None
        self.add(worker, event, ticks, self.before(worker, ticks))
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
        after = self.before(worker, ticks)
        if operation.channel.capacity is not None and sent >= operation.channel.capacity:
            freed = self.received[number]
            if len(freed) <= sent - operation.channel.capacity:
                return False
            lane, place, _ = freed[sent - operation.channel.capacity]
            after = (*after, (lane, place, ticks))
        batch = operation.batch
        gone = self.add(worker, ("send", number, batch, None), ticks, after)
        if delays.transmit:
            wire = self.wires.get(number)
            if wire is None:
                wire = self.wires[number] = len(self.lanes)
                self.lanes.append(Lane(f"wire of {operation.channel.name}"))
            after = (worker, gone[1], delays.transmit), *self.before(wire, delays.transmit)
            gone = self.add(wire, ("transfer", number, batch, None), delays.transmit, after)
        self.messages[number].append((batch, gone))
        self.sent[number] += 1
        return True

    def receive(self, worker: int, operation: Receive) -> bool:
        channel = operation.channel
        number = self.number[channel]
        delays = self.costs.delays[number]
        ticks = self.busy(worker, delays.receive)
        after = self.before(worker, ticks)
        if channel.source:
            batch = next(self.sources[number], None)
            if batch is None:
                return True
        elif self.messages[number]:
            batch, (lane, place, _) = self.messages[number].popleft()
            after = (*after, (lane, place, delays.latency + ticks))
        else:
            return all(self.ended[sender] for sender in self.schedule.senders[channel])
        done = self.add(worker, ("receive", number, batch, None), ticks, after)
        self.received[number].append(done)
        self.answers[worker] = batch
        return True

    # Rounds

    def meet(self, worker: int, operation: Arrive | Join) -> bool:
        number, block = self.groups[operation.group], operation.block
        rounds = self.rounds_of(number, operation.group, block)
        waits = rounds.arrivals[worker]
        if isinstance(operation, Arrive) or len(waits) <= rounds.joined[worker]:
            contributes = block in self.pending[worker] or block in self.snapshots[worker]
            event = "arrive", number, -1, (block, contributes)
            arrived = self.add(worker, event, 0, self.before(worker, 0))
            waits.append(arrived)
            rounds.contributes[worker].append(contributes)
            self.take_turn(worker, number, block)
            self.hold(number, block)
        if isinstance(operation, Arrive):
            return True
        turn = rounds.joined[worker]
        if len(rounds.results) <= turn:
            return False
        rounds.joined[worker] += 1
        after = (*self.before(worker, 0), (rounds.lane, turn, 0))
        self.add(worker, ("join", number, -1, (block, rounds.results[turn])), 0, after)
        self.answers[worker] = rounds.results[turn]
        return True

    def rounds_of(self, number: int, group: Group, block: int) -> _Round:
        found = self.rounds.get((number, block))
        if found is None:
            members = self.members[number]
            arrivals: dict[int, list[After]] = {member: [] for member in members}
            found = _Round(len(self.lanes), arrivals, {member: [] for member in members})
            self.rounds[number, block] = found
            self.lanes.append(Lane(f"{group.name}, block {block}" if block else group.name))
        return found

    def take_turn(self, worker: int, number: int, block: int) -> None:
        """Rounds of a group that take time follow each other in the order of the arrivals."""
        turn, turns = self.turn[worker, number], self.turns[number]
        self.turn[worker, number] += 1
        if turn == len(turns):
            turns.append(block)
        elif self.timed[number] and turns[turn] != block:
            rule = "has members that arrive for its blocks in different orders"
            name = self.schedule.groups[number].name
            raise NotStaticError("group", name, rule, "simulate this schedule")

    def hold(self, number: int, block: int) -> None:
        """Hold all rounds for which every member that goes on has arrived."""
        rounds, members = self.rounds[number, block], self.members[number]
        while True:
            turn = len(rounds.results)
            there = [member for member in members if len(rounds.arrivals[member]) > turn]
            gone = [member for member in members if member not in there]
            if not there or not all(self.ended[member] for member in gone):
                return
            result = any(rounds.contributes[member][turn] for member in there)
            ticks = self.costs.rounds[number][block] if result else 0
            after = [(*rounds.arrivals[member][turn][:2], ticks) for member in there]
            for member in gone:
                after += self.before(member, ticks)
            if self.timed[number] and number in self.last_round:
                after.append((*self.last_round[number][:2], ticks))
            event = "round", number, -1, (block, result)
            self.last_round[number] = self.add(rounds.lane, event, ticks, tuple(after))
            rounds.results.append(result)

    def end(self, worker: int) -> None:
        self.ended[worker] = True
        for number, block in list(self.rounds):
            if worker in self.members[number]:
                self.hold(number, block)
