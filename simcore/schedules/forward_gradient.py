"""Forward gradients without staleness: FGD and its parallel forms (AsyncFGD, Zhao et al. 2023).

A forward pass carries along the derivative in a random direction of all weights; the derivative of
the loss, one number, times the direction is an unbiased estimate of the gradient. There is no
backward pass. T is here the time of such a forward pass through the network, with all `tangents`
directions, P that of multiplying, and U that of updating; P = 0 unless a workload says otherwise.

All of these schedules have the options `tangents` (directions per step, whose mean is taken),
`directions` (their distribution), `keep` (the direction itself until it is used, or its seed:
tangent checkpoint) and `alpha` (scale of the directions below the classifier). Programs do not
change with them.
"""

from simcore.ops import Program, Project, Receive, Tangent, Update, Worker
from simcore.registry import register
from simcore.replication import replicated
from simcore.schedule import Schedule, WeightRules
from simcore.schedules.chain import data_channel
from simcore.schedules.tangents import Directions, Keep, TangentChain
from simcore.steps import steps

__all__ = ["fgd", "fgd_dp", "fgd_mp", "fgd_pipeline"]


@register(
    "fgd",
    title="forward gradient descent",
    source="AsyncFGD, section 3",
    lockings_broken="none (there is no backward pass)",
    gap="0",
    memory="no graph; directions of 1 batch, or their seeds",
    compositions=("loaders",),
    rows=(2, 1),
    learning=("adam", 0.001),
)
def fgd(
    modules: int = 4,
    batches: int = 100,
    tangents: int = 1,
    directions: Directions = "gaussian",
    keep: Keep = "tangent",
    alpha: float = 1.0,
) -> Schedule:
    """One worker: forward with derivatives through all blocks, then each block learns.

    Breaks no locking. N batches take N (T + P + U), and every gap is 0, always. A block is updated
    as soon as its gradient is there, so that no more than one gradient is held.

    >>> from simcore.timetable import timetable
    >>> print(timetable(fgd(modules=2, batches=2)))
            0     1     2   3   4     5     6   7
    worker  T1:0  T2:0  U1  U2  T1:1  T2:1  U1  U2
    """
    data = data_channel()

    def worker() -> Program:
        for _ in steps(batches):
            batch = yield Receive(data)
            for below in steps(modules):
                yield Tangent(below + 1, batch)
            for below in steps(modules):
                yield Project(below + 1, batch)
                yield Update(below + 1)

    rules = WeightRules(tangents=tangents, directions=directions, keep=keep, alpha=alpha)
    return Schedule(
        blocks=modules,
        batches=batches,
        workers=(Worker("worker", worker, tuple(range(1, modules + 1)), receives=(data,)),),
        weights=rules,
    )


@register(
    "fgd-dp",
    title="data-parallel forward gradient descent",
    source="baseline of AsyncFGD, section 6.1",
    lockings_broken="none (there is no backward pass)",
    gap="0",
    memory="no graph; directions of 1 batch, or their seeds, in each replica",
    per_update="R",
    compositions=("loaders",),
    rows=(5, 1),
    learning=("adam", 0.001),
)
def fgd_dp(
    modules: int = 4,
    batches: int = 100,
    replicas: int = 2,
    tangents: int = 1,
    directions: Directions = "gaussian",
    keep: Keep = "tangent",
    alpha: float = 1.0,
) -> Schedule:
    """Replicas of `fgd` that average the gradients of each block before they update it.

    Breaks no locking; every gap is 0. Each replica draws directions of its own, so a mean over R
    replicas has R times as many, and gradients, as large as the weights, have to be reduced: the
    paper says no more than "data parallelism". (Replicas with one common direction would have to
    reduce only scalars, but learn from one direction.) N batches take ceil(N / R) (T + P + U +
    the all-reduces of all blocks), always: nothing overlaps an all-reduce.

    >>> from simcore.timetable import timetable
    >>> print(timetable(fgd_dp(modules=2, batches=2)))
                       0     1     2   3
    worker, replica 1  T1:0  T2:0  U1  U2
    worker, replica 2  T1:1  T2:1  U1  U2
    """
    copies = {
        "modules": modules,
        "batches": batches,
        "tangents": tangents,
        "directions": directions,
        "keep": keep,
        "alpha": alpha,
    }
    return replicated(fgd, copies, replicas)


