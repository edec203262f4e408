"""Hypothesis strategies, for tests of schedules, interpreters and readers of traces.

A schedule of one's own is tested as those that come along are, by `schedules("own.py:function")`.
Only this module needs Hypothesis.

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

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from itertools import accumulate
from operator import mul
from typing import Any

from hypothesis import reject
from hypothesis import strategies as st

from simcore.cluster import Cluster, Device, Link, Transfers
from simcore.durations import Variations, read_variations
from simcore.engine import simulate
from simcore.errors import InputError
from simcore.faults import Loss, Pause, Straggler
from simcore.options import Option
from simcore.schedule import Schedule
from simcore.schedules import SCHEDULES, build, find
from simcore.trace import Trace
from simcore.workload import Layer, Workload

__all__ = [
    "Simulation",
    "clusters",
    "devices",
    "disturbances",
    "links",
    "options",
    "schedules",
    "simulations",
    "times",
    "variations",
    "workloads",
]


@cache
def times() -> st.SearchStrategy[Fraction]:
    """Seconds, exact: few values, often 0, for ties are where orders go wrong."""
    return st.sampled_from([Fraction(n, d) for d in (1, 2, 3) for n in (1, 0, 2, 3, 5)])


@cache
def _layers(most_bytes: int) -> st.SearchStrategy[Layer]:
    size, time = st.integers(0, most_bytes), times()
    usual = st.just("block"), time, time, time, size, size, size
    rest = dict.fromkeys(("project_s", "auxiliary_s", "merge_s"), time)
    layers = st.builds(Layer, *usual, tangent_s=st.none() | time, **rest)
    parts = st.sampled_from([None, Fraction(0), Fraction(1, 3), Fraction(1)])
    return st.builds(_split, layers, parts)


def _split(layer: Layer, part: Fraction | None) -> Layer:
    """The layer with this part of its backward pass for the gradient of the input."""
    return replace(layer, backward_input_s=None if part is None else part * layer.backward_s)


@st.composite
def workloads(draw: st.DrawFn, blocks: int, *, most_bytes: int = 8) -> Workload:
    """Workloads with one layer for each of so many blocks; all times may be 0."""
    layers = tuple(draw(_layers(most_bytes)) for _ in range(blocks))
    load_s = draw(times())
    return Workload("drawn", layers, input_bytes=most_bytes // 2, load_s=load_s)


@cache
def devices() -> st.SearchStrategy[Device]:
    """Devices of one to three cores; some list their speeds."""
    ratio = st.sampled_from([Fraction(1), Fraction(5, 6), Fraction(3, 4)])
    slower = st.lists(ratio, min_size=1, max_size=3)
    listed = slower.map(lambda ratios: tuple(accumulate([Fraction(1), *ratios], mul)))
    return st.builds(Device, st.just("device"), st.integers(1, 3), st.just(()) | listed)


@cache
def links() -> st.SearchStrategy[Link]:
    """Links, free ones among them; some are one wire for all channels."""
    bandwidths = st.sampled_from([None, Fraction(1), Fraction(4), Fraction(7, 2)])
    wires = st.sampled_from([None, None, "bus"])
    transfers: st.SearchStrategy[Transfers] = st.sampled_from(("serial", "shared"))
    drawn = st.builds(Link, times(), bandwidths, times(), times(), wires, transfers)
    return st.just(Link()) | drawn


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


@st.composite
def disturbances(
    draw: st.DrawFn, cluster: Cluster, workers: int, *, losses: bool = False
) -> Cluster:
    """The cluster with slow workers and pauses, often none; with `losses` at least one of them."""
    worker = st.integers(0, workers - 1)
    factors = st.sampled_from([Fraction(3, 2), Fraction(1, 3), Fraction(2)])
    lengths = times().filter(bool)
    slow, paused, lost = (
        st.builds(Straggler, worker, factors),
        st.builds(Pause, worker, lengths, times())
        | st.builds(Pause, worker, lengths, mean_s=lengths),
        st.builds(Loss, worker, times()) | st.builds(Loss, worker, mean_s=lengths),
    )
    return replace(
        cluster,
        stragglers=draw(_few(slow)),
        pauses=draw(_few(paused)),
        losses=draw(_few(lost, 1)) if losses else (),
    )


def _few(of: st.SearchStrategy[Any], least: int = 0) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(of, min_size=least, max_size=2).map(tuple)


@cache
def variations() -> st.SearchStrategy[Variations | None]:
    """Random durations of all kinds of operation, of some, or of none."""
    texts = ["lognormal:0.3", "exponential", "gamma:0.5,update=exponential", "forward=exponential"]
    return st.none() | st.sampled_from(texts).map(read_variations)


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
    """Schedules of these names, or of all that are registered, with any options.

    Names are those that `simcore.schedules.find` knows, functions of files among them.
    """
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
    variation: Variations | None = None
    seed: int = 0

    @property
    def random(self) -> bool:
        """Whether durations are random."""
        return self.variation is not None and self.variation.random

    def run(self) -> Trace:
        """Simulate."""
        return simulate(
            self.schedule, self.blocks, self.cluster, variation=self.variation, seed=self.seed
        )

    def __repr__(self) -> str:
        schedule = f"build({self.schedule.name!r}, **{self.schedule.options})"
        variation = f"{self.variation}" if self.variation else None
        parts = schedule, self.blocks, self.cluster, variation, self.seed
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
    losses: bool = False,
) -> Simulation:
    """Simulations of schedules, on any workload and cluster.

    Without `placed` each worker has a device of its own. Without `random` everything takes the time
    that the workload says: no random durations, no slow workers, no pauses. With `losses` workers
    are lost, so that the trace is not of a whole run.
    """
    schedule = draw(schedules() if of is None else of)
    workers = len(schedule.workers)
    blocks, cluster = draw(workloads(schedule.blocks)), draw(clusters(workers, placed=placed))
    if losses or (random and draw(st.booleans())):
        cluster = draw(disturbances(cluster, workers, losses=losses))
    variation = draw(variations()) if random else None
    return Simulation(schedule, blocks, cluster, variation, draw(st.integers(0, 3)))
