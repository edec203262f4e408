"""Closed forms of what each module keeps: graphs, inputs, old versions of weights, directions.

Letters as in the papers: K modules, L layers, M gradients per update, m micro-batches, T = 1 and
beta the forward and backward time of the whole network. They hold whatever the times of modules.
"""

from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcore import levels
from simcore.engine import simulate
from simcore.holdings import CATEGORIES
from simcore.memory import memory_of
from simcore.metrics import peak_in_flight
from simcore.schedule import Schedule
from simcore.schedules import build, find
from simcore.trace import Trace
from simcore.workload import Layer, Workload

few = settings(deadline=None, max_examples=20)
forwards, durations = st.integers(1, 6), st.integers(0, 6)
modules_times = st.lists(st.tuples(forwards, durations, durations), min_size=1, max_size=4)
betas = st.fractions(Fraction(1, 4), 5, max_denominator=6)


def schedule_of(name: str, blocks: int, **options: Any) -> Schedule:
    return build(name, **{find(name).blocks_option: blocks, **options})


def async_lu(layers: int, beta: Fraction, batches: int) -> Trace:
    """One forward thread, as many backward threads as keep up, no update time, even layers."""
    threads = max(1, ceil(beta))
    schedule = schedule_of("async-lu", layers, batches=batches, backward_threads=threads)
    return simulate(schedule, Workload.even(layers, 1, beta))


# Memory. FDG goes back before it goes forward: module k < K keeps the graphs of 2(K-k) batches and,
# of the weights that they have read, 2(K-k) - 1 old versions. ADL goes forward first: one graph
# more, and as many old versions as its largest gap, ceil(2(K-k) / M). Whatever the times.


@few
@given(times=modules_times, m=st.integers(1, 3))
def test_graphs_and_stashed_weights_of_pipelines(times: list[tuple[int, int, int]], m: int) -> None:
    modules = len(times)
    batches = 8 * modules + 2 * m
    lags = [2 * (modules - k) for k in range(1, modules + 1)]
    fdg = schedule_of("fdg", modules, batches=batches)
    assert peaks(fdg, times, "activations") == [max(1, lag) for lag in lags]
    assert peaks(fdg, times, "copies") == [max(0, lag - 1) for lag in lags]
    adl = schedule_of("adl", modules, batches=batches, accumulation=m)
    assert peaks(adl, times, "activations") == [lag + 1 for lag in lags]
    assert peaks(adl, times, "copies") == [ceil(Fraction(lag, m)) for lag in lags]
    mixed = schedule_of("adl", modules, batches=batches, accumulation=m, weights="mixed")
    assert not any(peaks(mixed, times, "copies"))


# PipeDream: a window of w_k = K-k+1 batches, so that many graphs, and for the backward pass of the
# oldest of them as many versions of the weights, one of which is the newest.


@few
@given(times=modules_times, wider=st.integers(0, 2))
def test_graphs_and_stashed_weights_of_pipedream(
    times: list[tuple[int, int, int]], wider: int
) -> None:
    modules = len(times)
    windows = [modules - k + 1 + wider for k in range(1, modules + 1)]
    in_flight = tuple(windows) if wider else None
    pipedream = schedule_of("pipedream", modules, batches=20, in_flight=in_flight)
    assert peaks(pipedream, times, "activations") == windows
    assert peaks(pipedream, times, "copies") == [window - 1 for window in windows]


# What module k keeps in the other methods; m micro-batches.


def kept(name: str, modules: int, k: int, m: int) -> dict[str, int]:
    ahead, last = modules - k, k == modules
    return {
        "gpipe": {"activations": m},
        "1f1b": {"activations": min(m, ahead + 1)},
        "zb-h1": {"activations": min(m, modules)},
        "pipedream-2bw": {"activations": ahead + 1, "copies": 1},
        "ddg": {"activations": ahead + 1, "copies": ahead},
        "fr": {"activations": 1, "inputs": 0 if last else ahead + 1},
        "dsp": {"activations": 1, "inputs": 2 * ahead},
        "asyncfgd": {"tangents": ahead + 1},
        "bp-mp": {"activations": 1},
    }[name]


@pytest.mark.parametrize(
    "name",
    ["gpipe", "1f1b", "zb-h1", "pipedream-2bw", "ddg", "fr", "dsp", "asyncfgd", "bp-mp"],
)
@settings(deadline=None, max_examples=5)
@given(times=modules_times, m=st.integers(1, 6))
def test_what_each_module_keeps(name: str, times: list[tuple[int, int, int]], m: int) -> None:
    modules = len(times)
    options: dict[str, Any] = {"batches": 12}
    if name == "pipedream-2bw":
        m += modules  # it needs at least as many micro-batches as modules
    if "micro_batches" in find(name).defaults:
        options["micro_batches"] = m
    schedule = schedule_of(name, modules, **options)
    for category in ("activations", "inputs", "copies", "tangents"):
        expected = [kept(name, modules, k, m).get(category, 0) for k in range(1, modules + 1)]
        assert peaks(schedule, times, category) == expected


# Recomputation: inputs take the place of graphs, of which one is left; versions stay as they are.


@few
@given(times=modules_times)
def test_recomputation_keeps_inputs(times: list[tuple[int, int, int]]) -> None:
    modules = len(times)
    lags = [2 * (modules - k) for k in range(1, modules + 1)]
    fdg = schedule_of("fdg", modules, batches=8 * modules, recompute=True)
    assert peaks(fdg, times, "activations") == [1] * modules
    assert peaks(fdg, times, "inputs") == [max(1, lag) for lag in lags]
    assert peaks(fdg, times, "copies") == [max(0, lag - 1) for lag in lags]


def peaks(schedule: Schedule, times: list[tuple[int, int, int]], category: str) -> list[int]:
    """The most of one category alone that each module holds, in units of one batch or version."""
    parts = schedule.micro_batches  # of which each holds one byte
    sizes = {"activations": 0, "inputs": 0, "copies": 0, "tangents": 0, category: 1}
    layers = tuple(
        Layer(
            "",
            Fraction(forward),
            Fraction(backward),
            Fraction(update),
            activation_bytes=sizes["inputs"] * parts,
            saved_bytes=sizes["activations"] * parts,
            parameter_bytes=sizes["copies"] + sizes["tangents"],
        )
        for forward, backward, update in times
    )
    workload = Workload("", layers, input_bytes=sizes["inputs"] * parts)
    found = memory_of(simulate(schedule, workload), schedule, workload)
    assert found is not None
    return [most_at_once(found[0], worker, category) for worker in range(len(times))]


def most_at_once(holdings: Any, worker: int, category: str) -> int:
    own = holdings[
        (holdings["worker"] == worker) & (holdings["category"] == CATEGORIES.index(category))
    ]
    group = own["worker"] * 0
    return int(levels.peaks(group, own["start"], own["end"], own["bytes"], 1)[0])


# Async BP: layer l keeps a batch from i + (l - 1) / L to i + 1 + beta (L - l + 1) / L, that is for
# (1 + beta) (L - l + 1) / L, and one comes every T: the first layer keeps 1 + beta batches.


@few
@given(layers=st.integers(1, 6), beta=betas)
def test_batches_in_flight_of_async_bp(layers: int, beta: Fraction) -> None:
    expected = tuple(ceil((1 + beta) * above / layers) for above in range(layers, 0, -1))
    assert peak_in_flight(async_lu(layers, beta, batches=12)) == expected
