"""Worker programs as small integer programs with loops, recorded without running every batch.

A program is driven once, with symbols for what it must not inspect: batches, and the counters of
`steps`. Each time that a round of a loop reaches its first operation, the whole state of the
program is looked at (`simcore.lowering_state`). If it is that of an earlier round but for the
counter, and all that the program has asked of the counter in between has the same answer in the
next rounds too, then these do the same operations: a loop is written down, and the counter jumps
behind it. Programs are deterministic, so this is a proof. What a channel's end, or another answer,
leads to is recorded when it is first needed.

>>> from simcore.schedules import build
>>> small, large = (Lowering(build("fdg", modules=4, batches=n)) for n in (100, 10**9))
>>> len(small.code) == len(large.code)
True
"""

import gc
import heapq
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from simcore.errors import IllegalOperationError
from simcore.lowering_state import Environment, state_of
from simcore.lowering_symbols import Batch, Counter, JoinAnswer, Loop, Residue, Unliftable
from simcore.ops import Arrive, Channel, Join, Load, Operation, Receive, Select, Send
from simcore.rules import RULES, check_declared
from simcore.schedule import Schedule
from simcore.steps import COUNTERS

__all__ = ["CLASSES", "END", "JUMP", "LOOP", "MOVE", "UNTESTED", "Lowering", "Unliftable"]

# An instruction is (code, a, b, register, target). The code is a place in CLASSES, or one of these.
CLASSES: Final[tuple[type[Any], ...]] = tuple(RULES)
MOVE, LOOP, JUMP, END = range(len(CLASSES), len(CLASSES) + 4)
UNEXPLORED, UNTESTED = -1, -2

_CODE: Final = {kind: number for number, kind in enumerate(CLASSES)}
# Which fields of an operation are numbers.
_FIELDS: Final = {
    kind: tuple(name for name in kind.__match_args__ if name in ("block", "batch"))
    for kind in CLASSES
}
_MOST_INSTRUCTIONS: Final = 400_000
_MOST_ROUNDS: Final = 1000  # of a loop, after which its states are not compared any more

Event = tuple[list[Any], Any]  # the jumps made at an operation, and its answer


