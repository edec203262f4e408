"""What stands for numbers while a program is recorded: counters, batches, answers of joins.

A counter has a value, and notes about each use for how many rounds of its loop that use would go
the same way. A batch has none: programs do not inspect it.
"""

from collections.abc import Iterator
from math import lcm
from typing import Any, Final, Self

__all__ = ["FOREVER", "Batch", "Counter", "JoinAnswer", "Loop", "Residue", "Unliftable"]

FOREVER: Final = 2**62


class Unliftable(Exception):  # noqa: N818
    """A program that cannot be turned into a small one; the text says why."""


class Loop:
    """The rounds of one `steps(count)`.

    `limits` has for each round that was recorded its value, and the value from which on it would
    have gone another way; `modulus` is what values may be shifted by a multiple of. `seen` is for
    the recorder: states at the first operation of a round, `rounds` how many rounds had one.
    `shift` is how far it has jumped.
    """

    __slots__ = (
        *("begun", "count", "fresh", "limits", "live", "modulus", "rounds", "seen", "shift"),
        "value",
    )

    def __init__(self, count: int) -> None:
        self.count, self.value, self.rounds, self.shift = count, -1, 0, 0
        self.begun, self.live, self.fresh, self.modulus = False, True, False, 1
        self.limits: list[list[int]] = []
        self.seen: dict[Any, Any] = {}

    def __iter__(self) -> Iterator[Any]:
        if self.begun:
            raise Unliftable("it goes through the same steps twice")
        self.begun = True
        return self

    def _inspected(self, *_: Any) -> Any:
        raise Unliftable("it does something else with steps than to go through them")

    __bool__ = __len__ = __contains__ = __getitem__ = __reversed__ = _inspected

    def __next__(self) -> "Counter":
        if self.value + 1 >= self.count:
            self.live = False
            raise StopIteration
        self.value += 1
        self.fresh = True
        self.limits.append([self.value, self.count])
        return Counter(self, self.value - self.shift)

    def narrow(self, rounds: int) -> None:
        """What is done now is done as well in so many rounds from here, this one included."""
        last = self.limits[-1]
        last[1] = min(last[1], self.value + rounds)

    def jump(self, value: int) -> None:
        """Go on as if the present round were that of a later value."""
        self.limits = [[value, self.limits[-1][1]]]
        self.seen.clear()
        self.shift += value - self.value
        self.value = value


