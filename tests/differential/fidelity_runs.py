"""What the fidelity tests share: batches, networks, and a run of the executor on them.

Everything is in double precision and comes from seeds. `replayed` runs the executor in its replay
runtime, whose results are those of threads and processes (test_methods.py).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from executor.replay import run_replay
from executor.training import RunResult, Training
from simcore.engine import simulate
from simcore.ops import KINDS, Item, kind_of
from simcore.schedules import build
from simcore.trace import Trace
from simcore.workload import Workload

__all__ = [
    "SEED",
    "Listed",
    "assert_close",
    "batches_of",
    "chain",
    "events",
    "losses_of",
    "one_core",
    "replayed",
    "seeded",
    "training_of",
]

SEED = 11
Batch = tuple[torch.Tensor, torch.Tensor]


class Listed:
    """Mini-batches from a list, as a source of data."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = batches

    def payload(self, item: Item, batch: int) -> Any:
        assert item == Item("activation", 0)
        return self.batches[batch]

    def samples(self, batch: int) -> int:
        return len(self.batches[batch][1])


def batches_of(
    count: int, *shape: int, samples: int = 6, last: int | None = None, tokens: int = 0
) -> list[Batch]:
    """Mini-batches of noise with three classes; `last` samples in the last one.

    Inputs are (samples, *shape), of whole numbers below `tokens` if there are any.
    """
    generator = torch.Generator().manual_seed(1)
    found = []
    for number in range(count):
        size = last if last is not None and number == count - 1 else samples
        if tokens:
            inputs = torch.randint(tokens, (size, *shape), generator=generator)
        else:
            inputs = torch.randn(size, *shape, dtype=torch.float64, generator=generator)
        found.append((inputs, torch.randint(3, (size,), generator=generator)))
    return found


def chain(layers: int, width: int = 5) -> nn.Sequential:
    """Linear layers with tanh after each but the last: layer n is children 2 n - 2 and 2 n - 1."""
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for _ in range(layers - 1):
        parts += [nn.Linear(width, width), nn.Tanh()]
    return nn.Sequential(*parts, nn.Linear(width, 3)).double()


def training_of(
    name: str,
    model: nn.Sequential,
    bounds: Sequence[int],
    batches: Sequence[Batch],
    make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    *,
    about: dict[str, Any] | None = None,
    **options: Any,
) -> Training:
    """A training on these batches. `about` is for `Training`, `options` are the schedule's."""
    options.setdefault("batches", len(batches))
    make_schedule = partial(build, name, **options)
    source = Listed(batches)
    given: dict[str, Any] = {"seed": SEED} | (about or {})
    return Training(make_schedule, model, tuple(bounds), source, make_optimizer, **given)


def replayed(
    *arguments: Any, jitter: float = 0.2, trace: Trace | None = None, **options: Any
) -> RunResult:
    """Train in the replay runtime, by a simulation with uneven times or by the trace that is given.

    Arguments are those of `training_of`.
    """
    asked = training_of(*arguments, **options)
    schedule = asked.make_schedule()
    if trace is None:
        times = Workload.even(schedule.blocks, 1, 2, 0.5)
        trace = simulate(schedule, times, jitter=jitter, seed=3)
    return run_replay(asked, trace)


def events(trace: Trace) -> list[tuple[str, int, int, int]]:
    """What was done, in the order of time: (kind, worker, block, batch).

    Weights are read when a computation starts, and changed when an update ends; what ends at an
    instant comes before what starts then.
    """
    names = [kind_of(kind) for kind in KINDS]
    rows = []
    for row in trace.spans:
        kind = names[int(row["kind"])]
        landing = kind in ("update", "merge")
        time = int(row["end" if landing else "start"])
        place = int(row["worker"]), int(row["block"]), int(row["batch"])
        rows.append(((time, not landing, place[0], int(row["index"])), (kind, *place)))
    return [event for _, event in sorted(rows)]


def seeded(*key: int) -> int:
    """The seed of a key under the run's seed, as the executor's documentation defines it.

    (replica, block, number) for what a block draws in a pass or for a mini-batch.
    """
    words = np.random.SeedSequence(SEED, spawn_key=key)
    return int(words.generate_state(1, np.uint64)[0] >> np.uint64(1))


def losses_of(result: RunResult) -> list[float]:
    return [loss for _, loss, _ in result.losses]


def assert_close(
    result: RunResult,
    losses: Sequence[float],
    model: nn.Module,
    tolerance: float = 1e-10,
    parts: int = 1,
) -> None:
    """The run ended with these losses and the weights and buffers of this network.

    `losses` are those of the passes; the run's, of mini-batches, are the means of their parts.
    """
    assert result.failure is None
    expected = torch.tensor(losses, dtype=torch.float64).view(-1, parts).mean(1)
    found = torch.tensor(losses_of(result), dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert result.state is not None
    state = dict(model.state_dict())
    torch.testing.assert_close(result.state, state, rtol=tolerance, atol=tolerance)


@contextmanager
def one_core() -> Iterator[None]:
    """Operations of the references run on one core, as those of the executor do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
