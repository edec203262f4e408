from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from simcore.engine import simulate
from simcore.holdings import CATEGORIES, holdings_of
from simcore.memory import memory_of, memory_over_time
from simcore.ops import Channel, Item, Program, Worker
from simcore.schedule import Schedule, WeightRules
from simcore.schedules import SCHEDULES, build
from simcore.trace import KIND, Header, Recorder, Trace
from simcore.workload import Layer, Workload


def sized(*sizes: tuple[int, int], states: int = 0) -> Workload:
    """Layers of 1 s forward and 2 s backward, from their parameter and saved bytes."""
    layers = (
        Layer("", Fraction(1), Fraction(2), parameter_bytes=parameters, saved_bytes=saved)
        for parameters, saved in sizes
    )
    return Workload("sized", tuple(layers), optimizer_states=states)


def peaks(schedule: Schedule, workload: Workload, trace: Trace | None = None) -> list[Any]:
    """For each worker, what it holds at its peak, without what it does not."""
    found = memory_of(trace or simulate(schedule, workload), schedule, workload)
    assert found is not None
    for peak in found[1]:
        assert peak.bytes == sum(peak.categories.values())
    return [{name: size for name, size in each.categories.items() if size} for each in found[1]]


def run(name: str, workload: Workload, **options: Any) -> list[Any]:
    options[SCHEDULES[name].blocks_option] = len(workload.layers)
    return peaks(build(name, **options), workload)


def nothing() -> Program:
    return
    yield


SHARED = Channel("c", (Item("activation", 1),))


def two_workers(rules: WeightRules | None = None, micro_batches: int = 1) -> Schedule:
    """What the traces made below are of; its programs never run."""
    ends = Channel("in", (Item("activation", 0),), source=True)
    workers = (
        Worker("a", nothing, (1,), (SHARED,), (ends,)),
        Worker("b", nothing, (1,), (), (SHARED,)),
    )
    rules = rules or WeightRules(policy="mixed")
    return Schedule(1, 9, workers, rules, micro_batches=micro_batches, name="made")


def made(*spans: tuple[int, int, int, str, int, int, int]) -> Trace:
    """From (start, end, worker, kind, block, batch, version)."""
    recorder = Recorder()
    for index, (start, end, worker, kind, block, batch, version) in enumerate(spans):
        recorder.span(start, end, worker, index, KIND[kind], block, batch, version)
    channels = tuple(channel.name for channel in two_workers().channels)
    header = Header("real", "made", {}, 1, 9, ("a", "b"), channels, Fraction(1))
    return recorder.trace(header)


def test_no_bytes_without_sizes() -> None:
    schedule = build("bp", modules=2, batches=1)
    workload = Workload.even(2)
    assert memory_of(simulate(schedule, workload), schedule, workload) is None
    assert memory_of(simulate(schedule, workload), schedule, replace(workload, input_bytes=1))


def test_backpropagation_holds_one_of_everything() -> None:
    # The graphs of both blocks; when the last is gone there are both gradients.
    assert run("bp", sized((1000, 10), (2000, 1), states=2), batches=3) == [
        {"weights": 3000, "optimizer": 6000, "gradients": 2000, "activations": 10}
    ]
    assert run("bp", sized((0, 10), (0, 1)), batches=3) == [{"activations": 11}]


def test_stashed_weights_are_counted_by_version() -> None:
    # K = 2: the first module goes forward with batch t after its update with t - 2, and keeps the
    # version that t - 1 has read. Updates take no time, so nothing is held with a gradient.
    first, last = run("fdg", sized((1000, 10), (2000, 1)), batches=20)
    assert first == {"weights": 1000, "activations": 20, "copies": 1000}
    assert last == {"weights": 2000, "gradients": 2000}
    first, last = run("fdg", sized((1000, 10), (2000, 1)), batches=20, weights="mixed")
    assert first == {"weights": 1000, "gradients": 1000, "activations": 10}


def test_threads_share_weights_and_hand_graphs_over() -> None:
    # Counted once, with the first that updates. Each backward thread has an optimiser of its own.
    workload = sized((1000, 10), (2000, 1), states=1)
    ahead, first, second = run("async-lu", workload, batches=20)
    assert ahead == {"activations": 11}
    assert first == {"weights": 3000, "optimizer": 3000, "gradients": 2000, "activations": 10}
    assert second == {"optimizer": 3000, "gradients": 2000, "activations": 10}
    shared = run("async-lu", workload, batches=20, momentum="shared")
    assert shared == [ahead, first, {"gradients": 2000, "activations": 10}]
    assigned = run("async-lu", workload, batches=20, write="assign")
    assert assigned == [ahead, first | {"copies": 3000}, second | {"copies": 3000}]


def test_a_graph_in_a_queue_counts_at_the_sender() -> None:
    # Passes take 2 and 4 s. The thread takes batches at 2, 6, .., 38: when the last batch is
    # through, at 40 s, it has taken 10, and 10 are left with the forward thread.
    workload = sized((0, 10), (0, 1))
    assert run("async-lu", workload, batches=20, backward_threads=1) == [
        {"activations": 10 * 11},
        {"activations": 11},
    ]


