"""A simulator of worker programs that is simple rather than fast, for the real one to agree with.

It is written from the text of docs/explanation/design.md, and nothing of simcore's own engine is in
it: no calendar, no mailboxes, no ledger, no shared devices. It shares with it the operations, what
they cost in ticks, and the random numbers. It plans nothing ahead: it looks at everything that is
under way, lets the time pass until the first of it is over, and settles that instant.

Programs are trusted to be legal.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import Any

from simcore import ops
from simcore.costs import Costs, Delays
from simcore.durations import Variations
from simcore.interruptions import moment_s
from simcore.randomness import uniform
from simcore.testing import Simulation
from simcore.trace import KIND
from tests.differential.naive_weights import NaiveWeights

__all__ = ["Outcome", "Row", "naively"]

Row = tuple[int, ...]


@dataclass(frozen=True)
class Outcome:
    """The rows of a trace as its columns say, and the workers that never ended."""

    spans: list[Row]
    gradients: list[Row]
    stuck: set[int]


def naively(simulation: Simulation) -> Outcome:
    """Simulate."""
    return _Naive(simulation).run()


@dataclass(eq=False)
class _Box:
    """A channel: what has arrived, how many messages hold slots, who waits for one."""

    arrived: list[int] = field(default_factory=list)
    flying: int = 0
    slots: int = 0
    senders: int = 0
    blocked: list[int] = field(default_factory=list)


@dataclass(eq=False)
class _Message:
    channel: ops.Channel
    batch: int
    left: Fraction  # of its transfer, in ticks of the whole wire
    due: int | None = None  # once it has left the wire


@dataclass(eq=False)
class _Round:
    began: int
    ends: int
    contributors: set[int]


@dataclass(eq=False)
class _Worker:
    program: ops.Program
    at: Any = None  # its operation
    index: int = -1
    answer: Any = None
    ready: bool = True
    left: Fraction | None = None  # work left of an operation that takes time
    began: int = 0
    version: int = -1
    waits_since: int | None = None  # for a message
    taken: tuple[ops.Channel, int] | None = None  # a message
    slot: bool = False
    reached: int | None = None  # a join
    stops: int = 0  # pauses and losses that hold it
    ended: bool = False
    computations: int = 0


class _Naive:
    def __init__(self, simulation: Simulation) -> None:
        self.schedule, self.cluster = simulation.schedule, simulation.cluster
        self.seed = simulation.seed
        self.variations = simulation.variation or Variations()
        self.costs = Costs.of(
            self.schedule, simulation.blocks, self.cluster, self.variations.random
        )
        self.now = 0
        self.workers = [_Worker(worker.program()) for worker in self.schedule.workers]
        self.starting: list[tuple[int, int]] = []
        self.boxes = {
            channel: _Box(
                channel.held(self.schedule.batches) if channel.source else [],
                senders=sum(channel in worker.sends for worker in self.schedule.workers),
            )
            for channel in self.schedule.channels
        }
        self.messages: list[_Message] = []  # departed and not arrived, in the order of departure
        self.lines = 0
        self.free: dict[ops.Group, int] = defaultdict(int)  # when a group's last phase is over
        self.arrived: dict[tuple[Any, int], dict[int, list[bool]]] = {}  # did it contribute?
        self.rounds: dict[tuple[Any, int], list[_Round]] = defaultdict(list)
        self.joined: dict[tuple[Any, int, int], int] = defaultdict(int)
        self.faults: list[tuple[int, int, int]] = []  # moment, worker, one stop more or less
        for number, fault in enumerate(self.cluster.faults):
            begins = self.costs.tick.ticks(moment_s(fault, number, self.seed))
            self.faults.append((begins, fault.worker, 1))
            if fault in self.cluster.pauses:
                self.faults.append((begins + self.costs.tick.ticks(fault.for_s), fault.worker, -1))
        self.weights = NaiveWeights(self.schedule)
        self.spans: list[Row] = []
        self.gradients: list[Row] = []

    def run(self) -> Outcome:
        self.settle()
        while moments := self.moments():
            self.pass_time(min(moments) - self.now)
            self.settle()
        stuck = {number for number, worker in enumerate(self.workers) if not worker.ended}
        return Outcome(sorted(self.spans), sorted(self.gradients), stuck)

    # Time

    def busy(self) -> list[tuple[_Worker, Fraction, Fraction]]:
        """The workers at operations that make progress: what is left of each, and its speed."""
        found = [(n, w, w.left) for n, w in enumerate(self.workers) if w.left and not w.stops]
        places = [self.cluster.device_of(number) for number, _, _ in found]
        return [
            (worker, left, self.cluster.device(place).speed(places.count(place)))
            for place, (_, worker, left) in zip(places, found, strict=True)
        ]

    def wires(self) -> dict[object, list[_Message]]:
        """What is on each wire, oldest first."""
        found: dict[object, list[_Message]] = defaultdict(list)
        for message in self.messages:
            if message.due is None:
                name = self.cluster.link_of(message.channel.name).wire
                alone = name is None or self.schedule.is_local(message.channel)
                found[message.channel if alone else name].append(message)
        return found

    def shares(self) -> list[tuple[_Message, Fraction]]:
        """The messages that make progress on their wires, and at what part of the bandwidth."""
        found = []
        for messages in self.wires().values():
            shared = self.cluster.link_of(messages[0].channel.name).transfers == "shared"
            for message in messages if shared else messages[:1]:
                found.append((message, Fraction(1, len(messages) if shared else 1)))
        return found

    def moments(self) -> list[int]:
        """When what is under way is over, if nothing else happens before."""
        found = [self.now + ceil(left / speed) for _, left, speed in self.busy()]
        found += [self.now + ceil(message.left / share) for message, share in self.shares()]
        found += [message.due for message in self.messages if message.due is not None]
        found += [each.ends for rounds in self.rounds.values() for each in rounds]
        found += [moment for moment, _, _ in self.faults]
        return [moment for moment in found if moment > self.now]

    def pass_time(self, ticks: int) -> None:
        for worker, left, speed in self.busy():
            worker.left = max(Fraction(0), left - ticks * speed)
        for message, share in self.shares():
            message.left -= ticks * share
        self.now += ticks

    # An instant

    def settle(self) -> None:
        faults = [fault for fault in self.faults if fault[0] == self.now]
        while True:
            for number, worker in enumerate(self.workers):
                if worker.left == 0 and not worker.stops:
                    worker.left = None
                    self.complete(number)
                    worker.ready = True
            self.stop_and_go(faults)
            faults = []
            self.deliver()
            self.wake()
            able = [n for n, worker in enumerate(self.workers) if worker.ready and not worker.stops]
            if not able:
                break
            self.workers[able[0]].ready = False
            self.advance(able[0])
        for number, ticks in self.starting:
            self.workers[number].left = Fraction(ticks)
            self.start(number)
        self.starting.clear()

    def stop_and_go(self, faults: list[tuple[int, int, int]]) -> None:
        before = [worker.stops for worker in self.workers]
        for _, number, step in faults:
            self.workers[number].stops += step
        for number, worker in enumerate(self.workers):
            if worker.stops and not before[number]:
                worker.waits_since = None
                for box in self.boxes.values():
                    if number in box.blocked:
                        box.blocked.remove(number)
            elif before[number] and not worker.stops:
                worker.ready = worker.left is None and not worker.ended

    def deliver(self) -> None:
        moved = True
        while moved:
            moved = False
            for message, _ in self.shares():
                if message.left <= 0:
                    channel = self.schedule.channels.index(message.channel)
                    message.due = self.now + self.costs.delays[channel].latency
                    moved = True
        for message in [each for each in self.messages if each.due == self.now]:
            self.messages.remove(message)
            self.boxes[message.channel].flying -= 1
            self.boxes[message.channel].arrived.append(message.batch)
        waiting = [w for w in self.workers if w.waits_since is not None]
        for worker in sorted(waiting, key=lambda each: each.waits_since or 0):
            if self.offer(worker):
                worker.waits_since = None
                worker.ready = True

    def offer(self, worker: _Worker) -> bool:
        """Take the message that the worker wants; whether it need not wait."""
        chosen = isinstance(worker.at, ops.Select)
        channels = worker.at.channels if chosen else (worker.at.channel,)
        for channel in channels:
            if self.boxes[channel].arrived:
                worker.taken = channel, self.boxes[channel].arrived.pop(0)
                return True
        boxes = [self.boxes[channel] for channel in channels]
        return not any(box.flying or box.senders for box in boxes)

    def start_rounds(self) -> None:
        """Start the rounds that all members have arrived for."""
        for (group, block), arrived in self.arrived.items():
            members = [
                number
                for number, worker in enumerate(self.workers)
                if not worker.ended and group in self.schedule.workers[number].joins
            ]
            rounds = self.rounds[group, block]
            while members and all(len(arrived[each]) > len(rounds) for each in members):
                turn = len(rounds)
                who = {each for each, gave in arrived.items() if any(gave[turn : turn + 1])}
                began = max(self.now, self.free[group])
                ticks = self.costs.rounds[self.schedule.groups.index(group)][block]
                self.free[group] = began + (ticks if who else 0)
                rounds.append(_Round(began, self.free[group], who))

    def wake(self) -> None:
        """Let those go on whose round is over."""
        self.start_rounds()
        for number, worker in enumerate(self.workers):
            if worker.reached is not None and self.result(number):
                worker.ready = True

    def result(self, number: int) -> _Round | None:
        """The round that a worker at a join waits for, if it is over."""
        join = self.workers[number].at
        rounds = self.rounds[join.group, join.block]
        turn = self.joined[join.group, join.block, number]
        over = turn < len(rounds) and rounds[turn].ends <= self.now
        return rounds[turn] if over else None

    # One worker

    def advance(self, number: int) -> None:
        worker = self.workers[number]
        while True:
            if worker.at is None:
                try:
                    worker.at = worker.program.send(worker.answer)
                except StopIteration:
                    worker.ended = True
                    for channel in {*self.schedule.workers[number].sends}:
                        self.boxes[channel].senders -= 1
                    return
                worker.index += 1
                worker.answer = None
            ticks = self.ticks(number, worker)
            if ticks is None:
                return
            if ticks:
                self.starting.append((number, ticks))
                return
            self.start(number)
            self.complete(number)

    def ticks(self, number: int, worker: _Worker) -> int | None:
        """How long the worker's operation takes at full speed; None if it must wait."""
        match worker.at:
            case ops.Send(channel):
                box = self.boxes[channel]
                if not worker.slot:
                    if channel.capacity is not None and box.slots >= channel.capacity:
                        box.blocked.append(number)
                        return None
                    box.slots += 1
                worker.slot = False
                return self.delays(channel).send
            case ops.Receive() | ops.Select():
                if not worker.taken and not self.offer(worker):
                    self.lines += 1
                    worker.waits_since = self.lines
                    return None
                return self.delays(worker.taken[0]).receive if worker.taken else 0
            case ops.Arrive(group, block) | ops.Join(group, block):
                return self.meet(number, worker, group, block)
        kind = ops.kind_of(type(worker.at))
        ticks = self.costs.compute[kind][getattr(worker.at, "block", 0)]
        worker.computations += 1
        factors: list[Any] = [self.cluster.slowdown(number)]
        if variation := self.variations.of(kind):
            factors.append(variation.quantile(uniform(self.seed, number, worker.computations)))
        for factor in factors:
            ticks = max(1, round(ticks * factor)) if ticks else 0
        return ticks

    def delays(self, channel: ops.Channel) -> Delays:
        return self.costs.delays[self.schedule.channels.index(channel)]

    def meet(self, number: int, worker: _Worker, group: ops.Group, block: int) -> int | None:
        """Arrive, unless the worker has for the round that it is to join; join if it is over."""
        first = worker.reached is None
        arrived = self.arrived.setdefault((group, block), defaultdict(list))
        joins = isinstance(worker.at, ops.Join)
        if first:
            worker.reached = self.now
            if not joins or len(arrived[number]) == self.joined[group, block, number]:
                arrived[number].append(self.weights.has(number, block))
        self.start_rounds()
        if not joins:
            return 0
        found = self.result(number)
        if found is None:
            return None
        self.joined[group, block, number] += 1
        assert worker.reached is not None
        worker.reached = max(worker.reached, found.began)
        worker.answer = bool(found.contributors)
        return 0

    # What an operation does

    def start(self, number: int) -> None:
        worker = self.workers[number]
        worker.began, worker.version = self.now, self.weights.begin(number, worker.at)

    def complete(self, number: int) -> None:
        """The operation is over."""
        worker = self.workers[number]
        operation, worker.at = worker.at, None
        block, batch = getattr(operation, "block", 0), getattr(operation, "batch", -1)
        began, version = worker.began, worker.version
        match operation:
            case ops.Send(channel):
                block = self.schedule.channels.index(channel)
                left = Fraction(self.delays(channel).transmit)
                self.messages.append(_Message(channel, batch, left))
                self.boxes[channel].flying += 1
            case ops.Receive() | ops.Select():
                if worker.taken is None:
                    return
                (channel, batch), worker.taken = worker.taken, None
                self.free_slot(channel)
                worker.answer = batch
                if isinstance(operation, ops.Select):
                    worker.answer = channel, batch
                block, operation = self.schedule.channels.index(channel), ops.Receive(channel)
            case ops.Arrive(group) | ops.Join(group):
                assert worker.reached is not None
                began, worker.reached = worker.reached, None
                block, batch = self.schedule.groups.index(group), block
            case ops.Update() | ops.Merge():
                version, applied = self.weights.raised(number, operation)
                self.gradients += [(self.now, number, *row) for row in applied]
            case _:
                self.weights.end(number, operation)
        kind = KIND[ops.kind_of(type(operation))]
        self.spans.append((began, self.now, number, worker.index, kind, block, batch, version))

    def free_slot(self, channel: ops.Channel) -> None:
        box = self.boxes[channel]
        if box.blocked:
            heir = self.workers[box.blocked.pop(0)]
            heir.slot = heir.ready = True
        else:
            box.slots -= 1
