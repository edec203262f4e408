"""Asynchronous forward gradients: AsyncFGD and its form for sequences (Zhao et al. 2023)."""

from math import ceil

from simcore.ops import Group, Join, Program, TangentStep, Update
from simcore.registry import register
from simcore.schedule import Schedule, WeightRules
from simcore.schedules.tangents import Directions, Keep, TangentChain
from simcore.steps import steps

__all__ = ["asyncfgd", "asyncfgd_recursive"]


@register(
    "asyncfgd",
    title="asynchronous forward gradient descent",
    source="AsyncFGD, Algorithms 1 and 2",
    lockings_broken="forward, update (there is no backward pass)",
    gap="K-k",
    memory="no graph; directions of K-k+1 batches, or their seeds",
    compositions=("replicas", "loaders"),
    rows=(6, -1),
    learning=("adam", 0.001),
)
def asyncfgd(
    modules: int = 4,
    batches: int = 100,
    lockstep: bool = False,
    tangents: int = 1,
    directions: Directions = "gaussian",
    keep: Keep = "tangent",
    alpha: float = 1.0,
) -> Schedule:
    """Each module takes its next batch forward, then learns from the batch K-k before.

    Breaks the forward locking, which the paper names, and with it the update locking, as modules
    learn while later batches are on their way; there is no backward pass to lock. Module k goes
    forward with its current weights. The last one sends the derivative of the loss to all, and each
    multiplies it with the direction that it has kept. The gap is K-k, and t for batch t < K-k,
    whatever the times: the K - 1 - k of the paper, which counts modules from 0. Between two steps
    module k keeps directions of K-k batches, and within one of K-k+1. Which optimiser turns
    gradients into steps (Algorithm 2: Adam) is no matter of the schedule.

    With T_k, P_k and U_k for module k, a batch takes in steady state, for any modules and a latency
    of d on every link (0 if free), the larger of max over k of (T_k + P_k + U_k) and
    max over k < K of (T_k + ... + T_K + P_k + U_k) / (K - k + 1) + d. So free links cost
    (T + P + U) / K for even modules; these hide a latency of half of what they need to learn,
    (P + U) / 2K, and no more. N batches of even modules take ((N + K - 1) T + N (P + U)) / K.

    `lockstep` is the paper's clock: all modules begin each of N + K - 1 steps together. With free
    links a step takes max over k of (max(T_k, T_K) + P_k + U_k) then, for a module has to wait for
    the last one within the step, and even modules have to wait for d in every step.

    >>> from simcore.timetable import timetable
    >>> print(timetable(asyncfgd(modules=3, batches=4)))
              0     1     2     3   4     5   6     7   8     9
    module 1  T1:0  T1:1  T1:2  U1  T1:3  U1  .     U1  .     U1
    module 2  .     T2:0  T2:1  U2  T2:2  U2  T2:3  U2  .     U2
    module 3  .     .     T3:0  U3  T3:1  U3  T3:2  U3  T3:3  U3
    """
    chain = TangentChain.of(modules)
    clock = Group("clock")

    def module(k: int) -> Program:
        lag = modules - k
        if lockstep:
            for _ in steps(k - 1):
                yield Join(clock)
        for step in steps(batches + lag):
            if lockstep:
                yield Join(clock)
            if step < batches:
                yield from chain.tangent(k)
            if step >= lag:
                yield from chain.project(k)
                yield Update(k)

    rules = WeightRules(tangents=tangents, directions=directions, keep=keep, alpha=alpha)
    return Schedule(
        blocks=modules,
        batches=batches,
        workers=chain.workers(module, (clock,) if lockstep else ()),
        weights=rules,
    )


@register(
    "asyncfgd-recursive",
    title="asynchronous forward gradient descent over the time steps of sequences",
    source="AsyncFGD, appendix G.3",
    lockings_broken="forward, update (there is no backward pass)",
    gap="ceil((K-k) / n)",
    memory="no graph; the state of 1 time step; directions of ceil((K-k) / n) + 1 mini-batches",
    compositions=("replicas", "loaders"),
    rows=(6, -1),
    learning=("adam", 0.001),
)
def asyncfgd_recursive(
    modules: int = 4,
    batches: int = 100,
    time_steps: int = 4,
    tangents: int = 1,
    directions: Directions = "gaussian",
    keep: Keep = "tangent",
    alpha: float = 1.0,
) -> Schedule:
    """As `asyncfgd`, over the n time steps of each sequence; modules learn between two sequences.

    Breaks the forward locking over time, and with it the update locking: when module 1 is at time
    step t, module k is at t - k + 1. A mini-batch of sequences makes n passes, each 1/n of its
    cost; the state that a step leaves in a module, with its derivative, is all that the next one
    needs. The loss of a sequence is the sum over its steps and has one direction, so its gradient
    is the sum of the scalars times that direction: scalars are sent as they come, where the paper's
    host adds them up first.

    The paper wants two things that exclude each other: all steps of a sequence with the same
    weights, and updates as soon as the last module is through, when the others are within the next
    sequence. Here the former holds: a module learns at its next end of a sequence, which needs no
    copy of the weights, and what it reads is the same as with one. So the gap is ceil((K-k) / n)
    updates, and i for each mini-batch i before that one, whatever the times. It is 1 in all modules
    but the last if n >= K-1, and that of `asyncfgd` if n = 1.

    With T, P and U of a mini-batch of sequences, it takes (T + P + U) / K in steady state if
    modules are even and links free; uneven modules may take more than the slowest of them. With a
    latency of d on every link and P = 0 it takes, if that is more, the largest of
    ((T (n+r) / n + U) / K + (r+1) d) / (1 + ceil(r / n)) over r = 1..K-1: the way up r modules and
    back, with a sequence on the way.

    >>> from simcore.timetable import timetable
    >>> print(timetable(asyncfgd_recursive(modules=2, batches=2, time_steps=2), 2, 2))
              0     1     2     3     4     5     6
    module 1  T1:0  T1:1  T1:2  T1:3  U1    .     U1
    module 2  .     T2:0  T2:1  U2    T2:2  T2:3  U2
    """
    chain = TangentChain.of(modules)

    def module(k: int) -> Program:
        lag = ceil((modules - k) / time_steps)
        for sequence in steps(batches + lag):
            if sequence < batches:
                for _ in steps(time_steps):
                    yield from chain.tangent(k, TangentStep)
            if sequence >= lag:
                for _ in steps(time_steps):
                    yield from chain.project(k)
                yield Update(k)

    rules = WeightRules(
        reduce="sum", tangents=tangents, directions=directions, keep=keep, alpha=alpha
    )
    return Schedule(
        blocks=modules,
        batches=batches * time_steps,
        workers=chain.workers(module),
        weights=rules,
        micro_batches=time_steps,
    )
