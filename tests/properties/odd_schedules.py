"""Small schedules with the operations that pipelines of forward and backward passes do not have."""

from collections.abc import Callable
from functools import partial
from typing import Final

from simcore.ops import (
    Backward,
    BackwardInput,
    BackwardStop,
    BackwardWeight,
    Channel,
    Estimate,
    Evaluate,
    Forward,
    Group,
    Item,
    Join,
    Merge,
    Play,
    Program,
    Project,
    Receive,
    Replay,
    Send,
    Snapshot,
    Tangent,
    Update,
    Worker,
)
from simcore.schedule import Schedule, WeightRules

__all__ = ["ODD_SCHEDULES"]


def source(first: int = 0, stride: int = 1) -> Channel:
    return Channel(
        f"data {first}", (Item("activation", 0),), source=True, first=first, stride=stride
    )


def replayed(batches: int, rules: WeightRules) -> Schedule:
    """One worker goes up, two others run its passes again and go down."""
    data = source()
    kept = Channel("kept", (Item("input", 1), Item("input", 2), Item("gradient", 2)), 2)

    def up() -> Program:
        while (batch := (yield Receive(data))) is not None:
            yield Play(1, batch)
            yield Play(2, batch)
            yield Send(kept, batch)

    def down() -> Program:
        while (batch := (yield Receive(kept))) is not None:
            for block in (2, 1):
                yield Replay(block, batch)
                yield Backward(block, batch)
                yield Update(block)

    downs = (Worker(f"down {n}", down, (1, 2), receives=(kept,)) for n in (1, 2))
    workers = (Worker("up", up, (1, 2), (kept,), (data,)), *downs)
    return Schedule(2, batches, workers, rules, name="replayed")


def split(batches: int) -> Schedule:
    """Two modules; the first half of each backward pass goes on, the other half waits."""
    data = source()
    up = Channel("up", (Item("activation", 1),))
    down = Channel("down", (Item("gradient", 1),))

    def first() -> Program:
        late = None
        while (batch := (yield Receive(data))) is not None:
            yield Forward(1, batch)
            yield Send(up, batch)
            if late is not None:
                yield Receive(down)
                yield BackwardInput(1, late)
                yield BackwardWeight(1, late)
                yield Update(1)
            late = batch
        if late is not None:
            yield Receive(down)
            yield BackwardInput(1, late)
            yield BackwardWeight(1, late)
            yield Update(1)

    def last() -> Program:
        before = None
        while (batch := (yield Receive(up))) is not None:
            yield Forward(2, batch)
            yield BackwardInput(2, batch)
            yield Send(down, batch)
            if before is not None:
                yield BackwardWeight(2, before)
                yield Update(2)
            before = batch
        if before is not None:
            yield BackwardWeight(2, before)
            yield Update(2)

    workers = (
        Worker("first", first, (1,), (up,), (data, down)),
        Worker("last", last, (2,), (down,), (up,)),
    )
    return Schedule(2, batches, workers, micro_batches=2, split_backward=True, name="split")


def forward_gradient(batches: int, keep: str) -> Schedule:
    """Two modules that keep directions until the derivative comes; the second one is frozen."""
    data = source()
    up = Channel("up", (Item("activation", 1), Item("derivative", 1)))
    scalars = Channel("scalars", (Item("scalar", 2),))

    def first() -> Program:
        waiting: list[int] = []
        while (batch := (yield Receive(data))) is not None:
            yield Tangent(1, batch)
            yield Send(up, batch)
            waiting.append(batch)
            if len(waiting) > 2:
                yield from use(waiting)
        while waiting:
            yield from use(waiting)

    def use(waiting: list[int]) -> Program:
        yield Receive(scalars)
        yield Project(1, waiting.pop(0))
        yield Update(1)

    def last() -> Program:
        while (batch := (yield Receive(up))) is not None:
            yield Tangent(2, batch)
            yield Send(scalars, batch)
            yield Project(2, batch)
            yield Update(2)

    workers = (
        Worker("first", first, (1,), (up,), (data, scalars)),
        Worker("last", last, (2,), (scalars,), (up,)),
    )
    rules = WeightRules(tangents=2, keep="seed" if keep == "seed" else "tangent")
    return Schedule(2, batches, workers, rules, name="forward gradient")


def replicas(batches: int, momentum: str) -> Schedule:
    """Two replicas of one worker each, with the mean of their gradients in every update."""
    together = Group("mean", (1, 2))

    def replica(number: int, data: Channel) -> Program:
        while (batch := (yield Receive(data))) is not None:
            yield Forward(1, batch)
            yield Forward(2, batch)
            for block in (2, 1):
                yield Backward(block, batch)
                yield Join(together, block)
                yield Update(block)

    workers = []
    for number in (0, 1):
        data = source(number, 2)
        program = partial(replica, number, data)
        name = f"replica {number}"
        workers.append(Worker(name, program, (1, 2), (), (data,), (together,), number))
    rules = WeightRules(momentum="shared" if momentum == "shared" else "worker")
    return Schedule(2, batches, tuple(workers), rules, name="replicas")


def averaged(batches: int, rules: WeightRules) -> Schedule:
    """Two replicas whose weights are averaged by threads of their own while they are updated."""
    together = Group("mean", (1,))
    workers = []

    def learn(data: Channel) -> Program:
        while (batch := (yield Receive(data))) is not None:
            yield Forward(1, batch)
            yield Backward(1, batch)
            yield Update(1)

    def average() -> Program:
        for _ in range(max(1, batches // 4)):
            yield Snapshot(1)
            yield Join(together, 1)
            yield Merge(1)

    for number in (0, 1):
        data = source(number, 2)
        learns, averages = partial(learn, data), average
        workers.append(Worker(f"learns {number}", learns, (1,), (), (data,), (), number))
        workers.append(Worker(f"averages {number}", averages, (1,), (), (), (together,), number))
    return Schedule(1, batches, tuple(workers), rules, name="averaged")


def local(batches: int) -> Schedule:
    """A frozen block, then two that learn by themselves, one of them from two batches at a time."""
    data = source()
    up = Channel("up", (Item("activation", 2),), capacity=1)

    def first() -> Program:
        while (batch := (yield Receive(data))) is not None:
            yield Evaluate(1, batch)
            yield Forward(2, batch)
            yield Send(up, batch)
            yield Estimate(2, batch)
            yield BackwardStop(2, batch)
            if batch % 2 or batch == batches - 1:
                yield Update(2)

    def last() -> Program:
        while (batch := (yield Receive(up))) is not None:
            yield Forward(3, batch)
            yield BackwardStop(3, batch)
            yield Update(3)

    workers = (
        Worker("first", first, (1, 2), (up,), (data,)),
        Worker("last", last, (3,), (), (up,)),
    )
    return Schedule(3, batches, workers, name="local")


ODD_SCHEDULES: Final[dict[str, Callable[[int], Schedule]]] = {
    "replayed, stash": partial(replayed, rules=WeightRules()),
    "replayed, replay": partial(replayed, rules=WeightRules(policy="replay")),
    "split": split,
    "forward gradient": partial(forward_gradient, keep="tangent"),
    "forward gradient, seeds": partial(forward_gradient, keep="seed"),
    "replicas": partial(replicas, momentum="worker"),
    "replicas, shared": partial(replicas, momentum="shared"),
    "averaged": partial(averaged, rules=WeightRules()),
    "averaged, mixed": partial(averaged, rules=WeightRules(policy="mixed")),
    "local": local,
}
