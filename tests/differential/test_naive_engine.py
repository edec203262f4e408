"""The simulator against one that is simple, operation by operation and gradient by gradient."""

from itertools import zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simcore.errors import DeadlockError
from simcore.schedules import SCHEDULES
from simcore.testing import Simulation, schedules, simulations
from simcore.trace import Trace
from tests.differential.naive_engine import Row, naively
from tests.differential.random_programs import random_schedules


def assert_alike(simulation: Simulation) -> None:
    """Both leave the same rows, or workers that wait for ever."""
    expected = naively(simulation)
    stuck = [simulation.schedule.workers[worker].name for worker in sorted(expected.stuck)]
    trace = ran(simulation)
    if isinstance(trace, DeadlockError):
        assert f": {', '.join(stuck)} wait for" in str(trace)
        return
    about = trace.header.about
    assert {*about.get("lost", {}), *about.get("waiting", {})} == {*stuck}
    assert_same_rows(trace.spans.tolist(), expected.spans)
    assert_same_rows(trace.gradients.tolist(), expected.gradients)


def ran(simulation: Simulation) -> Trace | DeadlockError:
    try:
        return simulation.run()
    except DeadlockError as error:
        return error


def assert_same_rows(found: list[Row], expected: list[Row]) -> None:
    """Compared row by row: a difference of long lists takes long to show."""
    for one, other in zip_longest(sorted(found), expected):
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
