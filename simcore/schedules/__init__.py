"""The schedules, one file per family. Importing this package registers them all."""

from simcore.registry import SCHEDULES, Entry, build, find
from simcore.schedules import async_bp, backpropagation, delayed

__all__ = ["SCHEDULES", "Entry", "async_bp", "backpropagation", "build", "delayed", "find"]
