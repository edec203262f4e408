"""Figures without a trace: what is said of them, and where they come from."""

import importlib.util
import pickle
from dataclasses import replace
from fractions import Fraction

import pytest

from simcore import engines
from simcore import figures as module
from simcore.cluster import Cluster, Device
from simcore.engine import simulate
from simcore.errors import DeadlockError, IllegalOperationError
from simcore.figures import SLIM, Figures, figures, figures_of
from simcore.ops import Backward, Channel, Forward, Item, Program, Receive, Send, Worker
from simcore.schedule import Schedule
from simcore.schedules import build
from simcore.workload import Layer, Workload

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="there is no numba"
)


def test_fdg_in_figures() -> None:
    """Even modules: a batch takes forward + backward, and gaps are 2(K-k) - 1 (FDG, equation 6)."""
    modules, batches = 4, 500
    found = figures(build("fdg", modules=modules, batches=batches), Workload.even(modules, 4, 2))
    assert found.engine == SLIM
    assert found.updates == modules * batches
    assert [gap.max for gap in found.gaps] == [5, 3, 1, 0]
    assert found.gaps[0].histogram[5] == batches - 5
    assert found.makespan_s == pytest.approx(3 * batches, rel=0.02)
    assert found.utilization == pytest.approx(sum(found.busy_s) / modules / found.makespan_s)


def test_the_histogram_is_a_mapping() -> None:
    (gaps, _) = figures(build("fdg", modules=2, batches=9), Workload.even(2)).gaps
    assert gaps.histogram == {0: 1, 1: 8} == dict(gaps.histogram)
    assert gaps.histogram != {1: 9}
    assert 2 not in gaps.histogram
    assert repr(gaps.histogram) == "{0: 1, 1: 8}"
    assert pickle.loads(pickle.dumps(gaps)) == gaps


def test_tables_do_not_grow_with_batches() -> None:
    from simcore.cluster import Cluster
    from simcore.compiled_slim_layout import S_USED
    from simcore.compiled_slim_run import _Run
    from simcore.costs import Costs
    from simcore.durations import chosen
    from simcore.lowering import Lowering
    from simcore.timing import Timing

    used = []
    for batches in (300, 100_000):
        schedule, cluster = build("fdg", modules=6, batches=batches), Cluster.private()
        costs = Costs.of(schedule, uneven(6), cluster)
        timing = Timing(schedule, costs, cluster, chosen(0.0, None), 0)
        run = _Run(schedule, costs, timing, Lowering(schedule))
        run.run()
        used.append(int(run.state[S_USED]))
    assert used[0] == used[1]


@pytest.mark.parametrize(
    ("name", "cluster", "reason"),
    [
        ("async-lu", Cluster.private(), "workers share a channel"),
        ("fdg", Cluster.shared(Device("device", cores=2)), "workers share a device"),
        ("lapsgd", Cluster.private(), "workers join groups"),
    ],
)
def test_what_is_read_from_a_trace(name: str, cluster: Cluster, reason: str) -> None:
    schedule = build(name, batches=20)
    found = figures(schedule, Workload.even(schedule.blocks), cluster)
    assert (found.engine, found.instead_of) == ("compiled", f"slim: {reason}")


def test_random_times_and_memory_are_read_from_a_trace() -> None:
    schedule, blocks = build("fdg", modules=2, batches=20), Workload.even(2)
    found = figures(schedule, blocks, jitter=0.3, seed=1)
    assert found.instead_of == "slim: durations are random"
    layers = tuple(replace(layer, saved_bytes=100) for layer in blocks.layers)
    found = figures(schedule, replace(blocks, layers=layers), memory=True)
    assert found.engine == "compiled"
    assert found.peak_bytes == (200, 100)
    assert figures(schedule, blocks, memory=True).peak_bytes is None


