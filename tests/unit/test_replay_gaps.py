from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from analysis.logistic import FloatArray, split
from analysis.replay_gaps import replay_gaps, steady_gaps
from simcore.engine import simulate
from simcore.errors import InputError
from simcore.schedules.async_bp import async_lu
from simcore.schedules.backpropagation import bp
from simcore.schedules.delayed import adl, fdg
from simcore.trace import Trace
from simcore.workload import Workload

Gradient = Callable[[int, FloatArray], FloatArray]
PARAMETERS, COPIES = 13, 2


def rough_gradient(batches: int) -> Gradient:
    """Coupled over all parameters, not linear, another one for every batch."""
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(batches, PARAMETERS, PARAMETERS)) / PARAMETERS
    shift = rng.normal(size=(batches, PARAMETERS))
    return lambda batch, point: np.tanh(point @ mixing[batch] + shift[batch])


def start() -> FloatArray:
    return np.random.default_rng(2).normal(size=(COPIES, PARAMETERS))


def rate(update: int) -> float:
    return 0.3 / (1 + update) ** 0.5


def delayed_gradients(
    modules: int, accumulation: int, batches: int, reduce: str
) -> list[FloatArray]:
    """ADL's equations 15 and 16 as they stand: theta at each window, all blocks, no schedule."""
    gradient, blocks = rough_gradient(batches), split(PARAMETERS, modules)
    thetas, updates = [start()], [0] * modules
    for s in range(-(-(batches + 2 * modules - 2) // accumulation)):
        theta = thetas[s].copy()
        for k, block in enumerate(blocks, 1):
            window = [accumulation * s + j - 2 * (modules - k) for j in range(accumulation)]
            window = [t for t in window if 0 <= t < batches]
            if window:
                total = sum(gradient(t, thetas[t // accumulation])[:, block] for t in window)
                divisor = len(window) if reduce == "mean" else 1
                theta[:, block] -= rate(updates[k - 1]) * total / divisor
                updates[k - 1] += 1
        thetas.append(theta)
    return thetas


@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize(
    ("modules", "accumulation"), [(1, 1), (1, 3), (2, 1), (3, 2), (3, 4), (4, 1), (4, 3), (4, 9)]
)
@pytest.mark.parametrize("jitter", [0.0, 0.5])
def test_adl_is_its_equations(modules: int, accumulation: int, reduce: str, jitter: float) -> None:
    schedule = adl(modules, 40, accumulation, reduce=reduce)  # type: ignore[arg-type]
    trace = simulate(schedule, Workload.even(modules), jitter=jitter)
    points: dict[int, FloatArray] = {}

    def met(batch: int, point: FloatArray, gradient: FloatArray) -> None:
        assert batch not in points
        np.testing.assert_array_equal(gradient, rough_gradient(40)(batch, point))
        points[batch] = point.copy()

    blocks = split(PARAMETERS, modules)
    replayed = replay_gaps(trace, start(), blocks, rough_gradient(40), rate, met=met)
    expected = delayed_gradients(modules, accumulation, 40, reduce)
    np.testing.assert_allclose(replayed.parameters, expected[-1], rtol=0, atol=1e-12)
    for batch in range(40):
        theta = expected[batch // accumulation]
        np.testing.assert_allclose(points[batch], theta, rtol=0, atol=1e-12)


@pytest.mark.parametrize("schedule", [adl(1, 25), fdg(1, 25), bp(3, 25)], ids=lambda s: s.name)
def test_without_gaps_it_is_plain_descent_to_the_bit(schedule) -> None:  # type: ignore[no-untyped-def]
    gradient, point = rough_gradient(25), start()
    for batch in range(25):
        point = point + -rate(batch) * gradient(batch, point)
    trace = simulate(schedule, Workload.even(schedule.blocks))
    blocks = split(PARAMETERS, schedule.blocks)
    replayed = replay_gaps(trace, start(), blocks, gradient, rate)
    np.testing.assert_array_equal(replayed.parameters, point)
    assert max(replayed.versions_held) <= 2


def test_gradients_shrink_at_each_hop() -> None:
    trace = simulate(fdg(3, 10, shrink=0.5), Workload.even(3))
    replayed = replay_gaps(
        trace, np.zeros(3), split(3, 3), lambda _, point: np.ones_like(point), lambda _: 0.1
    )
    np.testing.assert_allclose(replayed.parameters, [-0.25, -0.5, -1.0], rtol=1e-14)


@pytest.mark.parametrize("batches", [50, 200])
def test_only_versions_that_are_still_needed_are_kept(batches: int) -> None:
    trace = simulate(adl(4, batches), Workload.even(4))
    replayed = replay_gaps(trace, start(), split(PARAMETERS, 4), rough_gradient(batches), rate)
    # From the version that the oldest batch under way has read to the newest: the gap, and one.
    assert all(held <= 2 * (4 - k) + 1 for k, held in enumerate(replayed.versions_held, 1))


def test_any_schedule_with_stashed_weights_can_be_replayed() -> None:
    schedule = async_lu(4, 30, backward_threads=3, weights="stash")
    trace = simulate(schedule, Workload.even(4, backward_ratio=2.5), jitter=0.3)
    assert (trace.gradients["version_applied"] > trace.gradients["version_forward"]).any()
    by_batch = {}
    replayed = replay_gaps(
        trace,
        np.zeros(4),
        split(4, 4),
        lambda batch, point: np.full_like(point, batch),
        lambda _: 1.0,
        met=lambda batch, point, _: by_batch.update({batch: -point}),
    )
    assert replayed.parameters.tolist() == [-sum(range(30))] * 4
    for row in trace.gradients:  # what a batch met is the sum of the batches applied before
        mine = trace.gradients["block"] == row["block"]
        earlier = trace.gradients["version_applied"] < row["version_forward"]
        expected = trace.gradients["batch"][mine & earlier].sum()
        assert by_batch[int(row["batch"])][row["block"] - 1] == expected


@pytest.mark.parametrize(("modules", "accumulation"), [(1, 1), (3, 4), (4, 1), (4, 4), (8, 4)])
def test_steady_gaps_are_those_of_equation_17(modules: int, accumulation: int) -> None:
    trace = simulate(adl(modules, 12 * accumulation + 40, accumulation), Workload.even(modules))
    expected = tuple(
        tuple(-((j - 2 * (modules - k)) // accumulation) for j in range(accumulation))
        for k in range(1, modules + 1)
    )
    assert steady_gaps(trace, accumulation) == expected


def test_a_short_trace_has_no_steady_gaps() -> None:
    with pytest.raises(InputError, match="give more batches"):
        steady_gaps(simulate(adl(4, 3), Workload.even(4)), 1)


def without_a_row(trace: Trace) -> Trace:
    return replace(trace, gradients=trace.gradients[1:])


def out_of_order(trace: Trace) -> Trace:
    return replace(trace, gradients=trace.gradients[::-1])


def later_version(trace: Trace) -> Trace:
    rows = trace.gradients.copy()
    rows["version_applied"] += 1
    rows["version_base"] += 1
    return replace(trace, gradients=rows)


def overwritten(trace: Trace) -> Trace:
    rows = trace.gradients.copy()
    rows["version_base"] = 0
    return replace(trace, gradients=rows)


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (without_a_row, "exactly one gradient of every batch"),
        (out_of_order, "before an update made it"),
        (later_version, "update to version 1, expected one to version 0"),
        (overwritten, "overwrote others"),
    ],
)
def test_traces_that_cannot_be_replayed(broken: Callable[[Trace], Trace], why: str) -> None:
    trace = broken(simulate(adl(2, 10), Workload.even(2)))
    with pytest.raises(InputError, match=why):
        replay_gaps(trace, start(), split(PARAMETERS, 2), rough_gradient(10), rate)


def test_mixed_weights_and_other_blocks_are_refused() -> None:
    trace = simulate(adl(3, 10, weights="mixed"), Workload.even(3))
    with pytest.raises(InputError, match="weights=mixed"):
        replay_gaps(trace, start(), split(PARAMETERS, 3), rough_gradient(10), rate)
    with pytest.raises(InputError, match="number of blocks is 2: must be 3"):
        replay_gaps(trace, start(), split(PARAMETERS, 2), rough_gradient(10), rate)
