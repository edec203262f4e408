"""The compiled engine against the reference, span by span and gradient by gradient."""

import importlib.util
from fractions import Fraction
from itertools import zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simcore import engines
from simcore.cluster import Cluster, Device, Link
from simcore.errors import GradlagError
from simcore.schedules import SCHEDULES, build
from simcore.testing import Simulation, schedules, simulations
from simcore.trace import Trace
from simcore.workload import Workload
from tests.differential.random_programs import random_schedules

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="there is no numba"
)


# What random clusters and programs have that the compiled engine leaves to the reference.
LEFT = ("transfers share a wire", "a batch passes forward twice", "arrives for a round before")


def ran(simulation: Simulation, engine: engines.Engine) -> Trace | GradlagError:
    try:
        return engines.simulate(
            simulation.schedule,
            simulation.blocks,
            simulation.cluster,
            engine=engine,
            variation=simulation.variation,
            seed=simulation.seed,
        )
    except GradlagError as error:
        return error


def assert_alike(simulation: Simulation, *, falls_back: tuple[str, ...] = LEFT) -> None:
    """Both leave the same trace, or tell the same error; `falls_back` are reasons that may be."""
    expected, found = ran(simulation, "simpy"), ran(simulation, "compiled")
    if isinstance(expected, GradlagError):
        assert (type(found), str(found)) == (type(expected), str(expected))
        return
    assert isinstance(found, Trace)
    about = dict(found.header.about)
    reason = about.pop("instead_of", "")
    if reason:
        assert any(each in reason for each in falls_back), reason
        return
    assert about == {**expected.header.about, "engine": "compiled"}
    for one, other in zip_longest(found.spans.tolist(), expected.spans.tolist()):
        assert one == other
    for one, other in zip_longest(found.gradients.tolist(), expected.gradients.tolist()):
        assert one == other


@pytest.mark.parametrize("name", SCHEDULES)
@given(st.data())
def test_every_schedule(name: str, data: st.DataObject) -> None:
    assert_alike(data.draw(simulations(schedules(name))))


@given(simulations(losses=True))
def test_losses(simulation: Simulation) -> None:
    assert_alike(simulation)


@given(simulations(random_schedules()))
def test_random_programs(simulation: Simulation) -> None:
    assert_alike(simulation)


@given(simulations(schedules("fdg", "adl", "async-lu", "gpipe", "lapsgd", most_batches=60)))
def test_loops_of_many_rounds(simulation: Simulation) -> None:
    assert_alike(simulation)


# Every schedule, without chance and without what falls back, must really be compiled.
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_compiled(name: str) -> None:
    schedule = build(name, batches=30)
    cluster = Cluster((Device("device", cores=2),), "shared", Link(Fraction(1, 3)))
    simulation = Simulation(schedule, Workload.even(schedule.blocks, 3, 5, 1), cluster)
    assert_alike(simulation)
    trace = ran(simulation, "compiled")
    assert isinstance(trace, Trace)
    assert trace.header.about["engine"] == "compiled"
