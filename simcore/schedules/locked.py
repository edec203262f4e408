"""Backward passes in parallel behind a locked forward pass: DDG and features replay (Huo 2018)."""

from simcore.ops import Forward, Group, Join, Play, Program, Receive, Replay, Send, Update
from simcore.registry import register
from simcore.schedule import Policy, Schedule, WeightRules
from simcore.schedules.chain import Chain
from simcore.steps import steps

__all__ = ["ddg", "fr"]


@register(
    "ddg",
    title="decoupled parallel backpropagation with delayed gradients",
    source="Huo et al. 2018 (ICML), Algorithm 1",
    lockings_broken="backward",
    gap="K-k",
    memory="K-k+1 graphs and versions of the weights",
    compositions=("recompute", "replicas", "loaders"),
    rows=(8, -1),
)
def ddg(modules: int = 4, batches: int = 100, weights: Policy = "stash") -> Schedule:
    """A batch goes forward through all modules in turn; then all go backward at once.

    Breaks the backward locking only. In iteration t module k takes the gradient of batch
    t - (K-k), which the module above has computed an iteration before, and updates at once; the
    next forward pass starts when all have done so. Batch t >= K-k has gap K-k, in batches and in
    versions, whatever the times; batch t < K-k has gap t.

    With free links an iteration takes T and the longest (backward + update) of a module, where T is
    the forward time of the network: T + (beta T + U)/K for even modules. That is exact for any
    split, from iteration K-1 on. Latency costs the K-1 hops of the forward pass; that of the
    gradients is hidden behind them. After the last forward pass nobody waits for all others.

    >>> from simcore.timetable import timetable
    >>> print(timetable(ddg(modules=3, batches=3), update=0))
              0     1     2     3     4     5     6     7     8     9     10    11    12    13
    module 1  F1:0  .     .     .     F1:1  .     .     .     F1:2  .     .     B1:0  B1:1  B1:2
    module 2  .     F2:0  .     .     .     F2:1  .     B2:0  .     F2:2  .     B2:1  B2:2  .
    module 3  .     .     F3:0  B3:0  .     .     F3:1  B3:1  .     .     F3:2  B3:2  .     .
    """
    chain, chorus = Chain.of(modules), Group("all modules")

    def module(k: int) -> Program:
        lag = modules - k
        for step in steps(batches + lag):
            if step < batches:
                yield from chain.forward(k)
                yield Join(chorus)
            if step >= lag:
                yield from chain.backward(k)
                yield Update(k)
            if step < batches - 1:
                yield Join(chorus)

    return Schedule(
        blocks=modules,
        batches=batches,
        workers=chain.workers(module, (chorus,)),
        weights=WeightRules(policy=weights),
    )


@register(
    "fr",
    title="features replay",
    source="Huo et al. 2018 (NeurIPS), Algorithm 1",
    lockings_broken="backward",
    gap="0 from the replay; K-k from the first pass",
    memory="K-k+1 inputs (none if k = K), 1 graph",
    compositions=("replicas", "loaders"),
    rows=(9, -2),
)
def fr(modules: int = 4, batches: int = 100) -> Schedule:
    """As `ddg`, but without graphs: a module replays the input of its batch with current weights.

    Breaks the backward locking only. The gap from the replay is 0; between the first forward pass
    and the update are K-k updates, or t for batch t < K-k. The last module takes the batch that has
    just come up, with the same weights: it has nothing to replay, and keeps the graph.

    With free links an iteration takes T and the longest of (forward + backward + update) of all
    modules but the last, and (backward + update) of the last. For even modules that is
    T + (T + beta T + U)/K from K = 2 on; one module alone takes T + beta T + U.

    >>> from simcore.timetable import timetable
    >>> print(timetable(fr(modules=2, batches=3), update=0))
              0     1     2     3     4     5     6     7     8     9     10    11    12
    module 1  F1:0  .     .     F1:1  .     R1:0  B1:0  F1:2  .     R1:1  B1:1  R1:2  B1:2
    module 2  .     F2:0  B2:0  .     F2:1  B2:1  .     .     F2:2  B2:2  .     .     .
    """
    chain, chorus = Chain.of(modules), Group("all modules")

    def module(k: int) -> Program:
        lag = modules - k
        for step in steps(batches + lag):
            if step < batches:
                batch = yield Receive(chain.activations[k])
                yield Play(k, batch) if k < modules else Forward(k, batch)
                yield Send(chain.activations[k + 1], batch)
                yield Join(chorus)
            if step >= lag:
                batch = yield Receive(chain.gradients[k])
                if k < modules:
                    yield Replay(k, batch)
                yield from chain.backward_of(k, batch)
                yield Update(k)
            if step < batches - 1:
                yield Join(chorus)

    return Schedule(
        blocks=modules,
        batches=batches,
        workers=chain.workers(module, (chorus,)),
        weights=WeightRules(policy="replay"),
    )
