"""Hypothesis strategies, for tests of schedules, interpreters and readers of traces.

A schedule of one's own is tested as those that come along are. Only this module needs Hypothesis.

>>> from hypothesis import given, settings
>>> from simcore.invariants import check_trace
>>> @settings(max_examples=5, database=None)
... @given(simulations(schedules("fdg", "adl")))
... def test_gaps_are_no_larger_than_the_pipeline(simulation):
...     trace = simulation.run()
...     check_trace(simulation.schedule, trace)
...     gaps = trace.gradients["version_applied"] - trace.gradients["version_forward"]
...     assert gaps.max() <= 2 * (simulation.schedule.blocks - 1)
>>> test_gaps_are_no_larger_than_the_pipeline()
"""

from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from operator import mul
from typing import Any

from hypothesis import reject
from hypothesis import strategies as st

from simcore.cluster import Cluster, Device, Link
from simcore.engine import simulate
from simcore.errors import InputError
from simcore.options import OPTIONS
from simcore.schedule import Schedule
from simcore.schedules import SCHEDULES, build, find
from simcore.trace import Trace
from simcore.workload import Layer, Workload

__all__ = [
    "Simulation",
    "clusters",
    "devices",
    "links",
    "options",
    "schedules",
    "simulations",
    "times",
    "workloads",
]


def times() -> st.SearchStrategy[Fraction]:
    """Seconds, exact: often 0 or small and equal, for ties are where orders go wrong."""
    return st.one_of(
        st.integers(0, 3).map(Fraction), st.fractions(0, 4, max_denominator=6), st.just(Fraction(1))
    )


@st.composite
def workloads(draw: st.DrawFn, blocks: int, *, most_bytes: int = 8) -> Workload:
    """Workloads with one layer for each of so many blocks; all times may be 0."""
    sizes = st.integers(0, most_bytes)
    layer = st.builds(Layer, st.just("block"), times(), times(), times(), sizes, sizes, sizes)
    layers = tuple(draw(layer) for _ in range(blocks))
    return Workload("drawn", layers, input_bytes=draw(sizes))


def devices() -> st.SearchStrategy[Device]:
    """Devices of one to three cores; some list their speeds."""
    ratio = st.sampled_from([Fraction(1), Fraction(5, 6), Fraction(3, 4)])
    slower = st.lists(ratio, min_size=1, max_size=3)
    listed = slower.map(lambda ratios: tuple(accumulate([Fraction(1), *ratios], mul)))
    return st.builds(Device, st.just("device"), st.integers(1, 3), st.just(()) | listed)


def links() -> st.SearchStrategy[Link]:
    """Links, free ones among them."""
    bandwidths = st.none() | st.sampled_from([Fraction(1), Fraction(4), Fraction(7, 2)])
    return st.just(Link()) | st.builds(Link, times(), bandwidths, times(), times())


@st.composite
def clusters(draw: st.DrawFn, workers: int, *, placed: bool = True) -> Cluster:
    """Clusters for so many workers; without `placed` each worker has a device of its own."""
    link = draw(links())
    if not placed or draw(st.booleans()):
        return Cluster((Device("device"),), "private", link)
    found = tuple(draw(st.lists(devices(), min_size=1, max_size=3)))
    numbers = st.integers(0, len(found) - 1)
    return Cluster(found, tuple(draw(numbers) for _ in range(workers)), link)


@st.composite
def options(
    draw: st.DrawFn, name: str, *, most_blocks: int = 4, most_batches: int = 10
) -> dict[str, Any]:
    """All options of a registered schedule, each within its own rule; not all go together."""
    entry = find(name)
    most = {entry.blocks_option: most_blocks, "batches": most_batches}
    drawn: dict[str, Any] = {}
    for option in entry.defaults:
        rule = OPTIONS[option]
        values: st.SearchStrategy[Any] = st.sampled_from(rule.choices or ("",))
        if rule.kind is int:
            values = st.integers(0, most.get(option, 4)).filter(rule.holds)
        elif rule.kind is float:
            values = (st.just(1.0) | st.floats(0, 2)).filter(rule.holds)
        drawn[option] = draw(st.none() | values if rule.absent else values)
    return drawn


@st.composite
def schedules(
    draw: st.DrawFn, *names: str, most_blocks: int = 4, most_batches: int = 10
) -> Schedule:
    """Schedules of these names, or of all that are registered, with any options."""
    name = draw(st.sampled_from(names or tuple(SCHEDULES)))
    drawn = draw(options(name, most_blocks=most_blocks, most_batches=most_batches))
    try:
        return build(name, **drawn)
    except InputError:  # options that do not go together
        reject()


@dataclass(frozen=True)
class Simulation:
    """Everything that a simulation depends on."""

    schedule: Schedule
    blocks: Workload
    cluster: Cluster
    jitter: float = 0.0
    seed: int = 0

    def run(self) -> Trace:
        """Simulate."""
        return simulate(
            self.schedule, self.blocks, self.cluster, jitter=self.jitter, seed=self.seed
        )

    def __repr__(self) -> str:
        schedule = f"build({self.schedule.name!r}, **{self.schedule.options})"
        return (
            f"Simulation({schedule}, {self.blocks}, {self.cluster}, jitter={self.jitter}, "
            f"seed={self.seed})"
        )


@st.composite
def simulations(
    draw: st.DrawFn,
    of: st.SearchStrategy[Schedule] | None = None,
    *,
    placed: bool = True,
    random: bool = True,
) -> Simulation:
    """Simulations of schedules, on any workload and cluster.

    Without `placed` each worker has a device of its own; without `random` durations are fixed.
    """
    schedule = draw(schedules() if of is None else of)
    return Simulation(
        schedule,
        draw(workloads(schedule.blocks)),
        draw(clusters(len(schedule.workers), placed=placed)),
        draw(st.sampled_from([0.0, 0.0, 0.3])) if random else 0.0,
        draw(st.integers(0, 3)),
    )
