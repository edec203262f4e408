"""Simulation by the engine that one names: the compiled one, or the reference on SimPy.

The compiled engine leaves the same traces, span by span. What it cannot do, or does not understand,
it leaves to the reference, and the trace's header says why: `engine` of its `about` is the engine
that ran, `instead_of` the reason why it was not the one that was asked for.
"""

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from simcore.cluster import Cluster
from simcore.costs import Costs
from simcore.durations import Variations, chosen
from simcore.garbage import uncollected
from simcore.schedule import Schedule
from simcore.timing import Timing
from simcore.trace import Trace
from simcore.workload import Workload

if TYPE_CHECKING:
    from simcore.lowering import Lowering

__all__ = [
    "ENGINES",
    "Engine",
    "engine_of",
    "lowered",
    "simulate",
    "simulate_timed",
    "why_not_compiled",
]

Engine = Literal["compiled", "simpy"]
ENGINES: Final[tuple[str, ...]] = get_args(Engine)


@cache
def why_not_compiled() -> str:
    """Why there is only the reference here; empty if the compiled engine can be used."""
    try:
        import_module("simcore.compiled")
    except ModuleNotFoundError as error:
        return "numba is not installed" if error.name == "numba" else f"{error}"
    except ImportError as error:
        return f"numba cannot be imported: {error}"
    return ""


def engine_of(trace: Trace) -> Engine:
    """The engine that is to repeat what a trace shows: the one that made it, if one did."""
    return "simpy" if trace.header.about.get("engine") == "simpy" else "compiled"


def lowered(schedule: Schedule) -> "Lowering | None":
    """The programs as small ones, for many simulations; None if the reference has to run them."""
    if why_not_compiled():
        return None

    from simcore.lowering import Lowering, Unliftable

    try:
        return Lowering(schedule)
    except Unliftable:
        return None


def simulate(
    schedule: Schedule,
    blocks: Workload,
    cluster: Cluster | None = None,
    *,
    engine: Engine = "compiled",
    jitter: float = 0.0,
    variation: Variations | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    told: Callable[[str], None] | None = None,
    compiling: Callable[[], None] | None = None,
    lowering: "Lowering | None" = None,
) -> Trace:
    """Simulate as `simcore.engine.simulate`, by an engine of one's choice.

    `told` is given a line where the reference has to run instead of the compiled engine;
    `compiling` is called if that is compiled first, once on a machine, which takes seconds. Who
    simulates a schedule many times may give its `lowering`, which then is not made each time.

    Raises what `simcore.engine.simulate` raises.
    """
    cluster = cluster or Cluster.private()
    variations = chosen(jitter, variation)
    about: dict[str, Any] = {"engine": engine, "jitter": jitter}
    about |= {"variation": f"{variation}"} if variation else {}
    costs = Costs.of(schedule, blocks, cluster, variations.random)
    timing = Timing(schedule, costs, cluster, variations, seed)
    return simulate_timed(
        schedule,
        costs,
        cluster,
        timing,
        engine=engine,
        seed=seed,
        progress=progress,
        about=about,
        told=told,
        compiling=compiling,
        lowering=lowering,
    )


def simulate_timed(
    schedule: Schedule,
    costs: Costs,
    cluster: Cluster,
    timing: Timing,
    *,
    engine: Engine = "compiled",
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    about: Mapping[str, Any] | None = None,
    told: Callable[[str], None] | None = None,
    compiling: Callable[[], None] | None = None,
    lowering: "Lowering | None" = None,
) -> Trace:
    """As `simulate`, with what everything costs in ticks; `about` is for the trace's header."""
    reason = ""
    if engine == "compiled":
        found = _compiled(
            schedule, costs, cluster, timing, seed, progress, about, compiling, lowering
        )
        if isinstance(found, Trace):
            return found
        reason = found
        if told is not None:
            told(f"simulated by SimPy instead of the compiled engine: {reason}")

    from simcore.engine import simulate_timed as simulate_by_simpy

    about = {**(about or {}), "engine": "simpy"}
    about |= {"instead_of": f"compiled: {reason}"} if reason else {}
    return simulate_by_simpy(
        schedule, costs, cluster, timing, seed=seed, progress=progress, about=about
    )


def _compiled(
    schedule: Schedule,
    costs: Costs,
    cluster: Cluster,
    timing: Timing,
    seed: int,
    progress: Callable[[int], None] | None,
    about: Mapping[str, Any] | None,
    compiling: Callable[[], None] | None,
    lowering: "Lowering | None",
) -> Trace | str:
    """The compiled engine's trace, or the reason why there is none."""
    if type(timing) is not Timing:
        return f"durations are those of {type(timing).__name__}"
    if reason := why_not_compiled():
        return reason

    # Imported here, for that takes long.
    from simcore.compiled_cache import compilations
    from simcore.compiled_run import simulate_compiled
    from simcore.lowering import Unliftable

    try:
        with compilations(compiling), uncollected():
            return simulate_compiled(
                schedule,
                costs,
                cluster,
                timing,
                seed=seed,
                progress=progress,
                about={**(about or {}), "engine": "compiled"},
                lowering=lowering,
            )
    except Unliftable as error:
        return f"{error}"
