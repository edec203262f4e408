"""Gradients of the modules' own: DGL (Belilovsky et al. 2019) and DNI (Jaderberg et al. 2017)."""

from functools import partial

from simcore.ops import (
    Backward,
    BackwardStop,
    Estimate,
    Forward,
    Program,
    Receive,
    Refine,
    Send,
    Synthesize,
    Update,
    Worker,
)
from simcore.registry import register
from simcore.schedule import Schedule, WeightRules
from simcore.schedules.chain import Chain
from simcore.steps import steps

__all__ = ["dgl", "dni"]


@register(
    "dgl",
    title="decoupled greedy learning",
    source="Belilovsky et al. 2019, Algorithm 1",
    lockings_broken="forward, backward, update",
    gap="0",
    memory="1 graph; waiting activations",
    extra_parameters="a classifier on top of every module but the last",
    compositions=("recompute", "replicas", "loaders"),
    rows=(5, -2),
)
def dgl(modules: int = 4, batches: int = 100) -> Schedule:
    """Each module learns from a loss of its own, computed from its output by an auxiliary head.

    Breaks the forward, backward and update locking: nothing comes down, only activations go up.
    The output that a module passes on is that from before its update, as in the listing; it leaves
    before the local step, which does not change it. Every gap is 0. The last module has the true
    loss.

    In steady state a batch takes the longest (forward + auxiliary + backward + update) of all
    modules, without auxiliary in the last, whatever the latencies. Nothing holds back a module: if
    one is slower than the first, the activations that wait for it grow for ever.

    >>> from simcore.timetable import timetable
    >>> print(timetable(dgl(modules=2, batches=3), update=0, auxiliary=1))
              0     1     2     3     4     5     6     7     8
    module 1  F1:0  E1:0  B1:0  F1:1  E1:1  B1:1  F1:2  E1:2  B1:2
    module 2  .     F2:0  B2:0  .     F2:1  B2:1  .     F2:2  B2:2
    """
    chain = Chain.of(modules)

    def module(k: int) -> Program:
        for _ in steps(batches):
            batch = yield Receive(chain.activations[k])
            yield Forward(k, batch)
            if k < modules:
                yield Send(chain.activations[k + 1], batch)
                yield Estimate(k, batch)
            yield BackwardStop(k, batch)
            yield Update(k)

    return Schedule(
        blocks=modules,
        batches=batches,
        workers=tuple(
            Worker(
                f"module {k}",
                partial(module, k),
                (k,),
                (chain.activations[k + 1],) if k < modules else (),
                (chain.activations[k],),
            )
            for k in range(1, modules + 1)
        ),
        weights=WeightRules(feedback="local"),
    )


@register(
    "dni",
    title="decoupled neural interfaces: synthetic gradients",
    source="Jaderberg et al. 2017, section 2.1",
    lockings_broken="forward, backward, update",
    gap="0",
    memory="1 graph, 2 outputs to learn from",
    extra_parameters="a model of gradients on top of every module but the last",
    compositions=("recompute", "replicas", "loaders"),
    rows=(8, -5),
)
def dni(modules: int = 4, batches: int = 100) -> Schedule:
    """Each module updates with a synthetic gradient, whose model learns from the module above.

    Breaks the forward, backward and update locking. A module passes its output on, lets its model
    guess the gradient of it, goes backward and updates at once: every gap is 0. What goes backward
    through it arrives at its input: the gradient that the model of the module below should have
    guessed, which learns it (`Refine`) after its next batch. The last module has the true loss.

    Let c be forward + 2 auxiliary + backward + update of a module, without auxiliary in the last.
    In steady state a batch takes the largest of all c and of

        (forward + auxiliary + 2 latency + forward + auxiliary + backward of the next) / 2

    over all modules but the last, again without auxiliary in the last: a hop up and down spans two
    batches. With free links that is the largest c, however uneven the modules are. A module is
    never more than two batches ahead of the next one, so nothing grows.

    >>> from simcore.timetable import timetable
    >>> print(timetable(dni(modules=2, batches=3), update=0, auxiliary=1))
              0     1     2     3     4     5     6     7     8     9     10    11
    module 1  F1:0  E1:0  B1:0  F1:1  E1:1  B1:1  A1:0  F1:2  E1:2  B1:2  A1:1  A1:2
    module 2  .     F2:0  B2:0  .     F2:1  B2:1  .     .     F2:2  B2:2  .     .
    """
    chain = Chain.of(modules)

    def module(k: int) -> Program:
        behind = 1 if k < modules else 0
        for step in steps(batches + behind):
            if step < batches:
                batch = yield Receive(chain.activations[k])
                yield Forward(k, batch)
                if k < modules:
                    yield Send(chain.activations[k + 1], batch)
                    yield Synthesize(k, batch)
                yield Backward(k, batch)
                if k > 1:
                    yield Send(chain.gradients[k - 1], batch)
                yield Update(k)
            if step >= behind and k < modules:
                batch = yield Receive(chain.gradients[k])
                yield Refine(k, batch)

    return Schedule(
        blocks=modules,
        batches=batches,
        workers=tuple(
            Worker(
                f"module {k}",
                partial(module, k),
                (k,),
                (
                    *([chain.activations[k + 1]] if k < modules else []),
                    *([chain.gradients[k - 1]] if k > 1 else []),
                ),
                (chain.activations[k], *([chain.gradients[k]] if k < modules else [])),
            )
            for k in range(1, modules + 1)
        ),
        weights=WeightRules(feedback="local"),
    )
