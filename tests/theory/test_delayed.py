"""DDG, features replay, FDG, ADL and DSP: closed forms, computed here and compared with simulation.

Letters as in the papers: K modules, T and beta T the forward and backward time of the whole
network, U its update time. All times, with one hop's latency, are exact.
"""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcore.cluster import Cluster
from simcore.engine import simulate
from simcore.errors import InputError
from simcore.metrics import makespan_s, peak_in_flight, steady_batch_s
from simcore.ops import Join, Program
from simcore.schedules import build, find
from simcore.schedules.windows import windows
from simcore.trace import Trace
from simcore.workload import Layer, Workload

Times = tuple[int | Fraction, int | Fraction, int | Fraction]  # forward, backward, update

few = settings(deadline=None, max_examples=20)
durations = st.integers(0, 6)
modules_times = st.lists(st.tuples(st.integers(1, 6), durations, durations), min_size=1, max_size=4)
latencies = st.fractions(0, 8, max_denominator=2)
LOCKED = ("ddg", "fr")


def run(name: str, times: list[Times], latency_s: Fraction | int = 0, **options: Any) -> Trace:
    layers = tuple(Layer("", Fraction(f), Fraction(b), Fraction(u)) for f, b, u in times)
    schedule = build(name, modules=len(times), **options)
    return simulate(schedule, Workload("uneven", layers), Cluster.private(latency_s))


def even(modules: int, beta: Fraction, update: Fraction | int) -> list[Times]:
    """Modules of a network with T = 1."""
    return [(Fraction(1, modules), beta / modules, Fraction(update) / modules)] * modules


def versions(trace: Trace, k: int) -> list[tuple[int, int, int, int]]:
    """Batch, and versions at the first pass, the replay if any, and the update, of module k."""
    columns = ["batch", "version_first", "version_forward", "version_applied"]
    rows = trace.gradients[trace.gradients["block"] == k][columns]
    return sorted(tuple(row) for row in rows.tolist())


def spans(trace: Trace, kind: str, k: int) -> dict[int, tuple[int, int]]:
    """Start and end of each operation of a kind in module k, in ticks, by batch."""
    rows = trace.of_kind(kind)
    return {
        int(row["batch"]): (int(row["start"]), int(row["end"])) for row in rows[rows["block"] == k]
    }


def most_at_once(trace: Trace, k: int, takes: str, frees: str) -> int:
    """The most batches between the start of one operation in module k and the end of another."""
    first, last = spans(trace, takes, k), spans(trace, frees, k)
    changes = [(first[batch][0], 1) for batch in last] + [(end, -1) for _, end in last.values()]
    held = most = 0
    for _, change in sorted(changes):  # at one tick, what ends is let go first
        held += change
        most = max(most, held)
    return most


# DDG and features replay. Iteration t takes T and K-1 hops for the forward pass, then the longest
# (replay + backward + update) of the modules that have a gradient, those with K-k <= t. Gradients
# leave a module within an iteration, and need a hop at most: the next forward pass takes as long.


def replays(name: str, times: list[Times]) -> list[int | Fraction]:
    """The time of the replay of each module: the last one has nothing to replay."""
    return [f if name == "fr" and k < len(times) else 0 for k, (f, _, _) in enumerate(times, 1)]


def locked_makespan(name: str, times: list[Times], latency: Fraction, batches: int) -> Fraction:
    modules = len(times)
    replay = replays(name, times)
    climb = sum((Fraction(f) for f, _, _ in times), (modules - 1) * latency)
    now = climb
    for iteration in range(batches - 1):
        active = range(max(0, modules - 1 - iteration), modules)
        now += max(Fraction(replay[at] + times[at][1] + times[at][2]) for at in active) + climb
    # The last forward pass is over. What is left comes down as it can: no barrier any more.
    ends, came = [now] * modules, dict.fromkeys(range(batches), now)
    for at in reversed(range(modules)):
        leaves = {}
        for batch in range(max(0, batches - modules + at), batches):
            leaves[batch] = max(ends[at], came.get(batch, now)) + replay[at] + times[at][1]
            ends[at] = leaves[batch] + times[at][2]
        came = {batch: time + latency for batch, time in leaves.items()}
    return max(ends)


