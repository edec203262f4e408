"""Numbers that the processes of a run count together, in anonymous shared memory."""

import mmap
from typing import Any, Final

from executor.handles import Descriptor, FileLock, memory_file

__all__ = ["SharedNumbers"]

_BYTES: Final = 8


class SharedNumbers:
    """A few whole numbers, all 0 at first, which every process reads and writes in one piece.

    Made by `create` in the parent and handed to children as an argument of `Process`. Who reads a
    number and then changes it holds `lock` meanwhile.
    """

    def __init__(self, memory: Descriptor, count: int) -> None:
        self.count, self.lock, self._memory = count, FileLock(memory), memory
        self._numbers = memoryview(mmap.mmap(memory.number, count * _BYTES)).cast("q")

    def __reduce__(self) -> tuple[Any, ...]:
        return SharedNumbers, (self._memory, self.count)

    @classmethod
    def create(cls, name: str, count: int) -> "SharedNumbers":
        """Make `count` zeros. The name shows in /proc/PID/maps."""
        return cls(memory_file(name, count * _BYTES), count)

    def part(self, first: int, count: int) -> "memoryview[int]":
        """So many of the numbers, themselves."""
        return self._numbers[first : first + count]

    def next(self, index: int) -> int:
        """Raise a number by one; returns what it was. No two callers get the same."""
        with self.lock:
            found = self._numbers[index]
            self._numbers[index] = found + 1
        return found
