"""Stragglers, pauses, losses, shared wires and random times in the simulator, worked out by hand.

Times are seconds, exact.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest

from simcore.cluster import Cluster, Device, Link, Transfers
from simcore.durations import Variations, exponential, gamma, lognormal
from simcore.engine import simulate
from simcore.errors import DeadlockError, InputError
from simcore.faults import Loss, Pause, Straggler
from simcore.interruptions import moment_s
from simcore.ops import (
    Channel,
    Evaluate,
    Forward,
    Group,
    Item,
    Join,
    Load,
    Program,
    Receive,
    Send,
    Worker,
)
from simcore.randomness import uniform
from simcore.schedule import Schedule
from simcore.schedules import build
from simcore.trace import Trace
from simcore.workload import Layer, Workload

S = Fraction


def layers(*times: tuple[int, int], output_bytes: int = 0, load_s: int = 0) -> Workload:
    """Layers with these forward and backward times."""
    found = (
        Layer("layer", S(forward), S(backward), activation_bytes=output_bytes)
        for forward, backward in times
    )
    return Workload("by hand", tuple(found), load_s=S(load_s), input_bytes=output_bytes)


def cluster(*faults: Straggler | Pause | Loss, **fields: Any) -> Cluster:
    return Cluster(
        **{"devices": (Device("device"),), "placement": "private", **fields},
        stragglers=tuple(fault for fault in faults if isinstance(fault, Straggler)),
        pauses=tuple(fault for fault in faults if isinstance(fault, Pause)),
        losses=tuple(fault for fault in faults if isinstance(fault, Loss)),
    )


def spans(trace: Trace, *kinds: str) -> list[tuple[str, int, int, Fraction, Fraction]]:
    """Rows (kind, worker, batch, start, end), in order of the start."""
    rows = []
    for kind in kinds:
        for row in trace.of_kind(kind):
            start, end = (int(row[name]) * trace.header.tick_s for name in ("start", "end"))
            rows.append((kind, int(row["worker"]), int(row["batch"]), start, end))
    return sorted(rows, key=lambda row: row[3])


def times(trace: Trace, kind: str, worker: int = 0) -> list[tuple[Fraction, Fraction]]:
    return [row[3:] for row in spans(trace, kind) if row[1] == worker]


# A line of workers: one loads, the others serve what it sends


def line(servers: int, batches: int, capacity: int | None = None) -> Schedule:
    """A loader (worker 0), and servers on one channel that evaluate what it loads."""
    source = Channel("source", (Item("sample", 0),), source=True)
    jobs = Channel("jobs", (Item("activation", 0),), capacity)

    def loader() -> Program:
        while (batch := (yield Receive(source))) is not None:
            yield Load(batch)
            yield Send(jobs, batch)

    def server() -> Program:
        while (batch := (yield Receive(jobs))) is not None:
            yield Evaluate(1, batch)

    serving = (Worker(f"server {n}", server, (1,), (), (jobs,)) for n in range(1, servers + 1))
    return Schedule(
        1, batches, (Worker("loader", loader, (), (jobs,), (source,)), *serving), name="line"
    )


# Stragglers

BP = build("bp", modules=1, batches=2)


def test_all_computations_of_a_straggler_take_longer() -> None:
    trace = simulate(line(1, 3), layers((4, 0), load_s=1), cluster(Straggler(1, S(3, 2))))
    assert times(trace, "load") == [(0, 1), (1, 2), (2, 3)]
    assert times(trace, "evaluate", 1) == [(1, 7), (7, 13), (13, 19)]


def test_times_stay_exact_where_slowed_times_have_fewer_digits() -> None:
    """A quarter of a second as measured, half a second here."""
    quarter = Workload("quarters", (Layer("layer", S(1, 4), S(3, 4)),))
    trace = simulate(BP, quarter, cluster(Straggler(0, S(2))))
    assert times(trace, "forward") == [(0, S(1, 2)), (2, S(5, 2))]
    assert times(trace, "backward") == [(S(1, 2), 2), (S(5, 2), 4)]


def test_a_straggling_loader_is_the_bottleneck() -> None:
    trace = simulate(line(2, 3), layers((4, 0), load_s=1), cluster(Straggler(0, S(10))))
    assert times(trace, "load") == [(0, 10), (10, 20), (20, 30)]
    assert [row[1:4] for row in spans(trace, "evaluate")] == [(1, 0, 10), (2, 1, 20), (1, 2, 30)]


def test_a_straggler_varies_at_random_as_others_do() -> None:
    varied = simulate(line(1, 3), layers((4, 0), load_s=1), jitter=0.5, seed=3)
    slow = simulate(
        line(1, 3), layers((4, 0), load_s=1), cluster(Straggler(1, S(3))), jitter=0.5, seed=3
    )
    for (start, end), (start_3, end_3) in zip(
        times(varied, "evaluate", 1), times(slow, "evaluate", 1), strict=True
    ):
        assert float(end_3 - start_3) == pytest.approx(float(3 * (end - start)), rel=1e-8)


# Pauses


@pytest.mark.parametrize(
    ("pauses", "forward", "backward"),
    [
        ([], [(0, 2), (5, 7)], [(2, 5), (7, 10)]),
        ([("1/2", 3)], [(0, 5), (8, 10)], [(5, 8), (10, 13)]),  # within the first forward pass
        ([(0, 3)], [(3, 5), (8, 10)], [(5, 8), (10, 13)]),  # nothing starts before its end
        ([(2, 3)], [(0, 2), (8, 10)], [(5, 8), (10, 13)]),  # what ends at 2 has ended
        ([(1, 4), (3, 1)], [(0, 6), (9, 11)], [(6, 9), (11, 14)]),  # one within another
        ([(1, 4), (3, 4)], [(0, 8), (11, 13)], [(8, 11), (13, 16)]),  # overlapping
        ([(1, 4), (5, 4)], [(0, 10), (13, 15)], [(10, 13), (15, 18)]),  # one after another
        ([(1, 1), (3, 1)], [(0, 3), (7, 9)], [(4, 7), (9, 12)]),
        ([(10, 5)], [(0, 2), (5, 7)], [(2, 5), (7, 10)]),
        ([(99, 5)], [(0, 2), (5, 7)], [(2, 5), (7, 10)]),
    ],
)
def test_a_paused_worker_makes_no_progress(
    pauses: list[tuple[Any, int]], forward: list[Any], backward: list[Any]
) -> None:
    faults = (Pause(0, S(length), at_s=S(at)) for at, length in pauses)
    trace = simulate(BP, layers((2, 3)), cluster(*faults))
    assert times(trace, "forward") == forward
    assert times(trace, "backward") == backward


def test_a_paused_worker_leaves_its_device_to_others() -> None:
    """Two evaluations of 4 s on one core: at half speed from 0, alone from 2 to 3, then half."""
    paused = cluster(Pause(1, S(1), at_s=S(2)), placement="shared")
    trace = simulate(line(2, 2), layers((4, 0)), paused)
    assert times(trace, "evaluate", 2) == [(0, 7)]  # 1 by 2, 2 by 3, 4 by 7
    assert times(trace, "evaluate", 1) == [(0, 8)]  # 1 by 3, 3 by 7, 4 by 8


def test_no_message_is_handed_to_a_paused_worker() -> None:
    """Server 1 waits first, but is paused: server 2 takes batches 0, 1 and 2."""
    paused = cluster(Pause(1, S(3), at_s=S(1, 2)))
    trace = simulate(line(2, 4), layers((1, 0), load_s=1), paused)
    assert [row[1:4] for row in spans(trace, "evaluate")] == [
        (2, 0, 1),
        (2, 1, 2),
        (2, 2, 3),
        (1, 3, 4),
    ]


def test_a_pause_may_cost_more_than_it_lasts() -> None:
    """A second without server 1, and the only batch goes to server 2, which takes 10 s for it."""
    slow = Straggler(2, S(10))
    usual = simulate(line(2, 1), layers((1, 0), load_s=1), cluster(slow))
    paused = simulate(
        line(2, 1), layers((1, 0), load_s=1), cluster(slow, Pause(1, S(1), at_s=S(1, 2)))
    )
    ends = [trace.end * trace.header.tick_s for trace in (usual, paused)]
    assert ends == [2, 11]


def test_a_worker_that_goes_on_takes_what_has_come_meanwhile() -> None:
    trace = simulate(line(1, 2), layers((1, 0), load_s=1), cluster(Pause(1, S(9), at_s=S(0))))
    assert times(trace, "load") == [(0, 1), (1, 2)]
    assert times(trace, "evaluate", 1) == [(9, 10), (10, 11)]


def test_a_worker_that_waits_for_a_slot_loses_its_turn() -> None:
    """The channel holds one message. The loader waits for a slot from 2 on, and sends at 10."""
    paused = cluster(Pause(0, S(7), at_s=S(3)))
    trace = simulate(line(1, 2, capacity=1), layers((5, 0), load_s=1), paused)
    assert times(trace, "send") == [(1, 1), (2, 2)]
    trace = simulate(line(1, 3, capacity=1), layers((5, 0), load_s=1), paused)
    assert times(trace, "send") == [(1, 1), (2, 2), (10, 10)]
    assert times(trace, "evaluate", 1) == [(1, 6), (6, 11), (11, 16)]


def together(programs: int) -> Schedule:
    """Workers that evaluate a batch each, then meet."""
    group = Group("barrier")
    sources = [
        Channel(f"data {n}", (Item("activation", 0),), source=True, first=n, stride=programs)
        for n in range(programs)
    ]

    def program(n: int) -> Callable[[], Program]:
        def run() -> Program:
            batch = yield Receive(sources[n])
            yield Evaluate(1, batch)
            yield Join(group)

        return run

    workers = (
        Worker(f"worker {n}", program(n), (1,), (), (sources[n],), (group,))
        for n in range(programs)
    )
    return Schedule(1, programs, tuple(workers), name="together")


@pytest.mark.parametrize(
    ("faults", "ends"),
    [
        ([], [2, 2, 2]),
        ([Straggler(1, S(2))], [4, 4, 4]),
        ([Pause(1, S(3), at_s=S(1))], [5, 5, 5]),  # all wait for the paused one
        ([Straggler(1, S(2)), Pause(0, S(7), at_s=S(3))], [10, 4, 4]),  # it has arrived before
        ([Straggler(1, S(4)), Pause(0, S(2), at_s=S(3))], [8, 8, 8]),
        ([Straggler(1, S(4)), Pause(0, S(5), at_s=S(3))], [8, 8, 8]),
    ],
)
def test_members_of_a_group_that_pause(faults: list[Any], ends: list[int]) -> None:
    trace = simulate(together(3), layers((2, 0)), cluster(*faults))
    assert [times(trace, "join", worker)[-1][1] for worker in range(3)] == ends


def test_the_gap_of_a_paused_thread_grows() -> None:
    """One of two backward threads stands still for 10 s: what it holds is applied 5 updates late.

    Forward passes of 1 s, backward passes of 2 s, one layer. The first thread takes batches 0 and
    2; the pause catches it in batch 2, which it began at 3 and, instead of at 5, ends at 15.
    """
    schedule = build("async-lu", layers=1, batches=12)
    usual = simulate(schedule, layers((1, 2)))
    paused = simulate(schedule, layers((1, 2)), cluster(Pause(1, S(10), at_s=S(4))))

    def gaps(trace: Trace) -> dict[int, int]:
        rows = trace.gradients
        gap = rows["version_applied"] - rows["version_forward"]
        return dict(zip(rows["batch"].tolist(), gap.tolist(), strict=True))

    assert max(gaps(usual).values()) == 2
    # Batch 2 was read at version 0. Until 15 the other thread has applied batches 0, 1 and those
    # that end at 6, 8, 10, 12, 14: version 7.
    assert gaps(paused)[2] == 7
    assert max(gap for batch, gap in gaps(paused).items() if batch != 2) > 2


# Losses


def test_a_lost_server_leaves_the_work_to_others() -> None:
    """What it was doing is gone; the others end, and nobody waits."""
    trace = simulate(line(2, 4), layers((2, 0), load_s=1), cluster(Loss(1, at_s=S(5, 2))))
    assert [row[1:] for row in spans(trace, "evaluate")] == [
        (2, 1, 2, 4),
        (2, 2, 4, 6),
        (2, 3, 6, 8),
    ]
    assert trace.header.about["lost"] == {"server 1": 2.5}
    assert trace.header.about["waiting"] == {}


def test_a_lost_loader_starves_all() -> None:
    trace = simulate(line(2, 4), layers((2, 0), load_s=1), cluster(Loss(0, at_s=S(5, 2))))
    assert [row[1:] for row in spans(trace, "evaluate")] == [(1, 0, 1, 3), (2, 1, 2, 4)]
    assert trace.header.about["lost"] == {"loader": 2.5}
    assert trace.header.about["waiting"] == {
        "server 1": "Receive(jobs)",
        "server 2": "Receive(jobs)",
    }


def test_a_lost_receiver_blocks_who_sends_to_a_full_channel() -> None:
    trace = simulate(line(1, 4, capacity=1), layers((2, 0), load_s=1), cluster(Loss(1, at_s=S(0))))
    assert times(trace, "load") == [(0, 1), (1, 2)]
    assert times(trace, "send") == [(1, 1)]
    assert trace.header.about["waiting"] == {"loader": "Send(jobs, 1)"}


def test_a_lost_member_holds_up_its_group() -> None:
    trace = simulate(together(3), layers((2, 0)), cluster(Loss(1, at_s=S(1))))
    assert trace.header.about["lost"] == {"worker 1": 1.0}
    assert trace.header.about["waiting"].keys() == {"worker 0", "worker 2"}


def test_a_lost_module_starves_a_pipeline_step_by_step() -> None:
    """fdg, module 2 of 3 lost at 19/2: the others end the passes that they are at, then wait."""
    schedule = build("fdg", modules=3, batches=20)
    trace = simulate(schedule, layers((1, 2), (1, 2), (1, 2)), cluster(Loss(1, at_s=S(19, 2))))
    assert trace.header.about["lost"] == {"module 2": 9.5}
    assert trace.header.about["waiting"] == {
        "module 1": "Receive(gradients[1])",
        "module 3": "Receive(activations[3])",
    }
    passes = spans(trace, "forward", "backward")
    assert [row for row in passes if row[4] > S(19, 2)] == [
        ("forward", 0, 4, 9, 10),
        ("backward", 2, 2, 9, 11),
    ]
    # Module 2 was at its backward pass of batch 1, whose gradient is never applied.
    applied = [(int(row["block"]), int(row["batch"])) for row in trace.gradients]
    assert sorted(applied) == [(1, 0), (2, 0), (3, 0), (3, 1), (3, 2)]


def test_who_has_ended_cannot_be_lost() -> None:
    usual = simulate(line(1, 2), layers((2, 0), load_s=1))
    trace = simulate(line(1, 2), layers((2, 0), load_s=1), cluster(Loss(0, at_s=S(3))))
    assert (trace.spans == usual.spans).all()
    assert trace.header.about == usual.header.about


def test_a_deadlock_is_one_although_a_worker_might_have_been_lost() -> None:
    nothing = Channel("nothing", ())

    def program() -> Program:
        yield Receive(nothing)

    def idle() -> Program:
        yield from ()

    workers = (
        Worker("waits", program, (), (), (nothing,)),
        Worker("ends", idle, (), (nothing,), ()),
        Worker("waits too", program, (), (nothing,), (nothing,)),
    )
    schedule = Schedule(1, 1, workers, name="stuck")
    with pytest.raises(DeadlockError):
        simulate(schedule, layers((1, 0)), cluster(Loss(1, at_s=S(5))))


def test_a_lost_worker_may_be_paused_as_well() -> None:
    faults = Pause(1, S(9), at_s=S(0)), Loss(1, at_s=S(3)), Loss(1, at_s=S(4))
    trace = simulate(line(1, 2), layers((2, 0), load_s=1), cluster(*faults))
    assert trace.header.about["lost"] == {"server 1": 3.0}
    assert not len(trace.of_kind("evaluate"))


# Random times


def test_random_moments_are_exponential_and_differ() -> None:
    """1,000 seeds: the mean within 4 standard errors; a fault's moment depends on nothing else."""
    pause = Pause(3, S(1), mean_s=S(10))
    moments = [float(moment_s(pause, 0, seed)) for seed in range(1000)]
    assert sum(moments) / 1000 == pytest.approx(10, abs=4 * 10 / math.sqrt(1000))
    assert sum(moment > 10 for moment in moments) / 1000 == pytest.approx(math.exp(-1), abs=0.06)
    assert moment_s(pause, 1, 0) != moment_s(pause, 0, 0)
    assert moment_s(Loss(3, mean_s=S(10)), 0, 0) == moment_s(pause, 0, 0)
    assert moment_s(Loss(2, mean_s=S(10)), 0, 0) != moment_s(pause, 0, 0)
    # The counts of durations are 1 and above.
    drawn = [uniform(0, 3, count) for count in range(1, 1000)]
    shares = [-math.expm1(-float(moment_s(pause, number, 0)) / 10) for number in range(5)]
    assert all(abs(share - other) > 1e-9 for share in shares for other in drawn)