@few
@given(
    times=modules_times,
    latency=latencies,
    batches=st.integers(1, 7),
    name=st.sampled_from(LOCKED),
)
def test_locked_makespan(times: list[Times], latency: Fraction, batches: int, name: str) -> None:
    expected = locked_makespan(name, times, latency, batches)
    assert makespan_s(run(name, times, latency, batches=batches)) == float(expected)


@few
@given(times=modules_times, latency=latencies, name=st.sampled_from(LOCKED))
def test_locked_batch_in_steady_state(times: list[Times], latency: Fraction, name: str) -> None:
    replay = replays(name, times)
    slowest = max(r + b + u for r, (_, b, u) in zip(replay, times, strict=True))
    climb = sum(f for f, _, _ in times) + (len(times) - 1) * latency
    trace = run(name, times, latency, batches=16)
    assert steady_batch_s(trace) == float(climb + slowest)


@pytest.mark.parametrize("modules", [1, 2, 4, 5])
@pytest.mark.parametrize("beta", [Fraction(1, 2), Fraction(2), Fraction(5, 3)])
def test_published_times_of_ddg_and_features_replay(modules: int, beta: Fraction) -> None:
    # T + (beta T + U)/K, and T + (T + beta T + U)/K. The latter counts a replay in every module;
    # one alone needs none: K >= 2.
    update = Fraction(1, 3)
    ddg, fr = (
        steady_batch_s(run(name, even(modules, beta, update), batches=16)) for name in LOCKED
    )
    assert ddg == float(1 + (beta + update) / modules)
    assert fr == float(1 + ((1 if modules > 1 else 0) + beta + update) / modules)


def without_first_barrier(program: Callable[[], Program]) -> Program:
    """The program, whose Joins are in turn those after the forward pass and after the update."""
    running, answer, joins = program(), None, 0
    while True:
        try:
            operation = running.send(answer)
        except StopIteration:
            return
        joins += isinstance(operation, Join)
        answer = None
        if not (isinstance(operation, Join) and joins % 2 == 1):
            answer = yield operation


@pytest.mark.parametrize("modules", [2, 3, 5])
def test_features_replay_needs_its_barrier_to_be_slower_than_ddg(modules: int) -> None:
    # Published: T + (T + beta T + U)/K against T + (beta T + U)/K. Without the barrier that ends
    # the forward pass, lower modules replay while upper ones still go forward.
    paces = []
    for name in LOCKED:
        schedule = build(name, modules=modules, batches=16)
        workers = (
            replace(worker, program=partial(without_first_barrier, worker.program))
            for worker in schedule.workers
        )
        free = replace(schedule, workers=tuple(workers))
        trace = simulate(free, Workload.even(modules, modules, 2, modules))
        paces.append(steady_batch_s(trace))
    assert paces == [modules + 2 + 1] * 2


@few
@given(times=modules_times, latency=latencies, weights=st.sampled_from(["stash", "mixed"]))
def test_gaps_of_ddg(times: list[Times], latency: Fraction, weights: str) -> None:
    # Module k applies the gradient of batch t - (K-k) in iteration t. Its first K-k iterations have
    # none, so that iteration t finds version t - (K-k): K-k updates come in between, as batches.
    trace = run("ddg", times, latency, batches=9, weights=weights)
    for k in range(1, len(times) + 1):
        delay = len(times) - k
        for batch, first, forward, applied in versions(trace, k):
            assert (forward, applied) == (max(0, batch - delay), batch)
            assert first == forward
            assert applied - forward == min(batch, delay)


@few
@given(times=modules_times, latency=latencies)
def test_gaps_of_features_replay(times: list[Times], latency: Fraction) -> None:
    trace = run("fr", times, latency, batches=9)
    for k in range(1, len(times) + 1):
        delay = len(times) - k
        for batch, first, forward, applied in versions(trace, k):
            assert applied == forward == batch
            assert applied - first == min(batch, delay)


