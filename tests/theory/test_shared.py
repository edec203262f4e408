"""Lock-free processes on shared weights: Hogwild, LAPSGD, LPPSGD.

P processes, N batches, L layers; T, beta T and U are forward, backward and update time of the
network, c = T + beta T + U. Equal times make ties; see the docstring of `hogwild`.
"""

from collections import Counter
from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcore.cluster import Cluster, Device, Link
from simcore.engine import simulate
from simcore.faults import Straggler
from simcore.metrics import makespan_s, peak_in_flight
from simcore.schedule import Schedule
from simcore.schedules import build
from simcore.staleness import gap_table, gaps, lost_updates
from simcore.ties import examine_ties
from simcore.trace import KIND, Trace
from simcore.validate import validate
from simcore.workload import Layer, Workload

few = settings(deadline=None, max_examples=30)
seconds = st.integers(0, 4)
networks = st.lists(st.tuples(st.integers(1, 4), seconds, seconds), min_size=1, max_size=3)
Network = list[tuple[int, int, int]]


def workload(network: Network, load_s: Fraction | int = 0, merge_s: int = 0) -> Workload:
    layers = tuple(
        Layer("", *(Fraction(time) for time in times), parameter_bytes=4, merge_s=Fraction(merge_s))
        for times in network
    )
    return Workload("uneven", layers, load_s=Fraction(load_s))


# Time


@few
@given(network=networks, processes=st.integers(1, 4), batches=st.integers(1, 9))
def test_processes_run_side_by_side(network: Network, processes: int, batches: int) -> None:
    """On devices of their own: ceil(N / P) c, for equal times. One process is backpropagation."""
    cycle = sum(sum(times) for times in network)
    for name, options in (
        ("hogwild", {}),
        ("lapsgd", {"replicas": 1}),
    ):
        schedule = build(name, layers=len(network), batches=batches, processes=processes, **options)
        trace = simulate(schedule, workload(network))
        assert makespan_s(trace) == ceil(batches / processes) * cycle
        if processes == 1:
            assert not gaps(trace).any()


def test_throughput_on_a_shared_device_is_that_of_its_cores() -> None:
    # Three processes of c = 12 s on two cores: three batches every 18 s.
    schedule = build("hogwild", layers=1, batches=12, processes=3)
    trace = simulate(schedule, workload([(2, 6, 4)]), Cluster.shared(Device("cpu", 2)))
    assert makespan_s(trace) == 12 / 3 * 18


# Gaps


def layer_gaps(trace: Trace, layer: int = 1) -> list[int]:
    """The gaps of a layer in the order of the updates."""
    found: list[int] = gap_table(trace, layer)["gap"].tolist()
    return found


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_equal_processes_that_start_together_have_half_of_the_staleness(processes: int) -> None:
    """Gaps are 0, 1, ..., P-1 in turn, with mean (P-1) / 2, and not P-1: they land together."""
    schedule = build("hogwild", layers=2, batches=4 * processes, processes=processes)
    blocks = workload([(1, 2, 0), (1, 1, 1)])
    trace = simulate(schedule, blocks)
    for layer in (1, 2):
        assert layer_gaps(trace, layer) == list(range(processes)) * 4
    # The smallest change of a duration undoes it.
    assert examine_ties(trace, schedule, blocks).sensitive == (processes > 1)


@pytest.mark.parametrize("processes", [2, 3, 4])
@pytest.mark.parametrize("loads", [1, 2])
def test_processes_that_start_apart_have_all_of_it(processes: int, loads: int) -> None:
    """Batches that come every c / P, or every 2 c / P: gaps ceil(c / interval) - 1 in steady state.

    The first is P - 1, the second what is left with half of the processes busy. An update that
    lands when a batch is read is seen by it.
    """
    interval = Fraction(12 * loads, processes)
    schedule = build("hogwild", layers=1, batches=20, processes=processes, loaders=1)
    trace = simulate(schedule, workload([(3, 6, 3)], load_s=interval))
    steady = ceil(12 / interval) - 1
    assert layer_gaps(trace) == [min(batch, steady) for batch in range(20)]
    if loads == 1:
        assert steady == processes - 1


def conserved(trace: Trace, processes: int) -> int:
    """The sum of all gaps: for each update, the other processes at work that had read before it.

    All are at work but those that never land again, and those that have just landed in the same
    instant, which read after it.
    """
    rows = trace.of_kind("update")
    landed = np.sort(rows[["version", "worker", "end"]], order="version").tolist()
    last = {worker: version for version, worker, _ in landed}
    total = 0
    for version, worker, tick in landed:
        just = {other for before, other, end in landed[:version] if end == tick}
        working = {other for other in range(processes) if last.get(other, -1) > version}
        total += len(working - just - {worker})
    return total


