"""Pipelines whose modules all end a mini-batch before the next: model parallel, GPipe, 1F1B."""

from simcore.ops import Program
from simcore.registry import register
from simcore.schedule import Policy, Schedule, WeightRules
from simcore.schedules.chain import Chain
from simcore.schedules.windows import InFlight, alternating, refuse_growing, windows
from simcore.steps import steps

__all__ = ["bp_mp", "gpipe", "one_f_one_b"]


@register(
    "bp-mp",
    title="model-parallel backpropagation",
    source="baseline of FDG, ADL and AsyncFGD",
    lockings_broken="none",
    gap="0",
    memory="1 graph",
    compositions=("recompute", "global_norm", "replicas", "loaders"),
    rows=(6, -1),
)
def bp_mp(modules: int = 4, batches: int = 100, weights: Policy = "stash") -> Schedule:
    """K workers in turn: forward up the chain, backward down the chain, one batch at a time.

    Breaks no locking, and every gap is 0. A module updates as soon as it has its own gradient,
    while those below it still go backward: only the update of module 1 stands in the way of the
    next batch, unless others are so long that they are not done when it arrives. N batches take
    what `gpipe` takes with one micro-batch: N times the forward and backward time of the network
    and the update time of module 1, if even.

    >>> from simcore.timetable import timetable
    >>> print(timetable(bp_mp(modules=2, batches=2)))
              0     1     2     3     4   5     6     7     8     9
    module 1  F1:0  .     .     B1:0  U1  F1:1  .     .     B1:1  U1
    module 2  .     F2:0  B2:0  U2    .   .     F2:1  B2:1  U2    .
    """
    chain = Chain.of(modules)

    def module(k: int) -> Program:
        yield from alternating(chain, k, window=1, batches=batches, per_update=1)

    return Schedule(
        blocks=modules,
        batches=batches,
        workers=chain.workers(module),
        weights=WeightRules(policy=weights),
    )


@register(
    "gpipe",
    title="GPipe: micro-batches, all forward, all backward, flush",
    source="Huang et al. 2019, section 2.2",
    lockings_broken="none",
    gap="0",
    memory="m graphs of micro-batches",
    compositions=("recompute", "global_norm", "replicas", "loaders"),
    rows=(6, -1),
)
def gpipe(
    modules: int = 4,
    batches: int = 100,
    micro_batches: int | None = None,
    weights: Policy = "stash",
) -> Schedule:
    """All m micro-batches of a mini-batch go forward, then all backward, then the modules update.

    Breaks no locking, and every gap is 0. Micro-batches go backward in the order in which they went
    forward, as in PyTorch and Megatron-LM; the paper draws the reverse, which takes as long if
    modules are even. It also runs forward passes again: that is `recompute=true`. With f, b the
    times of a micro-batch in a module, u of its update, even modules and free links, N
    mini-batches take

        N ((m + K - 1) (f + b) + u),

    of which the bubble is (K - 1) / (m + K - 1) for u = 0. For any modules and latencies: with
    F_j the sum of f and of the latencies from module j up, and m - 1 times the largest f from j up,
    and B_j the same of b, they take

        F_1 + (N - 1) max over j of (F_j + B_j + u_j) + max over j of (B_j + u_j).

    >>> from simcore.timetable import timetable
    >>> print(timetable(gpipe(modules=3, batches=1), update=0))
              0     1     2     3     4     5     6     7     8     9
    module 1  F1:0  F1:1  F1:2  .     .     .     .     B1:0  B1:1  B1:2
    module 2  .     F2:0  F2:1  F2:2  .     .     B2:0  B2:1  B2:2  .
    module 3  .     .     F3:0  F3:1  F3:2  B3:0  B3:1  B3:2  .     .
    """
    parts = micro_batches or modules
    chain = Chain.of(modules)

    def module(k: int) -> Program:
        for _ in steps(batches):
            yield from alternating(chain, k, window=parts, batches=parts, per_update=parts)

    return Schedule(
        blocks=modules,
        batches=batches * parts,
        workers=chain.workers(module),
        weights=WeightRules(policy=weights),
        micro_batches=parts,
    )


@register(
    "1f1b",
    title="1F1B with flush",
    source="PipeDream-Flush, Narayanan et al. 2021 (Memory-Efficient), section 3.2",
    lockings_broken="none",
    gap="0",
    memory="min(m, K-k+1) graphs of micro-batches",
    compositions=("recompute", "global_norm", "replicas", "loaders"),
    rows=(6, -1),
)
def one_f_one_b(
    modules: int = 4,
    batches: int = 100,
    micro_batches: int | None = None,
    in_flight: InFlight = None,
    weights: Policy = "stash",
) -> Schedule:
    """As `gpipe`, but a module goes backward as soon as its window is full: fewer graphs at once.

    Breaks no locking, and every gap is 0. Module k holds min(m, w_k) graphs, w_k = K-k+1 in the
    paper; windows (`in_flight`) must not grow with k. With free links and the paper's windows it is
    never slower than `gpipe`, and as fast for even modules. A mini-batch takes at most the sum of
    f + b over all modules and m - 1 times the largest f + b, and that exactly if the last module is
    the slowest. Latency costs more than in `gpipe` from m = 3 on, as a full window waits for it.

    >>> from simcore.timetable import timetable
    >>> print(timetable(one_f_one_b(modules=3, batches=1), update=0))
              0     1     2     3     4     5     6     7     8     9
    module 1  F1:0  F1:1  F1:2  .     .     B1:0  .     B1:1  .     B1:2
    module 2  .     F2:0  F2:1  .     B2:0  F2:2  B2:1  .     B2:2  .
    module 3  .     .     F3:0  B3:0  F3:1  B3:1  F3:2  B3:2  .     .
    """
    parts = micro_batches or modules
    own = windows(modules, in_flight)
    refuse_growing(own)
    chain = Chain.of(modules)

    def module(k: int) -> Program:
        for _ in steps(batches):
            yield from alternating(chain, k, own[k - 1], batches=parts, per_update=parts)

    return Schedule(
        blocks=modules,
        batches=batches * parts,
        workers=chain.workers(module),
        weights=WeightRules(policy=weights),
        micro_batches=parts,
    )
