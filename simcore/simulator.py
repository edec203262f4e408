"""The engine that studies of many simulations use: exchanged here, and nowhere else."""

from typing import Final

from simcore.engine import simulate

__all__ = ["ENGINE", "simulate"]

ENGINE: Final = "simpy"