def test_a_random_loss_happens_when_it_is_drawn() -> None:
    loss = Loss(1, mean_s=S(3))
    for seed in range(5):
        trace = simulate(line(1, 50), layers((1, 0), load_s=1), cluster(loss), seed=seed)
        moment = float(moment_s(loss, 0, seed))
        assert trace.header.about["lost"]["server 1"] == pytest.approx(moment, abs=1e-9)
        assert len(trace.of_kind("evaluate")) == max(0, math.floor(moment) - 1)


def test_kinds_vary_each_in_its_own_way() -> None:
    variation = Variations(kinds={"load": exponential()})
    trace = simulate(line(1, 5), layers((4, 0), load_s=1), variation=variation, seed=2)
    drawn = [exponential().quantile(uniform(2, 0, count)) for count in range(1, 6)]
    found = [float(end - start) for start, end in times(trace, "load")]
    assert found == pytest.approx(drawn, abs=1e-8)
    assert all(end - start == 4 for start, end in times(trace, "evaluate", 1))
    assert trace.header.about == {
        "engine": "simpy",
        "jitter": 0.0,
        "variation": "load=exponential",
    }


def test_jitter_is_a_lognormal_variation() -> None:
    schedule = build("async-lu", layers=2, batches=20)
    short = simulate(schedule, layers((1, 2), (2, 1)), jitter=0.4, seed=1)
    long = simulate(schedule, layers((1, 2), (2, 1)), variation=Variations(lognormal(0.4)), seed=1)
    assert (short.spans == long.spans).all()
    with pytest.raises(InputError, match=r"variation is 'gamma:1\.0': must not be given together"):
        simulate(schedule, layers((1, 2), (2, 1)), jitter=0.4, variation=Variations(gamma(1.0)))


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (Straggler(2, S(2)), "straggler"),
        (Pause(2, S(2), at_s=S(0)), "pause"),
        (Loss(2, at_s=S(0)), "loss"),
    ],
)
def test_faults_of_workers_that_there_are_not(fault: Any, what: str) -> None:
    with pytest.raises(InputError) as caught:
        simulate(line(1, 1), layers((1, 0)), cluster(fault))
    assert str(caught.value) == (
        f"worker of a {what} is 2: must be the number of a worker, 0 to 1; give one of those"
    )


