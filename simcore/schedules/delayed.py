"""Delayed gradients: FDG (Zhuang et al. 2019), ADL (Zhuang et al. 2020), DSP (Xu et al. 2020)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from simcore.errors import InputError
from simcore.ops import (
    Backward,
    Forward,
    Group,
    Join,
    Play,
    Program,
    Receive,
    Replay,
    Send,
    Update,
)
from simcore.registry import register
from simcore.schedule import Policy, Schedule, WeightRules
from simcore.schedules.chain import Chain
from simcore.schedules.windows import InFlight, refuse_growing, windows
from simcore.steps import steps

__all__ = ["adl", "dsp", "fdg"]


@register(
    "fdg",
    title="fully decoupled learning with delayed gradients",
    source="FDG, Algorithm I",
    lockings_broken="forward, backward, update",
    gap="max(0, 2(K-k) - 1)",
    memory="max(1, 2(K-k)) graphs and versions of the weights",
    compositions=("recompute", "replicas", "loaders"),
    rows=(6, -1),
)
def fdg(
    modules: int = 4,
    batches: int = 100,
    shrink: float = 1.0,
    lockstep: bool = False,
    weights: Policy = "stash",
) -> Schedule:
    """Each module applies the gradient of batch t - 2(K-k), then takes its next batch forward.

    Breaks the forward, backward and update locking. The listing updates *before* it goes forward:
    the version that batch t reads already holds the gradient of batch t - 2(K-k), so the gap
    counted in versions is max(0, 2(K-k) - 1), one less than the 2(K-k) *batches* of the paper's
    equation 6. The gap holds for every batch from 2(K-k) on, whatever the times; batch
    t < 2(K-k) has gap t. A gradient is multiplied by `shrink` at each hop (equation 7).

    With free links a batch takes the largest (forward + backward + update) of all modules in
    steady state, however uneven they are. Latency is hardly hidden: with even modules of c seconds
    a batch takes max(c, c - update / 2 + latency). Modules send their gradient after their update;
    the last one, which updates at the start of its next iteration, sends it before.

    `lockstep` is the clock of the paper: at clock t module k takes the gradient of batch
    t - 2K + k + 1 and then batch t - k + 1 forward, and all modules wait for each other. Gaps stay.
    With free links each of the N + 2K - 2 clocks takes as long as its slowest module.

    >>> from simcore.timetable import timetable
    >>> print(timetable(fdg(modules=2, batches=4)))
              0     1     2     3     4     5     6     7     8     9     10    11    12    13
    module 1  F1:0  F1:1  .     B1:0  U1    F1:2  B1:1  U1    F1:3  B1:2  U1    .     B1:3  U1
    module 2  .     F2:0  B2:0  U2    F2:1  B2:1  U2    F2:2  B2:2  U2    F2:3  B2:3  U2    .
    """
    chain, clocks = Chain.of(modules), _clocks(lockstep)

    def backward(k: int, step: int) -> Program:
        batch = yield Receive(chain.gradients[k])
        yield Backward(k, batch)
        if k < modules:
            yield Update(k)
        if k > 1:
            yield Send(chain.gradients[k - 1], batch)
        if k == modules:
            yield Update(k)  # the first thing that it does in its next iteration

    def module(k: int) -> Program:
        halves = partial(chain.forward, k), partial(backward, k)
        # The last module's gradient is there at once, so that it goes forward first.
        yield from _iterations(k, batches, 2 * (modules - k), *halves, k == modules, clocks)

    return Schedule(
        blocks=modules,
        batches=batches,
        workers=chain.workers(module, clocks),
        weights=WeightRules(policy=weights, shrink=shrink),
    )


@register(
    "adl",
    title="accumulated decoupled learning",
    source="ADL, Algorithm 1",
    lockings_broken="forward, backward, update",
    gap="s - floor((Ms + j - 2(K-k)) / M), mean 2(K-k) / M",
    memory="2(K-k) + 1 graphs, ceil(2(K-k) / M) + 1 versions of the weights",
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
    lockstep: bool = False,
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
    steady state; uneven updates can cost more from M = 3 on, and with `order=update-first` and
    `window=batch` even ones do. `lockstep` is as in `fdg`, with the halves of an iteration in the
    order of ADL: as the windows of different modules end in different clocks, even modules then
    take forward + backward + update min(K, M) / M.

    >>> from simcore.timetable import timetable
    >>> print(timetable(adl(modules=2, batches=4, accumulation=2)))
              0     1     2     3     4     5     6     7     8     9     10    11
    module 1  F1:0  F1:1  F1:2  B1:0  F1:3  B1:1  U1    .     B1:2  .     B1:3  U1
    module 2  .     F2:0  B2:0  F2:1  B2:1  U2    F2:2  B2:2  F2:3  B2:3  U2    .
    """
    chain, clocks = Chain.of(modules), _clocks(lockstep)

    def backward(k: int, step: int) -> Program:
        before = 2 * (modules - k) if window == "batch" else 0
        yield from chain.backward(k)
        if (step + 1 + before) % accumulation == 0 or step + 1 == batches:
            yield Update(k)

    def module(k: int) -> Program:
        halves = partial(chain.forward, k), partial(backward, k)
        forward_first = order == "forward-first" or k == modules
        yield from _iterations(k, batches, 2 * (modules - k), *halves, forward_first, clocks)

    return Schedule(
        blocks=modules,
        batches=batches,
        workers=chain.workers(module, clocks),
        weights=WeightRules(policy=weights, reduce=reduce),
        batches_per_update=accumulation,
    )


