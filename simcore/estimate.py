"""What a simulation will need, from integers alone, before anything is built."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from re import fullmatch
from typing import Final

from simcore.errors import InputError
from simcore.schedules import find
from simcore.trace import GRADIENT_COLUMNS, SPAN_COLUMNS

__all__ = ["Estimate", "estimate", "parse_bytes", "refuse_if_too_large"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a simulation needs; the order of magnitude of what is not counted but measured.

    `operations` are the rows that the trace will have, or a few more; `trace_bytes` the memory at
    its peak, while the trace is made; `seconds` the time on one core.
    """

    operations: int
    trace_bytes: int
    seconds: float


_COLUMN_BYTES: Final = 8
_WORKERS: Final = ("forward_threads", "backward_threads", "processes", "loaders")

# Measured 2026-11-20 on two cores of an AMD EPYC server, Python 3.11, as process time and as peak
# resident memory: 0.05 to 0.10 million operations a second, 2.9 to 3.1 bytes for each byte of the
# trace's tables (recorded, in one array, and sorted), and 8,500 bytes for each worker.
_OPERATIONS_PER_S: Final = 80_000
_BYTES_PER_TABLE_BYTE: Final = 3
_WORKER_BYTES: Final = 10_000


def estimate(schedule_name: str, options: Mapping[str, object]) -> Estimate:
    """What simulating a registered schedule with these options needs; the rest have defaults.

    Takes no longer for large numbers than for small ones. Accumulated updates are counted as one
    for each window of each block, and one for the windows that are cut at the ends.

    Raises `InputError` for an unknown schedule or a bad value.
    """
    entry = find(schedule_name)
    given = {**entry.defaults, **options}

    def number(option: str) -> int:
        value = entry.option(option).read(option, given[option]) if option in given else 0
        return value if isinstance(value, int) else 0

    for option in given:
        number(option)
    blocks, batches = entry.blocks(given), number("batches")
    parts = number("micro_batches") or number("modules") if "micro_batches" in given else 1
    passes = batches * parts * max(1, number("time_steps"))
    per_block, per_pass = entry.rows
    per_block += _around(given)
    operations = passes * (blocks * per_block + per_pass + (3 if given.get("loaders") else 0))
    windows = -(-batches // number("accumulation")) + 1 if "accumulation" in given else batches
    operations += blocks * min(windows, batches)
    if "averaging" in given:  # a copy, a round, a merge
        operations += 3 * blocks * (batches // number("averaging"))
    if given.get("lockstep"):  # each module waits in each iteration, at start and end too
        operations += blocks * (batches + 2 * blocks * max(1, number("replicas")))
    row_bytes = len(SPAN_COLUMNS) * _COLUMN_BYTES, len(GRADIENT_COLUMNS) * _COLUMN_BYTES
    table_bytes = operations * row_bytes[0] + passes * blocks * row_bytes[1]
    workers = blocks + sum(number(option) for option in _WORKERS)
    workers *= max(1, number("replicas"))
    return Estimate(
        operations,
        table_bytes * _BYTES_PER_TABLE_BYTE + workers * _WORKER_BYTES,
        operations / _OPERATIONS_PER_S if operations < 10**300 else math.inf,
    )


def _around(given: Mapping[str, object]) -> int:
    """Operations for each pass through a block that recomputing and replicas add."""
    replicas = 1 if "averaging" in given else given.get("replicas", 1)
    assert isinstance(replicas, int)
    return bool(given.get("recompute")) + (2 if replicas > 1 else 0)


def refuse_if_too_large(estimate: Estimate, memory_limit_bytes: int) -> None:
    """Raise `InputError`, with the estimate in words, if it is above the limit."""
    if estimate.trace_bytes > memory_limit_bytes:
        raise InputError(
            "estimated memory",
            _bytes_in_words(estimate.trace_bytes),
            f"must be at most {_bytes_in_words(memory_limit_bytes)}, the memory limit "
            f"(about {Decimal(estimate.operations):.2g} operations, "
            f"{_time_in_words(estimate.seconds)})",
            "give fewer batches or modules, or a larger --memory-limit",
        )


_UNITS: Final = {
    "": 1,
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("kMGTPE", 1)},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGTPE", 1)},
}


def parse_bytes(text: str, flag: str = "--memory-limit") -> int:
    """Bytes of a size such as `4GiB`, `500 MB` or `1000`; fractions of a byte are dropped.

    >>> parse_bytes("1.5KiB"), parse_bytes("2 kB")
    (1536, 2000)

    Raises `InputError`, which names the flag, for anything else and for less than a byte.
    """
    found = fullmatch(r"([0-9]{1,30}(?:\.[0-9]{1,30})?) ?([A-Za-z]*)", text.strip())
    size = int(Decimal(found[1]) * _UNITS.get(found[2], 0)) if found else 0
    if size < 1:
        rule = "must be a positive number of bytes, with a unit such as MB or GiB, or without"
        raise InputError(flag, text, rule, "give one such as 4GiB")
    return size


def _bytes_in_words(size: int) -> str:
    for unit in ("PiB", "TiB", "GiB", "MiB"):
        if size >= _UNITS[unit]:
            return f"{Decimal(size) / _UNITS[unit]:.3g} {unit}"
    return f"{Decimal(size) / 1024:.3g} KiB"


def _time_in_words(seconds: float) -> str:
    for unit, length in (("years", 365.25 * 86400), ("days", 86400), ("hours", 3600)):
        if seconds >= length:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds:.2g} seconds"