class Counter:
    """The counter of a loop, of this round or an earlier one, shifted by a constant."""

    __slots__ = ("loop", "place")
    __hash__: Any

    def __init__(self, loop: Loop, place: int) -> None:
        self.loop, self.place = loop, place

    @property
    def value(self) -> int:
        """What it is in the present round."""
        return self.place + self.loop.shift

    def number(self) -> int:
        """The value, in a use that goes the same way in no other round."""
        self.loop.narrow(1)
        return self.value

    def _below(self, other: Any) -> bool:
        if not isinstance(other, int):
            return bool(self.number() < _number(other))
        answer = self.value < other
        if answer:
            self.loop.narrow(other - self.value)
        return answer

    def _equals(self, other: Any) -> bool:
        if not isinstance(other, int):
            return bool(self.number() == _number(other))
        value = self.value
        if value == other:
            self.loop.narrow(1)
        elif value < other:
            self.loop.narrow(other - value)
        return value == other

    def __lt__(self, other: Any) -> bool:
        return self._below(other)

    def __ge__(self, other: Any) -> bool:
        return not self._below(other)

    def __le__(self, other: Any) -> bool:
        if not isinstance(other, int):
            return bool(self.number() <= _number(other))
        return self._below(other + 1)

    def __gt__(self, other: Any) -> bool:
        return not self <= other

    def __eq__(self, other: object) -> bool:
        return self._equals(other)

    def __ne__(self, other: object) -> bool:
        return not self._equals(other)

    def __bool__(self) -> bool:
        return not self._equals(0)

    def _shifted(self, by: int) -> Self:
        return type(self)(self.loop, self.place + by)

    def __add__(self, other: Any) -> Any:
        return self._shifted(other) if isinstance(other, int) else self.number() + _number(other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return self._shifted(-other) if isinstance(other, int) else self.number() - _number(other)

    def __mod__(self, other: Any) -> Any:
        if not isinstance(other, int) or other < 1:
            return self.number() % _number(other)
        residue = Residue(self, other)
        # Either a body has all rounds of a period, or each period is written down with a loop.
        return residue if self.loop.count < other**2 // 2 else residue.number()

    def __divmod__(self, other: Any) -> Any:
        return divmod(self.number(), other)


def _number(value: Any) -> Any:
    return value.number() if isinstance(value, Counter | Residue) else value


def _of_number(name: str) -> Any:
    def method(self: Any, *others: Any) -> Any:
        return getattr(self.number(), name)(*map(_number, others))

    return method


class Residue:
    """A counter modulo a constant, which has only been compared so far."""

    __slots__ = ("counter", "modulus")
    __hash__: Any

    def __init__(self, counter: Counter, modulus: int) -> None:
        self.counter, self.modulus = counter, modulus

    def number(self) -> int:
        """The value, in a use that goes the same way a period later."""
        loop = self.counter.loop
        loop.modulus = lcm(loop.modulus, self.modulus)
        return self.counter.value % self.modulus

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, int):
            return self.number() == other
        loop, value = self.counter.loop, self.counter.value
        answer = value % self.modulus == other
        if answer:
            loop.narrow(1)
        elif 0 <= other < self.modulus:
            loop.narrow((other - value) % self.modulus)
        return answer

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __bool__(self) -> bool:
        return self != 0


_NAMES: Final = (
    *("__rsub__", "__mul__", "__rmul__", "__floordiv__", "__rfloordiv__", "__rmod__", "__neg__"),
    *("__pow__", "__rpow__", "__truediv__", "__rtruediv__", "__and__", "__rand__", "__or__"),
    *("__ror__", "__xor__", "__rxor__", "__lshift__", "__rshift__", "__abs__", "__invert__"),
    *("__index__", "__int__", "__float__", "__hash__", "__str__", "__repr__", "__format__"),
)
_OTHERS: Final = (
    *("__lt__", "__le__", "__gt__", "__ge__", "__add__", "__radd__", "__sub__", "__mod__"),
    "__divmod__",
)
for _name in _NAMES:
    setattr(Counter, _name, _of_number(_name))
for _name in (*_NAMES, *_OTHERS):
    setattr(Residue, _name, _of_number(_name))


class Batch:
    """What a `Receive` answers; `register` is where the program keeps it."""

    __slots__ = ("register",)

    def __init__(self, register: int) -> None:
        self.register = register

    # All batches may be the same one: so sets and dictionaries have to compare them.
    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if other is None:
            return False
        raise Unliftable("it compares batches")

    def _inspected(self, *_: Any) -> Any:
        raise Unliftable("it inspects a batch")

    __lt__ = __le__ = __gt__ = __ge__ = __add__ = __radd__ = __sub__ = __rsub__ = _inspected
    __mul__ = __rmul__ = __mod__ = __rmod__ = __floordiv__ = __index__ = __int__ = _inspected
    __bool__ = __str__ = __repr__ = __format__ = _inspected


class JoinAnswer:
    """What a `Join` answers: whether anything was contributed, which only `bool` may ask."""

    __slots__ = ("present", "tested", "value")

    def __init__(self, value: bool) -> None:
        self.value, self.tested, self.present = value, False, True

    def __bool__(self) -> bool:
        if not self.present and not self.tested:
            raise Unliftable("it asks late what a join has answered")
        self.tested = True
        return self.value

    def __eq__(self, other: object) -> bool:
        return bool(self) == other

    def __hash__(self) -> int:
        return hash(bool(self))
