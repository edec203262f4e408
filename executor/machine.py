"""The machine and the software that a figure was measured with, for reports."""

import os
import platform
from datetime import UTC, datetime

import torch

__all__ = ["describe_machine"]


def describe_machine() -> dict[str, str | int]:
    """What a reader must know of this machine to judge a figure that was measured on it.

    Keys: `cpu`, the processor's model; `cores`, those that this process may use; `torch` and
    `python`, the versions; `date`, the present time in UTC, as in ISO 8601, to the second.

    >>> sorted(describe_machine())
    ['cores', 'cpu', 'date', 'python', 'torch']
    """
    return {
        "cpu": _cpu(),
        "cores": _cores(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() == "model name" and value.strip():
                    return value.strip()
    except OSError:
        pass
    # Not every kernel names the model: on ARM there are only numbers.
    return platform.processor() or platform.machine() or "unknown"


def _cores() -> int:
    # Not every system can confine a process to some of its cores.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
