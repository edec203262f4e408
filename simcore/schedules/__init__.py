"""The schedules, one file per family. Importing this package registers them all."""

from simcore.registry import SCHEDULES, Entry
from simcore.schedules import async_bp, backpropagation, delayed
from simcore.schedules.catalogue import build, check_together, find, rebuild

__all__ = [
    "SCHEDULES",
    "Entry",
    "async_bp",
    "backpropagation",
    "build",
    "check_together",
    "delayed",
    "find",
    "rebuild",
]