@few
@given(times=modules_times, latency=latencies, name=st.sampled_from(LOCKED))
def test_the_forward_pass_is_locked(times: list[Times], latency: Fraction, name: str) -> None:
    # Nobody starts batch t before all modules have done what they do in iteration t - 1, and nobody
    # goes back before batch t has gone up.
    modules = len(times)
    trace = run(name, times, latency, batches=8)
    for t in range(8):
        up = spans(trace, "forward", modules)[t][1]
        for k in range(1, modules + 1):
            if (batch := t - (modules - k)) >= 0:
                back = spans(trace, "backward", k)[batch]
                assert back[0] >= up
                assert t == 7 or spans(trace, "forward", 1)[t + 1][0] >= back[1]


@pytest.mark.parametrize("name", LOCKED)
def test_the_backward_pass_is_not_locked(name: str) -> None:
    # Module 1 goes backward while the last one does, with the gradient of an older batch.
    trace = run(name, [(1, 4, 1)] * 3, batches=6)
    above, below = spans(trace, "backward", 3)[4], spans(trace, "backward", 1)[2]
    assert below[0] < above[1]
    assert above[0] < below[1]


@pytest.mark.parametrize("modules", [1, 2, 4])
@pytest.mark.parametrize("batches", [1, 3, 9])
def test_what_locked_modules_keep(modules: int, batches: int) -> None:
    times: list[Times] = [(1, 2, 1)] * modules
    most = tuple(min(batches, modules - k + 1) for k in range(1, modules + 1))
    ddg, fr = (run(name, times, batches=batches) for name in LOCKED)
    assert peak_in_flight(ddg) == peak_in_flight(fr) == most
    for k in range(1, modules):
        assert most_at_once(fr, k, "forward", "replay") == most[k - 1]  # inputs
        assert most_at_once(fr, k, "replay", "backward") == 1  # graphs
    assert most_at_once(fr, modules, "forward", "backward") == 1


# FDG, ADL and DSP in lock-step. At clock t module k takes batch t-k+1 forward and batch t-2K+k+1
# backward, of 0..N-1; what it needs was sent a clock before. A clock takes as long as its slowest
# module, and there are N+2K-2 of them.


def updates(batch: int, modules: int, k: int, batches: int, options: dict[str, Any]) -> bool:
    """Whether module k updates after the gradient of this batch: always, but for ADL."""
    accumulation = options.get("accumulation", 1)
    iteration = batch + (2 * (modules - k) if options.get("window") != "gradient" else 0)
    return (iteration + 1) % accumulation == 0 or batch + 1 == batches


def lockstep_makespan(name: str, times: list[Times], batches: int, options: dict[str, Any]) -> int:
    modules, total = len(times), 0
    for clock in range(batches + 2 * modules - 2):
        longest = 0
        for k, (forward, backward, update) in enumerate(times, 1):
            up, down = clock - k + 1, clock - 2 * modules + k + 1
            busy = forward if 0 <= up < batches else 0
            if 0 <= down < batches:
                busy += backward + (forward if name == "dsp" and k < modules else 0)
                busy += update if updates(down, modules, k, batches, options) else 0
            longest = max(longest, int(busy))
        total += longest
    return total


def pipelines() -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    adl = st.fixed_dictionaries(
        {
            "accumulation": st.integers(1, 3),
            "order": st.sampled_from(["forward-first", "update-first"]),
            "window": st.sampled_from(["batch", "gradient"]),
        }
    )
    return st.sampled_from([("fdg", dict[str, Any]()), ("dsp", {})]) | adl.map(lambda o: ("adl", o))


