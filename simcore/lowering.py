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

from typing import Any, Final

from simcore.errors import IllegalOperationError
from simcore.garbage import uncollected
from simcore.lowering_code import (
    CLASSES,
    CODES,
    END,
    JUMP,
    LOOP,
    MOVE,
    UNEXPLORED,
    UNTESTED,
    concrete,
    register_of,
)
from simcore.lowering_drive import Drive, Event
from simcore.lowering_environment import Environment
from simcore.lowering_symbols import Batch, JoinAnswer, Loop, Unliftable
from simcore.ops import Arrive, Channel, Join, Load, Operation, Receive, Select, Send
from simcore.rules import check_declared
from simcore.schedule import Schedule

__all__ = ["CLASSES", "END", "JUMP", "LOOP", "MOVE", "UNTESTED", "Lowering", "Unliftable"]

_MOST_INSTRUCTIONS: Final = 400_000
_MOST_ROUNDS: Final = 1000  # of a loop, after which its states are not compared any more
_COMPUTES: Final = {
    kind for kind in CLASSES if not issubclass(kind, Receive | Select | Send | Arrive | Join | Load)
}


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
        self.refused = ""  # why it is of no use any more
        self.channels = {channel: n for n, channel in enumerate(schedule.channels)}
        self.groups = {group: n for n, group in enumerate(schedule.groups)}
        self.environment = Environment(schedule)
        self._recordings = [_Recording(self, w) for w in range(len(schedule.workers))]
        with uncollected():
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
        try:
            self._recordings[self.workers[at]].explore(at, answer)
            self.environment.check()
        except Unliftable as error:
            self.refused = f"{error}"
            raise


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
        self.bodies: list[tuple[int, int]] = []  # of loops: first instruction, and the LOOP
        self.choice = -1  # the last Select
        self.pending: Drive | None = None

    def begin(self) -> int:
        start = len(self.code)
        self._guarded(Drive(self.worker.program()), None)
        return start

    def explore(self, at: int, answer: int | None) -> None:
        if any(first <= at < last for first, last in self.bodies):
            reason = "within a counted loop an answer differs from one round to another"
            raise Unliftable(f"the program of {self.worker.name} cannot be lifted: {reason}")
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

    def _guarded(self, drive: Drive, answer: Any) -> None:
        try:
            with drive.counting():
                self._record(drive, answer)
        except Unliftable as error:
            reason = f"{error}"
        except Exception as error:  # the reference shows what happens then
            reason = f"it raises {type(error).__name__}: {error}"
        else:
            return
        finally:
            self.registers = max(self.registers, drive.used)
        raise Unliftable(f"the program of {self.worker.name} cannot be lifted: {reason}") from None

    def _replayed(self, events: list[Event], last: int) -> Drive:
        """The program, led along the same way again to an operation."""
        drive, answer = Drive(self.worker.program()), None
        with drive.counting():
            for number in range(last + 1):
                operation = drive.send(answer)
                drive.joined = None
                jumps, reply = events[number]
                for loop in drive.loops:
                    loop.fresh = False
                for place, value, registers in jumps:
                    loop = drive.loops[place]
                    _, batches = drive.state(operation, self.lowering.environment, loop)
                    loop.jump(value)
                    drive.rename(batches, registers)
                drive.events.append((jumps, reply))
                if number < last:
                    answer = self._answer(drive, reply)
        return drive

    def _answer(self, drive: Drive, reply: Any) -> Any:
        if reply is None:
            return None
        match reply:
            case ("batch", register):
                return drive.batch(register)
            case ("select", number, register):
                return self.lowering.schedule.channels[number], drive.batch(register)
            case ("join", value):
                drive.joined = JoinAnswer(value)
                return drive.joined
        return None

    def _record(self, drive: Drive, answer: Any) -> None:
        """Write down what the program does from now on, up to what is known or cannot be."""
        environment = self.lowering.environment
        while True:
            joined = drive.joined
            try:
                operation = drive.send(answer)
            except StopIteration:
                self._tested(joined, drive)
                self._emit(END)
                return
            answer = None
            if environment.others:
                environment.check(all_of_it=False)
            if joined is not None:
                self._tested(joined, drive)
                drive.joined = None
            jumps: list[Any] = []
            if self._is_known(drive, operation, jumps):
                return
            reply = self._write(drive, operation)
            drive.events.append((jumps, reply))
            if reply is not None and type(operation) is Select:
                self.choice = len(self.code) - 1
                drive.at, self.pending = len(self.code) - 1, drive
                return
            answer = self._answer(drive, reply)

    def _tested(self, joined: JoinAnswer | None, drive: Drive) -> None:
        """Whether the program has asked what a join answered."""
        if joined is not None and joined.tested and joined.value:
            at = drive.at
            if self.code[at][4] == UNTESTED:
                self._retarget(at, UNEXPLORED)

    def _is_known(self, drive: Drive, operation: Operation, jumps: list[Any]) -> bool:
        """Whether what follows has been written down; loops are written on the way."""
        environment = self.lowering.environment
        if not drive.loops:
            outside = isinstance(operation, Receive | Select) and len(self.states) < _MOST_ROUNDS
            return outside and self._was_here(drive, operation)
        stored = []
        for loop in drive.loops:
            if not loop.fresh:
                continue
            loop.rounds += 1
            loop.fresh = False
            # A round that is unlike the next one belongs to no loop that could be written.
            if loop.rounds > _MOST_ROUNDS or loop.limits[-1][1] - loop.value < 2:
                continue
            key, batches = drive.state(operation, environment, loop)
            self._repeat(drive, loop, key, batches, jumps)
            stored.append((loop, key, batches))
        for loop, key, batches in stored:
            registers = tuple(batch.register for batch in batches)
            entry = loop.value, len(self.code), registers, len(loop.limits) - 1
            loop.seen.setdefault((key, loop.value % loop.modulus), {})[loop.modulus] = entry
        return False

    def _was_here(self, drive: Drive, operation: Operation) -> bool:
        """Whether this is a state that has been written down; goes there."""
        key, batches = drive.state(operation, self.lowering.environment, None)
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
        self, drive: Drive, loop: Loop, key: Any, batches: list[Batch], jumps: list[Any]
    ) -> None:
        """Write a loop if an earlier round had the same state, and jump behind its rounds."""
        entry = loop.seen.get((key, loop.value % loop.modulus), {}).get(loop.modulus)
        if entry is None:
            return
        value, at, registers, first = entry
        if self.choice >= at:  # the next round may choose another way
            return
        period = loop.value - value
        more = min((limit - 1 - of) // period for of, limit in loop.limits[first:])
        if more < 1:
            return
        self._move(drive, tuple(batch.register for batch in batches), registers)
        self.bodies.append((at, len(self.code)))
        self._emit(LOOP, at, more + 1)
        place = drive.loops.index(loop)
        loop.jump(loop.value + more * period)
        drive.rename(batches, registers)
        jumps.append((place, loop.value, registers))

    def _move(self, drive: Drive, sources: tuple[int, ...], wanted: tuple[int, ...]) -> None:
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

    def _write(self, drive: Drive, operation: Operation) -> Any:
        """Write an operation down. Returns what is to be answered."""
        at, kind = len(self.code), type(operation)
        operation = concrete(operation)
        used = kind, getattr(operation, kind.__match_args__[0])
        if used not in self.declared:
            try:
                check_declared(self.worker, operation)
            except IllegalOperationError as error:
                raise Unliftable(str(error)) from None
            if kind not in (Arrive, Join, Load):
                self.declared.add(used)
        code = CODES[kind]
        reply: Any = None
        if kind in _COMPUTES:
            of: Any = getattr(operation, "batch", None)
            self._emit(code, used[1], 0, 0 if of is None else register_of(of))
            return reply
        match operation:
            case Receive() | Select():
                channels = operation.channels if isinstance(operation, Select) else None
                reply = self._listen(drive, code, channels or (operation.channel,), at)  # type: ignore[union-attr]
                self.origins[at] = drive.events, len(drive.events)
            case Send(channel, batch):
                self._emit(code, self.lowering.channels[channel], 0, register_of(batch))
            case Arrive(group, block) | Join(group, block):
                self._emit(code, self.lowering.groups[group], block, 0, UNTESTED)
                if isinstance(operation, Join):
                    self.origins[at] = drive.events, len(drive.events)
                    drive.at = at
                    reply = ("join", True)
            case Load(batch):
                self._emit(code, 0, 0, register_of(batch))
        return reply

    def _listen(self, drive: Drive, code: int, channels: tuple[Channel, ...], at: int) -> Any:
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
