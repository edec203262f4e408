"""Times of many replicas at once are those of the simulator, row by row and tick by tick."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import assume, event, given, target
from hypothesis import strategies as st
from numpy.typing import NDArray

from simcore.costs import Costs
from simcore.draws import computations, drawn
from simcore.durations import Variations
from simcore.errors import DeadlockError
from simcore.monte_carlo import monte_carlo
from simcore.static_times import NotStaticError, obstacle, static_times
from simcore.testing import Simulation, schedules, simulations
from tests.differential.random_programs import random_schedules

Times = NDArray[np.int64]
SEEDS = st.lists(st.integers(0, 2**32), min_size=1, max_size=3, unique=True)
# Pipelines whose workers have a block each, which the others would crowd out.
STATIC = schedules(
    "fdg", "adl", "ddg", "fr", "dsp", "1f1b", "gpipe", "interleaved-1f1b", "zb-h1", "pipedream",
    "pipedream-2bw", "bp", "bp-mp", "ddp", "dgl", "dni", "asyncfgd", "fgd-mp", "lapsgd",
)  # fmt: skip


@dataclass(frozen=True)
class AtOnce:
    """Start and end of each operation by worker and index, and of all, in each replica."""

    rows: dict[tuple[int, int], tuple[Times, Times]]
    start: Times
    end: Times


def at_once(simulation: Simulation, seeds: list[int]) -> AtOnce:
    """All replicas computed together; `NotStaticError` if they cannot be."""
    schedule, variations = simulation.schedule, simulation.variation or Variations()
    costs = Costs.of(schedule, simulation.blocks, simulation.cluster, variations.random)
    reason = obstacle(schedule, costs, simulation.cluster)
    if reason is not None:
        raise NotStaticError(reason)
    first = replace(simulation, seed=seeds[0]).run()
    computed = computations(first, costs, simulation.cluster)
    durations = [drawn(each, variations, seeds, 10**6) for each in computed]
    rows: dict[tuple[int, int], tuple[Times, Times]] = {}

    def told(worker: int, index: int, *times: Any) -> None:
        rows[worker, index] = times

    start, end = static_times(schedule, costs, durations, len(seeds), told)
    return AtOnce(rows, start, end)


def check(simulation: Simulation, seeds: list[int]) -> None:
    try:
        found = at_once(simulation, seeds)
    except NotStaticError as error:
        event(str(error))
        assume(False)
    except DeadlockError:
        assume(False)
    event("at once")
    target(float(len(found.rows)))
    for place, seed in enumerate(seeds):
        trace = replace(simulation, seed=seed).run()
        spans = trace.spans
        columns = (spans[name].tolist() for name in ("worker", "index", "start", "end"))
        expected = {(w, i): (start, end) for w, i, start, end in zip(*columns, strict=True)}
        assert expected == {
            key: (int(start[place]), int(end[place])) for key, (start, end) in found.rows.items()
        }
        assert (trace.start, trace.end) == (int(found.start[place]), int(found.end[place]))


@given(simulations(STATIC, placed=False), SEEDS)
def test_times_of_registered_schedules(simulation: Simulation, seeds: list[int]) -> None:
    check(simulation, seeds)


@given(simulations(random_schedules(), placed=False), SEEDS)
def test_times_of_random_programs(simulation: Simulation, seeds: list[int]) -> None:
    check(simulation, seeds)


@given(simulations(losses=False), st.integers(1, 3))
def test_what_cannot_be_computed_at_once_is_simulated(simulation: Simulation, runs: int) -> None:
    faults = simulation.cluster.faults
    assume(simulation.random or any(fault.mean_s is not None for fault in faults))
    found = monte_carlo(
        simulation.schedule,
        simulation.blocks,
        simulation.cluster,
        variation=simulation.variation,
        seed=simulation.seed,
        runs=runs,
        jobs=1,
    )
    event(f"{found.obstacle}")
    for place, seed in enumerate(found.seeds):
        trace = replace(simulation, seed=seed).run()
        assert found.makespan_s[place] == float((trace.end - trace.start) * trace.header.tick_s)
