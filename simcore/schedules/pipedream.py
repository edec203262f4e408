"""Pipelines that are never flushed: PipeDream, PipeDream-2BW, and PipeDream as it comes."""

from simcore.errors import InputError
from simcore.ops import Program, Select, Update
from simcore.registry import register
from simcore.schedule import Policy, Schedule, WeightRules
from simcore.schedules.chain import Chain
from simcore.schedules.windows import InFlight, alternating, refuse_growing, windows
from simcore.steps import steps

__all__ = ["async_1f1b", "pipedream", "pipedream_2bw"]


@register(
    "pipedream",
    title="PipeDream: 1F1B without flush, weight stashing",
    source="Narayanan et al. 2019, section 3",
    lockings_broken="forward, backward, update",
    gap="K-k; w - 1 for a window of w batches in flight",
    memory="K-k+1 graphs and versions of the weights",
    compositions=("recompute", "replicas", "loaders"),
    rows=(6, -1),
)
def pipedream(
    modules: int = 4, batches: int = 100, in_flight: InFlight = None, weights: Policy = "stash"
) -> Schedule:
    """Each module alternates one forward and one backward pass, and updates after the latter.

    Breaks the forward, backward and update locking. Module k first takes w_k batches, its window
    (`in_flight`, K-k+1 in the paper). Each batch t >= w_k - 1 has gap w_k - 1, whatever the times;
    batch t before that has gap t. Gradients are sent before the update.

    Seconds per batch in steady state: the slowest loop up from module j to l and back, which the
    windows let turn w_j - w_l + 1 times at once,

        max over j <= l of (sum over j..l of (forward + backward) + update of j
                            + latencies between j and l, both ways) / (w_j - w_l + 1),

    for any times, links without bandwidth or work, and legal windows: w must not grow with k, or
    the pipeline waits for ever. With the paper's windows and free links that is the slowest module,
    max over k of forward + backward + update, however uneven they are. With even modules latency
    costs nothing up to half an update: what hides more of it is a larger step between the windows.

    >>> from simcore.timetable import timetable
    >>> print(timetable(pipedream(modules=2, batches=4)))
              0     1     2     3     4     5     6     7     8     9     10    11    12    13
    module 1  F1:0  F1:1  .     B1:0  U1    F1:2  B1:1  U1    F1:3  B1:2  U1    .     B1:3  U1
    module 2  .     F2:0  B2:0  U2    F2:1  B2:1  U2    F2:2  B2:2  U2    F2:3  B2:3  U2    .
    """
    own = windows(modules, in_flight)
    refuse_growing(own)
    chain = Chain.of(modules)

    def module(k: int) -> Program:
        yield from alternating(chain, k, own[k - 1], batches, per_update=1)

    return Schedule(
        blocks=modules,
        batches=batches,
        workers=chain.workers(module),
        weights=WeightRules(policy=weights),
    )


@register(
    "async-1f1b",
    title="1F1B as it comes: whichever is there, gradients first",
    source="PipeDream's order, without its static assignment and its stashing",
    lockings_broken="forward, backward, update",
    gap="by the times; at most w - 1 for a window of w batches in flight",
    memory="at most K-k+1 graphs",
    compositions=("recompute", "replicas", "loaders"),
    rows=(6, -1),
)
def async_1f1b(
    modules: int = 4, batches: int = 100, in_flight: InFlight = None, weights: Policy = "mixed"
) -> Schedule:
    """A module takes a waiting gradient, else a batch if its window has room, else what comes.

    Breaks the forward, backward and update locking. As no order is fixed, any windows are legal,
    and a late message does not hold up what could be done. No module holds more batches than the
    one before it. Every gap is at most w_k - 1, and 0 in the last module, which goes backward at
    once, whatever its window. A batch takes at least the time of the slowest module, and at least
    the way up and down again of one batch, with its update in module 1, divided by w_1. Recomputing
    needs `weights=stash`: those that it finds in place may have changed.

    >>> from simcore.timetable import timetable
    >>> print(timetable(async_1f1b(modules=2, batches=4)))
              0     1     2     3     4     5     6     7     8     9     10    11    12    13
    module 1  F1:0  F1:1  .     B1:0  U1    F1:2  B1:1  U1    F1:3  B1:2  U1    .     B1:3  U1
    module 2  .     F2:0  B2:0  U2    F2:1  B2:1  U2    F2:2  B2:2  U2    F2:3  B2:3  U2    .
    """
    own = (*windows(modules, in_flight)[:-1], 1)
    chain = Chain.of(modules)

    def module(k: int) -> Program:
        forwards = 0
        for step in steps(2 * batches):
            has_room = forwards < batches and 2 * forwards - step < own[k - 1]
            waiting = (chain.gradients[k], *([chain.activations[k]] if has_room else []))
            channel, batch = yield Select(waiting)
            if channel is chain.gradients[k]:
                yield from chain.backward_of(k, batch)
                yield Update(k)
            else:
                forwards += 1
                yield from chain.forward_of(k, batch)

    return Schedule(
        blocks=modules,
        batches=batches,
        workers=chain.workers(module),
        weights=WeightRules(policy=weights),
    )


@register(
    "pipedream-2bw",
    title="PipeDream-2BW: double-buffered weights",
    source="Narayanan et al. 2021 (Memory-Efficient), section 3.1",
    lockings_broken="forward, backward, update",
    gap="1",
    memory="K-k+1 graphs of micro-batches, 2 versions of the weights",
    compositions=("recompute", "replicas", "loaders"),
    rows=(6, -1),
)
def pipedream_2bw(
    modules: int = 4, batches: int = 100, micro_batches: int | None = None
) -> Schedule:
    """1F1B over micro-batches without flush, an update for each m of them, two versions of weights.

    Breaks the forward, backward and update locking. Mini-batch t of m >= K micro-batches is
    computed with the weights that mini-batches up to t - 2 have updated, in all modules alike: the
    gap is 1, and 0 for the first, whatever the times. Gradients are sent before the update.

    With free links and even modules a mini-batch takes m (f + b) + u in steady state. With uneven
    ones, c = f + b, the slowest way from an update of module l to its next one, by the module i
    where it stays longest:

        max over l of u_l + max(max over i >= l of c_l + ... + c_(i-1) + (m - (i-l)) c_i,
                                max over i < l  of 2 c_l + c_(l-1) + ... + c_(i+1)
                                                   + (m - (l-i) - 1) c_i, for l - i <= m - 2).

    >>> from simcore.timetable import timetable
    >>> print(timetable(pipedream_2bw(modules=2, batches=2)))
              0     1     2     3     4     5     6   7     8     9     10    11    12  13
    module 1  F1:0  F1:1  .     B1:0  F1:2  B1:1  U1  U1    F1:3  B1:2  .     B1:3  U1  U1
    module 2  .     F2:0  B2:0  F2:1  B2:1  U2    U2  F2:2  B2:2  F2:3  B2:3  U2    U2  .
    """
    parts = micro_batches or modules
    if parts < modules:
        raise InputError(
            "micro_batches",
            parts,
            f"must be at least the {modules} modules, as the paper asks",
            "give more micro-batches or fewer modules",
        )
    own = windows(modules, None)
    chain = Chain.of(modules)

    def module(k: int) -> Program:
        yield from alternating(chain, k, own[k - 1], batches * parts, per_update=parts)

    return Schedule(
        blocks=modules,
        batches=batches * parts,
        workers=chain.workers(module),
        weights=WeightRules(buffer=parts),
        micro_batches=parts,
    )
