"""Data sets: bundled ones, and those that are read from their published local formats."""

from executor.data.bundled import digits, generated
from executor.data.dataset import Contents, DataSet, Inputs
from executor.data.registry import DATA_SETS, open_data

__all__ = ["DATA_SETS", "Contents", "DataSet", "Inputs", "digits", "generated", "open_data"]
