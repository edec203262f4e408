"""The whole state of a suspended program, so that two moments of it can be compared.

It is read from the frames of its generators: local variables and what expressions and loops still
need. Whatever might hide something that changes is refused.
"""

import gc
from collections import Counter as Counted
from collections import deque
from collections.abc import Iterable
from dataclasses import fields
from functools import partial
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
)
from typing import Any, Final

from simcore.lowering_environment import ATOMS, Environment, content_of, is_frozen
from simcore.lowering_symbols import Batch, Counter, JoinAnswer, Loop, Residue, Unliftable
from simcore.ops import Channel, Group, Worker
from simcore.rules import RULES
from simcore.schedule import Schedule

__all__ = ["Suspended", "state_of"]

_PLAIN: Final = {int, str, type(None)}
_NAMED: Final = {Worker, Schedule, type, CodeType, ModuleType}
_SEQUENCES: Final[tuple[Any, ...]] = ((), [], range(0), range(2**70))
_ITERATORS: Final = tuple(type(iter(each)) for each in _SEQUENCES)
_FIXED: Final = {tuple, frozenset, partial, MethodType, FunctionType}  # if what is inside is
# In keys: before the identity of what is the same all the time; instead of the generator that
# another one waits for; and behind all of a generator.
_IT, _INNER, _LAST = object(), object(), object()


_names_of: Final[dict[type[Any], tuple[str, ...]]] = {}


def _fields(each: Any) -> list[Any]:
    kind = type(each)
    if kind not in _names_of:
        _names_of[kind] = tuple(field.name for field in fields(kind))
    return [getattr(each, name) for name in _names_of[kind]]


class Suspended:
    """What a program reads like down to a generator that does nothing but wait for an inner one.

    As long as that one is not at its end, those around it do not go on. If they have only what
    cannot change, they need not be read again.
    """

    __slots__ = ("inner", "key", "numbers", "waits")

    def __init__(self) -> None:
        self.waits: Any = None  # for `inner`
        self.inner: Any = None
        self.key: list[Any] = []
        self.numbers: dict[int, int] = {}