@few
@given(
    times=st.tuples(st.integers(1, 4), seconds, seconds),
    processes=st.integers(1, 5),
    batches=st.integers(1, 30),
    slowness=st.lists(st.integers(1, 4), min_size=5, max_size=5),
    jitter=st.sampled_from([0.0, 0.3]),
)
def test_staleness_is_conserved(
    times: tuple[int, int, int], processes: int, batches: int, slowness: list[int], jitter: float
) -> None:
    """With one layer every update is waited out once by each other process, whatever the times."""
    cluster = Cluster(
        (Device("device"),),
        "private",
        stragglers=tuple(Straggler(p, Fraction(slowness[p])) for p in range(processes)),
    )
    schedule = build("hogwild", layers=1, batches=batches, processes=processes)
    trace = simulate(schedule, workload([times]), cluster, jitter=jitter)
    assert sum(layer_gaps(trace)) == conserved(trace, processes)
    # At the end, from when the first process finds no batch, up to P - 1 updates may land that up
    # to P - 1 processes do not wait out.
    if jitter:
        most = (processes - 1) * batches
        assert most - (processes - 1) ** 2 <= sum(layer_gaps(trace)) <= most


@pytest.mark.parametrize(("processes", "layers", "update_s"), [(4, 1, 0), (3, 4, 0), (4, 3, 3)])
def test_the_mean_gap_of_independent_processes(processes: int, layers: int, update_s: int) -> None:
    """(P-1) (1 - w / c), w = ((l-1) T + (L-l) U) / L: while a process has no use of the layer.

    Durations vary at random by a fifth. The mean of 2,800 gaps is within 4 standard errors, taken
    from 28 means of 100 each, which are all but independent: by Student's distribution 1 in 2,000
    seeds would fail.
    """
    schedule = build("hogwild", layers=layers, batches=3000, processes=processes)
    trace = simulate(schedule, Workload.even(layers, 6, 2, update_s), jitter=0.2, seed=1)
    cycle = 6 + 12 + update_s
    for layer in range(1, layers + 1):
        unused = Fraction((layer - 1) * 6 + (layers - layer) * update_s, layers)
        means = np.array(layer_gaps(trace, layer)[200:]).reshape(28, 100).mean(axis=1)
        error = means.mean() - float((processes - 1) * (1 - unused / cycle))
        assert abs(error) <= 4 * means.std(ddof=1) / 28**0.5 < 0.15


# Lost updates, with write=assign


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_updates_that_land_during_a_backward_pass_are_lost(processes: int) -> None:
    """Started c / P apart: ceil((beta T + U) P / c) - 1 of each, all together (P-1) / 2 on average.

    By adding, none is lost.
    """
    apart = {"loaders": 1, "layers": 1, "batches": 20, "processes": processes}
    for backward, update in ((6, 3), (1, 0), (0, 6)):
        cycle = 3 + backward + update
        blocks = workload([(3, backward, update)], load_s=Fraction(cycle, processes))
        trace = simulate(build("hogwild", write="assign", **apart), blocks)
        expected = max(0, ceil(Fraction((backward + update) * processes, cycle)) - 1)
        rows = trace.gradients
        lost = (rows["version_applied"] - rows["version_base"]).tolist()
        assert lost[-5:] == [expected] * 5
        assert not sum(lost_updates(simulate(build("hogwild", **apart), blocks)))
    together = build(
        "hogwild", layers=1, batches=6 * processes, processes=processes, write="assign"
    )
    trace = simulate(together, workload([(3, 6, 3)]))
    assert sum(lost_updates(trace)) == 6 * processes * (processes - 1) // 2


# Averaging


def averagings(trace: Trace) -> list[tuple[Fraction, Fraction]]:
    """Start of the first copy and end of the last merge of each round, of the first averager."""
    snapshots, merges = trace.of_kind("snapshot"), trace.of_kind("merge")
    averager = snapshots["worker"].min()
    tick = trace.header.tick_s
    begun = snapshots[(snapshots["worker"] == averager) & (snapshots["block"] == 1)]["start"]
    done = merges[(merges["worker"] == averager) & (merges["block"] == trace.header.blocks)]["end"]
    return [(b * tick, e * tick) for b, e in zip(begun, done, strict=True)]


@few
@given(
    network=networks,
    replicas=st.integers(1, 3),
    processes=st.integers(1, 3),
    averaging=st.integers(1, 4),
    share=st.integers(1, 6),
    extra=st.integers(0, 2),
    merge=st.integers(0, 3),
)
def test_averaging_slows_nobody_down(
    network: Network,
    replicas: int,
    processes: int,
    averaging: int,
    share: int,
    extra: int,
    merge: int,
) -> None:
    """Processes and gaps are as without; a round is held for every `averaging` batches of all.

    It begins when all of them have been finished in the replica, or the round before it is over,
    and takes 2 L merges and L all-reduces if all replicas do the same.
    """
    batches = share * replicas + min(extra, replicas - 1)
    own = {"layers": len(network), "batches": batches, "replicas": replicas, "processes": processes}
    cluster = Cluster.private(0, 1)
    trace = simulate(
        build("lapsgd", averaging=averaging, **own), workload(network, merge_s=merge), cluster
    )
    never = simulate(build("lapsgd", averaging=batches + 1, **own), workload(network), cluster)
    for kind in ("forward", "backward", "update"):
        columns = ["start", "end", "worker", "block", "batch"]
        one, other = (np.sort(each.of_kind(kind)[columns]) for each in (trace, never))
        assert one.tolist() == other.tolist()
    assert gaps(trace).tolist() == gaps(never).tolist()
    rounds = share // averaging
    layers = len(network)
    assert len(trace.of_kind("merge")) == rounds * layers * replicas
    cycle = sum(sum(times) for times in network)
    ring = Fraction(2 * (replicas - 1) * 4, replicas)
    free, expected = Fraction(0), []
    for number in range(1, rounds + 1):
        begin = max(free, Fraction(ceil(number * averaging / processes) * cycle))
        free = begin + 2 * layers * merge + layers * ring
        expected.append((begin, free))
    assert averagings(trace) == expected if rounds else not len(trace.of_kind("snapshot"))


