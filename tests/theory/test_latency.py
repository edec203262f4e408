"""How much latency schedules hide: the loop law, and what the papers' pipelines make of it.

In a static pipeline module k takes a batch backward D_k iterations after it took it forward. What
goes up from module k to module j comes back as a gradient D_k - D_j iterations later, and in the
next one the module goes forward again; so a batch takes, exactly, the largest of

    (work of modules k..j + latencies up and down between them) / (D_k - D_j + 1),  k <= j.

The work is forward + backward + update; where gradients depart before the update, the update of
module k alone. For k = j it is the time of the slowest module. A hop of even modules thus hides a
latency of ((D_k - D_(k+1) - 1) c + U) / 2 each way, or without U if gradients wait for updates.
"""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcore.cluster import Cluster, Link
from simcore.engine import simulate
from simcore.laws import Threads, batch_s
from simcore.schedule import Schedule
from simcore.schedules import build
from simcore.slack import cluster_slack, link_slacks, pace_s, smallest_in_flight
from simcore.sojourn import sojourn_law
from simcore.window import finish_times, mean_interval, take_times
from simcore.workload import Layer, Workload

Times = tuple[int, int, int]  # forward, backward, update
FREE = Cluster.private()

BATCHES = 90

some = settings(max_examples=20)
times = st.tuples(st.integers(1, 5), st.integers(0, 5), st.integers(0, 4))
latencies = st.sampled_from([Fraction(n, 2) for n in (0, 1, 2, 5, 11)])


def workload(modules: Sequence[Times]) -> Workload:
    layers = tuple(Layer("", Fraction(f), Fraction(b), Fraction(u)) for f, b, u in modules)
    return Workload("uneven", layers)


def linked(up: Sequence[Fraction], down: Sequence[Fraction]) -> Cluster:
    """A cluster with these latencies above modules 1, 2, ..."""
    links = {f"activations[{k}]": Link(latency) for k, latency in enumerate(up, 2)}
    links |= {f"gradients[{k}]": Link(latency) for k, latency in enumerate(down, 1)}
    return replace(FREE, links=links)


def pace(schedule: Schedule, modules: Sequence[Times], cluster: Cluster) -> Fraction:
    """Seconds per batch of programs that need not be registered."""
    trace = simulate(schedule, workload(modules), cluster)
    finished = finish_times(trace)
    interval = mean_interval(finished[finished <= take_times(trace)[-1]])
    assert interval is not None
    return interval * trace.header.tick_s


def windowed(name: str, windows: Sequence[int], batches: int) -> Schedule:
    """Asynchronous 1F1B: `pipedream` in a fixed order, or `async-1f1b`, which takes what comes."""
    return build(name, modules=len(windows), batches=batches, in_flight=tuple(windows))


def loop_law(
    modules: Sequence[Times],
    delays: Sequence[int],
    up: Sequence[Fraction],
    down: Sequence[Fraction],
    *,
    updates_first: bool = False,
) -> Fraction:
    """The law above; `updates_first` where all modules but the last update before they send."""
    longest = Fraction(0)
    for k in range(len(modules)):
        for j in range(k, len(modules)):
            above = modules[k + 1 : min(j + 1, len(modules) - 1)] if updates_first else []
            updating = [modules[k], *above]
            work = sum(f + b for f, b, _ in modules[k : j + 1]) + sum(u for _, _, u in updating)
            way = sum(up[k:j], Fraction(0)) + sum(down[k:j], Fraction(0))
            longest = max(longest, (work + way) / (delays[k] - delays[j] + 1))
    return longest


@st.composite
def pipelines(draw: st.DrawFn) -> tuple[list[Times], list[Fraction], list[Fraction]]:
    modules = draw(st.lists(times, min_size=1, max_size=4))
    hops = len(modules) - 1
    ways = [draw(st.lists(latencies, min_size=hops, max_size=hops)) for _ in range(2)]
    return modules, ways[0], ways[1]


# The loop law.


