"""What the tests of forward gradients share.

T_k, P_k and U_k are what module k of K takes to go forward with derivatives, to multiply and to
update; d is the latency of every link, N the number of batches.
"""

from fractions import Fraction
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from simcore.cluster import Cluster
from simcore.engine import simulate
from simcore.invariants import check_trace
from simcore.schedules import build
from simcore.staleness import gap_table
from simcore.trace import Trace
from simcore.workload import Layer, Workload

__all__ = [
    "Times",
    "any_modules",
    "counts",
    "durations",
    "few",
    "gaps_are",
    "latencies",
    "learn",
    "modules_times",
    "run",
    "workload",
]

Times = tuple[int | Fraction, int | Fraction, int | Fraction]  # forward, multiply, update

few = settings(deadline=None, max_examples=30)
durations = st.integers(0, 6)
any_modules = st.lists(st.tuples(durations, durations, durations), min_size=1, max_size=4)
# Without time in a forward pass, batches need not come one after the other.
modules_times = st.lists(st.tuples(st.integers(1, 6), durations, durations), min_size=1, max_size=4)
latencies = st.fractions(0, 8, max_denominator=2)
counts = st.integers(1, 6)


def workload(times: list[Times], size_bytes: int = 0) -> Workload:
    """Plain forward passes and backward passes take times that nobody asks for."""
    layers = tuple(
        Layer(
            "",
            Fraction(1, 3),
            Fraction(1, 7),
            Fraction(update),
            activation_bytes=size_bytes,
            parameter_bytes=3 * size_bytes,
            tangent_s=Fraction(tangent),
            project_s=Fraction(project),
        )
        for tangent, project, update in times
    )
    return Workload("uneven", layers)


def run(name: str, times: list[Times], latency_s: Fraction | int = 0, **options: Any) -> Trace:
    schedule = build(name, modules=len(times), **options)
    trace = simulate(schedule, workload(times), Cluster.private(latency_s))
    check_trace(schedule, trace)
    return trace


def learn(times: list[Times]) -> list[Fraction]:
    """P_k + U_k of each module."""
    return [Fraction(project + update) for _, project, update in times]


def gaps_are(trace: Trace, expected: list[int]) -> bool:
    """Whether each block has this gap, or that of the batch's number before; by mini-batches."""
    parts = trace.header.micro_batches
    return all(
        rows["gap"].tolist() == [min(batch // parts, gap) for batch in rows["batch"].tolist()]
        for gap, rows in ((g, gap_table(trace, k)) for k, g in enumerate(expected, 1))
    )