def test_an_averager_waits_for_the_slowest_replica() -> None:
    schedule = build("lapsgd", layers=1, batches=8, processes=1, averaging=2)
    slow = Straggler(2, Fraction(3))
    cluster = Cluster((Device("device"),), "private", Link(), stragglers=(slow,))
    trace = simulate(schedule, workload([(1, 1, 1)]), cluster)
    # The fast replica has finished two batches at 6 and four at 12, the slow one at 18 and 36.
    joins = trace.of_kind("join")
    assert sorted(set((joins["end"] * float(trace.header.tick_s)).tolist())) == [18, 36]
    updates = trace.of_kind("update")
    fast = updates[updates["worker"] == 0]["end"] * float(trace.header.tick_s)
    assert fast.tolist() == [3, 6, 9, 12]


# Partial gradients


@few
@given(
    network=networks,
    processes=st.integers(1, 5),
    rounds=st.integers(1, 5),
)
def test_full_and_partial_steps_take_turns(network: Network, processes: int, rounds: int) -> None:
    """A full step takes T + beta T + U.

    A partial one takes T + backward of the part + input gradients above + update of the part.
    """
    layers = len(network)
    schedule = build(
        "lppsgd", layers=layers, batches=rounds * processes, replicas=1, processes=processes
    )
    trace = simulate(schedule, workload(network))
    for process in range(processes):
        low = process * layers // processes
        high = max(low + 1, (process + 1) * layers // processes)
        full = sum(sum(times) for times in network)
        partial = sum(times[0] for times in network) + sum(
            times[1] + times[2] for times in network[low:high]
        )
        partial += sum(Fraction(times[1], 2) for times in network[high:])
        expected = ceil(rounds / 2) * full + rounds // 2 * partial
        own = trace.spans[trace.spans["worker"] == process]
        # From the third round on a process that was faster may take a batch of another one.
        if rounds <= 2 or processes == 1:
            assert (own["kind"] == KIND["receive"]).sum() == rounds
            assert own["end"].max() * trace.header.tick_s == expected


def test_the_parts_cover_all_layers() -> None:
    """Every layer is in the part of as many processes as any other, give or take one."""
    for layers in range(1, 7):
        for processes in range(1, 9):
            options = {"layers": layers, "processes": processes, "replicas": 1}
            schedule = build("lppsgd", batches=2 * processes, **options)
            trace = simulate(schedule, Workload.even(layers))
            updates = Counter(trace.of_kind("update")["block"].tolist())
            partial = {layer: updates[layer] - processes for layer in range(1, layers + 1)}
            assert sum(partial.values()) == max(layers, processes)
            assert min(partial.values()) >= 1
            assert max(partial.values()) - min(partial.values()) <= 1


def test_a_partial_step_by_hand() -> None:
    # Three layers and three processes; the second has the middle one.
    schedule = build("lppsgd", layers=3, batches=6, replicas=1, processes=3)
    done = validate(schedule, order=range(4)).operations
    steps = [operation for operation in done[0] if operation[0] not in ("receive", "send")]
    assert steps[9:16] == [
        *(("forward", layer, 1) for layer in (1, 2, 3)),
        *(("backward_through", layer, 1) for layer in (3, 2)),
        ("backward", 1, 1),
        ("update", 1, -1),
    ]
    trace = simulate(schedule, Workload.even(3))
    middle = trace.spans[(trace.spans["worker"] == 1) & (trace.spans["version"] >= 0)][9:]
    names = [(int(row["kind"]), int(row["block"])) for row in middle]
    assert [block for _, block in names] == [1, 2, 3, 3, 2, 2]
    assert peak_in_flight(trace) == (3, 3, 3)


def test_where_a_verdict_holds_for_all_timings() -> None:
    def verdict(name: str, **options: int) -> bool:
        found: Schedule = build(name, layers=2, batches=6, **options)
        return validate(found).conclusive

    assert verdict("hogwild", processes=1)
    assert not verdict("hogwild", processes=2)  # who takes which batch is a matter of time
    assert verdict("lapsgd", processes=1, averaging=2)
    assert not verdict("lapsgd", processes=2, averaging=2)