def delays_of(name: str, modules: int, order: str) -> list[int]:
    last = 0 if (name, order) == ("adl", "forward-first") else 1
    return [max(last, 2 * (modules - k)) for k in range(1, modules + 1)]


@some
@given(pipeline=pipelines(), order=st.sampled_from(["forward-first", "update-first"]))
def test_the_loop_law_of_adl(
    pipeline: tuple[list[Times], list[Fraction], list[Fraction]], order: str
) -> None:
    modules, up, down = pipeline
    schedule = build("adl", modules=len(modules), batches=BATCHES, order=order)
    expected = loop_law(modules, delays_of("adl", len(modules), order), up, down)
    assert pace(schedule, modules, linked(up, down)) == expected


@some
@given(pipeline=pipelines())
def test_the_loop_law_of_fdg(
    pipeline: tuple[list[Times], list[Fraction], list[Fraction]],
) -> None:
    modules, up, down = pipeline
    schedule = build("fdg", modules=len(modules), batches=BATCHES)
    delays = delays_of("fdg", len(modules), "")
    expected = loop_law(modules, delays, up, down, updates_first=True)
    assert pace(schedule, modules, linked(up, down)) == expected


@some
@given(pipeline=pipelines(), steps=st.lists(st.integers(1, 4), min_size=3, max_size=3))
def test_the_loop_law_of_windowed_1f1b(
    pipeline: tuple[list[Times], list[Fraction], list[Fraction]], steps: list[int]
) -> None:
    # Windows that grow towards the data: the last module holds one batch, module k as many more
    # than module k + 1 as `steps` says.
    modules, up, down = pipeline
    windows = [1 + sum(steps[: len(modules) - k]) for k in range(1, len(modules) + 1)]
    expected = loop_law(modules, windows, up, down)
    assert pace(windowed("pipedream", windows, BATCHES), modules, linked(up, down)) == expected


@given(modules=st.lists(times, min_size=1, max_size=5))
def test_free_links_cost_nothing(modules: list[Times]) -> None:
    # As D_k - D_j >= j - k, no loop takes longer than its slowest module: FDG's, ADL's (M = 1) and
    # 1F1B's time of a batch is the largest of forward + backward + update, however uneven.
    free, count = [Fraction(0)] * len(modules), len(modules)
    slowest = max(map(sum, modules))
    for delays in (delays_of("fdg", count, ""), delays_of("adl", count, "forward-first")):
        assert loop_law(modules, delays, free, free, updates_first=True) == slowest
    assert loop_law(modules, range(count, 0, -1), free, free) == slowest


# Slack: the latency at which throughput first falls.


@pytest.mark.parametrize(("modules", "each"), [(2, (2, 1, 3)), (3, (1, 2, 0)), (3, (1, 2, 1))])
def test_what_fdg_hides(modules: int, each: Times) -> None:
    # Even modules: half an update of a latency of all links, for the last module updates after it
    # has sent; an update on one of the last two links, and all of c on any one other.
    schedule, costs = build("fdg", modules=modules), workload([each] * modules)
    assert cluster_slack(schedule, costs, FREE).slack_s == Fraction(each[2], 2)
    last = {f"activations[{modules}]", f"gradients[{modules - 1}]"}
    for slack in link_slacks(schedule, costs, FREE):
        assert slack.slack_s == (each[2] if slack.channel in last else sum(each))
        assert slack.tolerance_s == 0


@pytest.mark.parametrize(("modules", "each"), [(2, (2, 1, 3)), (3, (1, 2, 0)), (3, (1, 2, 1))])
def test_what_adl_hides(modules: int, each: Times) -> None:
    # Forward first hides (c + U) / 2 on all links, and c + U on any one. Update first, FDG's order
    # but with gradients that depart before the update, hides U / 2 and U behind the last module.
    costs, update = workload([each] * modules), Fraction(each[2])
    hidden = sum(each) + update
    schedule = build("adl", modules=modules)
    assert cluster_slack(schedule, costs, FREE).slack_s == hidden / 2
    assert {slack.slack_s for slack in link_slacks(schedule, costs, FREE)} == {hidden}
    schedule = build("adl", modules=modules, order="update-first")
    assert cluster_slack(schedule, costs, FREE).slack_s == update / 2


