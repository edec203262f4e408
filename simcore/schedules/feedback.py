"""Backpropagation without the weights: feedback alignment, and direct feedback of error or target.

These train with fixed random matrices in place of the weights that a gradient would go down
through. They are accuracy baselines of AsyncFGD (Table 1). T, beta T and U are the forward,
backward and update time of the network, A that of all random projections; A = 0 unless a workload
says otherwise.
"""

from dataclasses import replace
from functools import partial
from typing import Literal

from simcore.ops import (
    BackwardStop,
    Channel,
    Estimate,
    Feedback,
    Forward,
    ForwardError,
    Item,
    Program,
    Receive,
    Send,
    Update,
    Worker,
)
from simcore.registry import register
from simcore.schedule import Schedule, WeightRules
from simcore.schedules.backpropagation import bp
from simcore.schedules.chain import Chain
from simcore.steps import steps

__all__ = ["dfa", "drtp", "fa", "sdfa"]

_MATRICES = "a fixed random matrix for each module but the last, output x classes"


@register(
    "fa",
    title="feedback alignment",
    source="baseline of AsyncFGD, Table 1; Lillicrap et al. 2016",
    lockings_broken="none",
    gap="0",
    memory="1 graph",
    extra_parameters="a fixed random matrix for each one of weights, of the same size",
    compositions=("recompute", "global_norm", "loaders"),
    rows=(2, 1),
    learning=("adam", 0.0001),
)
def fa(modules: int = 4, batches: int = 100) -> Schedule:
    """As `bp`, on one worker, but gradients go down through fixed random weights.

    Breaks no locking: the way of the gradients is that of backpropagation, and so are times and
    gaps. N batches take N (T + beta T + U).

    >>> from simcore.timetable import timetable
    >>> print(timetable(fa(modules=2, batches=1)))
            0     1     2     3     4   5
    worker  F1:0  F2:0  B2:0  B1:0  U1  U2
    """
    rules = WeightRules(feedback="random")
    return replace(bp(modules, batches), weights=rules)


@register(
    "dfa",
    title="direct feedback alignment",
    source="baseline of AsyncFGD, Table 1; Nokland 2016",
    lockings_broken="backward",
    gap="0",
    memory="1 graph",
    extra_parameters=_MATRICES,
    compositions=("recompute", "replicas", "loaders"),
    rows=(7, -4),
    learning=("adam", 0.0001),
)
def dfa(modules: int = 4, batches: int = 100) -> Schedule:
    """Modules in turn, then the error at the output goes to all, and all learn at once.

    Breaks the backward locking: each module takes a random projection of the error for the gradient
    of its output, and its backward pass goes no further down. The forward and the update locking
    remain: module k learns before it takes the next batch. Each module has a worker of its own.
    Every gap is 0.

    With free links a batch takes X = max over k of (F_k + ... + F_K + C_k), where F_k is the
    forward time of module k and C_k that of its projection, backward pass and update, and N batches
    take T + (N - 1) X + max over k of C_k, always. For even modules X = T + (A + beta T + U) / K,
    but for the last one, which needs no projection. With a latency of d on every link, X has
    (K - k + 1) d more for each k < K.

    >>> from simcore.timetable import timetable
    >>> print(timetable(dfa(modules=2, batches=2)))
              0     1     2     3   4     5     6     7
    module 1  F1:0  .     B1:0  U1  F1:1  .     B1:1  U1
    module 2  .     F2:0  B2:0  U2  .     F2:1  B2:1  U2
    """
    return _direct(modules, batches, "error")


@register(
    "sdfa",
    title="direct feedback alignment by the sign of the error",
    source="baseline of AsyncFGD, Table 1",
    lockings_broken="backward",
    gap="0",
    memory="1 graph",
    extra_parameters=_MATRICES,
    compositions=("recompute", "replicas", "loaders"),
    rows=(7, -4),
    learning=("adam", 0.0001),
)
def sdfa(modules: int = 4, batches: int = 100) -> Schedule:
    """As `dfa`, but what is projected is the sign of the error. Same locking, times and gaps.

    >>> from simcore.timetable import timetable
    >>> print(timetable(sdfa(modules=2, batches=1)))
              0     1     2     3
    module 1  F1:0  .     B1:0  U1
    module 2  .     F2:0  B2:0  U2
    """
    return _direct(modules, batches, "sign")


