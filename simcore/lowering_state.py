"""The whole state of a suspended program, so that two moments of it can be compared.

It is read from the frames of its generators: local variables and what expressions and loops still
need. What programs share from the start, the environment, is looked at once before and once after.
Whatever might hide something that changes is refused.
"""

import builtins
import dis
import gc
from collections import Counter as Counted
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import fields
from fractions import Fraction
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

from simcore.lowering_symbols import Batch, Counter, JoinAnswer, Loop, Residue, Unliftable
from simcore.ops import Channel, Group, Worker
from simcore.rules import RULES
from simcore.schedule import Schedule

__all__ = ["Environment", "state_of"]

_ATOMS: Final = {bool, int, str, float, bytes, Fraction, type(None), type(Ellipsis)}
_PLAIN: Final = {int, str, type(None)}
_NAMED: Final = {Worker, Schedule, type, CodeType, ModuleType}
_SEQUENCES: Final[tuple[Any, ...]] = ((), [], range(0), range(2**70))
_ITERATORS: Final = tuple(type(iter(each)) for each in _SEQUENCES)
_MODULES: Final = {"functools", "itertools", "operator", "math", "collections", "simcore"}
_BUILTINS: Final = {
    *("len", "range", "min", "max", "tuple", "list", "set", "dict", "frozenset", "sum", "reversed"),
    *("sorted", "zip", "enumerate", "abs", "divmod", "int", "bool", "all", "any", "next", "iter"),
    *("map", "filter", "AssertionError", "StopIteration", "ValueError", "slice"),
}
_HIDDEN: Final = {"STORE_ATTR", "DELETE_ATTR", "STORE_GLOBAL", "DELETE_GLOBAL", "IMPORT_NAME"}
# What would look at a symbol instead of asking it, or keep from us what it answers.
_BLIND: Final = {"IS_OP", "PUSH_EXC_INFO", "MATCH_CLASS", "MATCH_MAPPING", "MATCH_SEQUENCE"}


def _is_frozen(each: Any) -> bool:
    parameters: Any = getattr(type(each), "__dataclass_params__", None)
    return parameters is not None and bool(parameters.frozen)


def _ours(module: str | None) -> bool:
    return (module or "").partition(".")[0] == "simcore"


class Environment:
    """What the programs of a schedule share: everything that can be reached before they start.

    What only the project's own programs use is known not to change meanwhile. What others can reach
    is part of their state.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.known: dict[int, Any] = {}
        self.contents: list[tuple[Any, list[Any]]] = []
        foreign: dict[int, Any] = {}
        left: list[tuple[Any, bool]] = [(worker.program, True) for worker in schedule.workers]
        while left:
            each, trusted = left.pop()
            if isinstance(each, FunctionType):
                trusted = trusted and _ours(each.__module__)
            if type(each) in _ATOMS or isinstance(each, Channel | Group):
                continue
            if id(each) in (self.known if trusted else foreign):
                continue
            (self.known if trusted else foreign)[id(each)] = each
            left += [(part, trusted) for part in self._parts(each)]
        self.others = [each for each in self.contents if id(each[0]) in foreign]
        self.kept = list(foreign.values())  # so that no other object gets their identity
        for number in foreign:
            self.known.pop(number, None)

    def check(self, *, all_of_it: bool = True) -> None:
        """Raise `Unliftable` if any of it has changed, or of what not only the project's use."""
        for container, before in self.contents if all_of_it else self.others:
            now = _content(container)
            same = len(now) == len(before) and all(
                one is other for one, other in zip(now, before, strict=True)
            )
            if not same:
                raise Unliftable("it changes what it shares with other programs")

    def _parts(self, each: Any) -> Iterable[Any]:
        kind = type(each)
        if kind in (FunctionType, MethodType, partial):
            return self._of_function(each)
        if kind in (list, dict, set, frozenset, tuple, deque, Counted, CellType):
            content = _content(each)
            if kind not in (tuple, frozenset):
                self.contents.append((each, content))
            return content
        if isinstance(each, type):
            return self._of_type(each)
        if isinstance(each, ModuleType):
            if each.__name__.partition(".")[0] not in {"builtins", *_MODULES}:
                raise Unliftable(f"it uses the module {each.__name__}")
            return ()
        if isinstance(each, (Worker, Schedule, range)):
            return ()
        if isinstance(each, BuiltinFunctionType):  # a bound method such as deque.append, too
            return (each.__self__,)
        if _is_frozen(each) and _ours(kind.__module__):
            return [getattr(each, field.name) for field in fields(each)]
        if isinstance(each, Callable) and _ours(type(each).__module__):  # type: ignore[arg-type]
            return ()
        raise Unliftable(f"it uses a {kind.__name__}, which may change")

    def _of_type(self, each: type) -> Iterable[Any]:
        known = {"builtins", "fractions", "typing", *_MODULES}
        if each.__module__.partition(".")[0] not in known:
            raise Unliftable(f"it uses the class {each.__name__}, which may change")
        return ()

    def _of_function(self, each: Any) -> list[Any]:
        if isinstance(each, partial):
            return [each.func, *each.args, *each.keywords.values()]
        if isinstance(each, MethodType):
            return [each.__func__, each.__self__]
        found = [*(each.__closure__ or ()), *(each.__defaults__ or ())]
        found += (each.__kwdefaults__ or {}).values()
        if not _ours(each.__module__):
            if each.__dict__:
                raise Unliftable(f"it uses {each.__name__}, which has attributes that may change")
            found += self._of_code(each.__code__, each.__globals__)
        return found

    def _of_code(self, code: CodeType, names: dict[str, Any]) -> list[Any]:
        for instruction in dis.get_instructions(code):
            if instruction.opname in _BLIND:
                raise Unliftable("it has a try, a with, a match or an is")
            nonlocal_ = instruction.opname in ("STORE_DEREF", "DELETE_DEREF")
            if instruction.opname in _HIDDEN or (
                nonlocal_ and instruction.argval in code.co_freevars
            ):
                raise Unliftable(f"it changes {instruction.argval}, which is no local variable")
        found: list[Any] = []
        for instruction in dis.get_instructions(code):
            if instruction.opname not in ("LOAD_GLOBAL", "LOAD_NAME"):
                continue
            name = instruction.argval
            if name in names:
                if type(names[name]) in (list, dict, set, deque, Counted):
                    raise Unliftable(f"it uses {name}, which may change")
                found.append(names[name])
            elif name not in _BUILTINS:
                raise Unliftable(f"it uses {name}")
            elif not hasattr(builtins, name):
                raise Unliftable(f"it uses {name}, which there is not")
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                found += self._of_code(constant, names)
        return found


