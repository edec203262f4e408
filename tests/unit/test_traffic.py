from fractions import Fraction

import pytest

from simcore.cluster import Cluster
from simcore.engine import simulate
from simcore.metrics import steady_batch_s
from simcore.schedules import build
from simcore.traffic import Traffic, traffic_of, traffic_values
from simcore.workload import Layer, Workload
from tests.properties.odd_schedules import ODD_SCHEDULES


def sized(layers: int, parameter_bytes: int = 0) -> Workload:
    """Layers of 1 s forward and 1 s backward, with 10, 20, ... bytes of output."""
    found = (
        Layer(
            "", Fraction(1), Fraction(1), activation_bytes=10 * k, parameter_bytes=parameter_bytes
        )
        for k in range(1, layers + 1)
    )
    return Workload("sized", tuple(found), input_bytes=7)


def test_of_a_pipeline() -> None:
    schedule, workload = build("fdg", modules=2, batches=4), sized(2)
    trace = simulate(schedule, workload)
    # 1 s until the second module starts, 4 batches of 2 s, 1 s for the last gradient. The last
    # module sends to itself, and the data come from storage: neither is a link. The first module is
    # ahead by a batch that waits for 1 s.
    assert trace.end * trace.header.tick_s == 10
    assert traffic_of(trace, schedule, workload) == (
        Traffic("gradients[1]", 4, 40, 4.0, None, 1, Fraction(0)),
        Traffic("activations[2]", 4, 40, 4.0, None, 1, Fraction(1, 10)),
    )


def test_the_wire_is_busy_for_as_long_as_the_bytes_take() -> None:
    schedule, workload = build("fdg", modules=2, batches=4), sized(2)
    cluster = Cluster.private(bytes_per_s=20)
    trace = simulate(schedule, workload, cluster)
    first, _ = traffic_of(trace, schedule, workload, cluster)
    seconds = trace.end * trace.header.tick_s
    assert (first.bytes, first.utilization) == (40, float(4 * Fraction(1, 2) / seconds))


def test_nothing_without_sizes_or_operations() -> None:
    schedule, workload = build("fdg", modules=2, batches=4), Workload.even(2)
    trace = simulate(schedule, workload)
    first, _ = traffic_of(trace, schedule, workload)
    assert first == Traffic("gradients[1]", 4, None, None, None, 1, Fraction(0))
    assert traffic_of(simulate(build("bp"), sized(4)), build("bp"), sized(4)) == ()


def test_of_a_group() -> None:
    # Two replicas take one of two batches each. For each block both send two halves of it.
    schedule, workload = ODD_SCHEDULES["replicas"](2), sized(2, parameter_bytes=100)
    cluster = Cluster.private(bytes_per_s=100)
    trace = simulate(schedule, workload, cluster)
    assert trace.end * trace.header.tick_s == 4 + 2
    (mean,) = traffic_of(trace, schedule, workload, cluster)
    assert mean == Traffic("mean", 2 * 2 * 2, 400, 400 / 6, 2 / 6)


def test_micro_batches_are_smaller() -> None:
    schedule, workload = ODD_SCHEDULES["split"](4), sized(2)
    first, second = traffic_of(simulate(schedule, workload), schedule, workload)
    assert (first.messages, first.bytes) == (second.messages, second.bytes) == (4, 20)


def test_messages_under_way() -> None:
    # A forward pass of 1 s and a backward one of 2 s: losses depart at 1, 2, 3, 4, 5 s, and are
    # taken at 1, 3, 5, 7, 9 s: the third at the moment at which the fifth departs.
    schedule = build("async-lu", layers=1, backward_threads=1, batches=5)
    trace = simulate(schedule, Workload.even(1, backward_ratio=2))
    (losses,) = traffic_of(trace, schedule, Workload.even(1))
    assert (losses.link, losses.messages, losses.most_messages) == ("losses", 5, 2)
    assert losses.mean_messages == Fraction(0 + 1 + 2 + 3 + 4, 11)
    assert losses.steady_mean_messages is None
    assert traffic_values([losses])[0]["mean_messages"] == 10 / 11


def test_a_full_queue() -> None:
    schedule = build("async-lu", layers=1, backward_threads=1, queue_capacity=3, batches=50)
    trace = simulate(schedule, Workload.even(1, backward_ratio=2))
    (losses,) = traffic_of(trace, schedule, Workload.even(1))
    assert (losses.most_messages, losses.steady_mean_messages) == (3, 3)


def test_messages_on_the_way() -> None:
    schedule, cluster = build("fdg", modules=2, batches=100), Cluster.private(latency_s="1/2")
    trace = simulate(schedule, Workload.even(2), cluster)
    _, up = traffic_of(trace, schedule, Workload.even(2), cluster)
    assert up.link == "activations[2]"
    assert up.steady_mean_messages == pytest.approx(1 / 2 / steady_batch_s(trace), rel=0.05)
