"""What the programs of a schedule share, and whether it changes while they are recorded.

It is looked at once before and once after. Whatever might hide something that changes is refused.
"""

import builtins
import dis
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
    MethodType,
    ModuleType,
)
from typing import Any, Final

from simcore.lowering_symbols import Unliftable
from simcore.ops import Channel, Group, Worker
from simcore.schedule import Schedule

__all__ = ["ATOMS", "Environment", "content_of", "is_frozen"]

ATOMS: Final = {bool, int, str, float, bytes, Fraction, type(None), type(Ellipsis)}
_MODULES: Final = {"functools", "itertools", "operator", "math", "collections", "simcore"}
_BUILTINS: Final = {
    *("len", "range", "min", "max", "tuple", "list", "set", "dict", "frozenset", "sum", "reversed"),
    *("sorted", "zip", "enumerate", "abs", "divmod", "int", "bool", "all", "any", "next", "iter"),
    *("map", "filter", "AssertionError", "StopIteration", "ValueError", "slice"),
}
_HIDDEN: Final = {"STORE_ATTR", "DELETE_ATTR", "STORE_GLOBAL", "DELETE_GLOBAL", "IMPORT_NAME"}
# What would look at a symbol instead of asking it, or keep from us what it answers.
_BLIND: Final = {"IS_OP", "PUSH_EXC_INFO", "MATCH_CLASS", "MATCH_MAPPING", "MATCH_SEQUENCE"}


def is_frozen(each: Any) -> bool:
    """Whether it is of a frozen dataclass."""
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
            if type(each) in ATOMS or isinstance(each, Channel | Group):
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
            now = content_of(container)
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
            content = content_of(each)
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
        if is_frozen(each) and _ours(kind.__module__):
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


def content_of(container: Any) -> list[Any]:
    """What is in a container: keys and values, of a cell what it holds."""
    if isinstance(container, CellType):
        try:
            return [container.cell_contents]
        except ValueError:
            return []
    if isinstance(container, dict):
        return [*container.keys(), *container.values()]
    return list(container)
