"""Backpropagation: the baseline with all lockings."""

from simcore.ops import Backward, Forward, Program, Receive, Update, Worker
from simcore.registry import register
from simcore.schedule import Policy, Schedule, WeightRules
from simcore.schedules.chain import data_channel
from simcore.steps import steps

__all__ = ["bp"]


@register(
    "bp",
    title="backpropagation",
    source="baseline of all four papers",
    lockings_broken="none",
    gap="0",
    blocks_option="modules",
)
def bp(modules: int = 4, batches: int = 100, weights: Policy = "stash") -> Schedule:
    """Backpropagation on one worker: forward through all blocks, backward through all, update all.

    Breaks no locking. With T, beta T and U the forward, backward and update time of the network,
    N batches take N (T + beta T + U); every gap is 0. Both hold always.

    >>> from simcore.timetable import timetable
    >>> print(timetable(bp(modules=2, batches=2)))
            0     1     2     3     4   5   6     7     8     9     10  11
    worker  F1:0  F2:0  B2:0  B1:0  U1  U2  F1:1  F2:1  B2:1  B1:1  U1  U2
    """
    data = data_channel()

    def worker() -> Program:
        for _ in steps(batches):
            batch = yield Receive(data)
            for below in steps(modules):
                yield Forward(below + 1, batch)
            for above in steps(modules):
                yield Backward(modules - above, batch)
            for below in steps(modules):
                yield Update(below + 1)

    return Schedule(
        name="bp",
        options={"modules": modules, "batches": batches, "weights": weights},
        blocks=modules,
        batches=batches,
        workers=(Worker("worker", worker, tuple(range(1, modules + 1)), receives=(data,)),),
        weights=WeightRules(policy=weights),
    )