def test_simpy_where_it_is_asked_for_or_numba_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule, blocks = build("fdg", modules=2, batches=20), Workload.even(2)
    counted, asked = figures(schedule, blocks), figures(schedule, blocks, engine="simpy")
    assert (asked.engine, asked.instead_of) == ("simpy", "")
    for each in (engines, module):
        monkeypatch.setattr(each, "why_not_compiled", lambda: "numba is not installed")
    told: list[str] = []
    fallen = figures(schedule, blocks, told=told.append)
    assert (fallen.engine, fallen.instead_of) == ("simpy", "compiled: numba is not installed")
    assert len(told) == 1
    for each in (asked, fallen):
        assert alike(each) == alike(counted)


def test_a_broken_rule_is_told_as_by_simpy() -> None:
    def program(data: Channel) -> Program:
        batch = yield Receive(data)
        yield Forward(1, batch)
        yield Backward(1, batch)

    data = Channel("data", (Item("activation", 0),), source=True)
    worker = Worker("one", lambda: program(data), (1,), receives=(data,))
    with pytest.raises(IllegalOperationError, match="unapplied gradients of block 1"):
        figures(Schedule(1, 1, (worker,)), Workload.even(1))


def test_a_deadlock_is_told_as_by_simpy() -> None:
    up, down = Channel("up", (Item("activation", 1),)), Channel("down", (Item("gradient", 1),))

    def program() -> Program:
        batch = yield Receive(down)
        yield Send(up, batch)

    data = Channel("data", (Item("activation", 0),), source=True)
    workers = (
        Worker("one", program, (1,), (up,), (down,)),
        Worker("two", lambda: both(data, up, down), (2,), (down,), (data, up)),
    )
    with pytest.raises(DeadlockError):
        figures(Schedule(2, 1, workers), Workload.even(2))


def test_a_message_without_end_is_told_as_by_simpy() -> None:
    """Two workers pass a batch to and fro and never compute."""
    ping, pong = Channel("ping", ()), Channel("pong", ())

    def first() -> Program:
        batch = yield Receive(data)
        while True:
            yield Send(ping, batch)
            batch = yield Receive(pong)

    def second() -> Program:
        while True:
            batch = yield Receive(ping)
            yield Send(pong, batch)

    data = Channel("data", (), source=True)
    workers = (
        Worker("first", first, (1,), (ping,), (data, pong)),
        Worker("second", second, (1,), (pong,), (ping,)),
    )
    with pytest.raises(IllegalOperationError, match="goes on for ever"):
        figures(Schedule(1, 1, workers), Workload.even(1))


def both(data: Channel, up: Channel, down: Channel) -> Program:
    yield Receive(data)
    batch = yield Receive(up)
    yield Send(down, batch)


def test_long_runs_take_no_longer_tables() -> None:
    """Python's integers do not wrap: an hour a batch for 10^5 batches is still exact."""
    schedule = build("bp", batches=100_000)
    blocks = Workload.even(schedule.blocks, 3600, 2)
    found = figures(schedule, blocks)
    assert found.engine == SLIM
    assert found.makespan_s == 100_000 * 10_800


def test_one_lowering_serves_many_questions() -> None:
    schedule = build("adl", modules=3, batches=30, accumulation=2)
    lowering = engines.lowered(schedule)
    for blocks in (uneven(3), Workload.even(3), Workload.even(3, 5, 1, 1)):
        assert figures(schedule, blocks, lowering=lowering) == figures(schedule, blocks)


def test_figures_of_a_trace() -> None:
    schedule, blocks = build("1f1b", modules=3, batches=5), uneven(3)
    found = figures_of(simulate(schedule, blocks), schedule)
    assert found.engine == "simpy"
    assert alike(found) == alike(figures(schedule, blocks))


def alike(found: Figures) -> Figures:
    return replace(found, engine="", instead_of="")


def uneven(blocks: int) -> Workload:
    layers = (
        Layer(f"{k}", Fraction(k % 3 + 1), Fraction(5), Fraction(k % 2)) for k in range(blocks)
    )
    return Workload("uneven", tuple(layers))
