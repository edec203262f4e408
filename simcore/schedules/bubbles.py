"""Flushed pipelines with smaller bubbles: interleaved 1F1B and ZB-H1."""

from collections import deque
from functools import partial

from simcore.errors import InputError
from simcore.ops import BackwardInput, BackwardWeight, Program, Receive, Send, Update, Worker
from simcore.registry import register
from simcore.schedule import Policy, Schedule, WeightRules
from simcore.schedules.chain import Chain
from simcore.steps import steps

__all__ = ["interleaved_1f1b", "zb_h1"]


@register(
    "interleaved-1f1b",
    title="interleaved 1F1B: several blocks for each worker",
    source="Narayanan et al. 2021 (Megatron-LM), section 2.2.2",
    lockings_broken="none",
    gap="0",
    memory="min(V m, 2(K-k) + (V-1)K + 1) graphs of micro-batches, each of one of V blocks",
    compositions=("recompute", "global_norm", "replicas", "loaders"),
    rows=(6, -1),
)
def interleaved_1f1b(
    modules: int = 4,
    batches: int = 100,
    micro_batches: int | None = None,
    chunks: int = 2,
    weights: Policy = "stash",
) -> Schedule:
    """1F1B where worker k has the blocks k, K + k, 2K + k, ...: `chunks` V of them, K workers.

    Breaks no locking, and every gap is 0. The order is Megatron-LM's, which needs a multiple of K
    micro-batches: groups of K go through a worker's blocks in turn; the first backward pass follows
    on 2(K-k) + (V-1)K + 1 forward passes, of single blocks. With f, b the times of a micro-batch in
    one block, even blocks and free links, a mini-batch takes

        (V m + K - 1) (f + b) + V u:

    the bubble is (K - 1) / (V m), as published, of the time that the computations take. Worker 1
    holds V K + K - 1 graphs if m > K, which take 1 + (K - 1) / (V K) times the memory of `1f1b`.

    >>> from simcore.timetable import timetable
    >>> print(timetable(interleaved_1f1b(modules=2, batches=1), update=0))
              0     1     2     3     4     5     6     7     8     9
    worker 1  F1:0  F1:1  F3:0  F3:1  .     B3:0  .     B3:1  B1:0  B1:1
    worker 2  .     F2:0  F2:1  F4:0  B4:0  F4:1  B4:1  B2:0  B2:1  .
    """
    parts = micro_batches or modules
    if parts % modules:
        raise InputError(
            "micro_batches",
            parts,
            f"must be a multiple of the {modules} modules",
            f"give one such as {2 * modules}",
        )
    chain = Chain.of(modules * chunks)
    passes = parts * chunks

    def chunk(step: int) -> int:
        return step % (modules * chunks) // modules

    def worker(k: int) -> Program:
        lag = min(2 * (modules - k) + (chunks - 1) * modules, passes)
        for _ in steps(batches):
            for step in steps(passes + lag):
                if step < passes:
                    yield from chain.forward(chunk(step) * modules + k)
                if step >= lag:
                    yield from chain.backward((chunks - 1 - chunk(step - lag)) * modules + k)
            for above in steps(chunks):
                yield Update(above * modules + k)

    def worker_of(k: int) -> Worker:
        blocks = tuple(range(k, modules * chunks + 1, modules))
        sends = tuple(channel for block in blocks for channel in chain.sends(block))
        receives = tuple(channel for block in blocks for channel in chain.receives(block))
        return Worker(f"worker {k}", partial(worker, k), blocks, sends, receives)

    return Schedule(
        blocks=modules * chunks,
        batches=batches * parts,
        workers=tuple(worker_of(k) for k in range(1, modules + 1)),
        weights=WeightRules(policy=weights),
        micro_batches=parts,
    )


@register(
    "zb-h1",
    title="ZB-H1: backward passes in two halves, the second put off",
    source="Qi et al. 2023, section 2.1",
    lockings_broken="none",
    gap="0",
    memory="min(m, K) graphs of micro-batches, at most k-1 of them for the weight gradient alone",
    compositions=("recompute", "global_norm", "replicas", "loaders"),
    rows=(7, -1),
)
def zb_h1(
    modules: int = 4,
    batches: int = 100,
    micro_batches: int | None = None,
    weights: Policy = "stash",
) -> Schedule:
    """1F1B where a module first does the half of a backward pass that the one below waits for.

    Breaks no locking, and every gap is 0. The other half, for the weights, comes k - 1
    micro-batches later, so that every module holds min(m, K) graphs, as the first one in `1f1b`.
    With F, B, W the times of a micro-batch in a module forward and in the two halves, even modules,
    free links and m >= K, a mini-batch takes

        m (F + B + W) + (K - 1) max(F, B, F + B - W) + u.

    Published is F + B - W for the maximum, which is right if W is no longer than F and than B. With
    fewer micro-batches than modules there are too few W to fill the bubble.

    >>> from simcore.timetable import timetable
    >>> print(timetable(zb_h1(modules=3, batches=1), backward=2, update=0))
              0     1     2     3     4     5     6     7     8     9     10
    module 1  F1:0  F1:1  F1:2  .     .     I1:0  W1:0  I1:1  W1:1  I1:2  W1:2
    module 2  .     F2:0  F2:1  .     I2:0  F2:2  I2:1  W2:0  I2:2  W2:1  W2:2
    module 3  .     .     F3:0  I3:0  F3:1  I3:1  F3:2  I3:2  W3:0  W3:1  W3:2
    """
    parts = micro_batches or modules
    chain = Chain.of(modules)

    def module(k: int) -> Program:
        lag, late = modules - k, modules - 1
        halved: deque[int] = deque()
        for _ in steps(batches):
            for step in steps(parts + late):
                if step < parts:
                    yield from chain.forward(k)
                if lag <= step < parts + lag:
                    batch = yield Receive(chain.gradients[k])
                    yield BackwardInput(k, batch)
                    if k > 1:
                        yield Send(chain.gradients[k - 1], batch)
                    halved.append(batch)
                if step >= late:
                    yield BackwardWeight(k, halved.popleft())
            yield Update(k)

    return Schedule(
        blocks=modules,
        batches=batches * parts,
        workers=chain.workers(module),
        weights=WeightRules(policy=weights),
        micro_batches=parts,
        split_backward=True,
    )