class _Reader:
    def __init__(self, environment: Environment, loop: Loop | None) -> None:
        self.known, self.loop = environment.known, loop
        self.key: list[Any] = []
        self.batches: list[Batch] = []
        self.numbers: dict[int, int] = {}
        self.kept: list[Any] = []  # so that no other object gets their identity meanwhile
        self.fixed = True  # whether all that has been read can never be anything else

    def program(self, program: Any, suspended: Suspended) -> None:
        """Read a generator, and those that it waits for one after the other."""
        waits, inner = suspended.waits, suspended.inner
        if waits is not None and waits.gi_yieldfrom is inner:
            self.key, self.numbers = suspended.key.copy(), suspended.numbers.copy()
            program = inner
        while type(program) is GeneratorType and id(program) not in self.numbers:
            self.numbers[id(program)] = len(self.numbers)
            inner = program.gi_yieldfrom
            self._generator(program, inner)
            if self.fixed and type(inner) is GeneratorType:
                suspended.waits, suspended.inner = program, inner
                suspended.key, suspended.numbers = self.key.copy(), self.numbers.copy()
            program = inner
        if program is not None:
            self.add(program)

    def read(self, parts: Iterable[Any]) -> None:
        """Add all of them."""
        known, key, add = self.known, self.key, self.add
        for each in parts:
            kind = type(each)
            if kind in _PLAIN:
                key.append(each)
            elif id(each) in known or kind in _NAMED:
                key.append(_IT)
                key.append(id(each))
            else:
                add(each)

    def add(self, each: Any) -> None:
        kind, key = type(each), self.key
        if kind in _PLAIN:
            key.append(each)
        elif id(each) in self.known or kind in _NAMED:
            key.append(_IT)
            key.append(id(each))
        elif kind is Channel or kind is Group:
            key.append((kind, each.name))
        elif kind is Counter:
            self._counter(each)
        elif kind in ATOMS:
            key.append((kind, repr(each)))
        elif issubclass(kind, Batch):
            self.fixed = False
            known = next((n for n, other in enumerate(self.batches) if other is each), None)
            if known is None:
                known = len(self.batches)
                self.batches.append(each)
            key.append(("batch", known))
        elif kind is Residue:
            key.append(("modulo", each.modulus))
            self._counter(each.counter)
        elif id(each) in self.numbers:
            key.append(("again", self.numbers[id(each)]))
        else:
            self.numbers[id(each)] = len(self.numbers)
            if kind not in _FIXED:
                self.fixed = False
            self._inside(each, kind)

    def _counter(self, each: Counter) -> None:
        self.fixed = False
        if each.loop is self.loop:
            self.key.append(("counter", each.value - each.loop.value))
        else:
            same = self.numbers.setdefault(id(each.loop), len(self.numbers))
            self.key.append(("count", each.value, same))

    def _inside(self, each: Any, kind: type) -> None:
        key = self.key
        if kind in RULES:
            key.append((kind,))
            self.read(_fields(each))
        elif kind is GeneratorType:
            self._generator(each, None)
        elif kind in (tuple, list, deque, set, frozenset, dict, Counted, CellType):
            content = content_of(each)
            key.append((kind, len(content), getattr(each, "maxlen", None)))
            self.read(content)
        elif kind is Loop:
            mine = each is self.loop
            key.append(("loop", each.count, "here" if mine else each.value, each.live))
        elif kind is JoinAnswer:
            key.append(("answer", each.value if each.tested else None))
        elif kind is range:
            key.append((kind, each.start, each.stop, each.step))
        elif kind is enumerate:
            key.append((kind,))
            self._part(each.__reduce__()[1])
        elif kind in _ITERATORS:
            _, inside, *position = each.__reduce__()
            key.append((kind, *position))
            self._part(inside)
        elif kind is FunctionType:
            key.append((kind, id(each.__code__)))
            self.read(each.__closure__ or ())
            self.read(each.__defaults__ or ())
        elif kind is partial:
            key.append((kind, len(each.args), *each.keywords))
            self.fixed = self.fixed and not each.keywords
            self.read((each.func, *each.args, *each.keywords.values()))
        elif kind is MethodType:
            key.append((kind,))
            self.read((each.__func__, each.__self__))
        elif is_frozen(each):
            key.append((kind,))
            self.read(_fields(each))
        elif isinstance(each, BuiltinFunctionType):
            key.append(("method", each.__qualname__))
            self.add(each.__self__)
        else:
            raise Unliftable(f"it keeps a {kind.__name__}, whose state is hidden")

    def _part(self, made: Any) -> None:
        self.kept.append(made)
        self.add(made)

    def _generator(self, each: Any, inner: Any) -> None:
        """Read a generator, but for the one inside it."""
        frame, code = each.gi_frame, each.gi_code
        known, key = self.known, self.key
        if frame is None:
            key.append(("ended",))
            return
        # Making the frame's dictionary of locals must not be taken for a change of the frame.
        found = frame.f_locals
        key.append(("at", id(code), frame.f_lasti, *found))
        for part in gc.get_referents(each):
            kind = type(part)
            if kind in _PLAIN:
                key.append(part)
            elif id(part) in known or kind in _NAMED:
                key.append(_IT)
                key.append(id(part))
            elif part is frame or part is found:
                continue
            elif part is inner:
                key.append(_INNER)
            elif kind is FunctionType and part.__code__ is code:
                # The function of a generator, whose defaults no longer matter.
                self.read(part.__closure__ or ())
            else:
                self.add(part)
        key.append(_LAST)
        if type(found) is dict:
            found.clear()  # a copy, by which batches would live longer than in the program


def state_of(
    program: Any,
    operation: Any,
    environment: Environment,
    loop: Loop | None,
    suspended: Suspended | None = None,
) -> Any:
    """The state of a program that has yielded an operation, as a key to compare; its batches.

    Batches are numbered in the order in which they are found. The counter of `loop` is left out,
    but for what has been added to it. `suspended` is this program's, for as long as it runs.

    Raises `Unliftable` for what might hide something.
    """
    reader = _Reader(environment, loop)
    reader.program(program, suspended or Suspended())
    reader.add(operation)
    return tuple(reader.key), reader.batches
