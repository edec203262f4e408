"""Replicas of a schedule that average their gradients before each update: data parallelism."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from math import ceil
from typing import Any

from simcore.errors import InputError
from simcore.ops import (
    Arrive,
    Backward,
    BackwardWeight,
    Channel,
    Group,
    Join,
    Operation,
    Program,
    Project,
    Receive,
    Select,
    Send,
    Update,
    Worker,
)
from simcore.schedule import Schedule

__all__ = ["refuse_idle_replicas", "renamed", "replicated"]


def replicated(
    factory: Callable[..., Schedule],
    options: Mapping[str, Any],
    replicas: int,
    flag: str = "replicas",
) -> Schedule:
    """So many copies of a schedule, each with weights of its own and its share of the batches.

    Mini-batch b goes to replica b mod R. Before an update the replicas average the gradients of its
    block, in a ring all-reduce that starts as soon as each has computed its own: gradients of upper
    blocks travel while those of lower ones are computed. Replicas that have a batch less take part
    in the last update without one, so that at the end, too, the weights of all are equal.

    `options` are the factory's, and their `batches` those of all replicas together. Raises
    `InputError`, with the name `flag`, for more replicas than batches.
    """
    refuse_idle_replicas(replicas, options["batches"], flag)
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
        suffix = f", replica {number + 1}"
        channels = {
            channel: replace(
                channel,
                name=f"{channel.name}{suffix}",
                first=number if channel.source else 0,
                stride=replicas if channel.source else 1,
                run=copy.micro_batches,
            )
            for channel in copy.channels
        }
        own = {each: replace(each, name=f"{each.name}{suffix}") for each in copy.groups}
        fewer = copy.batches if copy.batches < copies[0].batches else None
        for worker, group in zip(copy.workers, groups, strict=True):
            program = partial(renamed, worker.program, channels, own)
            joins = tuple(own[each] for each in worker.joins)
            if group:
                program, joins = partial(_averaged, program, group, fewer), (*joins, group)
            workers.append(
                replace(
                    worker,
                    name=f"{worker.name}{suffix}",
                    program=program,
                    sends=tuple(channels[channel] for channel in worker.sends),
                    receives=tuple(channels[channel] for channel in worker.receives),
                    joins=joins,
                    replica=number,
                )
            )
    return replace(
        copies[0],
        batches=options["batches"] * copies[0].micro_batches,
        workers=tuple(workers),
        batches_per_update=copies[0].batches_per_update * replicas,
    )


def refuse_idle_replicas(replicas: int, batches: int, flag: str = "replicas") -> None:
    """Raise `InputError` if there is not a batch for each replica."""
    if replicas > batches:
        rule = "must be at most the number of batches"
        raise InputError(flag, replicas, rule, "give fewer replicas or more batches")


def _averaged(program: Callable[[], Program], group: Group, fewer: int | None) -> Program:
    """Average the gradients of a block over the group before each update of it.

    `fewer` is the number of passes of a replica that has less of them than others. When it has
    applied all its gradients of a block, it arrives for the round of one update more, which others
    may need while it is still busy; at the end it makes that update, if there is one.
    """
    running, answer = program(), None
    run: list[Operation] = []
    computed: Counter[int] = Counter()
    while True:
        # What has no answer cannot change what follows, so that one may look ahead to it.
        try:
            run.append(running.send(answer))
        except StopIteration:
            break
        answer = None
        if isinstance(run[-1], Receive | Select | Join):
            for operation in _with_rounds(run, group, computed, fewer):
                answer = yield operation
            run = []
    yield from _with_rounds(run, group, computed, fewer)
    if fewer is not None:
        for block in group.blocks:
            if (yield Join(group, block)):
                yield Update(block)


def _with_rounds(
    run: list[Operation], group: Group, computed: Counter[int], fewer: int | None
) -> Iterator[Operation]:
    """The operations, with an `Arrive` where a block's last gradient is done, and the `Join`."""
    last: dict[int, int] = {}
    arrivals: set[int] = set()
    for at, operation in enumerate(run):
        if isinstance(operation, Backward | BackwardWeight | Project):
            last[operation.block] = at
        elif isinstance(operation, Update) and operation.block in last:
            arrivals.add(last.pop(operation.block))
    for at, operation in enumerate(run):
        if isinstance(operation, Update):
            yield Join(group, operation.block)
        yield operation
        match operation:
            case Backward(block) | BackwardWeight(block) | Project(block):
                if fewer is not None:  # a count without end would be a program that never repeats
                    computed[block] += 1
                if at in arrivals:
                    yield Arrive(group, block)
            case Update(block) if computed[block] == fewer:
                yield Arrive(group, block)


def renamed(
    program: Callable[[], Program],
    channels: Mapping[Channel, Channel],
    groups: Mapping[Group, Group] | None = None,
) -> Program:
    """The program with other channels and groups in place of its own."""
    own = {other: channel for channel, other in channels.items()}
    running, answer = program(), None
    while True:
        try:
            operation = running.send(answer)
        except StopIteration:
            return
        match operation:
            case Receive(channel):
                answer = yield Receive(channels.get(channel, channel))
            case Select(each):
                answer = yield Select(tuple(channels.get(channel, channel) for channel in each))
                if answer is not None:
                    answer = own.get(answer[0], answer[0]), answer[1]
            case Send(channel, batch):
                answer = yield Send(channels.get(channel, channel), batch)
            case Arrive(group, block) | Join(group, block) if groups:
                answer = yield type(operation)(groups[group], block)
            case _:
                answer = yield operation
