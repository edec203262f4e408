from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from simcore.cluster import Cluster, Device, Link
from simcore.engine import simulate
from simcore.metrics import (
    busy_s,
    makespan_s,
    peak_in_flight,
    sequential_s,
    speedup,
    steady_batch_s,
    steady_speedup,
    utilization,
)
from simcore.schedules import SCHEDULES, build
from simcore.trace import Header, Recorder, Trace
from simcore.window import finish_times, steady_window
from simcore.workload import Workload

# 1 s forward, 2 s backward and 1 s update for each of two blocks.
EVEN = Workload.even(2, forward_s=2, backward_ratio=2, update_s=2)


def run(
    name: str, workload: Workload = EVEN, cluster: Cluster | None = None, **options: Any
) -> Trace:
    options[SCHEDULES[name].blocks_option] = len(workload.layers)
    return simulate(build(name, **options), workload, cluster)


def made(*spans: tuple[int, int, int, int, int, int], tick_s: Fraction = Fraction(1)) -> Trace:
    """A trace of two workers and one block from (start, end, worker, kind, block, batch)."""
    recorder = Recorder()
    for index, (start, end, worker, kind, block, batch) in enumerate(spans):
        recorder.span(start, end, worker, index, kind, block, batch, 0)
    return recorder.trace(Header("real", "made", {}, 1, 9, ("a", "b"), ("c",), tick_s))


def test_times_of_backpropagation() -> None:
    trace = run("bp", batches=3)
    assert makespan_s(trace) == 24 == sequential_s(EVEN, 3)
    assert speedup(trace, EVEN) == 1
    assert busy_s(trace) == (24,)
    assert utilization(trace) == 1


def test_the_makespan_is_from_the_first_start_to_the_last_end() -> None:
    trace = made((10, 12, 0, 0, 1, 0), (11, 16, 1, 1, 1, 0), tick_s=Fraction(1, 3))
    assert makespan_s(trace) == 2
    assert busy_s(trace) == (2 / 3, 5 / 3)
    assert utilization(trace) == 7 / 12


def test_a_trace_without_operations() -> None:
    empty = made()
    assert (makespan_s(empty), utilization(empty), busy_s(empty)) == (0, 0, (0, 0))
    assert speedup(empty, EVEN) is None
    assert steady_batch_s(empty) is None
    assert peak_in_flight(empty) == (0,)


def test_sending_and_receiving_keep_a_worker_busy() -> None:
    link = Link(send_s=Fraction(1, 2), receive_s=Fraction(1, 4))
    trace = run("fdg", cluster=Cluster((Device("one"),), "private", link), batches=3)
    assert busy_s(trace) == (3 * (4 + 0.75), 3 * (4 + 0.75))


def test_operations_that_share_a_device_are_busy_for_longer() -> None:
    private = run("fdg", batches=8)
    shared = run("fdg", cluster=Cluster.shared(Device("one")), batches=8)
    assert sum(busy_s(private)) == 64
    assert sum(busy_s(shared)) > 64
    assert makespan_s(shared) == 64


def test_steady_values() -> None:
    trace = run("fdg", batches=20)
    assert steady_batch_s(trace) == 4
    assert steady_speedup(trace, EVEN) == 2
    assert steady_batch_s(run("fdg", batches=3)) is None
    assert steady_speedup(run("fdg", batches=3), EVEN) is None


def test_the_steady_time_is_exact_although_batches_come_unevenly() -> None:
    # With a latency of 1 s, batches are finished 5 and 4 s apart in turn.
    trace = run("fdg", cluster=Cluster.private(latency_s=1), batches=21)
    assert steady_batch_s(trace) == 4.5
    # Every third batch waits for an update.
    assert steady_batch_s(run("adl", batches=40, accumulation=3)) == float(3 + Fraction(1, 3))
    # Two forward threads hand over two batches at once.
    pairs = run("async-lu", batches=40, forward_threads=2, backward_threads=8)
    assert steady_batch_s(pairs) == 1


def test_the_steady_time_without_a_pattern_is_the_mean_in_the_window() -> None:
    workload = Workload.even(2)
    trace = simulate(build("fdg", modules=2, batches=30), workload, jitter=0.5, seed=1)
    window = steady_window(trace)
    assert window is not None
    finished = [tick for tick in finish_times(trace).tolist() if window[0] < tick <= window[1]]
    mean = Fraction(finished[-1] - finished[0], len(finished) - 1)
    assert steady_batch_s(trace) == float(mean * trace.header.tick_s)


def test_a_growing_queue_has_no_steady_time() -> None:
    assert steady_batch_s(run("async-lu", batches=90, backward_threads=1)) is None


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("bp", {}, (1, 1)),
        ("fdg", {}, (2, 1)),
        ("adl", {}, (3, 1)),
        # Layer 1 holds a batch from 0 to 8 s, layer 2 from 1 to 4 s, and one comes every 2 s.
        ("async-lu", {"backward_threads": 4}, (4, 2)),
        # One thread finishes a batch every 6 s: at 18 s, when it takes the last one, three are
        # done, and the layer above holds one less from its end of the pass on.
        ("async-lu", {"backward_threads": 1, "batches": 10}, (8, 7)),
    ],
)
def test_batches_in_flight(name: str, options: dict[str, Any], expected: tuple[int, ...]) -> None:
    assert peak_in_flight(run(name, **{"batches": 20, **options})) == expected


def test_what_ends_is_let_go_before_what_begins() -> None:
    passes = [(0, 1, 0, 0, 1, 0), (1, 2, 0, 1, 1, 0), (2, 3, 0, 0, 1, 1), (3, 4, 0, 1, 1, 1)]
    assert peak_in_flight(made(*passes)) == (1,)
    assert peak_in_flight(made((2, 2, 0, 0, 1, 0), (2, 2, 0, 1, 1, 0))) == (1,)
    # A run that was cut short never let go.
    assert peak_in_flight(made(*passes[:3], (3, 4, 0, 0, 1, 2))) == (2,)
    assert peak_in_flight(made(*passes[:1])) == (1,)


def test_micro_batches_make_mini_batches() -> None:
    # Passes of a whole mini-batch each, seen as those of parts of them.
    whole = run("bp", batches=6)
    trace = replace(whole, header=replace(whole.header, micro_batches=3))
    assert speedup(trace, EVEN) == 16 / 48
    whole = run("fdg", batches=20)
    trace = replace(whole, header=replace(whole.header, micro_batches=2))
    assert steady_batch_s(trace) == 8
    assert steady_speedup(trace, EVEN) == 1
