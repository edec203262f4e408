"""A schedule that times each worker of another schedule by itself.

What every worker does is recorded in a simulation of a few mini-batches. Then it does the same
operations in the same order, but its messages come from sources and go nowhere, and it is alone in
its groups. So it never waits, and the start of one operation to the start of the next is what the
operation costs. Phases follow each other: each worker alone, then the first two at once, the first
three, and so on; then one phase for each channel, whose sender and receiver pass messages, and one
for each group, whose members average the weights of a block.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from simcore.engine import simulate
from simcore.ops import (
    Arrive,
    Channel,
    Forward,
    Group,
    Item,
    ItemKind,
    Join,
    Merge,
    Operation,
    Play,
    Program,
    Receive,
    Select,
    Send,
    Snapshot,
    Update,
    Worker,
)
from simcore.schedule import Schedule
from simcore.schedules import rebuild
from simcore.steps import steps
from simcore.workload import Workload

__all__ = ["Isolated", "isolate", "isolated_schedule"]

# What a worker has to make itself, as it cannot come from a source.
_MADE: Final[dict[ItemKind, type[Forward]]] = {"graph": Forward, "input": Play}
_DATA: Final = (Item("activation", 0),)
Log = list[tuple[Operation, Any]]


@dataclass(frozen=True, slots=True)
class Isolated:
    """The timing schedule. In phase p, workers `active[p]` do what they do in the schedule.

    `members` are the workers that it was made of, `loads` the sources that stand for each source of
    the schedule. `probes` are the timed channels, with the copies that pass messages in the phases
    after those of `active`, and `rounds` the groups, with their copies and the block that is
    averaged in the phases after those. A worker has met the others for phase p when it has sent or
    received p through `begin`.
    """

    schedule: Schedule
    members: tuple[Worker, ...]
    active: tuple[tuple[int, ...], ...]
    loads: dict[Channel, tuple[Channel, ...]]
    probes: dict[Channel, Channel]
    rounds: dict[Group, tuple[Group, int]]
    begin: tuple[Channel, ...]


def isolate(schedule: Schedule, batches: int) -> Isolated:
    """The timing schedule of a schedule, of so many of its mini-batches.

    They are rounded up so that all replicas have as many: alone, none can learn from others.
    """
    replicas = max(schedule.replicas) + 1
    batches = -(-batches // replicas) * replicas
    short = rebuild(schedule, batches=batches)
    logs = _recorded(short)
    workers = range(len(short.workers))
    # Each alone, then the first two at once, the first three, ... and all.
    active = [(w,) for w in workers] + [tuple(workers[: c + 1]) for c in workers[1:]]
    parts = [_Part(short, worker, logs[worker]) for worker in workers]
    probes = {c: _like("probe", c) for c in short.channels if _is_probed(short, c)}
    loads = {channel: _like("load", channel, source=True) for channel in probes}
    drops = {channel: _like("drop", channel) for channel in probes}
    rounds = {
        group: (Group(f"probe {group.name}", group.blocks), max(group.blocks))
        for group in short.groups
        if group.blocks
    }
    arrived = Channel("arrived", ())
    begin = tuple(Channel(f"begin {worker}", ()) for worker in workers)

    def meet(worker: int, phase: int) -> Program:
        if worker:
            yield Send(arrived, phase)
            yield Receive(begin[worker])
            return
        for _ in steps(len(workers) - 1):
            yield Receive(arrived)
        for other in workers[1:]:
            yield Send(begin[other], phase)

    def program(worker: int) -> Program:
        for phase, together in enumerate(active):
            yield from meet(worker, phase)
            if worker in together:
                yield from parts[worker].program()
        for phase, channel in enumerate(probes, start=len(active)):
            yield from meet(worker, phase)
            if worker == short.senders[channel][0]:
                yield from _pass(loads[channel], probes[channel], batches)
            if worker == short.receivers[channel][0]:
                yield from _pass(probes[channel], drops[channel], batches)
        for phase, group in enumerate(rounds, start=len(active) + len(probes)):
            yield from meet(worker, phase)
            if group in short.workers[worker].joins:
                yield from _average(*rounds[group], batches)
        yield from meet(worker, len(active) + len(probes) + len(rounds))

    def worker_of(number: int) -> Worker:
        part, original = parts[number], short.workers[number]
        sends, receives = list(part.sends.values()), list(part.receives.values())
        if len(workers) > 1:
            sends += begin[1:] if number == 0 else [arrived]
            receives += [arrived] if number == 0 else [begin[number]]
        for channel, probe in probes.items():
            if number == short.senders[channel][0]:
                sends, receives = [*sends, probe], [*receives, loads[channel]]
            if number == short.receivers[channel][0]:
                sends, receives = [*sends, drops[channel]], [*receives, probe]
        joins = [*part.groups.values(), *(rounds[g][0] for g in original.joins if g in rounds)]
        own = partial(program, number)
        return replace(
            original,
            program=own,
            sends=tuple(sends),
            receives=tuple(dict.fromkeys(receives)),
            joins=tuple(joins),
        )

    passes = batches * short.micro_batches
    timing = replace(
        short,
        name=f"timing of {schedule.name}",
        options={},
        batches=passes * (2 + len(workers)) * len(workers) * 2,
        workers=tuple(worker_of(number) for number in workers),
    )
    stubs = {
        source: tuple(part.receives[source] for part in parts if source in part.receives)
        for source in short.channels
        if source.source
    }
    return Isolated(timing, short.workers, tuple(active), stubs, probes, rounds, begin)


def isolated_schedule(make_schedule: Callable[[], Schedule], batches: int) -> Schedule:
    """The same, as other processes make it."""
    return isolate(make_schedule(), batches).schedule


def _recorded(schedule: Schedule) -> list[Log]:
    """What each worker does, with the answers, if all operations take about the same time."""
    logs: list[Log] = [[] for _ in schedule.workers]

    def recorded(program: Callable[[], Program], log: Log) -> Program:
        running, answer = program(), None
        while True:
            try:
                operation = running.send(answer)
            except StopIteration:
                return
            answer = yield operation
            log.append((operation, answer))

    workers = (
        replace(worker, program=partial(recorded, worker.program, log))
        for worker, log in zip(schedule.workers, logs, strict=True)
    )
    blocks = schedule.blocks
    simulate(replace(schedule, workers=tuple(workers)), Workload.even(blocks, blocks, 1, blocks))
    return logs


class _Part:
    """One worker's operations, with channels and groups of its own in place of those it shares.

    A batch has another number every time: the k-th message of each source is that of the worker's
    k-th batch, and no two workers have the same.
    """

    def __init__(self, schedule: Schedule, number: int, log: Log) -> None:
        self.log, self.number = log, number
        worker = schedule.workers[number]
        self.local = {
            channel: replace(channel, name=f"own {number} {channel.name}")
            for channel in worker.sends
            if schedule.is_local(channel)
        }
        self.sends = self.local | {
            channel: Channel(f"out {number} {channel.name}", channel.carries)
            for channel in worker.sends
            if channel not in self.local
        }
        self.receives = self.local | {
            channel: Channel(
                f"in {number} {channel.name}",
                _DATA if _must_be_made(channel) else channel.carries,
                source=True,
                first=number,
                stride=len(schedule.workers),
                run=schedule.micro_batches,
            )
            for channel in worker.receives
            if channel not in self.local
        }
        self.groups = {
            group: replace(group, name=f"own {number} {group.name}") for group in worker.joins
        }

    def program(self) -> Program:
        """Do all of it once."""
        real: dict[int, int] = {}
        for operation, answer in self.log:
            match operation:
                case Receive() | Select():
                    if answer is not None:
                        yield from self.receive(operation, answer, real)
                case Send(channel, batch):
                    yield Send(self.sends[channel], real[batch])
                case Arrive(group, block) | Join(group, block):
                    yield type(operation)(self.groups[group], block)
                case Update() | Snapshot() | Merge():
                    yield operation
                case _:
                    yield replace(operation, batch=real[operation.batch])

    def receive(self, operation: Receive | Select, answer: Any, real: dict[int, int]) -> Program:
        """Take a message, or make what it would have brought."""
        if isinstance(operation, Select):
            channel, batch = answer
        else:
            channel, batch = operation.channel, answer
        real[batch] = yield Receive(self.receives[channel])
        for item in _must_be_made(channel):
            yield _MADE[item.kind](item.block, real[batch])


def _must_be_made(channel: Channel) -> list[Item]:
    """The items of a message that only the worker's own passes can make, lowest block first."""
    return sorted((i for i in channel.carries if i.kind in _MADE), key=lambda item: item.block)


def _is_probed(schedule: Schedule, channel: Channel) -> bool:
    senders, receivers = schedule.senders[channel], schedule.receivers[channel]
    return bool(senders and receivers) and senders[0] != receivers[0]


def _like(purpose: str, channel: Channel, source: bool = False) -> Channel:
    # Graphs are handed over by reference, which an empty message costs as well.
    moved = () if _must_be_made(channel) else channel.carries
    return Channel(f"{purpose} {channel.name}", moved, source=source)


def _pass(taken: Channel, given: Channel, count: int) -> Program:
    for _ in steps(count):
        batch = yield Receive(taken)
        yield Send(given, batch)


def _average(group: Group, block: int, count: int) -> Program:
    for _ in steps(count):
        yield Snapshot(block)
        yield Join(group, block)
        yield Merge(block)
