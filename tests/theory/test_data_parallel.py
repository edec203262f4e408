"""Replicas that average gradients, loaders and checkpointing: times and order, exactly.

R replicas, N batches; f, b and u are forward, backward and update times of a block, r the time of
its all-reduce, c = F + B + U those of the whole network.
"""

from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from simcore.cluster import Cluster, Device, Link
from simcore.engine import simulate
from simcore.errors import InputError
from simcore.faults import Straggler
from simcore.holdings import CATEGORIES, holdings_of
from simcore.metrics import makespan_s
from simcore.schedule import Schedule
from simcore.schedules import SCHEDULES, build
from simcore.testing import options, simulations
from simcore.trace import Trace
from simcore.validate import validate
from simcore.workload import Layer, Workload

few = settings(deadline=None, max_examples=30)

# Forward, backward and update time of a block, and its parameters in bytes.
block_times = st.tuples(*(st.integers(0, 5) for _ in range(4)))
networks = st.lists(block_times, min_size=1, max_size=4)
Network = list[tuple[int, int, int, int]]


def workload(network: Network, load_s: int | Fraction = 0) -> Workload:
    layers = tuple(
        Layer("", Fraction(f), Fraction(b), Fraction(u), parameter_bytes=size)
        for f, b, u, size in network
    )
    return Workload("uneven", layers, load_s=Fraction(load_s))


def ring_s(replicas: int, size: int, latency: int | Fraction) -> Fraction:
    """Patarasuk and Yuan: 2 (R - 1) steps of a latency and one R-th of the bytes, 1 byte/s."""
    return 2 * (replicas - 1) * (Fraction(size, replicas) + latency)


def data_parallel(
    network: Network, batches: int, latency: int, slowness: list[int]
) -> Fraction | int:
    """The makespan of ddp as a max-plus recursion over batches and blocks; for any times.

    Replica r takes `slowness[r]` times as long for each computation. The all-reduce of a block
    begins when its backward pass has ended in all replicas that have a batch, and that of the block
    above is over; updates begin with block 1, whose all-reduce is the last.
    """
    replicas = len(slowness)
    starts: list[Fraction | int] = [0] * replicas
    for first in range(0, batches, replicas):
        busy = range(min(replicas, batches - first))
        done = [starts[r] + slowness[r] * sum(each[0] for each in network) for r in busy]
        over: Fraction | int = 0
        for _, backward, _, size in reversed(network):
            done = [done[r] + slowness[r] * backward for r in busy]
            # Those without a batch have nothing left but their last update.
            over = max(over, *done, *starts) + ring_s(replicas, size, latency)
        updates = sum(each[2] for each in network)
        starts = [over + slow * updates for slow in slowness]
    return max(starts)


@few
@given(
    network=networks,
    batches=st.integers(1, 9),
    latency=st.integers(0, 2),
    slowness=st.lists(st.integers(1, 3), min_size=1, max_size=4),
)
def test_ddp_on_links_and_devices_of_any_speed(
    network: Network, batches: int, latency: int, slowness: list[int]
) -> None:
    slowness = slowness[:batches]
    cluster = Cluster(
        (Device("device"),),
        "private",
        Link(Fraction(latency), Fraction(1)),
        stragglers=tuple(Straggler(r, Fraction(slow)) for r, slow in enumerate(slowness)),
    )
    schedule = build("ddp", modules=len(network), batches=batches, replicas=len(slowness))
    trace = simulate(schedule, workload(network), cluster)
    expected = data_parallel(network, batches, latency, slowness)
    assert trace.end * trace.header.tick_s == expected