class Lowering:
    """The programs of a schedule as rows of integers, `code`; worker w begins at `entries[w]`.

    * A computation: a is the block, the batch is in the register (below 0: batch -1 - register).
    * `Send`: a is the channel. `Arrive`, `Join`: a is the group, b the block; the target is where a
      join goes on whose round nobody contributed to (UNTESTED: nobody asks).
    * `Receive`, `Select`: b rows of `listens` from row a on, (channel, where it goes on); the batch
      goes to the register; the target is where it goes on once all channels are closed.
    * MOVE copies register b to a; LOOP goes on at a until it has been reached b times; JUMP to a.

    A target of -1 has not been recorded yet: see `explore`.

    Raises `Unliftable`, with the reason, for a program that cannot be proved to repeat itself.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.code: list[tuple[int, ...]] = []
        self.listens: list[list[int]] = []
        self.workers: list[int] = []  # whose each instruction is
        self.channels = {channel: n for n, channel in enumerate(schedule.channels)}
        self.groups = {group: n for n, group in enumerate(schedule.groups)}
        self.environment = Environment(schedule)
        self._recordings = [_Recording(self, w) for w in range(len(schedule.workers))]
        with _uncollected():
            self.entries = [each.begin() for each in self._recordings]
        self.environment.check()

    @property
    def registers(self) -> int:
        """How many registers a worker needs at most."""
        return max(each.registers for each in self._recordings)

    def explore(self, at: int, answer: int | None) -> None:
        """Record what follows on an answer to the instruction `at`.

        `answer` is the place of the channel in a `Select`, None for closed channels or for a round
        that nobody contributed to.
        """
        self._recordings[self.workers[at]].explore(at, answer)
        self.environment.check()


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep Python from looking for cycles in so many small tuples, which have none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Drive:
    """A program on its way: the generator, its loops, which registers its batches use."""

    def __init__(self, recording: "_Recording") -> None:
        self.recording = recording
        self.program = recording.worker.program()
        self.loops: list[Loop] = []
        self.events: list[Event] = []
        self.owners: dict[int, int] = {}
        self.free: list[int] = []
        self.used = 0
        self.joined: JoinAnswer | None = None
        self.at = -1

    def count(self, number: Any) -> Loop:
        loop = Loop(number.number() if isinstance(number, Counter | Residue) else number)
        self.loops.append(loop)
        return loop

    def send(self, answer: Any) -> Operation:
        token = COUNTERS.set(self.count)
        try:
            return self.program.send(answer)
        finally:
            COUNTERS.reset(token)
            if self.joined is not None:
                self.joined.present = False
            if not all(loop.live for loop in self.loops):
                self.loops = [loop for loop in self.loops if loop.live]

    def register(self, wanted: int | None = None) -> int:
        if wanted is None:
            wanted = heapq.heappop(self.free) if self.free else self.used
        self.used = max(self.used, wanted + 1)
        self.recording.registers = max(self.recording.registers, self.used)
        return wanted

    def batch(self, wanted: int | None = None) -> "_Owned":
        batch = _Owned(self.register(wanted))
        batch.drive = self
        self.owners[batch.register] = id(batch)
        return batch

    def rename(self, batches: list[Batch], registers: tuple[int, ...]) -> None:
        """The live batches are in these registers now, and all others are free."""
        for batch, register in zip(batches, registers, strict=True):
            batch.register = register
        self.owners = {batch.register: id(batch) for batch in batches}
        self.free = [each for each in range(self.used) if each not in self.owners]


class _Owned(Batch):
    __slots__ = ("drive",)
    drive: _Drive
    __hash__ = Batch.__hash__

    def __del__(self) -> None:
        owners = self.drive.owners
        if owners.get(self.register) == id(self):
            del owners[self.register]
            heapq.heappush(self.drive.free, self.register)


class _Recording:
    """All that has been recorded of one worker's program."""

    def __init__(self, lowering: Lowering, number: int) -> None:
        self.lowering, self.number = lowering, number
        self.worker = lowering.schedule.workers[number]
        self.code, self.listens = lowering.code, lowering.listens
        self.states: dict[Any, tuple[int, tuple[int, ...]]] = {}
        self.origins: dict[int, tuple[list[Event], int]] = {}
        self.registers = 1
        self.declared: set[Any] = set()
        self.pending: _Drive | None = None

    def begin(self) -> int:
        start = len(self.code)
        self._guarded(_Drive(self), None)
        return start

    def explore(self, at: int, answer: int | None) -> None:
        drive = self.pending
        if drive is None or drive.at != at:
            drive = self._replayed(*self.origins[at])
        self.pending = None
        row, start = self.code[at], len(self.code)
        events = drive.events
        if CLASSES[row[0]] is Join:
            self._retarget(at, start)
            reply: Any = ("join", False)
        elif answer is None:
            self._retarget(at, start)
            reply = None
        else:
            listen = self.listens[row[1] + answer]
            listen[1] = start
            reply = ("select", listen[0], row[3])
        events[-1] = (events[-1][0], reply)
        self._guarded(drive, self._answer(drive, reply))

    def _retarget(self, at: int, target: int) -> None:
        self.code[at] = (*self.code[at][:4], target)

    def _guarded(self, drive: _Drive, answer: Any) -> None:
        try:
            self._record(drive, answer)
        except Unliftable as error:
            raise Unliftable(
                f"the program of {self.worker.name} cannot be lifted: {error}"
            ) from None

    def _replayed(self, events: list[Event], last: int) -> _Drive:
        """The program, led along the same way again to an operation."""
        drive, answer = _Drive(self), None
        for number in range(last + 1):
            operation = drive.send(answer)
            drive.joined = None
            jumps, reply = events[number]
            for loop in drive.loops:
                loop.fresh = False
            for place, value, registers in jumps:
                loop = drive.loops[place]
                _, batches = state_of(drive.program, operation, self.lowering.environment, loop)
                loop.jump(value)
                drive.rename(batches, registers)
            drive.events.append((jumps, reply))
            if number < last:
                answer = self._answer(drive, reply)
        return drive

    def _answer(self, drive: _Drive, reply: Any) -> Any:
        match reply:
            case ("batch", register):
                return drive.batch(register)
            case ("select", number, register):
                return self.lowering.schedule.channels[number], drive.batch(register)
            case ("join", value):
                drive.joined = JoinAnswer(value)
                return drive.joined
        return None

    def _record(self, drive: _Drive, answer: Any) -> None:
        """Write down what the program does from now on, up to what is known or cannot be."""
        while True:
            joined = drive.joined
            try:
                operation = drive.send(answer)
            except StopIteration:
                self._tested(joined, drive)
                self._emit(END)
                return
            answer = None
            self.lowering.environment.check(all_of_it=False)
            self._tested(joined, drive)
            drive.joined = None
            jumps: list[Any] = []
            if self._is_known(drive, operation, jumps):
                return
            reply = self._write(drive, operation)
            drive.events.append((jumps, reply))
            if isinstance(operation, Select):
                drive.at, self.pending = len(self.code) - 1, drive
                return
            answer = self._answer(drive, reply)

    def _tested(self, joined: JoinAnswer | None, drive: _Drive) -> None:
        """Whether the program has asked what a join answered."""
        if joined is not None and joined.tested and joined.value:
            at = drive.at
            if self.code[at][4] == UNTESTED:
                self._retarget(at, UNEXPLORED)

    def _is_known(self, drive: _Drive, operation: Operation, jumps: list[Any]) -> bool:
        """Whether what follows has been written down; loops are written on the way."""
        environment = self.lowering.environment
        fresh = [loop for loop in drive.loops if loop.fresh]
        for loop in fresh:
            loop.rounds += 1
            loop.fresh = False
        fresh = [loop for loop in fresh if loop.rounds <= _MOST_ROUNDS]
        outside = not drive.loops and isinstance(operation, Receive | Select)
        if outside and len(self.states) < _MOST_ROUNDS and self._was_here(drive, operation):
            return True
        stored = []
        for loop in fresh:
            key, batches = state_of(drive.program, operation, environment, loop)
            self._repeat(drive, loop, key, batches, jumps)
            stored.append((loop, key, batches))
        for loop, key, batches in stored:
            registers = tuple(batch.register for batch in batches)
            entry = loop.value, len(self.code), registers, len(loop.limits) - 1
            loop.seen.setdefault((key, loop.value % loop.modulus), {})[loop.modulus] = entry
        return False

    def _was_here(self, drive: _Drive, operation: Operation) -> bool:
        """Whether this is a state that has been written down; goes there."""
        key, batches = state_of(drive.program, operation, self.lowering.environment, None)
        registers = tuple(batch.register for batch in batches)
        if key not in self.states:
            self.states[key] = len(self.code), registers
            return False
        at, wanted = self.states[key]
        self._move(drive, registers, wanted)
        self._emit(JUMP, at)
        self._explore_end(at)
        return True

    def _explore_end(self, at: int) -> None:
        """A loop that waits for the end of a channel will see it: record it at once."""
        if CLASSES[self.code[at][0]] is Receive and self.code[at][4] == UNEXPLORED:
            self.explore(at, None)

    def _repeat(
        self, drive: _Drive, loop: Loop, key: Any, batches: list[Batch], jumps: list[Any]
    ) -> None:
        """Write a loop if an earlier round had the same state, and jump behind its rounds."""
        entry = loop.seen.get((key, loop.value % loop.modulus), {}).get(loop.modulus)
        if entry is None:
            return
        value, at, registers, first = entry
        period = loop.value - value
        more = min((limit - 1 - of) // period for of, limit in loop.limits[first:])
        if more < 1:
            return
        self._move(drive, tuple(batch.register for batch in batches), registers)
        self._emit(LOOP, at, more + 1)
        place = drive.loops.index(loop)
        loop.jump(loop.value + more * period)
        drive.rename(batches, registers)
        jumps.append((place, loop.value, registers))

    def _move(self, drive: _Drive, sources: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        pairs = [(to, of) for to, of in zip(wanted, sources, strict=True) if to != of]
        written = {to for to, _ in pairs}
        if any(of in written for _, of in pairs):
            spare = [max(drive.used, self.registers) + n for n in range(len(pairs))]
            self.registers = spare[-1] + 1
            for place, (_, of) in zip(spare, pairs, strict=True):
                self._emit(MOVE, place, of)
            pairs = [(to, place) for place, (to, _) in zip(spare, pairs, strict=True)]
        for to, of in pairs:
            self._emit(MOVE, to, of)

    def _write(self, drive: _Drive, operation: Operation) -> Any:
        """Write an operation down. Returns what is to be answered."""
        at = len(self.code)
        operation = _concrete(operation)
        kind = type(operation)
        used = kind, getattr(operation, kind.__match_args__[0])
        if used not in self.declared:
            try:
                check_declared(self.worker, operation)
            except IllegalOperationError as error:
                raise Unliftable(str(error)) from None
            if kind not in (Arrive, Join, Load):
                self.declared.add(used)
        code = _CODE[kind]
        reply: Any = None
        match operation:
            case Receive() | Select():
                channels = operation.channels if isinstance(operation, Select) else None
                reply = self._listen(drive, code, channels or (operation.channel,), at)  # type: ignore[union-attr]
                self.origins[at] = drive.events, len(drive.events)
            case Send(channel, batch):
                self._emit(code, self.lowering.channels[channel], 0, _place(batch))
            case Arrive(group, block) | Join(group, block):
                self._emit(code, self.lowering.groups[group], block, 0, UNTESTED)
                if isinstance(operation, Join):
                    self.origins[at] = drive.events, len(drive.events)
                    drive.at = at
                    reply = ("join", True)
            case Load(batch):
                self._emit(code, 0, 0, _place(batch))
            case _:
                of = getattr(operation, "batch", None)
                self._emit(code, operation.block, 0, 0 if of is None else _place(of))
        return reply

    def _listen(self, drive: _Drive, code: int, channels: tuple[Channel, ...], at: int) -> Any:
        target = at + 1 if CLASSES[code] is Receive else UNEXPLORED
        first = len(self.listens)
        self.listens += [[self.lowering.channels[channel], target] for channel in channels]
        register = drive.register()
        self._emit(code, first, len(channels), register, UNEXPLORED)
        return ("batch", register)

    def _emit(self, code: int, a: int = 0, b: int = 0, register: int = 0, target: int = 0) -> None:
        if len(self.code) >= _MOST_INSTRUCTIONS:
            raise Unliftable(f"nothing repeats within {_MOST_INSTRUCTIONS} operations")
        self.code.append((code, a, b, register, target))
        self.lowering.workers.append(self.number)


def _concrete(operation: Operation) -> Operation:
    """The operation with the number of a block that was computed from a counter."""
    names = _FIELDS.get(type(operation))
    if names is None:
        raise Unliftable(f"{operation!r} is no operation")
    counted: dict[str, int] = {}
    for name in names:
        value = getattr(operation, name)
        kind = type(value)
        if kind is int:
            continue
        if kind is Counter or kind is Residue:
            counted[name] = value.number()
        elif name == "block" and issubclass(kind, Batch):
            raise Unliftable("it takes a batch for a block")
        elif not issubclass(kind, int | Batch):
            raise Unliftable(f"{type(operation).__name__} has a {name} that is no number")
    if counted:
        values: dict[str, Any] = {**counted}
        return replace(operation, **values)
    return operation


def _place(batch: int | Batch) -> int:
    if isinstance(batch, Batch):
        return batch.register
    if batch < 0:
        raise Unliftable(f"there is no batch {batch}")
    return -1 - batch
