"""The schedules, one file per family. Importing this package registers them all."""

from simcore.registry import SCHEDULES, Entry
from simcore.schedules import async_bp, backpropagation, delayed
from simcore.schedules.catalogue import build, find

__all__ = ["SCHEDULES", "Entry", "async_bp", "backpropagation", "build", "delayed", "find"]
