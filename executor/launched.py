"""How torchrun started this process, without importing torch."""

import os
from collections.abc import Mapping
from typing import Final, NamedTuple

__all__ = ["Launched", "launched", "require_launch"]

_NAMES: Final = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Launched(NamedTuple):
    """This process's number among all, and how many there are."""

    rank: int
    size: int


def launched(environment: Mapping[str, str] = os.environ) -> Launched | None:
    """What torchrun, or another launcher, says in the environment; None if none does.

    >>> launched({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "::1", "MASTER_PORT": "29500"})
    Launched(rank=1, size=2)
    """
    values = [environment.get(name, "") for name in _NAMES]
    if not all(values) or not (values[0].isdecimal() and values[1].isdecimal()):
        return None
    return Launched(int(values[0]), int(values[1]))


def require_launch() -> Launched:
    """The launch of this process. Raises `InputError` if it was started otherwise."""
    found = launched()
    if found is None:
        # Only now, as this module is imported at the start of every command.
        from simcore.errors import InputError

        rule = "is for processes that torchrun has started"
        remedy = "run 'torchrun --nproc-per-node WORKERS --no-python gradlag run ...'"
        raise InputError("runtime", "torchrun", rule, remedy)
    return found
