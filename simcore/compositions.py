"""What can be put around a schedule: checkpointing, replicas, a stage that loads the data.

Each is an interpreter that turns a program into another program: it passes operations on, with
others in between. A program that is wrapped knows nothing of it.

>>> from simcore.schedules import build
>>> [worker.name for worker in build("fdg", modules=1, replicas=2, loaders=1).workers]
['module 1, replica 1', 'module 1, replica 2', 'loader 1, replica 1', 'loader 1, replica 2']
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from math import ceil
from typing import Any, Final

from simcore.errors import InputError
from simcore.ops import (
    Arrive,
    Backward,
    BackwardInput,
    BackwardWeight,
    Channel,
    Forward,
    ForwardError,
    Group,
    Item,
    Join,
    Load,
    Operation,
    Play,
    Program,
    Project,
    Receive,
    Replay,
    Select,
    Send,
    Update,
    Worker,
)
from simcore.schedule import Schedule

__all__ = ["COMPOSED", "compose", "replicated"]

# Composition -> its options with their defaults.
COMPOSED: Final[dict[str, dict[str, object]]] = {
    "recompute": {"recompute": False},
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
    around = {
        name: own.pop(name)
        for name in ("recompute", "replicas", "loaders", "prefetch")
        if name in own and name not in _parameters(factory)
    }
    replicas, loaders = around.get("replicas", 1), around.get("loaders", 0)
    assert isinstance(replicas, int)
    assert isinstance(loaders, int)
    recompute = bool(around.get("recompute"))
    schedule = _maybe_recomputing(factory, recompute, **own)
    if recompute and schedule.weights.policy == "mixed":
        raise InputError(
            flags.get("recompute", "recompute"),
            "true",
            "runs a forward pass again with the same weights, which mixed ones are not",
            "use weights=stash",
        )
    if replicas > 1:
        if replicas > schedule.batches // schedule.micro_batches:
            raise InputError(
                flags.get("replicas", "replicas"),
                replicas,
                "must be at most the number of batches",
                "give fewer replicas or more batches",
            )
        schedule = replicated(partial(_maybe_recomputing, factory, recompute), own, replicas)
    if loaders:
        prefetch = around["prefetch"]
        assert isinstance(prefetch, int)
        schedule = _loading(schedule, loaders, prefetch)
    return replace(schedule, options=dict(options))


def _parameters(factory: Callable[..., Schedule]) -> Mapping[str, object]:
    return inspect.signature(factory).parameters


def _maybe_recomputing(
    factory: Callable[..., Schedule], recompute: bool, **options: Any
) -> Schedule:
    schedule = factory(**options)
    return _recomputing(schedule) if recompute else schedule


def replicated(
    factory: Callable[..., Schedule], options: Mapping[str, Any], replicas: int
) -> Schedule:
    """So many copies of a schedule, each with weights of its own and its share of the batches.

    Mini-batch b goes to replica b mod R. Before an update the replicas average the gradients of its
    block, in a ring all-reduce that starts as soon as each has computed its own: gradients of upper
    blocks travel while those of lower ones are computed. `options` are the factory's, and their
    `batches` those of all replicas together.
    """
    copies = [
        factory(**{**options, "batches": ceil((options["batches"] - number) / replicas)})
        for number in range(replicas)
    ]
    groups = [
        Group(f"replicas of {worker.name}", worker.blocks) if worker.blocks else None
        for worker in copies[0].workers
    ]
    workers: list[Worker] = []
    for number, copy in enumerate(copies):
        renamed = {
            channel: replace(
                channel,
                name=f"{channel.name}, replica {number + 1}",
                first=number if channel.source else 0,
                stride=replicas if channel.source else 1,
                run=copy.micro_batches,
            )
            for channel in copy.channels
        }
        for worker, group in zip(copy.workers, groups, strict=True):
            program = partial(_renamed, worker.program, renamed)
            workers.append(
                replace(
                    worker,
                    name=f"{worker.name}, replica {number + 1}",
                    program=partial(_averaged, program, group) if group else program,
                    sends=tuple(renamed[channel] for channel in worker.sends),
                    receives=tuple(renamed[channel] for channel in worker.receives),
                    joins=(*worker.joins, group) if group else worker.joins,
                    replica=number,
                )
            )
    return replace(
        copies[0],
        batches=options["batches"] * copies[0].micro_batches,
        workers=tuple(workers),
        batches_per_update=copies[0].batches_per_update * replicas,
    )


def _averaged(program: Callable[[], Program], group: Group) -> Program:
    """Average the gradients of a block over the group before each update of it."""
    running, answer = program(), None
    run: list[Operation] = []
    while True:
        # What has no answer cannot change what follows, so that one may look ahead to it.
        try:
            operation = running.send(answer)
        except StopIteration:
            yield from _with_rounds(run, group)
            return
        answer = None
        run.append(operation)
        if isinstance(operation, Receive | Select):
            *before, asking = _with_rounds(run, group)
            yield from before
            answer = yield asking
            run = []


def _with_rounds(run: list[Operation], group: Group) -> Iterator[Operation]:
    """The operations, with an `Arrive` where a block's last gradient is done, and the `Join`."""
    computed: dict[int, int] = {}
    arrivals: set[int] = set()
    for at, operation in enumerate(run):
        if isinstance(operation, Backward | BackwardWeight | Project):
            computed[operation.block] = at
        elif isinstance(operation, Update) and operation.block in computed:
            arrivals.add(computed.pop(operation.block))
    for at, operation in enumerate(run):
        if isinstance(operation, Update):
            yield Join(group, operation.block)
        yield operation
        if at in arrivals:
            assert isinstance(operation, Backward | BackwardWeight | Project)
            yield Arrive(group, operation.block)


