"""Figures that are counted on the way against those read from the trace of the reference."""

import importlib.util
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simcore import ops
from simcore.cluster import Cluster, Device, Link
from simcore.engine import simulate
from simcore.errors import GradlagError
from simcore.faults import Straggler
from simcore.figures import SLIM, Figures, figures, figures_of
from simcore.schedule import Schedule, WeightRules
from simcore.schedules import SCHEDULES, build
from simcore.testing import Simulation, clusters, schedules, simulations, workloads
from simcore.workload import Layer, Workload
from tests.differential.random_programs import kept, random_schedules, serve_many, serve_one, steps

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="there is no numba"
)

# Whose workers join groups, share channels and blocks, or take what comes first.
TRACED = {
    *("ddp", "ddg", "fr", "lapsgd", "lppsgd", "fgd-dp"),
    *("async-lu", "async-bu", "hogwild", "async-1f1b"),
}


def expected_of(simulation: Simulation) -> Figures | GradlagError:
    try:
        trace = simulate(
            simulation.schedule,
            simulation.blocks,
            simulation.cluster,
            variation=simulation.variation,
            seed=simulation.seed,
        )
    except GradlagError as error:
        return error
    return figures_of(trace, simulation.schedule)


def found_of(simulation: Simulation) -> Figures | GradlagError:
    try:
        return figures(
            simulation.schedule,
            simulation.blocks,
            simulation.cluster,
            variation=simulation.variation,
            seed=simulation.seed,
        )
    except GradlagError as error:
        return error


def assert_alike(simulation: Simulation) -> str:
    """The figures are the same, or the errors; which engine ran."""
    expected, found = expected_of(simulation), found_of(simulation)
    if isinstance(expected, GradlagError):
        assert (type(found), str(found)) == (type(expected), str(expected))
        return ""
    assert isinstance(found, Figures)
    assert replace(found, engine="", instead_of="") == replace(expected, engine="", instead_of="")
    return found.engine


@pytest.mark.parametrize("name", SCHEDULES)
@given(st.data())
def test_every_schedule(name: str, data: st.DataObject) -> None:
    assert_alike(data.draw(simulations(schedules(name), placed=False, random=False)))


@given(simulations())
def test_every_simulation(simulation: Simulation) -> None:
    assert_alike(simulation)


@given(simulations(random_schedules()))
def test_random_programs(simulation: Simulation) -> None:
    assert_alike(simulation)


@st.composite
def static_schedules(draw: st.DrawFn) -> Schedule:
    """A worker for each block or more, which serves its way up and its way down in any order."""
    blocks, batches = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    manner = draw(st.sampled_from(["plain", "replay", "split"]))
    way = tuple(("up", k) for k in range(1, blocks + 1))
    way += tuple(("down", k) for k in range(blocks, 0, -1))
    cuts = sorted({*draw(st.sets(st.integers(1, blocks))), blocks})
    starts = [0, *cuts[:-1]]
    capacities = st.none() | st.none() | st.integers(1, 3)
    ups = [ops.Channel("data", (ops.Item("activation", 0),), source=True)]
    ups += [ops.Channel(f"up {n}", kept_by(way, n), draw(capacities)) for n in starts[1:]]
    downs = [ops.Channel(f"down {n}", kept_by(way, 2 * blocks - n), draw(capacities)) for n in cuts]
    workers = []
    for n, (start, end) in enumerate(zip(starts, cuts, strict=True)):
        up, down = way[start:end], way[2 * blocks - end : 2 * blocks - start]
        out = [ups[n + 1]] if n + 1 < len(ups) else [downs[n]]
        below = [downs[n - 1]] if n else []
        several = {
            ups[n]: (partial(steps, manner, up), out),
            downs[n]: (partial(steps, manner, down), below),
        }
        lag = draw(st.integers(0, batches))
        turns = [ups[n]] * lag + [ups[n], downs[n]] * (batches - lag) + [downs[n]] * lag
        if draw(st.booleans()):
            turns = draw(st.permutations(turns))
        program: Any = partial(serve_many, several, batches, turns)
        receives, sends = tuple(several), tuple({*out, *below})
        if n == len(cuts) - 1 and draw(st.booleans()):  # at the end of the way it need not wait
            several_ = partial(steps, manner, up + down)
            program = partial(serve_one, several_, ups[n], below, "", ops.Group("none"))
            receives, sends = (ups[n],), tuple(below)
        numbers = tuple(range(start + 1, end + 1))
        workers.append(ops.Worker(f"worker {n}", program, numbers, sends, receives))
    policy: Any = draw(st.sampled_from(["stash", "mixed", *["replay"] * (manner == "replay")]))
    return Schedule(
        name="static",
        blocks=blocks,
        batches=batches,
        workers=tuple(draw(st.permutations(workers))),
        weights=WeightRules(policy),
        split_backward=manner == "split",
    )


def kept_by(way: Any, done: int) -> tuple[ops.Item, ...]:
    """What travels after so many steps: the last item, as graphs stay where they are."""
    return kept(way, done, "graph")[-1:]


@st.composite
def static_simulations(draw: st.DrawFn) -> Simulation:
    schedule = draw(static_schedules())
    workers = len(schedule.workers)
    cluster = draw(clusters(workers, placed=False))
    slow = st.builds(Straggler, st.integers(0, workers - 1), st.just(Fraction(3, 2)))
    cluster = replace(cluster, stragglers=tuple(draw(st.lists(slow, max_size=2))))
    return Simulation(schedule, draw(workloads(schedule.blocks)), cluster)


@given(static_simulations())
def test_random_static_programs(simulation: Simulation) -> None:
    assert_alike(simulation)


@given(
    simulations(
        schedules("fdg", "adl", "dsp", "1f1b", "gpipe", most_blocks=8, most_batches=80),
        placed=False,
        random=False,
    )
)
def test_tables_grow_as_they_must(simulation: Simulation) -> None:
    assert_alike(simulation)


@pytest.mark.parametrize("name", SCHEDULES)
def test_who_is_counted_on_the_way(name: str) -> None:
    schedule = build(name, batches=40)
    cluster = Cluster((Device("device"),), "private", Link(Fraction(1, 3)))
    engine = assert_alike(Simulation(schedule, uneven(schedule.blocks), cluster))
    assert (engine == SLIM) == (name not in TRACED)


def uneven(blocks: int) -> Workload:
    layers = (
        Layer(f"{k}", Fraction(k % 3 + 1), Fraction(5), Fraction(k % 2)) for k in range(blocks)
    )
    return Workload("uneven", tuple(layers))
