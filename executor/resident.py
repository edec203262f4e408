"""The most memory of this process at once, as the system and CUDA's allocator count it."""

import contextlib
import resource
from collections.abc import Iterable
from typing import Any

import torch

__all__ = ["cuda_peaks", "peak_resident_bytes", "reset_cuda_peaks", "reset_resident_peak"]

_KIB = 1024


def peak_resident_bytes() -> int:
    """The most memory of this process that was resident at once, in bytes.

    Since `reset_resident_peak`, where Linux lets a process reset it (`VmHWM`). Elsewhere it is that
    of `getrusage`: since the process began, and not less than its parent had when it began.
    """
    with (
        contextlib.suppress(OSError, StopIteration, ValueError),
        open("/proc/self/status") as lines,
    ):
        line = next(line for line in lines if line.startswith("VmHWM:"))
        return int(line.split()[1]) * _KIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB


def reset_cuda_peaks(devices: Iterable[torch.device]) -> None:
    """Let the peaks of those devices that are CUDA's count from now on."""
    for device in devices:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)


def reset_resident_peak() -> bool:
    """Let the peak of resident memory count from now on, if the system lets a process do that."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # see proc(5): resets VmHWM
    except OSError:
        return False
    return True


def cuda_peaks(devices: Iterable[torch.device]) -> dict[str, dict[str, Any]]:
    """What CUDA's allocator had at most on each CUDA device, in bytes.

    `allocated_bytes` are those of tensors, `reserved_bytes` what was taken from the device. They
    are of the whole process.
    """
    return {
        str(device): {
            "allocated_bytes": torch.cuda.max_memory_allocated(device),
            "reserved_bytes": torch.cuda.max_memory_reserved(device),
        }
        for device in sorted(set(devices), key=str)
        if device.type == "cuda"
    }