def _direct(modules: int, batches: int, feedback: Literal["error", "sign"]) -> Schedule:
    activations = Chain.of(modules).activations
    error = (Item("error", modules),)
    errors = {k: Channel(f"errors[{k}]", error) for k in range(1, modules)}

    def module(k: int) -> Program:
        for _ in steps(batches):
            batch = yield Receive(activations[k])
            yield Forward(k, batch)
            yield Send(activations[k + 1], batch)
            yield Receive(errors[k])
            yield Feedback(k, batch)
            yield BackwardStop(k, batch)
            yield Update(k)

    def last() -> Program:
        for _ in steps(batches):
            batch = yield Receive(activations[modules])
            yield ForwardError(modules, batch)
            for k in range(1, modules):
                yield Send(errors[k], batch)
            yield BackwardStop(modules, batch)
            yield Update(modules)

    below = (
        Worker(
            f"module {k}",
            partial(module, k),
            (k,),
            (activations[k + 1],),
            (activations[k], errors[k]),
        )
        for k in range(1, modules)
    )
    above = tuple(errors.values())
    return Schedule(
        blocks=modules,
        batches=batches,
        workers=(
            *below,
            Worker(f"module {modules}", last, (modules,), above, (activations[modules],)),
        ),
        weights=WeightRules(feedback=feedback),
    )


@register(
    "drtp",
    title="direct random target projection",
    source="baseline of AsyncFGD, Table 1; Frenkel et al. 2021",
    lockings_broken="forward, backward, update",
    gap="0",
    memory="1 graph; activations that queue before a slower module",
    extra_parameters=_MATRICES,
    compositions=("recompute", "replicas", "loaders"),
    rows=(5, -2),
    learning=("adam", 0.0001),
)
def drtp(modules: int = 4, batches: int = 100) -> Schedule:
    """Each module learns at once from a random projection of the targets, and goes on.

    Breaks the backward and the update locking, as its paper says: targets come with the data, so
    that no module waits for one above it, and nothing but activations moves. So it breaks the
    forward locking, too: a module takes the next batch while the last is on its way up. Each module
    has a worker of its own, and the last one learns from the loss. Every gap is 0.

    With c_k the forward, projection, backward and update time of module k, F_k the first of these
    and C_k the rest, N batches take, with a latency of d on every link, max over k of
    (F_1 + ... + F_k + (N - 1) max(c_1, ..., c_k) + C_k + (k - 1) d), always. So a batch takes
    max over k of c_k in the long run, and latency costs nothing but the start, for nothing comes
    back. For the same reason nothing holds a module back that is faster than one above it:
    activations then queue up there without bound.

    >>> from simcore.timetable import timetable
    >>> print(timetable(drtp(modules=2, batches=2)))
              0     1     2     3     4     5     6
    module 1  F1:0  B1:0  U1    F1:1  B1:1  U1    .
    module 2  .     F2:0  B2:0  U2    F2:1  B2:1  U2
    """
    chain = Chain.of(modules)

    def module(k: int) -> Program:
        for _ in steps(batches):
            batch = yield Receive(chain.activations[k])
            yield Forward(k, batch)
            if k < modules:
                yield Send(chain.activations[k + 1], batch)
                yield Estimate(k, batch)
            yield BackwardStop(k, batch)
            yield Update(k)

    return Schedule(
        blocks=modules,
        batches=batches,
        workers=tuple(
            Worker(
                f"module {k}",
                partial(module, k),
                (k,),
                (chain.activations[k + 1],) if k < modules else (),
                (chain.activations[k],),
            )
            for k in range(1, modules + 1)
        ),
        weights=WeightRules(feedback="target"),
    )
