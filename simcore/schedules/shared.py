"""Processes that share weights and update them without locks: Hogwild, LAPSGD and LPPSGD."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

from simcore.ops import (
    Backward,
    BackwardStop,
    BackwardThrough,
    Channel,
    Evaluate,
    Forward,
    Group,
    Join,
    Merge,
    Program,
    Receive,
    Send,
    Snapshot,
    Update,
    Worker,
)
from simcore.registry import register
from simcore.replication import refuse_idle_replicas
from simcore.schedule import Schedule, WeightRules
from simcore.schedules.chain import data_channel
from simcore.steps import steps

__all__ = ["hogwild", "lapsgd", "lppsgd"]

# A process has no use of a layer for w of the c seconds of its cycle.
_GAP = "by the times; independent processes: mean (P-1) (1 - w / c), w of c seconds without use"


@register(
    "hogwild",
    title="Hogwild: lock-free processes on shared weights",
    source="Niu et al. 2011 (NeurIPS)",
    lockings_broken="none within a process; processes wait for nothing",
    gap=_GAP,
    memory="1 graph, in each process",
    blocks_option="layers",
    compositions=("recompute", "loaders"),
    rows=(2, 1),
)
def hogwild(
    layers: int = 4,
    batches: int = 100,
    processes: int = 2,
    write: Literal["add", "assign"] = "add",
    momentum: Literal["worker", "shared"] = "worker",
) -> Schedule:
    """Each process takes a batch, forward, backward, and updates the shared weights of all layers.

    The updates of all layers come at the end, in their order, as an optimiser steps. Nothing is
    locked: weights change between the forward and the backward pass of a process and within them,
    and activations are combined with the weights found (policy `mixed`).

    With devices of their own, P processes finish P batches every c = T + beta T + U: N batches of
    equal times take ceil(N / P) c.

    Gaps: every update of another process adds 1 to the gap of layer l, unless it lands where the
    process has no use of the layer: the w_l = ((l-1) T + (L-l) U) / L seconds, for even layers,
    between its update of the layer and its next forward pass. If processes are independent, the
    mean gap tends to (P-1) (1 - w_l / c). With a single layer w = 0, and the gaps of all updates
    have the sum (P-1) N, whatever the times, less 1 for each two updates that land at one instant
    (the one that lands first is seen by neither), and for each process that had ended when
    an update landed. So P processes that start together and take equal times have gaps 0, 1, ...,
    P-1, a mean of (P-1) / 2; started c / P apart, all have P-1.

    With `write=assign`, updates that land between the start of a process's backward pass of a layer
    and its own update are lost.

    >>> from simcore.timetable import timetable
    >>> print(timetable(hogwild(layers=2, batches=3)))
               0     1     2     3     4   5   6     7     8     9     10  11
    process 1  F1:0  F2:0  B2:0  B1:0  U1  U2  F1:2  F2:2  B2:2  B1:2  U1  U2
    process 2  F1:1  F2:1  B2:1  B1:1  U1  U2  .     .     .     .     .   .
    """
    data = data_channel()
    every = tuple(range(1, layers + 1))

    def process() -> Program:
        while (batch := (yield Receive(data))) is not None:
            yield from _full_step(layers, batch)

    return Schedule(
        blocks=layers,
        batches=batches,
        workers=tuple(
            Worker(f"process {number}", process, every, receives=(data,))
            for number in range(1, processes + 1)
        ),
        weights=WeightRules(policy="mixed", write=write, momentum=momentum),
    )


@register(
    "lapsgd",
    title="locally asynchronous parallel SGD",
    source="Chatterjee et al. 2022, compared in Async BP",
    lockings_broken="none within a process; processes wait for nothing",
    gap=f"{_GAP}; P of a replica",
    memory="1 graph, in each process; in each replica a copy of the weights while averaging",
    blocks_option="layers",
    compositions=("recompute", "loaders"),
    rows=(2, 3),
)
def lapsgd(
    layers: int = 4,
    batches: int = 100,
    replicas: int = 2,
    processes: int = 2,
    averaging: int = 10,
) -> Schedule:
    """Hogwild in each replica of the weights, while another worker averages the replicas.

    Mini-batch b goes to replica b mod R. A replica's averager is told of each batch that is
    finished. After every `averaging` of them it copies the weights, averages the copy with those of
    the other replicas, and adds what that changed, mean - copy, to the weights, which the processes
    have gone on to update. A round is held only if every replica has the batches for it.

    On devices of their own the processes are not slowed down, and gaps are those of Hogwild with
    the batches of the replica; what averaging changes is counted apart. Averaging that takes longer
    than the batches between two rounds is held as soon as the last one is over.

    >>> from fractions import Fraction
    >>> from simcore.engine import simulate
    >>> from simcore.timetable import draw
    >>> from simcore.workload import Layer, Workload
    >>> second = Fraction(1)
    >>> layer = Layer("", forward_s=second, backward_s=second, update_s=second, merge_s=second)
    >>> schedule = lapsgd(layers=1, batches=4, processes=1, averaging=1)
    >>> print(draw(simulate(schedule, Workload("", (layer,)))))
                          0     1     2   3     4     5   6   7
    process 1, replica 1  F1:0  B1:0  U1  F1:2  B1:2  U1  .   .
    averager, replica 1   .     .     .   S1    M1    .   S1  M1
    process 1, replica 2  F1:1  B1:1  U1  F1:3  B1:3  U1  .   .
    averager, replica 2   .     .     .   S1    M1    .   S1  M1
    """

    def process(data: Channel, finished: Channel, number: int) -> Program:
        while (batch := (yield Receive(data))) is not None:
            yield from _full_step(layers, batch)
            yield Send(finished, batch)

    return _averaged(process, layers, batches, replicas, processes, averaging)


@register(
    "lppsgd",
    title="locally partitioned asynchronous parallel SGD",
    source="Chatterjee et al. 2022, compared in Async BP",
    lockings_broken="none within a process; processes wait for nothing",
    gap="by the times",
    memory="1 graph, in each process; in each replica a copy of the weights while averaging",
    blocks_option="layers",
    compositions=("recompute", "loaders"),
    rows=(2, 3),
)
def lppsgd(
    layers: int = 4,
    batches: int = 100,
    replicas: int = 2,
    processes: int = 2,
    averaging: int = 10,
) -> Schedule:
    """As `lapsgd`, but every other step of a process is for its own part of the layers alone.

    Process p of P has layers floor((p-1) L / P) + 1 to floor(p L / P), and at least the first of
    these. In a partial step it evaluates the layers below, goes backward through those above for
    the gradient of their input only, stops at the lowest layer of its part and updates the part.
    Steps are full and partial in turn, as in the released code.

    A full step takes T + beta T + U. A partial one takes T, the backward time of the part, what the
    layers above need for the gradient of their input, and the update of the part.

    >>> from simcore.timetable import timetable
    >>> print(timetable(lppsgd(layers=2, batches=4, replicas=1), backward=2))
                          0     1     2     3     4     5     6   7   8     9     10    11    12    13
    process 1, replica 1  F1:0  F2:0  B2:0  B2:0  B1:0  B1:0  U1  U2  F1:2  F2:2  D2:2  B1:2  B1:2  U1
    process 2, replica 1  F1:1  F2:1  B2:1  B2:1  B1:1  B1:1  U1  U2  V1:3  F2:3  B2:3  B2:3  U2    .
    averager, replica 1   .     .     .     .     .     .     .   .   .     .     .     .     .     .
    """  # noqa: E501

    def process(data: Channel, finished: Channel, number: int) -> Program:
        lowest = number * layers // processes + 1
        highest = max(lowest, (number + 1) * layers // processes)
        full = True
        while (batch := (yield Receive(data))) is not None:
            if full:
                yield from _full_step(layers, batch)
            else:
                yield from _partial_step(lowest, highest, layers, batch)
            yield Send(finished, batch)
            full = not full

    schedule = _averaged(process, layers, batches, replicas, processes, averaging)
    return replace(schedule, split_backward=True)


def _full_step(layers: int, batch: int) -> Program:
    for below in steps(layers):
        yield Forward(below + 1, batch)
    for above in steps(layers):
        yield Backward(layers - above, batch)
    for below in steps(layers):
        yield Update(below + 1)


def _partial_step(lowest: int, highest: int, layers: int, batch: int) -> Program:
    for below in steps(lowest - 1):
        yield Evaluate(below + 1, batch)
    for above in steps(layers - lowest + 1):
        yield Forward(lowest + above, batch)
    for above in steps(layers - highest):
        yield BackwardThrough(layers - above, batch)
    for above in steps(highest - lowest):
        yield Backward(highest - above, batch)
    yield BackwardStop(lowest, batch)
    for above in steps(highest - lowest + 1):
        yield Update(lowest + above)


def _averaged(
    process: Callable[[Channel, Channel, int], Program],
    layers: int,
    batches: int,
    replicas: int,
    processes: int,
    averaging: int,
) -> Schedule:
    """Replicas of lock-free processes, `process(data, finished, number)`, with an averager each."""
    refuse_idle_replicas(replicas, batches)
    every = tuple(range(1, layers + 1))
    group = Group("replicas", every)
    rounds = batches // replicas // averaging

    def averager(finished: Channel, share: int) -> Program:
        for _ in steps(rounds):
            for _ in steps(averaging):
                yield Receive(finished)
            for below in steps(layers):
                yield Snapshot(below + 1)
            for below in steps(layers):
                yield Join(group, below + 1)
            for below in steps(layers):
                yield Merge(below + 1)
        for _ in steps(share - rounds * averaging):
            yield Receive(finished)

    workers: list[Worker] = []
    for replica in range(replicas):
        suffix = f", replica {replica + 1}"
        data = replace(data_channel(), name=f"data{suffix}", first=replica, stride=replicas)
        finished = Channel(f"finished{suffix}", ())
        for number in range(processes):
            program = partial(process, data, finished, number)
            own = f"process {number + 1}{suffix}"
            workers.append(Worker(own, program, every, (finished,), (data,), replica=replica))
        average = partial(averager, finished, len(data.held(batches)))
        own = f"averager{suffix}"
        workers.append(Worker(own, average, every, (), (finished,), (group,), replica))
    return Schedule(
        blocks=layers,
        batches=batches,
        workers=tuple(workers),
        weights=WeightRules(policy="mixed"),
    )
