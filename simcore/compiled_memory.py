"""How compiled functions find things in the engine's one piece of memory, and its heaps.

All of them are given a pointer to that memory, whose first row says where tables begin: to pass
many arrays on would cost more than the work.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numba
from numba.extending import intrinsic

import simcore.compiled_layout as x

__all__ = [
    "LARGEST",
    "Memory",
    "block_row",
    "channel_row",
    "compiled",
    "device_row",
    "inlined",
    "instruction_row",
    "listen_row",
    "member_row",
    "message_row",
    "plan",
    "pointer",
    "pop",
    "push",
    "read_row",
    "round_row",
    "take_event",
    "wake",
    "worker_row",
]

LARGEST = 2**61

_F = TypeVar("_F", bound=Callable[..., Any])
_njit: Any = numba.njit
_types: Any = numba.types
_FLAGS = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "error_model": "numpy"}


class Memory(Protocol):
    """Integers, from the first on."""

    def __getitem__(self, place: int, /) -> int:
        """The number at this place."""

    def __setitem__(self, place: int, value: int, /) -> None:
        """Replace it."""


def compiled(function: _F) -> _F:
    """A function that only compiled ones call."""
    return _njit(function, **_FLAGS)  # type: ignore[no-any-return]


def inlined(function: _F) -> _F:
    """The same, copied to wherever it is called."""
    return _njit(function, forceinline=True, **_FLAGS)  # type: ignore[no-any-return]


def _pointer(context: Any, array: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return context.make_array(signature.args[0])(context, builder, given[0]).data

    return _types.CPointer(_types.int64)(array), generate


pointer: Callable[[Any], Memory] = intrinsic(_pointer)  # type: ignore[assignment]
"""The address of an array's first number, which costs nothing to pass on."""


# Rows


@inlined
def worker_row(m: Memory, number: int) -> int:
    """Where the row of a worker begins."""
    return x.S_COLUMNS + number * x.W_COLUMNS


@inlined
def instruction_row(m: Memory, worker: int) -> int:
    """Where the instruction begins that a worker (its row) is at."""
    return m[x.O_CODE] + m[worker + x.W_AT] * x.I_COLUMNS


@inlined
def block_row(m: Memory, slot: int) -> int:
    """Where the row of a worker's block begins."""
    return m[x.O_BLOCKS] + slot * x.B_COLUMNS


@inlined
def channel_row(m: Memory, number: int) -> int:
    """Where the row of a channel begins."""
    return m[x.O_CHANNELS] + number * x.C_COLUMNS


@inlined
def listen_row(m: Memory, place: int) -> int:
    """Where a pair (channel, where it goes on) begins."""
    return m[x.O_LISTENS] + place * 2


@inlined
def message_row(m: Memory, number: int) -> int:
    """Where a message begins."""
    return m[x.O_MESSAGES] + number * x.Q_COLUMNS


@inlined
def round_row(m: Memory, number: int) -> int:
    """Where the row of a group's rounds over a block begins."""
    return m[x.O_ROUNDS] + number * x.R_COLUMNS


@inlined
def member_row(m: Memory, place: int) -> int:
    """Where the row of a member of a round begins."""
    return m[x.O_MEMBERS] + place * x.M_COLUMNS


@inlined
def device_row(m: Memory, number: int) -> int:
    """Where the row of a device begins."""
    return m[x.O_DEVICES] + number * x.D_COLUMNS


@inlined
def read_row(m: Memory, block: int, batch: int) -> int:
    """Where the versions begin that a batch has read of a block."""
    return m[x.O_LEDGER] + (block * m[x.S_BATCHES] + batch) * x.L_COLUMNS


# Heaps


@compiled
def push(m: Memory, heap: int, size: int, value: int) -> None:
    """Add a number to a heap of so many, the smallest first."""
    place = size
    while place > 0:
        above = (place - 1) >> 1
        if m[heap + above] <= value:
            break
        m[heap + place] = m[heap + above]
        place = above
    m[heap + place] = value


@compiled
def pop(m: Memory, heap: int, size: int) -> int:
    """Take the smallest of so many numbers."""
    first, last = m[heap], m[heap + size - 1]
    size -= 1
    place = 0
    while True:
        below = 2 * place + 1
        if below >= size:
            break
        if below + 1 < size and m[heap + below + 1] < m[heap + below]:
            below += 1
        if m[heap + below] >= last:
            break
        m[heap + place] = m[heap + below]
        place = below
    m[heap + place] = last
    return first


@compiled
def plan(m: Memory, time: int, event: int) -> None:
    """Put an event into the calendar: a heap of times, and next to it one of events."""
    times, events = m[x.O_TIMES], m[x.O_EVENTS]
    place = m[x.S_CALENDAR]
    m[x.S_CALENDAR] = place + 1
    while place > 0:
        above = (place - 1) >> 1
        if m[times + above] <= time:
            break
        m[times + place] = m[times + above]
        m[events + place] = m[events + above]
        place = above
    m[times + place] = time
    m[events + place] = event


@compiled
def take_event(m: Memory) -> int:
    """Take the event that is next."""
    times, events = m[x.O_TIMES], m[x.O_EVENTS]
    size = m[x.S_CALENDAR] - 1
    m[x.S_CALENDAR] = size
    found = m[events]
    time, event = m[times + size], m[events + size]
    m[times + size] = 2 * LARGEST  # so that there always is a right one below
    place = 0
    while True:
        below = 2 * place + 1
        if below >= size:
            break
        below += int(m[times + below + 1] < m[times + below])
        if m[times + below] >= time:
            break
        m[times + place] = m[times + below]
        m[events + place] = m[events + below]
        place = below
    m[times + place] = time
    m[events + place] = event
    return found


@compiled
def wake(m: Memory, number: int) -> None:
    """Let a worker be one of those that can run."""
    size = m[x.S_RUNNABLE]
    push(m, m[x.O_RUNNABLE], size, number)
    m[x.S_RUNNABLE] = size + 1
