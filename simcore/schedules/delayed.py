"""Delayed gradients: FDG (Zhuang et al. 2019) and ADL (Zhuang et al. 2020)."""

from functools import partial
from typing import Literal

from simcore.ops import Backward, Program, Receive, Send, Update, Worker
from simcore.registry import register
from simcore.schedule import Policy, Schedule, WeightRules
from simcore.schedules.chain import Chain
from simcore.steps import steps

__all__ = ["adl", "fdg"]


@register(
    "fdg",
    title="fully decoupled learning with delayed gradients",
    source="FDG, Algorithm I",
    lockings_broken="forward, backward, update",
    gap="max(0, 2(K-k) - 1)",
    memory="2(K-k) + 1 graphs",
    compositions=("recompute", "replicas", "loaders"),
    rows=(6, -1),
)
def fdg(
    modules: int = 4, batches: int = 100, shrink: float = 1.0, weights: Policy = "stash"
) -> Schedule:
    """Each module applies the gradient of batch t - 2(K-k), then takes its next batch forward.

    Breaks the forward, backward and update locking. The listing updates *before* it goes forward:
    the version that batch t reads already holds the gradient of batch t - 2(K-k), so the gap
    counted in versions is max(0, 2(K-k) - 1), one less than the 2(K-k) *batches* of the paper's
    equation 6. The gap holds for every batch from 2(K-k) on, whatever the times; batch
    t < 2(K-k) has gap t. A gradient is multiplied by `shrink` at each hop (equation 7).

    With free links a batch takes the largest (forward + backward + update) of all modules in
    steady state, however uneven they are. Latency is hardly hidden: even modules of c seconds take
    c + latency, as the listing sends a gradient only after its update.

    >>> from simcore.timetable import timetable
    >>> print(timetable(fdg(modules=2, batches=4)))
              0     1     2     3   4     5     6     7     8     9     10    11    12  13    14
    module 1  F1:0  F1:1  .     .   B1:0  U1    F1:2  B1:1  U1    F1:3  B1:2  U1    .   B1:3  U1
    module 2  .     F2:0  B2:0  U2  F2:1  B2:1  U2    F2:2  B2:2  U2    F2:3  B2:3  U2  .     .
    """
    chain = Chain.of(modules)

    def module(k: int) -> Program:
        lag = max(1, 2 * (modules - k))
        for step in steps(batches + lag):
            if step >= lag:
                batch = yield Receive(chain.gradients[k])
                yield Backward(k, batch)
                yield Update(k)
                if k > 1:
                    yield Send(chain.gradients[k - 1], batch)
            if step < batches:
                yield from chain.forward(k)

    return Schedule(
        name="fdg",
        options={"modules": modules, "batches": batches, "shrink": shrink, "weights": weights},
        blocks=modules,
        batches=batches,
        workers=tuple(
            Worker(f"module {k}", partial(module, k), (k,), chain.sends(k), chain.receives(k))
            for k in range(1, modules + 1)
        ),
        weights=WeightRules(policy=weights, shrink=shrink),
    )


@register(
    "adl",
    title="accumulated decoupled learning",
    source="ADL, Algorithm 1",
    lockings_broken="forward, backward, update",
    gap="s - floor((Ms + j - 2(K-k)) / M), mean 2(K-k) / M",
    memory="2(K-k) + 1 graphs",
    per_update="M",
    compositions=("recompute", "replicas", "loaders"),
    rows=(6, -1),
)
def adl(
    modules: int = 4,
    batches: int = 100,
    accumulation: int = 1,
    order: Literal["forward-first", "update-first"] = "forward-first",
    reduce: Literal["mean", "sum"] = "mean",
    window: Literal["batch", "gradient"] = "batch",
    weights: Policy = "stash",
) -> Schedule:
    """As FDG's pipeline, but forward first, and M gradients are accumulated for each update.

    Breaks the forward, backward and update locking. In steady state the gap of the j-th gradient
    of update s is s - floor((Ms + j - 2(K-k)) / M) (equation 17), within 0..2(K-k), with mean
    2(K-k)/M over j; it holds for `order=forward-first`, whatever the times. `update-first`, the
    order of the released code, is FDG's: the pass through the module that follows an update sees
    it, and at M = 1 the gap is max(0, 2(K-k) - 1).

    `window=batch` closes a window of M iterations by the batch index, as the paper (the first
    window of a module may then hold fewer than M gradients, or none and no update);
    `window=gradient` counts from the module's first gradient, as the released code. A window with
    fewer gradients, the first or the last, has its own count as divisor.

    With free links and even modules a batch takes (forward + backward + update / M) of a module in
    steady state; uneven updates can cost more from M = 3 on.

    >>> from simcore.timetable import timetable
    >>> print(timetable(adl(modules=2, batches=4, accumulation=2)))
              0     1     2     3     4     5     6     7     8     9     10    11
    module 1  F1:0  F1:1  F1:2  B1:0  F1:3  B1:1  U1    .     B1:2  .     B1:3  U1
    module 2  .     F2:0  B2:0  F2:1  B2:1  U2    F2:2  B2:2  F2:3  B2:3  U2    .
    """
    chain = Chain.of(modules)

    def module(k: int) -> Program:
        delay = 2 * (modules - k)
        lag = max(1, delay) if order == "update-first" else delay
        before = delay if window == "batch" else 0

        def backward(step: int) -> Program:
            batch = yield Receive(chain.gradients[k])
            yield Backward(k, batch)
            if k > 1:
                yield Send(chain.gradients[k - 1], batch)
            gradients = step - lag + 1
            if (gradients + before) % accumulation == 0 or gradients == batches:
                yield Update(k)

        for step in steps(batches + lag):
            if order == "update-first" and step >= lag:
                yield from backward(step)
            if step < batches:
                yield from chain.forward(k)
            if order == "forward-first" and step >= lag:
                yield from backward(step)

    return Schedule(
        name="adl",
        options={
            "modules": modules,
            "batches": batches,
            "accumulation": accumulation,
            "order": order,
            "reduce": reduce,
            "window": window,
            "weights": weights,
        },
        blocks=modules,
        batches=batches,
        workers=tuple(
            Worker(f"module {k}", partial(module, k), (k,), chain.sends(k), chain.receives(k))
            for k in range(1, modules + 1)
        ),
        weights=WeightRules(policy=weights, reduce=reduce),
        batches_per_update=accumulation,
    )