@pytest.mark.parametrize(("accumulation", "updates"), [(1, 2), (2, 1), (3, 0), (4, 0)])
def test_accumulation_hides_less(accumulation: int, updates: int) -> None:
    # In two of M iterations in a row there are two updates, one, or none to wait behind.
    forward, backward, update = each = (1, 2, 4)
    schedule = build("adl", modules=2, accumulation=accumulation)
    slack = cluster_slack(schedule, workload([each] * 2), FREE).slack_s
    assert slack == Fraction(forward + backward + updates * update, 2)


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_each_batch_more_in_a_window_hides_half_a_cycle(step: int) -> None:
    # PipeDream's windows (steps of 1) hide U / 2; ADL's 2(K-k) are steps of 2; and so on, at the
    # price of a gap of `step` for each module above.
    modules: list[Times] = [(1, 2, 1)] * 3
    windows = [1 + 2 * step, 1 + step, 1]
    hidden = Fraction((step - 1) * 4 + 1, 2)
    assert pace(windowed("pipedream", windows, BATCHES), modules, Cluster.private(hidden)) == 4
    assert (
        pace(
            windowed("pipedream", windows, BATCHES),
            modules,
            Cluster.private(hidden + Fraction(1, 10)),
        )
        > 4
    )


def test_windows_win_latency_back_and_cost_staleness() -> None:
    # Even modules of c = 3, U = 0: a round trip of 2 (3 + x) on two modules, over the window.
    modules: list[Times] = [(1, 2, 0)] * 2
    for latency in (Fraction(1, 2), Fraction(3), Fraction(10)):
        paces = [
            pace(windowed("pipedream", [window, 1], BATCHES), modules, Cluster.private(latency))
            for window in range(2, 12)
        ]
        trips = [max(Fraction(3), 2 * (3 + latency) / window) for window in range(2, 12)]
        assert paces == trips
        assert all(before >= after for before, after in pairwise(paces))


# Asynchronous 1F1B by choice: a waiting gradient first, else a forward pass if the window allows.


def window_bound(
    modules: Sequence[Times],
    windows: Sequence[int],
    up: Sequence[Fraction],
    down: Sequence[Fraction],
) -> Fraction:
    """Little's law: module k holds a batch for a round trip at least, and n_k batches at most."""
    bound = Fraction(max(map(sum, modules)))
    for k, window in enumerate(windows):
        trip = sum(f + b for f, b, _ in modules[k:]) + modules[k][2]
        bound = max(bound, (trip + sum(up[k:], Fraction(0)) + sum(down[k:])) / window)
    return bound


@some
@given(
    pipeline=pipelines(),
    windows=st.lists(st.integers(1, 8), min_size=4, max_size=4),
    name=st.sampled_from(["pipedream", "async-1f1b"]),
)
def test_no_window_beats_its_round_trip(
    pipeline: tuple[list[Times], list[Fraction], list[Fraction]],
    windows: list[int],
    name: str,
) -> None:
    modules, up, down = pipeline
    held = sorted(windows[: len(modules)], reverse=True)
    found = pace(windowed(name, held, BATCHES), modules, linked(up, down))
    assert found >= window_bound(modules, held, up, down)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("latency_s", [Fraction(0), Fraction(1, 2), Fraction(2)])
def test_the_smallest_windows_reach_the_bound(count: int, latency_s: Fraction) -> None:
    # Even modules, windows K-k+1: K c + 2 (K - 1) latency, over K, with either schedule.
    modules: list[Times] = [(1, 2, 0)] * count
    windows, ways = range(count, 0, -1), [latency_s] * (count - 1)
    bound = window_bound(modules, windows, ways, ways)
    assert bound == 3 + 2 * (count - 1) * latency_s / count
    for name in ("pipedream", "async-1f1b"):
        found = pace(windowed(name, windows, BATCHES), modules, Cluster.private(latency_s))
        assert found == bound


