"""What can be put around a schedule: checkpointing, replicas, a stage that loads the data.

Each is an interpreter that turns a program into another program: it passes operations on, with
others in between. A program that is wrapped knows nothing of it.

>>> from simcore.schedules import build
>>> [worker.name for worker in build("fdg", modules=1, replicas=2, loaders=1).workers]
['module 1, replica 1', 'module 1, replica 2', 'loader 1, replica 1', 'loader 1, replica 2']
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from simcore.ops import (
    Backward,
    BackwardInput,
    Channel,
    Estimate,
    Forward,
    ForwardError,
    Group,
    Item,
    Join,
    Load,
    Play,
    Program,
    Receive,
    Replay,
    Send,
    Update,
    Worker,
)
from simcore.replication import renamed, replicated
from simcore.schedule import Schedule

__all__ = ["COMPOSED", "compose"]

# Composition -> its options with their defaults.
COMPOSED: Final[dict[str, dict[str, object]]] = {
    "recompute": {"recompute": False},
    "global_norm": {"global_norm": False},
    "replicas": {"replicas": 1},
    "loaders": {"loaders": 0, "prefetch": 2},
}


def compose(
    factory: Callable[..., Schedule], options: Mapping[str, object], flags: Mapping[str, str]
) -> Schedule:
    """Build a schedule with what its options put around it.

    Raises `InputError` for options that do not go together; `flags` are their names in errors.
    """
    own = dict(options)
    around: dict[str, object] = {
        name: own.pop(name)
        for name in ("recompute", "global_norm", "replicas", "loaders", "prefetch")
        if name in own and name not in _parameters(factory)
    }
    replicas, loaders = around.get("replicas", 1), around.get("loaders", 0)
    assert isinstance(replicas, int)
    assert isinstance(loaders, int)
    one = partial(_around_one, factory, around)
    if replicas > 1:
        schedule = replicated(one, own, replicas, flags.get("replicas", "replicas"))
    else:
        schedule = one(**own)
    if loaders:
        prefetch = around["prefetch"]
        assert isinstance(prefetch, int)
        schedule = _loading(schedule, loaders, prefetch)
    return replace(schedule, options=dict(options))


def _parameters(factory: Callable[..., Schedule]) -> Mapping[str, object]:
    return inspect.signature(factory).parameters


def _around_one(
    factory: Callable[..., Schedule], around: Mapping[str, object], **options: Any
) -> Schedule:
    """One replica of the schedule, with what is put around each by itself."""
    schedule = factory(**options)
    schedule = _recomputing(schedule) if around.get("recompute") else schedule
    return _normed(schedule) if around.get("global_norm") else schedule


def _normed(schedule: Schedule) -> Schedule:
    """Clipping by the norm of all gradients: before it updates, each worker waits for all.

    It asks for a schedule whose workers update as often as each other, with nothing that comes
    between those updates waiting for them.
    """
    group = Group("gradient norm", reduces="norm")
    workers = (
        replace(
            worker,
            program=partial(_norm_first, worker.program, group),
            joins=(*worker.joins, group),
        )
        for worker in schedule.workers
    )
    return replace(schedule, workers=tuple(workers))


def _norm_first(program: Callable[[], Program], group: Group) -> Program:
    running, answer = program(), None
    updating = False
    while True:
        try:
            operation = running.send(answer)
        except StopIteration:
            return
        if isinstance(operation, Update) and not updating:
            yield Join(group)
        updating = isinstance(operation, Update)
        answer = yield operation


def _recomputing(schedule: Schedule) -> Schedule:
    """Checkpointing: forward passes keep their input, and are run again when their graph is needed.

    With stashed weights it is the same pass. Where there are none but the present ones, it is run
    with these: the weights of the whole backward pass are then those of the replay.
    """
    kept = {
        channel: replace(
            channel,
            carries=tuple(
                Item("input", item.block) if item.kind == "graph" else item
                for item in channel.carries
            ),
        )
        for channel in schedule.channels
        if any(item.kind == "graph" for item in channel.carries)
    }
    workers = (
        replace(
            worker,
            program=partial(renamed, partial(_replaying, worker.program), kept),
            sends=tuple(kept.get(channel, channel) for channel in worker.sends),
            receives=tuple(kept.get(channel, channel) for channel in worker.receives),
        )
        for worker in schedule.workers
    )
    weights = schedule.weights
    if weights.policy == "mixed":
        weights = replace(weights, policy="replay")
    return replace(schedule, workers=tuple(workers), weights=weights)


def _replaying(program: Callable[[], Program]) -> Program:
    running, answer = program(), None
    graphs: set[tuple[int, int]] = set()
    while True:
        try:
            operation = running.send(answer)
        except StopIteration:
            return
        match operation:
            case ForwardError(block, batch):  # its graph is needed at once, for the error
                graphs.add((block, batch))
            case Forward(block, batch):
                operation = Play(block, batch)
            case Estimate(block, batch) if (block, batch) not in graphs:
                yield Replay(block, batch)
                graphs.add((block, batch))
            case Backward(block, batch) | BackwardInput(block, batch):
                if (block, batch) not in graphs:
                    yield Replay(block, batch)
                graphs.discard((block, batch))
        answer = yield operation


def _loading(schedule: Schedule, loaders: int, prefetch: int) -> Schedule:
    """Put workers before each source that load its batches, at most `prefetch` of them ahead."""
    sources = [channel for channel in schedule.channels if channel.source]
    loaded = {
        channel: replace(channel, name=f"loaded {channel.name}", source=False, capacity=prefetch)
        for channel in sources
    }
    workers = [
        replace(
            worker,
            program=partial(renamed, worker.program, loaded),
            receives=tuple(loaded.get(channel, channel) for channel in worker.receives),
        )
        for worker in schedule.workers
    ]
    for channel in sources:
        stored = replace(channel, name=f"stored {channel.name}", carries=(Item("sample", 0),))
        suffix = channel.name.removeprefix("data")
        workers += [
            Worker(
                f"loader {number}{suffix}",
                partial(_loader, stored, loaded[channel]),
                (),
                (loaded[channel],),
                (stored,),
            )
            for number in range(1, loaders + 1)
        ]
    return replace(schedule, workers=tuple(workers))


def _loader(stored: Channel, loaded: Channel) -> Program:
    while (batch := (yield Receive(stored))) is not None:
        yield Load(batch)
        yield Send(loaded, batch)
