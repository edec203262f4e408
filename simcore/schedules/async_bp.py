"""Asynchronous backpropagation with separate forward and backward threads (Async BP)."""

from collections.abc import Callable
from typing import Literal

from simcore.ops import Backward, Channel, Forward, Item, Program, Receive, Send, Update, Worker
from simcore.registry import register
from simcore.schedule import Policy, Schedule, WeightRules
from simcore.schedules.chain import data_channel
from simcore.steps import steps

__all__ = ["async_bu", "async_lu"]


@register(
    "async-lu",
    title="asynchronous backpropagation, layer-wise updates",
    source="Async BP, Algorithm 1",
    lockings_broken="backward, update; forward if F > 1",
    gap="by the times; F = 1, B >= beta, U = 0: max(0, ceil((beta (L-l+1) - (l-1)) / L))",
    memory="graphs of all batches in flight, the queue of losses included",
    blocks_option="layers",
    compositions=("recompute", "loaders"),
    rows=(2, 3),
    # Losses may queue without bound, and then gaps grow.
    learning=("sgd", 0.001),
)
def async_lu(
    layers: int = 4,
    batches: int = 100,
    forward_threads: int = 1,
    backward_threads: int = 2,
    queue_capacity: int | None = None,
    write: Literal["add", "assign"] = "add",
    refresh: Literal["layer", "pass"] = "layer",
    momentum: Literal["worker", "shared"] = "worker",
    weights: Policy = "mixed",
) -> Schedule:
    """Forward threads pass losses to backward threads, which update each layer when they reach it.

    Breaks the backward and update locking, and with several forward threads the forward locking;
    nothing waits for a lock. For one forward thread,
    B >= beta backward threads and no update time, N batches take (N + beta) T, a speedup of
    (1 + beta) N / (N + beta) over backpropagation. Where the backward threads are too few
    (B < beta F) they set the pace, and an unbounded queue of losses grows for ever.

    >>> from simcore.timetable import timetable
    >>> print(timetable(async_lu(layers=2, batches=3), backward=2, update=0))
                0     1     2     3     4     5     6     7     8     9
    forward 1   F1:0  F2:0  F1:1  F2:1  F1:2  F2:2  .     .     .     .
    backward 1  .     .     B2:0  B2:0  B1:0  B1:0  B2:2  B2:2  B1:2  B1:2
    backward 2  .     .     .     .     B2:1  B2:1  B1:1  B1:1  .     .
    """

    def backward_pass(batch: int) -> Program:
        for below in steps(layers):
            yield Backward(layers - below, batch)
            yield Update(layers - below)

    rules = WeightRules(weights, write, refresh, momentum)
    return _threads(
        backward_pass,
        layers,
        batches,
        forward_threads,
        backward_threads,
        queue_capacity,
        rules,
    )


@register(
    "async-bu",
    title="asynchronous backpropagation, block updates",
    source="Async BP, section 3.4",
    lockings_broken="backward, update; forward if F > 1",
    gap="by the times; F = 1, B >= beta, U = 0: max(0, ceil(beta - (l-1) / L))",
    memory="graphs of all batches in flight, the queue of losses included",
    blocks_option="layers",
    compositions=("recompute", "loaders"),
    rows=(2, 3),
    # Losses may queue without bound, and then gaps grow.
    learning=("sgd", 0.001),
)
def async_bu(
    layers: int = 4,
    batches: int = 100,
    forward_threads: int = 1,
    backward_threads: int = 2,
    queue_capacity: int | None = None,
    write: Literal["add", "assign"] = "add",
    refresh: Literal["layer", "pass"] = "layer",
    momentum: Literal["worker", "shared"] = "worker",
    weights: Policy = "mixed",
) -> Schedule:
    """As `async-lu`, but a backward thread updates all layers at the end of its backward pass.

    Same throughput without update time; the gradients of layer l then wait for the layers below
    it, which adds (l - 1) beta T / L seconds between a gradient and its use.

    >>> from simcore.timetable import timetable
    >>> print(timetable(async_bu(layers=2, batches=3), backward=2, update=0))
                0     1     2     3     4     5     6     7     8     9
    forward 1   F1:0  F2:0  F1:1  F2:1  F1:2  F2:2  .     .     .     .
    backward 1  .     .     B2:0  B2:0  B1:0  B1:0  B2:2  B2:2  B1:2  B1:2
    backward 2  .     .     .     .     B2:1  B2:1  B1:1  B1:1  .     .
    """

    def backward_pass(batch: int) -> Program:
        for below in steps(layers):
            yield Backward(layers - below, batch)
        for below in steps(layers):
            yield Update(layers - below)

    rules = WeightRules(weights, write, refresh, momentum)
    return _threads(
        backward_pass,
        layers,
        batches,
        forward_threads,
        backward_threads,
        queue_capacity,
        rules,
    )


def _threads(
    backward_pass: Callable[[int], Program],
    layers: int,
    batches: int,
    forward_threads: int,
    backward_threads: int,
    queue_capacity: int | None,
    rules: WeightRules,
) -> Schedule:
    data = data_channel()
    every = tuple(range(1, layers + 1))
    graphs = tuple(Item("graph", layer) for layer in every)
    losses = Channel("losses", (*graphs, Item("gradient", layers)), queue_capacity)

    def forward_thread() -> Program:
        while (batch := (yield Receive(data))) is not None:
            for below in steps(layers):
                yield Forward(below + 1, batch)
            yield Send(losses, batch)

    def backward_thread() -> Program:
        while (batch := (yield Receive(losses))) is not None:
            yield from backward_pass(batch)

    return Schedule(
        blocks=layers,
        batches=batches,
        workers=(
            *(
                Worker(f"forward {i}", forward_thread, every, (losses,), (data,))
                for i in range(1, forward_threads + 1)
            ),
            *(
                Worker(f"backward {i}", backward_thread, every, (), (losses,))
                for i in range(1, backward_threads + 1)
            ),
        ),
        weights=rules,
    )
