"""What real runs report, against closed forms: versions of weights, and passes that count once."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from fidelity_runs import batches_of, chain, losses_of, one_core, replayed, training_of

from executor.learning import Learning
from executor.threads import run_threads
from simcore.engine import simulate
from simcore.errors import InputError
from simcore.schedules import SCHEDULES, build
from simcore.trace import Trace
from simcore.workload import Workload

MODULES, BATCHES = 4, 12
BRAIN = Learning(precisions=(torch.bfloat16,))


@pytest.fixture(autouse=True)
def _one_core() -> Iterator[None]:
    with one_core():
        yield


def below(k: int) -> int:
    """The hops between module k and the last."""
    return MODULES - k


def zero(k: int, t: int) -> int:
    return 0


def hops(k: int, t: int) -> int:
    return min(t, below(k))


def there_and_back(k: int, t: int) -> int:
    return min(t, max(0, 2 * below(k) - 1))


def accumulated(k: int, t: int) -> int:
    """ADL, M = 3, forward first: updates so far less those of batches up to t - 2(K-k) - 1.

    Windows close by the batch index; the first may have fewer gradients, or none and no update.
    """
    lag = 2 * below(k)
    windows = [(batch + lag) // 3 for batch in range(BATCHES)]
    landed = sorted(set(windows)).index(windows[t])
    done = {(batch + lag) // 3 for batch in range(t - lag) if (batch + lag) // 3 < t // 3}
    return landed - len(done)


# Gaps between the version that a gradient was computed from and the one that it was applied to.
GAPS: list[tuple[str, dict[str, Any], Callable[[int, int], int]]] = [
    *((name, {}, zero) for name in ("bp", "bp-mp", "dgl", "dni", "fa", "dfa", "sdfa", "drtp")),
    *((name, {}, zero) for name in ("fgd", "fgd-mp", "fr", "dsp")),
    ("ddp", {"replicas": 2}, zero),
    ("fgd-dp", {"replicas": 2}, zero),
    *((name, {"micro_batches": 4}, zero) for name in ("gpipe", "1f1b", "zb-h1", "fgd-pipeline")),
    *((name, {}, hops) for name in ("ddg", "pipedream", "asyncfgd")),
    ("pipedream-2bw", {"micro_batches": 4}, lambda k, t: min(1, t // 4)),
    ("fdg", {}, there_and_back),
    ("adl", {"order": "update-first"}, there_and_back),
    ("adl", {}, lambda k, t: min(t, 2 * below(k))),
    ("adl", {"accumulation": 3}, accumulated),
    ("asyncfgd-recursive", {"time_steps": 2}, lambda k, t: min(t // 2, ceil(below(k) / 2))),
]


@pytest.mark.parametrize(("name", "options", "gap"), GAPS)
def test_threads_have_the_gaps_of_the_closed_forms(
    name: str, options: dict[str, Any], gap: Callable[[int, int], int]
) -> None:
    """For every gradient from the first to the last, in four modules; and as simulated."""
    model, inputs = chain(MODULES), 5
    if "time_steps" in options:
        inputs *= 2
    batches = batches_of(BATCHES, inputs, samples=4)
    make = partial(torch.optim.SGD, lr=0.01)
    asked = training_of(name, model, range(MODULES + 1), batches, make, modules=MODULES, **options)
    schedule = asked.make_schedule()
    measured, simulated = run_threads(asked), simulate(schedule, Workload.even(MODULES, 1, 2, 1))
    assert versions(measured.trace) == versions(simulated)
    found = {
        (block, batch): applied - forward
        for (block, batch), (_, forward, _, applied) in versions(measured.trace).items()
    }
    passes = schedule.batches
    assert len(found) == passes * MODULES
    assert found == {(k, t): gap(k, t) for k in range(1, MODULES + 1) for t in range(passes)}


@pytest.mark.parametrize(("name", "first"), [("fr", hops), ("dsp", there_and_back)])
def test_replays_leave_the_gap_of_the_first_pass_to_be_told(
    name: str, first: Callable[[int, int], int]
) -> None:
    batches = batches_of(BATCHES, 5)
    make = partial(torch.optim.SGD, lr=0.01)
    asked = training_of(name, chain(4), range(MODULES + 1), batches, make, modules=MODULES)
    found = versions(run_threads(asked).trace)
    for (block, batch), (read, _, _, applied) in found.items():
        assert applied - read == first(block, batch)


def versions(trace: Trace) -> dict[tuple[int, int], tuple[int, ...]]:
    columns = ("version_first", "version_forward", "version_backward", "version_applied")
    return {
        (int(row["block"]), int(row["batch"])): tuple(int(row[column]) for column in columns)
        for row in trace.gradients
    }


# Lower precision


@pytest.mark.parametrize("name", SCHEDULES)
def test_products_in_bfloat16_are_near_those_in_single_precision(name: str) -> None:
    """All that a schedule needs besides the network works in lower precision, too: heads,
    synthesizers, random matrices."""
    blocks = "layers" if "layers" in SCHEDULES[name].defaults else "modules"
    batches = [(inputs.float(), labels) for inputs, labels in batches_of(8, 5, samples=8)]
    make = partial(torch.optim.SGD, lr=0.01)
    options: dict[str, Any] = {blocks: 2, "about": {"learning": BRAIN}}
    bounds = range(5) if name == "interleaved-1f1b" else (0, 2, 4)
    if name == "asyncfgd-recursive":
        options["time_steps"] = 1
    low = replayed(name, chain(4).float(), bounds, batches, make, **options)
    options["about"] = {}
    single = replayed(name, chain(4).float(), bounds, batches, make, **options)
    found, expected = torch.tensor(losses_of(low)), torch.tensor(losses_of(single))
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    assert not torch.equal(found, expected)


# Running statistics


def normed() -> nn.Sequential:
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for _ in range(3):
        parts += [nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5)), nn.Tanh()]
    return nn.Sequential(*parts, nn.Linear(5, 3)).double()


def variants(name: str) -> Iterator[dict[str, Any]]:
    entry = SCHEDULES[name]
    blocks = "layers" if "layers" in entry.defaults else "modules"
    options: dict[str, Any] = {blocks: 2 if name == "interleaved-1f1b" else 4}
    around: list[dict[str, Any]] = [{}, {"recompute": True}, {"weights": "mixed"}]
    around.append({"recompute": True, "weights": "mixed"})
    if "tangents" in entry.defaults:
        around.append({"tangents": 3, "keep": "seed"})
    if "micro_batches" in entry.defaults:
        options["micro_batches"] = 4
    if name == "asyncfgd-recursive":
        return  # a time step's statistics are those of the step
    for more in around:
        try:
            build(name, batches=4, **options, **more)
        except InputError:
            continue
        yield options | more


def of_several_workers(name: str) -> bool:
    """Whether passes of a block may overlap, or go to one of several copies of it."""
    return name in ("ddp", "fgd-dp", "hogwild", "lapsgd", "lppsgd")


STATISTICS = [(name, options) for name in SCHEDULES for options in variants(name)]


@pytest.mark.parametrize(("name", "options"), STATISTICS)
def test_running_statistics_count_a_pass_once(name: str, options: dict[str, Any]) -> None:
    """With steps of size 0 every schedule sees the same passes: statistics are those of plain
    passes in order. What is replayed, recomputed or carries several directions counts once.
    """
    batches = batches_of(8, 5, samples=8)
    make = partial(torch.optim.SGD, lr=0.0)
    found = replayed(name, normed(), range(5), batches, make, **options)
    model = normed()
    parts = options.get("micro_batches", 1)
    for inputs, _ in batches:
        for part in inputs.tensor_split(parts):
            model(part)
    assert found.state is not None
    state = dict(model.state_dict())
    copies = 2 if of_several_workers(name) and name != "hogwild" else 1
    counted = {key for key in state if key.endswith("num_batches_tracked")}
    assert len(counted) == 3
    for key in counted:
        assert found.state[key] == 8 * parts // copies
    if not of_several_workers(name):
        torch.testing.assert_close(found.state, state, rtol=1e-12, atol=1e-12)