@few
@given(network=networks, replicas=st.integers(2, 4), rounds=st.integers(1, 3))
def test_the_all_reduce_overlaps_the_backward_pass(
    network: Network, replicas: int, rounds: int
) -> None:
    """A batch takes max over k of (F + backward of k and above + all-reduces of k and below) + U.

    Without overlap it would take the sum of everything. The backward pass of the last block and the
    all-reduce of the first cannot overlap anything.
    """
    schedule = build("ddp", modules=len(network), batches=rounds * replicas, replicas=replicas)
    trace = simulate(schedule, workload(network), Cluster.private(0, 1))
    forward, backward, updates = (sum(each[i] for each in network) for i in range(3))
    rings = [ring_s(replicas, each[3], 0) for each in network]
    way = [sum(each[1] for each in network[k:]) + sum(rings[: k + 1]) for k in range(len(network))]
    batch = forward + max(way) + updates
    assert trace.end * trace.header.tick_s == rounds * batch
    in_turn = forward + backward + sum(rings) + updates
    hidden = in_turn - batch
    assert 0 <= hidden <= min(backward - network[-1][1], sum(rings[1:]))


def test_ddp_with_free_links_takes_a_round_of_backpropagation_for_each_replica() -> None:
    network = [(1, 2, 1, 9), (2, 3, 0, 9)]
    for replicas, batches in ((1, 3), (2, 6), (2, 7), (3, 8)):
        schedule = build("ddp", modules=2, batches=batches, replicas=replicas)
        trace = simulate(schedule, workload(network))
        assert makespan_s(trace) == ceil(batches / replicas) * 9
        assert schedule.batches_per_update == replicas


@pytest.mark.parametrize(("replicas", "latency"), [(2, 0), (3, 0), (4, 1), (7, 2)])
def test_one_all_reduce_costs_what_the_ring_says(replicas: int, latency: int) -> None:
    schedule = build("ddp", modules=1, batches=replicas, replicas=replicas)
    trace = simulate(schedule, workload([(0, 0, 0, 5)]), Cluster.private(latency, 1))
    found = Fraction(trace.end) * trace.header.tick_s
    assert found == ring_s(replicas, 5, latency)
    # As many bytes as there are parameters, and as many again but for one part in R of both.
    assert found - 2 * (replicas - 1) * latency == Fraction(2 * 5 * (replicas - 1), replicas)


@pytest.mark.parametrize(("replicas", "speed"), [(2, "1/2"), (2, "3/4"), (3, "1/2"), (3, "1")])
def test_replicas_that_share_a_device(replicas: int, speed: str) -> None:
    """R replicas that compute at once at a speed s each take c / s for R batches.

    So ddp on one device pays if R s > 1. A last batch of a single replica has the device for itself
    until all update.
    """
    alone = Fraction(1)
    speeds = (alone, *[max(alone, 2 * Fraction(speed)) / 2] * (replicas - 2), Fraction(speed))
    cluster = Cluster.shared(Device("gpu", replicas, speeds))
    network = [(3, 6, 3, 0), (9, 3, 6, 0)]  # so that completions are at whole ticks
    for rounds in (1, 2):
        schedule = build("ddp", modules=2, batches=rounds * replicas, replicas=replicas)
        trace = simulate(schedule, workload(network), cluster)
        together = 30 / Fraction(speed)
        assert makespan_s(trace) == rounds * together
        uneven = build("ddp", modules=2, batches=rounds * replicas + 1, replicas=replicas)
        last = 21 + 9 / Fraction(speed)
        assert makespan_s(simulate(uneven, workload(network), cluster)) == rounds * together + last


# Any schedule with replicas.

REPLICATED = [name for name, entry in SCHEDULES.items() if "replicas" in entry.compositions]


@st.composite
def replicas_of(draw: st.DrawFn, name: str) -> Schedule:
    drawn = draw(options(name, most_blocks=3, most_batches=7))
    count = draw(st.integers(2, 3))
    drawn |= {"replicas": count, "batches": max(count, drawn["batches"])}
    try:
        return build(name, **drawn)
    except InputError:  # options that do not go together
        reject()