def test_wider_windows_win_all_latency_back_in_the_end() -> None:
    # By choice, windows that are wide enough for the round trip and some batches more; the steps of
    # a fixed order must be wider, not only the windows.
    modules: list[Times] = [(1, 2, 0)] * 3
    cluster = Cluster.private(Fraction(3))
    assert pace(windowed("async-1f1b", [9, 9, 9], 150), modules, cluster) == 3
    assert pace(windowed("pipedream", [9, 8, 7], 150), modules, cluster) == 7
    assert pace(windowed("pipedream", [7, 4, 1], 150), modules, cluster) == 3


def test_where_a_wider_window_is_slower() -> None:
    # Whoever chooses at the moment may choose badly for the next. Of even modules none was found.
    modules: list[Times] = [(1, 3, 0), (3, 1, 0), (3, 0, 0)]
    paces = [
        pace(windowed("async-1f1b", windows, 150), modules, Cluster.private(1))
        for windows in ([3, 2, 1], [4, 3, 1], [5, 4, 1], [6, 5, 1])
    ]
    assert paces == [5, Fraction(26, 5), Fraction(9, 2), 4]


def test_the_smallest_window_that_wins_latency_back() -> None:
    # Two even modules of c = 3, U = 0: the round trip 2 (3 + x) over the window is at most 3. By
    # choice, a gradient may come while a forward pass is under way, and waits.
    costs = workload([(1, 2, 0)] * 2)
    for latency_s, expected in ((Fraction(0), 2), (Fraction(1), 3), (Fraction(3), 4)):
        cluster = Cluster.private(latency_s)
        assert smallest_in_flight(build("pipedream", modules=2), costs, cluster) == expected
        chosen = smallest_in_flight(build("async-1f1b", modules=2), costs, cluster)
        assert chosen is not None
        assert expected <= chosen <= expected + 1


def test_slack_of_windows() -> None:
    # The paper's windows hide U / 2 on all links; steps of 3 hide c + U / 2, as the loop law says.
    costs = workload([(1, 2, 1)] * 3)
    assert cluster_slack(build("pipedream", modules=3), costs, FREE).slack_s == Fraction(1, 2)
    wider = build("pipedream", modules=3, in_flight=(7, 4, 1))
    assert cluster_slack(wider, costs, FREE).slack_s == 4 + Fraction(1, 2)


# Async BP: the queue is the window.


@pytest.mark.parametrize("capacity", [1, 2, 5])
@pytest.mark.parametrize("threads", [(1, 2), (1, 1), (2, 4)])
def test_what_a_queue_of_losses_hides(capacity: int, threads: tuple[int, int]) -> None:
    # A message holds its slot while it travels, so latency / Q bounds the time of a batch.
    forward, backward = threads
    even = Threads(2, forward, backward, Fraction(2), Fraction(4), queue_capacity=capacity)
    options = {"forward_threads": forward, "backward_threads": backward}
    schedule = build("async-lu", layers=2, queue_capacity=capacity, **options)
    costs = Workload.even(2, 2, 2)
    (slack,) = link_slacks(schedule, costs, FREE)
    hidden = capacity * batch_s(even)
    assert slack.slack_s is not None
    assert slack.slack_s <= hidden <= slack.slack_s + slack.tolerance_s
    for latency in (hidden, 2 * hidden):
        assert pace_s(schedule, costs, Cluster.private(latency)) == latency / capacity


def test_an_unbounded_queue_hides_any_latency_and_pays_in_staleness() -> None:
    schedule, costs = build("async-lu", layers=2, batches=60), Workload.even(2, 2, "1.75")
    (slack,) = link_slacks(schedule, costs, FREE)
    assert slack.slack_s is None
    assert slack.searched_s == 32
    for latency in (0, 2, 6, 12):  # one more batch to wait for in each T = 2
        cluster = Cluster.private(latency)
        laws = sojourn_law(simulate(schedule, costs, cluster), schedule, costs, cluster)
        assert laws is not None
        assert [law.gap for law in laws] == [2 + latency // 2, 1 + latency // 2]