@few
@given(times=modules_times, pipeline=pipelines(), batches=st.integers(1, 8))
def test_lockstep_makespan(
    times: list[Times], pipeline: tuple[str, dict[str, Any]], batches: int
) -> None:
    name, options = pipeline
    trace = run(name, times, batches=batches, lockstep=True, **options)
    assert makespan_s(trace) == lockstep_makespan(name, times, batches, options)
    joins = trace.of_kind("join")["worker"]
    clocks = batches + 2 * len(times) - 2
    assert [int((joins == worker).sum()) for worker in range(len(times))] == [clocks] * len(times)


@few
@given(times=modules_times, pipeline=pipelines(), latency=latencies)
def test_lockstep_changes_no_version(
    times: list[Times], pipeline: tuple[str, dict[str, Any]], latency: Fraction
) -> None:
    name, options = pipeline
    free, locked = (
        run(name, times, latency, batches=9, lockstep=lockstep, **options)
        for lockstep in (False, True)
    )
    for k in range(1, len(times) + 1):
        assert versions(free, k) == versions(locked, k)
    assert makespan_s(free) <= makespan_s(locked)


orders = pytest.mark.parametrize("order", ["forward-first", "update-first"])
counts = pytest.mark.parametrize("window", ["batch", "gradient"])


@orders
@counts
@pytest.mark.parametrize("modules", [1, 2, 4])
@pytest.mark.parametrize("accumulation", [1, 2, 3, 4])
def test_lockstep_gives_away_what_accumulation_saves(
    order: str, window: str, modules: int, accumulation: int
) -> None:
    # Windows of M iterations end one clock later in each module, so that min(K, M) of M clocks
    # have an update in some module and last for it. Running free, U costs one Mth.
    options = {"accumulation": accumulation, "order": order, "window": window}
    trace = run("adl", [(1, 1, 12)] * modules, batches=48, lockstep=True, **options)
    assert steady_batch_s(trace) == 2 + Fraction(12 * min(modules, accumulation), accumulation)


@pytest.mark.parametrize(("accumulation", "expected"), [(1, 1), (2, 0.5), (3, 2 / 3), (4, 0.5)])
def test_where_even_update_first_adl_stops_to_share_its_updates(
    accumulation: int, expected: float
) -> None:
    # Two even modules that only update, one second each time, take 1/M seconds a batch in all but
    # one variant: with windows cut by batches, update first, it is 2/M from M = 3 on.
    times: list[Times] = [(0, 0, 1)] * 2
    options = {"accumulation": accumulation, "batches": 24 * accumulation}
    for order, window in (("forward-first", "batch"), ("update-first", "gradient")):
        trace = run("adl", times, order=order, window=window, **options)
        assert steady_batch_s(trace) == 1 / accumulation
    assert steady_batch_s(run("adl", times, order="update-first", **options)) == expected


# DSP: FDG's pipeline with replays, c = replay + forward + backward + update.


def cost(times: list[Times], k: int, window: int = 1) -> Fraction:
    forward, backward, update = times[k - 1]
    replay = forward if k < len(times) or window > 1 else 0
    return Fraction(replay + forward + backward + update)


@few
@given(times=modules_times)
def test_dsp_takes_its_slowest_module_if_links_are_free(times: list[Times]) -> None:
    trace = run("dsp", times, batches=60)
    assert steady_batch_s(trace) == max(cost(times, k) for k in range(1, len(times) + 1))


def slowest_loop(times: list[Times], own: list[int], latency: Fraction) -> Fraction:
    """Seconds per batch of windows that do not grow, by the loops up from j to l and back."""
    modules = len(times)
    return max(
        (
            sum((cost(times, k, own[-1]) for k in range(j, top + 1)), Fraction(0))
            + 2 * (top - j) * latency
        )
        / (own[j - 1] - own[top - 1] + 1)
        for j in range(1, modules + 1)
        for top in range(j, modules + 1)
    )