def _content(container: Any) -> list[Any]:
    if isinstance(container, CellType):
        try:
            return [container.cell_contents]
        except ValueError:
            return []
    if isinstance(container, dict):
        return [*container.keys(), *container.values()]
    return list(container)


class _Reader:
    def __init__(self, environment: Environment, loop: Loop | None) -> None:
        self.known, self.loop = environment.known, loop
        self.key: list[Any] = []
        self.batches: list[Batch] = []
        self.numbers: dict[int, int] = {}
        self.kept: list[Any] = []  # so that no other object gets their identity meanwhile

    def add(self, each: Any) -> None:
        kind, key = type(each), self.key
        if kind in _PLAIN:
            key.append(each)
        elif kind is Channel or kind is Group:
            key.append((kind, each.name))
        elif id(each) in self.known or kind in _NAMED:
            key.append(("it", id(each)))
        elif kind in _ATOMS:
            key.append((kind, repr(each)))
        elif issubclass(kind, Batch):
            known = next((n for n, other in enumerate(self.batches) if other is each), None)
            if known is None:
                known = len(self.batches)
                self.batches.append(each)
            key.append(("batch", known))
        elif kind is Counter:
            self._counter(each)
        elif kind is Residue:
            key.append(("modulo", each.modulus))
            self._counter(each.counter)
        elif id(each) in self.numbers:
            key.append(("again", self.numbers[id(each)]))
        else:
            self.numbers[id(each)] = len(self.numbers)
            self._inside(each, kind)

    def _counter(self, each: Counter) -> None:
        if each.loop is self.loop:
            self.key.append(("counter", each.value - each.loop.value))
        else:
            same = self.numbers.setdefault(id(each.loop), len(self.numbers))
            self.key.append(("count", each.value, same))

    def _inside(self, each: Any, kind: type) -> None:
        key = self.key
        if kind is GeneratorType:
            self._generator(each)
        elif kind in (tuple, list, deque, set, frozenset, dict, Counted, CellType):
            content = _content(each)
            key.append((kind, len(content), getattr(each, "maxlen", None)))
            for part in content:
                self.add(part)
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
            for part in (*(each.__closure__ or ()), *(each.__defaults__ or ())):
                self.add(part)
        elif kind is partial:
            key.append((kind, len(each.args), *each.keywords))
            for part in (each.func, *each.args, *each.keywords.values()):
                self.add(part)
        elif kind is MethodType:
            key.append((kind,))
            self.add(each.__func__)
            self.add(each.__self__)
        elif kind in RULES or _is_frozen(each):
            key.append((kind,))
            for field in fields(each):
                self.add(getattr(each, field.name))
        elif isinstance(each, BuiltinFunctionType):
            key.append(("method", each.__qualname__))
            self.add(each.__self__)
        else:
            raise Unliftable(f"it keeps a {kind.__name__}, whose state is hidden")

    def _part(self, made: Any) -> None:
        self.kept.append(made)
        self.add(made)

    def _generator(self, each: Any) -> None:
        frame = each.gi_frame
        if frame is None:
            self.key.append(("ended",))
            return
        # Making the frame's dictionary of locals must not be taken for a change of the frame.
        found = frame.f_locals
        parts = [p for p in gc.get_referents(each) if p is not frame and p is not found]
        self.key.append(("at", id(each.gi_code), frame.f_lasti, len(parts), *found))
        for part in parts:
            if type(part) is FunctionType and part.__code__ is each.gi_code:
                self.add_cells(part)
            else:
                self.add(part)

    def add_cells(self, function: Any) -> None:
        """The function of a generator, whose defaults no longer matter."""
        for part in function.__closure__ or ():
            self.add(part)


def state_of(program: Any, operation: Any, environment: Environment, loop: Loop | None) -> Any:
    """The state of a program that has yielded an operation, as a key to compare; its batches.

    Batches are numbered in the order in which they are found. The counter of `loop` is left out,
    but for what has been added to it.

    Raises `Unliftable` for what might hide something.
    """
    reader = _Reader(environment, loop)
    reader.add(program)
    reader.add(operation)
    return tuple(reader.key), reader.batches
