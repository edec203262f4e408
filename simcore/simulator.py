"""Simulations for studies, which simulate one schedule again and again with other numbers."""

from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from simcore import engines
from simcore.cluster import Cluster
from simcore.durations import Variations
from simcore.engines import Engine
from simcore.schedule import Schedule
from simcore.trace import Trace
from simcore.workload import Workload

if TYPE_CHECKING:
    from simcore.lowering import Lowering

__all__ = ["ENGINE", "simulate"]

# What runs by default, asked without loading numba, which takes long.
ENGINE: Final[Engine] = "compiled" if find_spec("numba") else "simpy"


def simulate(
    schedule: Schedule,
    blocks: Workload,
    cluster: Cluster | None = None,
    *,
    engine: Engine = "compiled",
    jitter: float = 0.0,
    variation: Variations | None = None,
    seed: int = 0,
) -> Trace:
    """As `simcore.engines.simulate`; what a schedule was lowered to is kept for the next time.

    So is that it could not be.
    """
    lowering = _lowered(schedule) if engine == "compiled" else None
    return engines.simulate(
        schedule,
        blocks,
        cluster,
        engine="compiled" if lowering else "simpy",
        jitter=jitter,
        variation=variation,
        seed=seed,
        lowering=lowering,
    )


@lru_cache(maxsize=4)
def _lowered(schedule: Schedule) -> "Lowering | None":
    return engines.lowered(schedule)
