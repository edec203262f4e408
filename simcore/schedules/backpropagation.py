"""Backpropagation, the baseline with all lockings, and its data-parallel form."""

from simcore.ops import Backward, Forward, Program, Receive, Update, Worker
from simcore.registry import register
from simcore.replication import replicated
from simcore.schedule import Policy, Schedule, WeightRules
from simcore.schedules.chain import data_channel
from simcore.steps import steps

__all__ = ["bp", "ddp"]


@register(
    "bp",
    title="backpropagation",
    source="baseline of all four papers",
    lockings_broken="none",
    gap="0",
    memory="1 graph",
    per_update="M",
    compositions=("recompute", "global_norm", "loaders"),
    rows=(2, 1),
)
def bp(
    modules: int = 4, batches: int = 100, accumulation: int = 1, weights: Policy = "stash"
) -> Schedule:
    """Backpropagation on one worker: forward through all blocks, backward through all, update all.

    Breaks no locking. With T, beta T and U the forward, backward and update time of the network,
    N batches take N (T + beta T) and ceil(N / M) U; every gap is 0. Both hold always. A last window
    of fewer than M gradients has its own count as divisor.

    >>> from simcore.timetable import timetable
    >>> print(timetable(bp(modules=2, batches=2)))
            0     1     2     3     4   5   6     7     8     9     10  11
    worker  F1:0  F2:0  B2:0  B1:0  U1  U2  F1:1  F2:1  B2:1  B1:1  U1  U2
    """
    data = data_channel()

    def worker() -> Program:
        for step in steps(batches):
            batch = yield Receive(data)
            for below in steps(modules):
                yield Forward(below + 1, batch)
            for above in steps(modules):
                yield Backward(modules - above, batch)
            if (step + 1) % accumulation == 0 or step + 1 == batches:
                for below in steps(modules):
                    yield Update(below + 1)

    return Schedule(
        blocks=modules,
        batches=batches,
        workers=(Worker("worker", worker, tuple(range(1, modules + 1)), receives=(data,)),),
        weights=WeightRules(policy=weights),
        batches_per_update=accumulation,
    )


@register(
    "ddp",
    title="data-parallel backpropagation",
    source="baseline of Async BP, appendix A.2",
    lockings_broken="none",
    gap="0",
    memory="1 graph, in each replica",
    per_update="R",
    compositions=("recompute", "loaders"),
    rows=(5, 1),
)
def ddp(
    modules: int = 4, batches: int = 100, replicas: int = 2, weights: Policy = "stash"
) -> Schedule:
    """Replicas of `bp` that average the gradients of each block before they update it.

    Breaks no locking. The all-reduce of a block starts when its backward pass has ended in every
    replica, and overlaps the backward passes of the blocks below: a bucket is a block. Every gap
    is 0. With free links N batches take ceil(N / R) (T + beta T + U), each update seeing R of them;
    what overlaps nothing is the all-reduce of block 1 and what has piled up before it.

    >>> from simcore.timetable import timetable
    >>> print(timetable(ddp(modules=2, batches=2)))
                       0     1     2     3     4   5
    worker, replica 1  F1:0  F2:0  B2:0  B1:0  U1  U2
    worker, replica 2  F1:1  F2:1  B2:1  B1:1  U1  U2
    """
    copies = {"modules": modules, "batches": batches, "weights": weights}
    return replicated(bp, copies, replicas)