@register(
    "dsp",
    title="diversely stale parameters",
    source="Xu et al. 2020 (CVPR)",
    lockings_broken="forward, backward, update",
    gap="0 from the replay; max(0, 2(K-k) - 1) from the first pass, or w - 1 for a window of w",
    memory="2(K-k) inputs, 1 graph",
    compositions=("replicas", "loaders"),
    rows=(7, -2),
)
def dsp(
    modules: int = 4, batches: int = 100, in_flight: InFlight = None, lockstep: bool = False
) -> Schedule:
    """FDG's pipeline, but a module keeps its inputs and replays them with its current weights.

    Breaks the forward, backward and update locking. A gradient is computed with the weights that it
    is applied to: the gap from the replay is 0. Between the first forward pass and the update are
    max(0, 2(K-k) - 1) updates, as in FDG. The paper's layer-wise staleness, 2(K-k), counts batches.
    The last module computes its gradient at once: it has nothing to replay.

    `in_flight` gives module k another window w_k: the most batches that it holds. The first forward
    pass of batch t is then min(t, w_k - 1) updates old. A last module with a window above 1 replays
    its batches, too.

    Seconds per batch in steady state, with c = replay + forward + backward + update of a module:
    the slowest loop up from module j to l and back, which the windows let turn w_j - w_l + 1 times
    at once,

        max over j <= l of (sum over j..l of c + latencies between j and l, both ways)
                           / (w_j - w_l + 1),

    for any times, links without bandwidth or work, and windows that do not grow with k. For those
    of the paper and free links that is the largest c, which is 2 forward + backward + update in all
    modules but the last, however uneven they are. `lockstep` is as in `fdg`.

    >>> from simcore.timetable import timetable
    >>> print(timetable(dsp(modules=2, batches=3), update=0))
              0     1     2     3     4     5     6     7     8     9
    module 1  F1:0  F1:1  .     R1:0  B1:0  F1:2  R1:1  B1:1  R1:2  B1:2
    module 2  .     F2:0  B2:0  F2:1  B2:1  .     F2:2  B2:2  .     .
    """
    own: Sequence[int] = (*range(2 * modules - 2, 1, -2), 1)
    if in_flight is not None:
        own = windows(modules, in_flight)
    refuse_growing(own)
    if lockstep and in_flight is not None:
        rule = "is the clock of the windows of the paper"
        raise InputError("lockstep", "true", rule, "leave out in_flight")
    chain, clocks = Chain.of(modules), _clocks(lockstep)

    def replays(k: int) -> bool:
        return k < modules or own[-1] > 1

    def forward(k: int) -> Program:
        batch = yield Receive(chain.activations[k])
        yield Play(k, batch) if replays(k) else Forward(k, batch)
        yield Send(chain.activations[k + 1], batch)

    def backward(k: int, step: int) -> Program:
        batch = yield Receive(chain.gradients[k])
        if replays(k):
            yield Replay(k, batch)
        yield Backward(k, batch)
        yield Update(k)
        if k > 1:
            yield Send(chain.gradients[k - 1], batch)

    def module(k: int) -> Program:
        halves = partial(forward, k), partial(backward, k)
        lag = own[k - 1] - (k == modules)
        yield from _iterations(k, batches, lag, *halves, k == modules, clocks)

    return Schedule(
        blocks=modules,
        batches=batches,
        workers=chain.workers(module, clocks),
        weights=WeightRules(policy="replay"),
    )


def _clocks(lockstep: bool) -> tuple[Group, ...]:
    return (Group("clock"),) if lockstep else ()


def _join(groups: tuple[Group, ...]) -> Program:
    for group in groups:
        yield Join(group)


def _iterations(
    k: int,
    batches: int,
    lag: int,
    forward: Callable[[], Program],
    backward: Callable[[int], Program],
    forward_first: bool,
    clocks: tuple[Group, ...],
) -> Program:
    """Module k, whose step s takes batch s forward and batch s - lag backward.

    In lock-step, which is for a lag of 2(K-k), step s is at clock s + k - 1 of all modules: a batch
    goes up one module each clock, is turned round at once in the last, and comes down likewise.
    """
    for _ in steps(k - 1 if clocks else 0):
        yield from _join(clocks)
    for step in steps(batches + lag):
        if step >= lag and not forward_first:
            yield from backward(step - lag)
        if step < batches:
            yield from forward()
        if step >= lag and forward_first:
            yield from backward(step - lag)
        yield from _join(clocks)
    for _ in steps(k - 1 if clocks else 0):
        yield from _join(clocks)