@pytest.mark.parametrize("name", [*REPLICATED, "ddp"])
@settings(max_examples=settings().max_examples // 3)
@given(st.data())
def test_replicas_stay_equal(name: str, data: st.DataObject) -> None:
    """The n-th update of a block is the n-th in every replica, on all gradients of its round.

    It begins after the last of these has been computed, wherever; replicas have equally many
    updates, also where some have a batch less, and every batch is applied once, in its replica.
    """
    simulation = data.draw(simulations(replicas_of(name)))
    schedule, trace = simulation.schedule, simulation.run()
    static = name != "async-1f1b"  # which takes what comes
    assert validate(schedule).conclusive == (static and schedule.options["loaders"] <= 1)
    replica = np.array(schedule.replicas)
    count = schedule.options["replicas"]
    mini_batch = trace.gradients["batch"] // schedule.micro_batches
    assert (mini_batch % count == replica[trace.gradients["worker"]]).all()
    updates = trace.of_kind("update")
    for block in range(1, schedule.blocks + 1):
        landed: list[set[int]] = []
        for number in range(count):
            own = updates[(updates["block"] == block) & (replica[updates["worker"]] == number)]
            landed.append(set(own["version"].tolist()))
        assert all(versions == landed[0] for versions in landed)
        for version in landed[0]:
            starts = updates[(updates["block"] == block) & (updates["version"] == version)]["start"]
            assert starts.min() >= last_computed(trace, block, version)


def last_computed(trace: Trace, block: int, version: int) -> int:
    """The tick at which the last gradient of all that this update applies has been computed."""
    rows = trace.gradients
    rows = rows[(rows["block"] == block) & (rows["version_applied"] == version)]
    kinds = ("backward", "backward_weight", "project")
    passes = np.concatenate([trace.of_kind(kind) for kind in kinds])
    passes = passes[(passes["block"] == block) & np.isin(passes["batch"], rows["batch"])]
    assert len(passes) == len(rows) > 0
    return int(passes["end"].max())


@pytest.mark.parametrize("name", REPLICATED)
def test_replicas_on_free_links_take_no_longer_than_one(name: str) -> None:
    """As long as one of them alone takes for the share of the first."""
    blocks: dict[str, Any] = {SCHEDULES[name].blocks_option: 3}
    alone, both = build(name, batches=4, **blocks), build(name, batches=7, replicas=2, **blocks)
    even = Workload.even(alone.blocks, 12, 2, 3)
    assert makespan_s(simulate(both, even)) == makespan_s(simulate(alone, even))
    assert both.batches_per_update == 2 * alone.batches_per_update


# Loaders: a batch every max(load / loaders, c).


@pytest.mark.parametrize("prefetch", [1, 2, 4])
@pytest.mark.parametrize("load", [0, 1, 4, 5, 6, 11])
def test_one_loader_hides_what_takes_no_longer_than_a_batch(load: int, prefetch: int) -> None:
    """For fixed times: load + N c if load <= c, else N load + c, whatever may wait."""
    schedule = build("bp", modules=2, batches=6, loaders=1, prefetch=prefetch)
    trace = simulate(schedule, workload([(1, 1, 0, 0), (1, 1, 1, 0)], load))
    assert makespan_s(trace) == (load + 6 * 5 if load <= 5 else 6 * load + 5)


@pytest.mark.parametrize("loaders", [1, 2, 3, 4])
@pytest.mark.parametrize("load", [1, 4, 7, 10, 16])
def test_several_loaders(load: int, loaders: int) -> None:
    """Batches come n at a time; with room for all of them, each waits for the one before it."""
    periods, end, ends = 8, 0, []
    for batch in range(periods * loaders):
        end = max(end, load * (batch // loaders + 1)) + 4
        ends.append(end)
    schedule = build("bp", modules=1, batches=len(ends), loaders=loaders, prefetch=len(ends))
    trace = simulate(schedule, workload([(1, 2, 1, 0)], load))
    updates = trace.of_kind("update")["end"] * float(trace.header.tick_s)
    assert updates.tolist() == ends
    # Over whole rounds of the loaders.
    period = Fraction(ends[-1] - ends[loaders - 1], (periods - 1) * loaders)
    assert period == max(Fraction(load, loaders), 4)


def test_loaders_of_replicas_load_for_their_replica_only() -> None:
    schedule = build("fdg", modules=1, batches=5, replicas=2, loaders=1)
    trace = simulate(schedule, workload([(1, 1, 1, 0)], 3))
    loads = trace.of_kind("load")
    loaded = {w: loads["batch"][loads["worker"] == w].tolist() for w in np.unique(loads["worker"])}
    assert loaded == {2: [0, 2, 4], 3: [1, 3]}
    assert makespan_s(trace) == 3 * 3 + 3


def test_where_a_verdict_holds_for_all_timings() -> None:
    for put_around, conclusive in (
        ({"loaders": 1, "replicas": 3}, True),
        ({"loaders": 2}, False),  # which of the two loads a batch is a matter of time
        ({"loaders": 2, "replicas": 2}, False),
    ):
        assert validate(build("fdg", batches=8, **put_around)).conclusive == conclusive


# Checkpointing: two forward passes for each backward pass, and one graph at a time.


@few
@given(network=networks, batches=st.integers(1, 5))
def test_backpropagation_with_recomputing_goes_forward_twice(
    network: Network, batches: int
) -> None:
    schedule = build("bp", modules=len(network), batches=batches, recompute=True)
    trace = simulate(schedule, workload(network))
    assert makespan_s(trace) == batches * sum(2 * f + b + u for f, b, u, _ in network)


@pytest.mark.parametrize("modules", [1, 2, 4])
def test_recomputing_keeps_inputs_instead_of_graphs(modules: int) -> None:
    """FDG: a module holds the inputs of max(1, 2(K-k)) batches, one graph while it goes backward.

    It goes backward first, so that there is never one batch more. Without recomputing it holds the
    graphs of all of them. With even modules a batch takes 2 forward + backward + update times.
    """
    layer = Layer("", Fraction(1), Fraction(2), Fraction(1), activation_bytes=10, saved_bytes=1000)
    network = Workload("", (layer,) * modules, input_bytes=10)
    peaks = []
    for recompute in (False, True):
        schedule = build("fdg", modules=modules, batches=20, recompute=recompute)
        trace = simulate(schedule, network)
        rows = holdings_of(trace, schedule, network)
        peaks.append(
            {
                kind: [most(rows, worker, kind) for worker in range(modules)]
                for kind in ("activations", "inputs")
            }
        )
        backward = trace.of_kind("backward")
        ends = backward["end"][backward["block"] == 1]
        assert (ends[-1] - ends[-2]) * trace.header.tick_s == (5 if recompute else 4)
        if recompute:
            check_graphs_are_short(trace, rows)
    in_flight = [max(1, 2 * (modules - k)) for k in range(1, modules + 1)]
    assert peaks[0] == {"activations": [1000 * held for held in in_flight], "inputs": [0] * modules}
    assert peaks[1] == {
        "activations": [1000] * modules,
        "inputs": [10 * held for held in in_flight],
    }


def most(rows: Any, worker: int, kind: str) -> int:
    """The most bytes of a category that a worker holds at once; what ends is let go first."""
    own = rows[(rows["worker"] == worker) & (rows["category"] == CATEGORIES.index(kind))]
    changes = [(int(row["start"]), 1, int(row["bytes"])) for row in own]
    changes += [(int(row["end"]), 0, -int(row["bytes"])) for row in own]
    held, peak = 0, 0
    for _, _, change in sorted(changes):
        held += change
        peak = max(peak, held)
    return peak


def check_graphs_are_short(trace: Trace, rows: Any) -> None:
    """Each graph is held from the start of its replay to the end of its backward pass."""
    graphs = rows[rows["category"] == CATEGORIES.index("activations")]
    replays, backwards = trace.of_kind("replay"), trace.of_kind("backward")
    assert sorted(graphs["start"].tolist()) == sorted(replays["start"].tolist())
    assert sorted(graphs["end"].tolist()) == sorted(backwards["end"].tolist())