# Wires


def two_pipes(bytes_each: int) -> tuple[Schedule, Workload]:
    """Two workers that compute for 1 and 2 s and send the result, each to a worker of its own."""
    pipes = [Channel(f"pipe {n}", (Item("activation", 1),)) for n in range(2)]
    sources = [
        Channel(f"data {n}", (Item("activation", 0),), source=True, first=n, stride=2)
        for n in range(2)
    ]
    sink = Channel("sink", (Item("graph", 1),))

    def sender(n: int) -> Callable[[], Program]:
        def run() -> Program:
            batch = yield Receive(sources[n])
            yield Forward(1, batch)
            yield Send(pipes[n], batch)
            yield Send(sink, batch)

        return run

    def receiver(n: int) -> Callable[[], Program]:
        def run() -> Program:
            batch = yield Receive(pipes[n])
            yield Evaluate(2, batch)

        return run

    workers = [
        Worker(f"sender {n}", sender(n), (1,), (pipes[n], sink), (sources[n],)) for n in range(2)
    ]
    workers += [Worker(f"receiver {n}", receiver(n), (2,), (), (pipes[n],)) for n in range(2)]
    return Schedule(2, 2, tuple(workers), name="pipes"), layers(
        (1, 0), (0, 0), output_bytes=bytes_each
    )


