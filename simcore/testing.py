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
from functools import cache
from itertools import accumulate
from operator import mul
from typing import Any

from hypothesis import reject
from hypothesis import strategies as st

from simcore.cluster import Cluster, Device, Link
from simcore.engine import simulate
from simcore.errors import InputError
from simcore.options import Option
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


@cache
def times() -> st.SearchStrategy[Fraction]:
    """Seconds, exact: few values, often 0, for ties are where orders go wrong."""
    return st.sampled_from([Fraction(n, d) for d in (1, 2, 3) for n in (1, 0, 2, 3, 5)])


@cache
def _layers(most_bytes: int) -> st.SearchStrategy[Layer]:
    size = st.integers(0, most_bytes)
    return st.builds(Layer, st.just("block"), times(), times(), times(), size, size, size)


@st.composite
def workloads(draw: st.DrawFn, blocks: int, *, most_bytes: int = 8) -> Workload:
    """Workloads with one layer for each of so many blocks; all times may be 0."""
    layers = tuple(draw(_layers(most_bytes)) for _ in range(blocks))
    return Workload("drawn", layers, input_bytes=most_bytes // 2)


@cache
def devices() -> st.SearchStrategy[Device]:
    """Devices of one to three cores; some list their speeds."""
    ratio = st.sampled_from([Fraction(1), Fraction(5, 6), Fraction(3, 4)])
    slower = st.lists(ratio, min_size=1, max_size=3)
    listed = slower.map(lambda ratios: tuple(accumulate([Fraction(1), *ratios], mul)))
    return st.builds(Device, st.just("device"), st.integers(1, 3), st.just(()) | listed)


@cache
def links() -> st.SearchStrategy[Link]:
    """Links, free ones among them."""
    bandwidths = st.sampled_from([None, Fraction(1), Fraction(4), Fraction(7, 2)])
    return st.just(Link()) | st.builds(Link, times(), bandwidths, times(), times())


@cache
def clusters(workers: int, *, placed: bool = True) -> st.SearchStrategy[Cluster]:
    """Clusters for so many workers; without `placed` each worker has a device of its own."""
    one = st.just((Device("device"),))
    private = st.builds(Cluster, one, st.just("private"), links())
    if not placed:
        return private
    many = min(3, workers)
    several = st.tuples(*(devices() for _ in range(many)))
    numbers = st.tuples(*(st.integers(0, many - 1) for _ in range(workers)))
    return private | st.builds(Cluster, several, numbers, links())


@cache
def options(
    name: str, *, most_blocks: int = 4, most_batches: int = 10
) -> st.SearchStrategy[dict[str, Any]]:
    """All options of a registered schedule, each within its own rule; not all go together."""
    entry = find(name)
    most = {entry.blocks_option: most_blocks, "batches": most_batches}
    return st.fixed_dictionaries(
        {option: _values(entry.option(option), most.get(option, 4)) for option in entry.defaults}
    )


def _values(option: Option, most: int) -> st.SearchStrategy[Any]:
    values: st.SearchStrategy[Any]
    if option.choices:
        values = st.sampled_from(option.choices)
    elif option.kind is bool:
        values = st.booleans()
    elif option.kind is tuple:
        one = st.integers(1, most)
        values = one | st.lists(one, min_size=1, max_size=most).map(tuple)
    elif option.kind is int:
        values = st.sampled_from([number for number in range(most + 1) if option.holds(number)])
    else:
        values = (st.just(1.0) | st.floats(0, 2)).filter(option.holds)
    return st.none() | values if option.absent else values


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
        parts = schedule, self.blocks, self.cluster, self.jitter, self.seed
        return f"Simulation({', '.join(str(part) for part in parts)})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        # What Hypothesis shows of a failing example, instead of every worker and channel.
        printer.text(repr(self))


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