def _recomputing(schedule: Schedule) -> Schedule:
    """Checkpointing: forward passes keep their input, and are run again before backward passes."""

    def wrapped(program: Callable[[], Program]) -> Program:
        running, answer = program(), None
        while True:
            try:
                operation = running.send(answer)
            except StopIteration:
                return
            match operation:
                case ForwardError():
                    answer = yield operation
                case Forward(block, batch):
                    answer = yield Play(block, batch)
                case Backward(block, batch) | BackwardInput(block, batch):
                    yield Replay(block, batch)
                    answer = yield operation
                case _:
                    answer = yield operation

    return _with_programs(schedule, wrapped)


def _with_programs(
    schedule: Schedule, wrapped: Callable[[Callable[[], Program]], Program]
) -> Schedule:
    workers = (
        replace(worker, program=partial(wrapped, worker.program)) for worker in schedule.workers
    )
    return replace(schedule, workers=tuple(workers))


def _loading(schedule: Schedule, loaders: int, prefetch: int) -> Schedule:
    """Put workers before each source that load its batches, at most `prefetch` of them ahead."""
    sources = [channel for channel in schedule.channels if channel.source]
    renamed = {
        channel: replace(channel, name=f"loaded {channel.name}", source=False, capacity=prefetch)
        for channel in sources
    }
    workers = [
        replace(
            worker,
            program=partial(_renamed, worker.program, renamed),
            receives=tuple(renamed.get(channel, channel) for channel in worker.receives),
        )
        for worker in schedule.workers
    ]
    for channel in sources:
        stored = replace(channel, name=f"stored {channel.name}", carries=(Item("sample", 0),))
        suffix = channel.name.removeprefix("data")
        workers += [
            Worker(
                f"loader {number}{suffix}",
                partial(_loader, stored, renamed[channel]),
                (),
                (renamed[channel],),
                (stored,),
            )
            for number in range(1, loaders + 1)
        ]
    return replace(schedule, workers=tuple(workers))


def _loader(stored: Channel, loaded: Channel) -> Program:
    while (batch := (yield Receive(stored))) is not None:
        yield Load(batch)
        yield Send(loaded, batch)


def _renamed(program: Callable[[], Program], renamed: Mapping[Channel, Channel]) -> Program:
    """The program with other channels in place of its own."""
    own = {other: channel for channel, other in renamed.items()}
    running, answer = program(), None
    while True:
        try:
            operation = running.send(answer)
        except StopIteration:
            return
        match operation:
            case Receive(channel):
                answer = yield Receive(renamed.get(channel, channel))
            case Select(channels):
                answer = yield Select(tuple(renamed.get(each, each) for each in channels))
                if answer is not None:
                    answer = own.get(answer[0], answer[0]), answer[1]
            case Send(channel, batch):
                answer = yield Send(renamed.get(channel, channel), batch)
            case _:
                answer = yield operation