@pytest.mark.parametrize(
    ("link", "arrivals"),
    [
        (Link(bytes_per_s=S(2)), [6, 7]),  # a wire each: 1 + 5 and 2 + 5
        (Link(bytes_per_s=S(2), wire="bus"), [6, 11]),  # one after the other
        # 1 s of the first is done when the second comes; then both at half speed: 4 more take 8 s,
        # until 10; of the second 1 is left.
        (Link(bytes_per_s=S(2), wire="bus", transfers="shared"), [10, 11]),
        (Link(bytes_per_s=S(2), wire="bus", transfers="shared", latency_s=S(3)), [13, 14]),
        (Link(bytes_per_s=S(2), transfers="shared"), [6, 7]),
        (Link(S(1), wire="bus"), [2, 3]),
    ],
)
def test_channels_may_share_a_wire(link: Link, arrivals: list[int]) -> None:
    schedule, workload = two_pipes(10)
    slow = cluster(Straggler(1, S(2)), links={"pipe 0": link, "pipe 1": link})
    trace = simulate(schedule, workload, slow)
    assert [times(trace, "receive", worker)[0][1] for worker in (2, 3)] == arrivals


@pytest.mark.parametrize(
    ("transfers", "arrivals"),
    [
        ("serial", [S(7, 2), S(11, 2), S(15, 2)]),
        # By 2, 1 s of the first is done; by 3, 1/2 s more of it and of the second; at a third of
        # the speed the first is over at 9/2, at half of it the second at 13/2, the third at 7.
        ("shared", [S(5), S(7), S(15, 2)]),
    ],
)
def test_messages_of_one_channel_share_its_wire_or_wait_in_line(
    transfers: Transfers, arrivals: list[Fraction]
) -> None:
    """Batches leave at 1, 2 and 3, take 2 s each when alone, and arrive 1/2 s later."""
    link = Link(latency_s=S(1, 2), bytes_per_s=S(1), transfers=transfers)
    workload = layers((0, 0), output_bytes=2, load_s=1)
    trace = simulate(line(1, 3), workload, cluster(links={"jobs": link}))
    assert [end for _, end in times(trace, "receive", 1)] == arrivals


def test_a_worker_that_talks_to_itself_needs_no_wire() -> None:
    bus = cluster(link=Link(bytes_per_s=S(1), wire="bus", transfers="shared"))
    trace = simulate(build("fdg", modules=1, batches=3), layers((1, 1), output_bytes=9), bus)
    assert trace.end * trace.header.tick_s == 6
