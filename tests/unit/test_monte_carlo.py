"""Monte-Carlo: the same draws as the simulator's, and what is said of many replicas."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from simcore.cluster import Cluster, Device, Link
from simcore.draws import Computations, drawn, uniforms
from simcore.durations import Variations, exponential, frozen, gamma, lognormal, read_variations
from simcore.engine import simulate
from simcore.errors import InputError
from simcore.faults import Loss, Straggler
from simcore.metrics import makespan_s, speedup
from simcore.monte_carlo import monte_carlo, replica_values
from simcore.randomness import uniform
from simcore.schedules import SCHEDULES, build
from simcore.staleness import gap_summaries
from simcore.trace import KIND
from simcore.workload import Layer, Workload

AT_ONCE = (
    *("bp", "bp-mp", "ddp", "gpipe", "1f1b", "interleaved-1f1b", "zb-h1"),
    *("pipedream", "pipedream-2bw"),
    *("ddg", "fr", "fdg", "adl", "dsp", "dgl", "dni"),
    *("fgd", "fgd-mp", "asyncfgd"),
)


def uneven(blocks: int) -> Workload:
    layers = tuple(
        Layer(f"layer {k}", Fraction(k + 1, 7), Fraction(2 * k + 1, 5), Fraction(1, 9), 100 * k + 8,
              parameter_bytes=64, auxiliary_s=Fraction(1, 8), merge_s=Fraction(1, 16))
        for k in range(blocks)
    )  # fmt: skip
    return Workload("uneven", layers, load_s=Fraction(1, 3), input_bytes=50)


def busy_links(workers: int) -> Cluster:
    link = Link(Fraction(1, 11), Fraction(1000), Fraction(1, 50), Fraction(1, 60))
    slow = (Straggler(workers - 1, Fraction(4, 3)),)
    return replace(Cluster.private(), link=link, stragglers=slow)


def test_uniform_numbers_are_those_of_the_simulator() -> None:
    seeds, counts = [0, 1, 2**32 - 1, 2**63 + 5], np.array([1, 2, 10**9])
    found = uniforms(seeds, 7, counts)
    assert found.tolist() == [[uniform(seed, 7, int(n)) for seed in seeds] for n in counts]


def test_durations_are_those_of_single_numbers_whatever_the_rounding(tmp_path: Path) -> None:
    """In long ticks hardly any rounding is doubtful, in short ones all are."""
    (tmp_path / "samples.toml").write_text(
        'schema = "gradlag.samples/1"\nsamples_s = [1, 2, 2.5, 7]\n'
    )
    forms = [lognormal(0.3), lognormal(5.0), gamma(0.4), exponential()]
    forms += [frozen(stats.weibull_min(1.5)), frozen(stats.randint(1, 4))]
    forms += [read_variations(f"samples:{tmp_path / 'samples.toml'}").default]  # type: ignore[list-item]
    kind = KIND["forward"]
    for variation in forms:
        for ticks in (1, 3, 10**8, 2**55 + 1):
            computed = Computations(2, np.full(30, ticks), np.full(30, kind))
            rows = drawn(computed, Variations(variation), [4, 5], 1)
            for count, row in enumerate(rows, 1):
                assert not isinstance(row, int)
                expected = [
                    max(1, round(ticks * variation.quantile(uniform(seed, 2, count))))
                    for seed in (4, 5)
                ]
                assert row.tolist() == expected, (variation, ticks)


def test_what_does_not_fit_into_62_bits_is_left_to_the_simulator() -> None:
    computed = Computations(0, np.full(3, 2**58), np.full(3, KIND["forward"]))
    with pytest.raises(OverflowError, match="62 bits"):
        list(drawn(computed, Variations(lognormal(0.1)), [0, 1], 100))


@pytest.mark.parametrize("name", AT_ONCE)
def test_replicas_at_once_are_the_simulations_of_their_seeds(name: str) -> None:
    size = SCHEDULES[name].blocks_option or "modules"
    schedule = build(name, batches=10, **({size: 3} if size in SCHEDULES[name].defaults else {}))
    blocks, cluster = uneven(schedule.blocks), busy_links(len(schedule.workers))
    found = monte_carlo(schedule, blocks, cluster, runs=5, jitter=0.7, seed=11)
    assert found.obstacle is None
    for place, seed in enumerate(range(11, 16)):
        trace = simulate(schedule, blocks, cluster, jitter=0.7, seed=seed)
        assert found.makespan_s[place] == makespan_s(trace)
        assert found.speedup[place] == pytest.approx(speedup(trace, blocks), rel=1e-15)
        assert found.batches_per_s[place] == trace.header.mini_batches / makespan_s(trace)
        summaries = gap_summaries(trace)
        assert found.mean_gap[place].tolist() == [each.mean for each in summaries]
        assert found.max_gap[place].tolist() == [each.max for each in summaries]


@pytest.mark.parametrize("jobs", [1, 2])
def test_adaptive_schedules_are_simulated_one_by_one(jobs: int) -> None:
    schedule, blocks = build("async-lu", layers=3, batches=15), Workload.even(3)
    told: list[int] = []
    found = monte_carlo(
        schedule, blocks, runs=6, jitter=0.5, seed=2, jobs=jobs, progress=told.append
    )
    assert found.obstacle == "several workers compute with the same weights"
    assert sum(told) == 6
    means = set()
    for place, seed in enumerate(found.seeds):
        trace = simulate(schedule, blocks, jitter=0.5, seed=seed)
        assert found.makespan_s[place] == makespan_s(trace)
        assert found.mean_gap[place].tolist() == [each.mean for each in gap_summaries(trace)]
        means.add(found.mean_gap[place, 0])
    assert len(means) > 1


OBSTACLES: dict[str, Cluster] = {
    "workers share a device": Cluster.shared(Device("cpu", cores=2)),
    "a device is slower than the workload says": Cluster(
        (Device("cpu", speeds=(Fraction(1, 2),)),), "private"
    ),
    "channels share the wire bus": Cluster(
        (Device("cpu"),), "private", Link(bytes_per_s=Fraction(10), wire="bus")
    ),
    "share the bandwidth": Cluster(
        (Device("cpu"),), "private", Link(bytes_per_s=Fraction(10), transfers="shared")
    ),
    "workers pause or are lost": replace(Cluster.private(), losses=(Loss(1, None, Fraction(30)),)),
}


@pytest.mark.parametrize("reason", OBSTACLES)
def test_what_stands_against_computing_at_once_is_said(reason: str) -> None:
    schedule, blocks, cluster = build("fdg", modules=2, batches=8), uneven(2), OBSTACLES[reason]
    found = monte_carlo(schedule, blocks, cluster, runs=3, jitter=0.2, jobs=1)
    assert found.obstacle is not None
    assert reason in found.obstacle
    expected = [
        makespan_s(simulate(schedule, blocks, cluster, jitter=0.2, seed=seed)) for seed in range(3)
    ]
    assert found.makespan_s.tolist() == expected


def test_replicas_that_lost_a_worker_have_no_rates() -> None:
    cluster = replace(Cluster.private(), losses=(Loss(0, None, Fraction(20)),))
    schedule, blocks = build("fdg", modules=2, batches=10), Workload.even(2)
    found = monte_carlo(schedule, blocks, cluster, runs=30, jobs=1)
    assert 0 < found.lost.sum() < 30
    assert np.isnan(found.speedup).tolist() == found.lost.tolist()
    values = replica_values(found)
    assert values["lost"] == found.lost.sum()
    assert values["speedup"]["50"] == pytest.approx(float(np.nanmedian(found.speedup)))


def test_quantiles_are_between_the_ordered_replicas() -> None:
    schedule = build("fdg", modules=2, batches=5)
    found = monte_carlo(schedule, Workload.even(2), runs=101, jitter=0.3)
    ordered = sorted(found.makespan_s.tolist())
    shares: Sequence[float] = (0.0, 0.05, 0.5, 0.95, 1.0)
    expected = [ordered[place] for place in (0, 5, 50, 95, 100)]
    assert found.quantiles(shares)["makespan_s"].tolist() == pytest.approx(expected)
    values = replica_values(found)
    assert (values["runs"], values["seeds"], values["at_once"]) == (101, [0, 100], True)
    assert [*values["makespan_s"]] == ["5", "25", "50", "75", "95"]
    assert values["gaps"][0]["mean"]["5"] == values["gaps"][0]["mean"]["95"]


def test_the_mean_of_a_single_worker_is_the_sum_of_its_means() -> None:
    """Backpropagation on one worker: the makespan is a sum of independent durations.

    Each has mean d and variance (cv d)^2, so the mean over R replicas lies within 4 standard errors
    of the sum of the d, with a probability of 0.99994.
    """
    batches, cv, runs = 20, 0.4, 2000
    schedule = build("bp", modules=2, batches=batches)
    found = monte_carlo(schedule, Workload.even(2), runs=runs, jitter=cv, seed=3)
    times = np.array([0.5, 0.5, 1.0, 1.0] * batches)
    error = cv * np.sqrt(np.sum(times**2) / runs)
    assert found.makespan_s.mean() == pytest.approx(times.sum(), abs=4 * error)


def test_bad_numbers_of_runs() -> None:
    schedule, blocks = build("fdg", modules=2, batches=5), Workload.even(2)
    with pytest.raises(InputError, match="runs is 0: must be at least 1"):
        monte_carlo(schedule, blocks, runs=0, jitter=0.1)
    with pytest.raises(InputError, match="runs is 5: needs something that is random"):
        monte_carlo(schedule, blocks, runs=5)
