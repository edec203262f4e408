"""A schedule that times each worker of another schedule by itself.

Every worker runs its own blocks, with its own order of operations and with as many batches in
flight as the schedule will have, but its inputs come from sources and its outputs go nowhere. So
it never waits, and the start of one operation to the start of the next is what the operation
costs. Phases follow each other: each worker alone, then the first two at once, the first three,
and so on; then one phase for each channel, whose sender and receiver pass messages.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from simcore.ops import Backward, Channel, Forward, Item, Program, Receive, Send, Update, Worker
from simcore.schedule import Schedule
from simcore.steps import steps

__all__ = ["Isolated", "isolate", "isolated_schedule"]


@dataclass(frozen=True, slots=True)
class Isolated:
    """The timing schedule. In phase p, workers `active[p]` work, for a number of rounds each.

    `inputs` are the sources of the workers' inputs. `probes` are the timed channels, with the
    copies that pass messages in the phases after those of `active`. A worker has met the others
    for phase p when it has sent or received p through `begin`.
    """

    schedule: Schedule
    active: tuple[tuple[int, ...], ...]
    inputs: tuple[Channel, ...]
    probes: dict[Channel, Channel]
    begin: tuple[Channel, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """One worker of the timing schedule: its blocks, and where its tensors come from and go to."""

    blocks: tuple[int, ...]
    depth: int
    updates_at_once: bool
    inputs: Channel
    gradients: Channel | None
    outputs: Channel | None
    below: Channel | None

    def rounds(self, count: int) -> Program:
        """Take so many batches through the blocks and back, `depth` of them in flight."""
        in_flight: deque[int] = deque()
        for step in steps(count + self.depth - 1):
            if step < count:
                batch = yield Receive(self.inputs)
                in_flight.append(batch)
                for block in self.blocks:
                    yield Forward(block, batch)
                if self.outputs:
                    yield Send(self.outputs, batch)
            if step >= self.depth - 1:
                yield from self.backward(in_flight.popleft())

    def backward(self, batch: int) -> Program:
        """Take the gradient of a batch through the blocks, with the updates."""
        if self.gradients:
            yield Receive(self.gradients)
        for block in reversed(self.blocks):
            yield Backward(block, batch)
            if self.updates_at_once:
                yield Update(block)
        if self.below:
            yield Send(self.below, batch)
        if not self.updates_at_once:
            for block in self.blocks:
                yield Update(block)


def isolate(
    schedule: Schedule, depths: Sequence[int], updates_at_once: Sequence[bool], rounds: int
) -> Isolated:
    """The timing schedule of a schedule.

    `depths` is how many batches each worker keeps in flight, and `updates_at_once` whether it
    updates a block right after its backward pass, or all blocks after the pass through all.
    """
    workers = range(len(schedule.workers))
    # Each alone, then the first two at once, the first three, ... and all.
    active = [(w,) for w in workers] + [tuple(workers[: c + 1]) for c in workers[1:]]
    inputs = _inputs(schedule)
    parts = [_part(schedule, w, depths[w], updates_at_once[w], inputs) for w in workers]
    probes = {
        channel: _like("probe", channel)
        for channel in schedule.channels
        if _is_probed(schedule, channel)
    }
    loads = {channel: _like("load", channel, source=True) for channel in probes}
    drops = {channel: _like("drop", channel) for channel in probes}
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
                yield from parts[worker].rounds(rounds)
        for phase, channel in enumerate(probes, start=len(active)):
            yield from meet(worker, phase)
            if worker == schedule.senders[channel][0]:
                yield from _pass(loads[channel], probes[channel], rounds)
            if worker == schedule.receivers[channel][0]:
                yield from _pass(probes[channel], drops[channel], rounds)
        yield from meet(worker, len(active) + len(probes))

    def worker(number: int) -> Worker:
        part, original = parts[number], schedule.workers[number]
        sends, receives = [part.outputs, part.below], [part.inputs, part.gradients]
        if len(workers) > 1:
            sends += begin[1:] if number == 0 else [arrived]
            receives += [arrived] if number == 0 else [begin[number]]
        for channel, probe in probes.items():
            if number == schedule.senders[channel][0]:
                sends, receives = [*sends, probe], [*receives, loads[channel]]
            if number == schedule.receivers[channel][0]:
                sends, receives = [*sends, drops[channel]], [*receives, probe]
        return Worker(
            original.name,
            partial(program, number),
            original.blocks,
            tuple(channel for channel in sends if channel),
            tuple(channel for channel in receives if channel),
        )

    timing = Schedule(
        name=f"timing of {schedule.name}",
        options={},
        blocks=schedule.blocks,
        batches=rounds * (1 + len(workers)) * len(workers),
        workers=tuple(worker(number) for number in workers),
        weights=schedule.weights,
    )
    return Isolated(timing, tuple(active), tuple(p.inputs for p in parts), probes, begin)


def isolated_schedule(
    make_schedule: Callable[[], Schedule],
    depths: Sequence[int],
    updates_at_once: Sequence[bool],
    rounds: int,
) -> Schedule:
    """The same, as other processes make it."""
    return isolate(make_schedule(), depths, updates_at_once, rounds).schedule


def _inputs(schedule: Schedule) -> dict[int, Channel]:
    """One source for all workers that begin with the same block, so that no two share a batch."""
    return {
        first: Channel(f"inputs {first}", (Item("activation", first - 1),), source=True)
        for first in {worker.blocks[0] for worker in schedule.workers}
    }


def _part(
    schedule: Schedule,
    worker: int,
    depth: int,
    updates_at_once: bool,
    inputs: dict[int, Channel],
) -> _Part:
    blocks = schedule.workers[worker].blocks
    first, last = blocks[0], blocks[-1]
    inner = last < schedule.blocks
    return _Part(
        blocks,
        depth,
        updates_at_once,
        inputs=inputs[first],
        gradients=Channel(f"above {worker}", (Item("gradient", last),), source=True)
        if inner
        else None,
        outputs=Channel(f"outputs {worker}", (Item("activation", last),)) if inner else None,
        below=Channel(f"below {worker}", (Item("gradient", first - 1),)) if first > 1 else None,
    )


def _is_probed(schedule: Schedule, channel: Channel) -> bool:
    senders, receivers = schedule.senders[channel], schedule.receivers[channel]
    return bool(senders and receivers) and senders[0] != receivers[0]


def _like(purpose: str, channel: Channel, source: bool = False) -> Channel:
    # Graphs are handed over by reference, which an empty message costs as well.
    moved = channel.carries if all(item.kind != "graph" for item in channel.carries) else ()
    return Channel(f"{purpose} {channel.name}", moved, source=source)


def _pass(taken: Channel, given: Channel, count: int) -> Program:
    for _ in steps(count):
        batch = yield Receive(taken)
        yield Send(given, batch)