@few
@given(times=modules_times, latency=latencies, data=st.data())
def test_dsp_takes_its_slowest_loop(times: list[Times], latency: Fraction, data: Any) -> None:
    one = st.integers(1, 5)
    own = data.draw(st.lists(one, min_size=len(times), max_size=len(times)).map(sorted))[::-1]
    options: dict[str, Any] = {"in_flight": tuple(own)}
    if data.draw(st.booleans()):
        own = [max(1, 2 * (len(times) - k)) for k in range(1, len(times) + 1)]
        options = {}
    trace = run("dsp", times, latency, batches=90, **options)
    assert steady_batch_s(trace) == float(slowest_loop(times, own, latency))
    assert peak_in_flight(trace) == tuple(own)


def test_even_dsp_modules_and_latency() -> None:
    # The last hop is the tightest: (c of both + 2 latency) / 2, where the last spares its replay.
    for latency in (Fraction(1, 2), Fraction(1), Fraction(5)):
        trace = run("dsp", [(1, 2, 1)] * 4, latency, batches=90)
        assert steady_batch_s(trace) == max(5, Fraction(5 + 4, 2) + latency)


@few
@given(times=modules_times, latency=latencies, data=st.data())
def test_gaps_of_dsp(times: list[Times], latency: Fraction, data: Any) -> None:
    modules = len(times)
    own = [max(1, 2 * (modules - k)) for k in range(1, modules + 1)]
    in_flight = data.draw(st.none() | st.integers(1, 6))
    if in_flight is not None:
        own = list(windows(modules, in_flight))
    trace = run("dsp", times, latency, batches=9, in_flight=in_flight)
    for k in range(1, modules + 1):
        for batch, first, forward, applied in versions(trace, k):
            assert forward == applied == batch
            assert applied - first == min(batch, own[k - 1] - 1)


@pytest.mark.parametrize(
    ("name", "most"),
    [("fdg", (6, 4, 2, 1)), ("adl", (7, 5, 3, 1)), ("dsp", (6, 4, 2, 1))],
)
def test_what_pipelined_modules_keep(name: str, most: tuple[int, ...]) -> None:
    # FDG goes backward before it goes forward: 2(K-k) graphs. ADL holds one more. DSP holds inputs.
    trace = run(name, [(1, 2, 1)] * 4, batches=20)
    assert peak_in_flight(trace) == most
    if name == "dsp":
        assert [most_at_once(trace, k, "forward", "replay") for k in (1, 2, 3)] == [6, 4, 2]
        assert [most_at_once(trace, k, "replay", "backward") for k in (1, 2, 3)] == [1, 1, 1]


@pytest.mark.parametrize("name", ["fdg", "adl", "dsp"])
def test_pipelines_lock_nothing(name: str) -> None:
    trace = run(name, [(1, 3, 1)] * 3, batches=12)
    up, down = ({k: spans(trace, kind, k) for k in (1, 2, 3)} for kind in ("forward", "backward"))
    # Forward: module 1 takes the next batch before the last has had the one before. Update: batch
    # 8 goes through module 1 before batch 7 has updated it. Backward: two modules at once.
    assert up[1][8][0] < up[3][7][1]
    assert up[1][8][0] < down[1][7][0]
    overlaps = [
        one[0] < other[1] and other[0] < one[1]
        for one in down[1].values()
        for other in down[2].values()
    ]
    assert any(overlaps)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"lockstep": True, "in_flight": 4},
            "lockstep is 'true': is the clock of the windows of the paper; leave out in_flight",
        ),
        (
            {"in_flight": (1, 2, 1, 1)},
            "in_flight is '1,2,1,1': must not grow from a module to the next",
        ),
        ({"in_flight": (2, 1)}, "in_flight is '2,1': must be one number, or one for each of the 4"),
    ],
)
def test_windows_that_dsp_cannot_have(options: dict[str, object], line: str) -> None:
    with pytest.raises(InputError) as caught:
        build("dsp", **options)
    assert str(caught.value).startswith(line)


def test_the_options_of_the_family() -> None:
    assert all("lockstep" in find(name).defaults for name in ("fdg", "adl", "dsp"))
    assert not any("weights" in find(name).defaults for name in ("fr", "dsp"))
