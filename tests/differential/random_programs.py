"""Random legal programs: chains of stations that batches pass through, with workers of all manners.

A batch goes up through all blocks and down again. The way is cut into stations, each with a channel
before it that any number of workers receive from. A worker serves one station until its channel is
closed; or several stations, by Select or in an order of its own that may well end in a deadlock.
Workers may meet at barriers, and average their gradients or snapshots, with rounds of other workers
in between.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import strategies as st

from simcore import ops
from simcore.schedule import Schedule, WeightRules

__all__ = ["random_schedules"]

Step = tuple[str, int]  # up or down, and the block
Serve = Callable[[ops.Worker, int, ops.Channel, int], ops.Program]


def kept(way: tuple[Step, ...], done: int, item: str) -> tuple[ops.Item, ...]:
    """What a batch has with it after so many steps of the way; `item` is kept to go down."""
    blocks = len(way) // 2
    up, down = min(done, blocks), max(0, done - blocks)
    last: list[Any] = [("activation", up)] if done < blocks else [("gradient", blocks - down)]
    wanted = [(item, block) for block in range(1, up - down + 1)] + last
    return tuple(ops.Item(kind, block) for kind, block in wanted if block or kind != "gradient")


@st.composite
def random_schedules(draw: st.DrawFn) -> Schedule:
    """Schedules of one replica; several programs in the same state never run into each other."""
    blocks, batches = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    manner = draw(st.sampled_from(["plain", "replay", "split"]))
    way = tuple(("up", k) for k in range(1, blocks + 1))
    way += tuple(("down", k) for k in range(blocks, 0, -1))
    cuts = sorted(draw(st.sets(st.integers(1, len(way) - 1), max_size=4)))
    ends = [*cuts, len(way)]
    capacities = st.none() | st.integers(1, 3)
    item = "input" if manner == "replay" else "graph"
    channels = [ops.Channel("data", (ops.Item("activation", 0),), source=True)]
    channels += [
        ops.Channel(f"station {n}", kept(way, cut, item), draw(capacities))
        for n, cut in enumerate(cuts, 1)
    ]
    all_blocks = tuple(range(1, blocks + 1))
    groups = st.sampled_from([ops.Group(f"group {n}", all_blocks) for n in (1, 2, 3)])
    stations = [way[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    serves = [partial(steps, manner, station) for station in stations]
    workers: list[ops.Worker] = []
    numbers = list(range(len(stations)))
    busy = draw(st.lists(st.sampled_from(numbers), unique=True, max_size=3))
    if busy:
        turns = draw(st.none() | st.none() | st.permutations(busy * batches))
        several = {channels[n]: (serves[n], channels[n + 1 : n + 2]) for n in busy}
        program = partial(serve_many, several, batches, turns and [channels[n] for n in turns])
        sends = tuple(channel for _, out in several.values() for channel in out)
        workers.append(ops.Worker("many", program, all_blocks, sends, tuple(several)))
    for number in set(numbers) - set(busy):
        group = draw(groups)
        for copy in range(draw(st.integers(1, 3))):
            meets = draw(st.sampled_from(["", "", "barrier", "mean", "early"]))
            out = channels[number + 1 : number + 2]
            program = partial(serve_one, serves[number], channels[number], out, meets, group)
            name, joins = f"worker {number} {copy}", (group,) if meets else ()
            receives = (channels[number],)
            workers.append(ops.Worker(name, program, all_blocks, tuple(out), receives, joins))
    for number in range(draw(st.integers(0, 2))):
        block, rounds = draw(st.sampled_from(all_blocks)), draw(st.integers(0, 3))
        group = draw(groups)
        program = partial(average, group, block, rounds)
        workers.append(ops.Worker(f"averages {number}", program, all_blocks, joins=(group,)))
    draw(st.randoms(use_true_random=False)).shuffle(workers)
    policy: Any = draw(st.sampled_from(["stash", "mixed", *["replay"] * (manner == "replay")]))
    write: Any = "add" if policy == "stash" else draw(st.sampled_from(["add", "assign"]))
    refresh: Any = draw(st.sampled_from(["layer", "pass"]))
    rules = WeightRules(policy, write, refresh)
    return Schedule(
        name="random",
        blocks=blocks,
        batches=batches,
        workers=tuple(workers),
        weights=rules,
        split_backward=manner == "split",
    )


def steps(manner: str, station: tuple[Step, ...], batch: int, mean: ops.Program | None) -> Any:
    """The computations of a station; before updates there may be something else."""
    for direction, block in station:
        if direction == "up":
            yield (ops.Play if manner == "replay" else ops.Forward)(block, batch)
            continue
        if manner == "replay":
            yield ops.Replay(block, batch)
        if manner == "split":
            yield ops.BackwardInput(block, batch)
            yield ops.BackwardWeight(block, batch)
        else:
            yield ops.Backward(block, batch)
        if mean is not None:
            yield from mean(block)  # type: ignore[operator]
        yield ops.Update(block)


def serve_one(
    serve: Any,
    channel: ops.Channel,
    out: list[ops.Channel],
    meets: str,
    group: ops.Group,
) -> ops.Program:
    means = {"mean": partial(join, group, False), "early": partial(join, group, True)}
    while (batch := (yield ops.Receive(channel))) is not None:
        yield from serve(batch, means.get(meets))
        if meets == "barrier":
            yield ops.Join(group)
        for each in out:
            yield ops.Send(each, batch)


def join(group: ops.Group, early: bool, block: int) -> ops.Program:
    if early:
        yield ops.Arrive(group, block)
    yield ops.Join(group, block)


def serve_many(
    several: dict[ops.Channel, tuple[Any, list[ops.Channel]]],
    batches: int,
    turns: list[ops.Channel] | None,
) -> ops.Program:
    """Each station as often as there are batches, in this order, or whatever comes."""
    for turn in range(len(several) * batches):
        if turns is None:
            channel, batch = yield ops.Select(tuple(several))
        else:
            channel = turns[turn]
            batch = yield ops.Receive(channel)
        serve, out = several[channel]
        yield from serve(batch, None)
        for each in out:
            yield ops.Send(each, batch)


def average(group: ops.Group, block: int, rounds: int) -> ops.Program:
    for _ in range(rounds):
        yield ops.Snapshot(block)
        yield ops.Join(group, block)
        yield ops.Merge(block)