@register(
    "fgd-mp",
    title="model-parallel forward gradient descent",
    source="baseline of AsyncFGD, section 6.1",
    lockings_broken="none (there is no backward pass)",
    gap="0",
    memory="no graph; directions of 1 batch, or their seeds",
    compositions=("loaders",),
    rows=(6, -1),
    learning=("adam", 0.001),
)
def fgd_mp(
    modules: int = 4,
    batches: int = 100,
    tangents: int = 1,
    directions: Directions = "gaussian",
    keep: Keep = "tangent",
    alpha: float = 1.0,
) -> Schedule:
    """Modules in turn, each on a worker of its own; the scalar goes to all, and all learn at once.

    Breaks no locking; every gap is 0. With free links a batch takes
    X = max over k of (T_k + ... + T_K + P_k + U_k), where T_k, P_k, U_k are those of module k, and
    N batches take T + (N - 1) X + max over k of (P_k + U_k), always. For even modules
    X = T + (P + U) / K: what `fgd` takes, but for the updates. With a latency of d on every link,
    X has (K - k + 1) d more for each k < K.

    >>> from simcore.timetable import timetable
    >>> print(timetable(fgd_mp(modules=2, batches=2)))
              0     1     2   3     4     5
    module 1  T1:0  .     U1  T1:1  .     U1
    module 2  .     T2:0  U2  .     T2:1  U2
    """
    rules = WeightRules(tangents=tangents, directions=directions, keep=keep, alpha=alpha)
    return _flushing(rules, modules, batches, 1)


@register(
    "fgd-pipeline",
    title="synchronous pipeline of forward gradient descent",
    source="baseline of AsyncFGD, Fig. 2",
    lockings_broken="none (there is no backward pass)",
    gap="0",
    memory="no graph; directions of 1 mini-batch, or their seeds",
    compositions=("replicas", "loaders"),
    rows=(6, -1),
    learning=("adam", 0.001),
)
def fgd_pipeline(
    modules: int = 4,
    batches: int = 100,
    micro_batches: int | None = None,
    tangents: int = 1,
    directions: Directions = "gaussian",
    keep: Keep = "tangent",
    alpha: float = 1.0,
) -> Schedule:
    """Each mini-batch goes through the modules in m parts, and all learn when the last is through.

    Breaks no locking; every gap is 0. The parts share the directions of their mini-batch, so that
    it learns what `fgd` learns. With free links and P = 0 a mini-batch takes
    X = max over k of (T_k + ... + T_K)/m + (m-1)/m max(T_k, ..., T_K) + U_k, where T_k and U_k are
    those of module k, and N of them (T_1 + ... + T_K)/m + (m-1)/m max(T_1, ..., T_K) + (N-1) X +
    max over k of U_k. For even modules X = T/K (m+K-1)/m + U/K: a bubble of (K-1)/(m+K-1) in the
    forward pass. With a latency of d on every link, X has (K - k + 1) d more for each k < K.

    >>> from simcore.timetable import timetable
    >>> print(timetable(fgd_pipeline(modules=2, batches=2, micro_batches=2), 2, 2))
              0     1     2     3   4     5     6     7
    module 1  T1:0  T1:1  .     U1  T1:2  T1:3  .     U1
    module 2  .     T2:0  T2:1  U2  .     T2:2  T2:3  U2
    """
    rules = WeightRules(tangents=tangents, directions=directions, keep=keep, alpha=alpha)
    parts = modules if micro_batches is None else micro_batches
    return _flushing(rules, modules, batches, parts)


def _flushing(rules: WeightRules, modules: int, batches: int, parts: int) -> Schedule:
    """Modules that let all parts of a mini-batch through, and then learn."""
    chain = TangentChain.of(modules)

    def module(k: int) -> Program:
        for _ in steps(batches):
            for _ in steps(parts):
                yield from chain.tangent(k)
            for _ in steps(parts):
                yield from chain.project(k)
            yield Update(k)

    return Schedule(
        blocks=modules,
        batches=batches * parts,
        workers=chain.workers(module),
        weights=rules,
        micro_batches=parts,
    )