def test_where_memory_is_shared_and_nothing_is_received() -> None:
    workload = sized((0, 10))
    forward, backward = (0, 2, 0, "forward", 1, 0, 0), (5, 7, 1, "backward", 1, 0, 0)
    held = {"activations": 10}
    assert peaks(two_workers(), workload, made(forward, backward)) == [held, held]
    receive = (2, 3, 1, "receive", 1, 0, -1)
    other = (4, 6, 0, "forward", 1, 1, 0)
    assert peaks(two_workers(), workload, made(forward, other, backward)) == [
        {"activations": 20},
        held,
    ]
    trace = made(forward, receive, other, backward)
    assert peaks(two_workers(), workload, trace) == [held, held]
    # What is received of another batch, or by another worker, hands nothing over.
    strange = (2, 3, 1, "receive", 1, 8, -1), (2, 3, 0, "receive", 1, 0, -1)
    trace = made(forward, *strange, other, backward)
    assert peaks(two_workers(), workload, trace) == [{"activations": 20}, held]


def test_where_the_other_worker_received_the_input_too() -> None:
    # It holds the graph from the forward pass on; before there is none.
    receive, forward = (0, 1, 1, "receive", 1, 0, -1), (2, 3, 0, "forward", 1, 0, 0)
    earlier = (0, 1, 1, "forward", 1, 1, 0), (1, 2, 1, "backward", 1, 1, 0)
    trace = made(receive, *earlier, forward, (4, 5, 1, "backward", 1, 0, 0))
    held = {"activations": 10}
    assert peaks(two_workers(), sized((0, 10)), trace) == [held, held]


def test_memory_over_time() -> None:
    # Versions: batches 0 and 1 read 0, which the first update replaces at 5, until 9.
    spans = [
        (1, 2, 0, "forward", 1, 0, 0),
        (2, 3, 0, "forward", 1, 1, 0),
        (3, 4, 0, "backward", 1, 0, 0),
        (4, 5, 0, "update", 1, -1, 0),
        (5, 5, 0, "send", 1, 1, -1),
        (6, 7, 1, "receive", 1, 1, -1),
        (8, 9, 0, "backward", 1, 1, 0),
        (9, 10, 0, "update", 1, -1, 1),
    ]
    schedule, workload = two_workers(WeightRules()), sized((100, 10))
    layer = replace(workload.layers[0], activation_bytes=3)
    workload = replace(workload, layers=(layer,))
    trace = made(*spans)
    holdings = holdings_of(trace, schedule, workload)
    memory = memory_over_time(holdings, 0)
    names = "weights", "gradients", "activations", "copies"
    columns = [CATEGORIES.index(name) for name in names]
    assert memory.ticks.tolist() == [1, 2, 4, 5, 9, 10]
    assert memory.held[:, columns].tolist() == [
        [100, 0, 10, 0],
        [100, 0, 20, 0],
        [100, 100, 10, 0],
        [100, 0, 10, 100],
        [100, 100, 0, 0],
        [100, 0, 0, 0],
    ]
    assert memory.held.sum() == memory.held[:, columns].sum()
    other = memory_over_time(holdings, 1)
    assert other.ticks.tolist() == [5, 7]
    assert other.held[:, CATEGORIES.index("messages")].tolist() == [3, 0]
    found = memory_of(trace, schedule, workload)
    assert found is not None
    assert [(peak.tick, peak.bytes) for peak in found[1]] == [(4, 210), (5, 3)]


def test_a_run_that_was_cut_short_lets_nothing_go() -> None:
    trace = made((0, 1, 0, "forward", 1, 0, 0), (1, 2, 0, "forward", 1, 1, 0))
    assert peaks(two_workers(), sized((100, 10)), trace) == [
        {"weights": 100, "activations": 20},
        {},
    ]
    kept = made((0, 1, 0, "forward", 1, 0, 0), (1, 2, 0, "forward", 1, 1, 0),
                (2, 3, 0, "replay", 1, 0, 0))  # fmt: skip
    workload = replace(sized((0, 10)), input_bytes=4)
    # One input is used up, one still waits for its replay.
    assert peaks(two_workers(), workload, kept) == [{"activations": 10, "inputs": 8}, {}]


def test_a_trace_without_operations_has_weights_alone() -> None:
    assert peaks(two_workers(), sized((100, 10)), made()) == [{"weights": 100}, {}]


@pytest.mark.parametrize(("parts", "held"), [(1, 10), (3, 4), (5, 2)])
def test_micro_batches_hold_their_part(parts: int, held: int) -> None:
    trace = made((0, 1, 0, "forward", 1, 0, 0), (1, 2, 0, "backward", 1, 0, 0))
    schedule = two_workers(micro_batches=parts)
    assert peaks(schedule, sized((0, 10)), trace) == [{"activations": held}, {}]
