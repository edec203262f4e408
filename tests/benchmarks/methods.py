"""How accurate, how fast and how stale is every registered schedule?

    python -m tests.benchmarks.methods --part rates --part accuracy --part speed

Accuracy: the same small network, on digits, for as many mini-batches, with several seeds. Where
timing decides nothing, training follows a simulated trace in one process, which gives the same
weights as processes do; what is lock-free really runs, in threads. Every method has the learning
rate that is best for it on held-out training samples, found by climbing one ladder for all.

Speed: each schedule is calibrated, simulated and really run on a network of long operations, family
by family, each with plain backpropagation on one thread and on all cores beside it.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import torch

from analysis.experiment import Experiment, Wanted
from analysis.study import study
from executor.allocator import tune_allocator
from executor.data import DataSet, digits
from executor.failure import WorkerError
from executor.machine import describe_machine
from executor.models import make_model
from executor.network import layers_of
from executor.optimizers import make_optimizer
from executor.run import run
from executor.training import RunResult
from simcore.engine import simulate
from simcore.errors import InputError
from simcore.schedules import SCHEDULES
from simcore.staleness import gaps
from simcore.validate import validate
from simcore.workload import Workload
from tests.benchmarks.methods_page import FAMILIES, PAGE, RECURRENT, SCHEMA, write_page

__all__ = ["Scale", "Search", "accuracy", "climbed", "main", "rate", "speed", "wanted"]

# One ladder of learning rates for all methods. Where climbing it begins is no limit.
LADDER: Final = tuple(float(f"{digit}e{power}") for power in range(-6, 2) for digit in (1, 3))
# A bound on the queue costs no time and keeps gradients fresh; without one they grow ever staler.
OPTIONS: Final[Mapping[str, Mapping[str, object]]] = {
    "async-lu": {"queue_capacity": 1},
    "async-bu": {"queue_capacity": 1},
    "asyncfgd-recursive": {"time_steps": 8},
}
_TIME_STEPS: Final = 8  # the rows of a digit
_HELD_OUT: Final = 5  # every fifth training sample is held out while rates are chosen
_FIRST_TUNING_SEED: Final = 100


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is trained, and on what. Reported are the seeds 0, 1, ...; rates see others.

    Rates of what is lock-free see more of them, as no two runs of it are alike.
    """

    batches: int = 400
    batch_size: int = 64
    seeds: int = 5
    tuning_seeds: int = 2
    lock_free_tuning_seeds: int = 5
    model: str = "mlp:4x64"
    recurrent: str = "rnn:3x64"
    speed_batches: int = 40
    speed_model: str = "mlp:8x1024"
    speed_recurrent: str = "rnn:7x512"


@dataclass(frozen=True, slots=True)
class Search:
    """What climbing the ladder found: the best rate, and the score of each that was tried.

    A score is (share of held-out samples that are classified right, -mean loss of the last epoch),
    means over seeds; where a run diverged (0, -rate), so that climbing goes down.
    """

    best: float
    tried: Mapping[float, tuple[float, float]]


def wanted(name: str) -> Wanted:
    """A schedule of two modules, where it has modules, and else with its defaults.

    >>> wanted("fdg").label, wanted("hogwild").label
    ('fdg:modules=2', 'hogwild')
    """
    own = SCHEDULES[_schedule(name)]
    modules = {"modules": 2} if "modules" in own.defaults else {}
    return Wanted(own.name, {**modules, **OPTIONS.get(own.name, {})})


def _schedule(name: str) -> str:
    return "bp" if name == RECURRENT else name


def _is_recurrent(name: str) -> bool:
    return name in (RECURRENT, "asyncfgd-recursive")


@lru_cache(maxsize=2)
def _data(held_out: bool) -> DataSet:
    """Digits; or their training samples alone, of which some are held out in place of tests."""
    found = digits()
    if not held_out:
        return found
    inputs, labels = found.inputs, found.labels
    assert isinstance(inputs, torch.Tensor)
    held = torch.arange(len(labels)) % _HELD_OUT == 0
    parts = inputs[~held], labels[~held], inputs[held], labels[held]
    return DataSet("digits without tests", *parts, found.classes)


def _experiment(
    name: str, scale: Scale, optimizer: str, learning_rate: float, seed: int, held_out: bool
) -> Experiment:
    data = _data(held_out)
    model = make_model(scale.recurrent if _is_recurrent(name) else scale.model, data, seed)
    return Experiment(
        model,
        data,
        Workload.even(len(layers_of(model))),
        scale.batch_size,
        scale.batches,
        make_optimizer(optimizer, learning_rate),
        seed,
        threads=1,
        time_steps=_TIME_STEPS if _is_recurrent(name) else None,
    )


def _trained(experiment: Experiment, name: str) -> RunResult | None:
    """The result of a run, or None if training diverged."""
    training = experiment.training(wanted(name))
    schedule = training.make_schedule()
    try:
        if not validate(schedule, orders=0).conclusive:
            return run(training, "threads")
        trace = simulate(schedule, Workload.even(schedule.blocks, 1, 2, 1))
        return run(training, "replay", trace=trace)
    except WorkerError as error:
        if "diverged" in error.reason:
            return None
        raise


def climbed(score: Callable[[float], tuple[float, float]], start: float) -> Search:
    """Climb the ladder of learning rates from a start until both neighbours score less.

    >>> climbed(lambda rate: (-abs(rate - 0.3), 0.0), 0.01).best
    0.3
    """
    tried: dict[float, tuple[float, float]] = {}

    def known(place: int) -> tuple[float, float]:
        rate = LADDER[place]
        if rate not in tried:
            tried[rate] = score(rate)
        return tried[rate]

    best = LADDER.index(start)
    while True:
        beside = [place for place in (best - 1, best, best + 1) if 0 <= place < len(LADDER)]
        better = max(beside, key=known)
        if known(better) <= known(best):
            return Search(LADDER[best], dict(sorted(tried.items())))
        best = better


def rate(name: str, scale: Scale, optimizer: str = "sgd") -> Search:
    """The learning rate at which a method does best on held-out samples, dimensionless."""

    def score(learning_rate: float) -> tuple[float, float]:
        right, losses = [], []
        for seed in range(_FIRST_TUNING_SEED, _FIRST_TUNING_SEED + scale.tuning_seeds):
            experiment = _experiment(name, scale, optimizer, learning_rate, seed, held_out=True)
            result = _trained(experiment, name)
            if result is None or result.state is None:
                return 0.0, -learning_rate
            last = experiment.data.batches_per_epoch(scale.batch_size)
            losses.append(fmean(loss for _, loss, _ in result.losses[-last:]))
            right.append(experiment.accuracy(result.state))
        return fmean(right), -fmean(losses)

    start = 0.001 if optimizer == "adam" or name in ADAM else 0.1
    return climbed(score, start)


def accuracy(name: str, scale: Scale, learning_rate: float, optimizer: str = "sgd") -> Any:
    """The test accuracies of all seeds; a run that diverged counts as chance."""
    found, mean_gaps, diverged = [], [], 0
    runtime = "replay"
    for seed in range(scale.seeds):
        experiment = _experiment(name, scale, optimizer, learning_rate, seed, held_out=False)
        result = _trained(experiment, name)
        if result is None or result.state is None:
            diverged += 1
            found.append(1 / experiment.data.classes)
            continue
        found.append(experiment.accuracy(result.state))
        known = gaps(result.trace)
        mean_gaps.append(float(known.mean()) if len(known) else 0.0)
        runtime = str(result.trace.header.about["runtime"])
    return {
        "options": dict(wanted(name).options),
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "accuracies": found,
        "diverged": diverged,
        "gap_mean": fmean(mean_gaps) if mean_gaps else None,
        "runtime": runtime,
        "machine": describe_machine(),
    }


def speed(names: Sequence[str], scale: Scale, told: Callable[[str], None]) -> dict[str, Any]:
    """Rows of `analysis.comparison` by name, of schedules measured together on one network.

    Each has the baselines of its session beside it, in seconds per mini-batch.
    """
    [recurrent] = {_is_recurrent(name) for name in names}
    spec = scale.speed_recurrent if recurrent else scale.speed_model
    small = replace(scale, model=spec, recurrent=spec, batches=scale.speed_batches)
    experiment = _experiment(names[0], small, "sgd", 1e-4, 0, held_out=False)
    found = study(experiment, [wanted(name) for name in names if name != "bp"], told=told)
    document = found.comparison.to_json()
    rows = {row["schedule"]: row for row in reversed(document["rows"])}
    about = {
        "model": spec,
        "batches": scale.speed_batches,
        "baselines": document["baselines"],
        "drift": document["settings"]["baseline at the end against the beginning"],
        "machine": describe_machine(),
    }
    rows["bp"]["options"] = {"modules": 2}
    return {name: {**rows[_schedule(name)], **about} for name in names}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure parts of the table, keep them beside the page, and renew the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = ("rates", "accuracy", "speed", "page")
    parser.add_argument("--part", action="append", choices=parts, help="may be repeated")
    parser.add_argument("--only", help="schedules, with commas; default all")
    parser.add_argument("--out", type=Path, default=PAGE.parent, help="folder of the page")
    asked = parser.parse_args(arguments)
    every = [*SCHEDULES, RECURRENT]
    names = every if asked.only is None else asked.only.split(",")
    for name in names:
        if name not in every:
            raise InputError("--only", name, f"must be one of {', '.join(every)}", "choose")
    tune_allocator()  # as the processes of workers do
    scale, chosen = Scale(), asked.part or parts
    keep = partial(_keep, asked.out / "methods.json")
    for part in ("rates", "accuracy"):
        if part in chosen:
            _train(part, names, scale, keep)
    if "speed" in chosen:
        for group in _groups(names):
            for name, row in speed(group, scale, _say).items():
                keep("speed", name, row)
    write_page(asked.out)


def _train(part: str, names: Iterable[str], scale: Scale, keep: Callable[..., Any]) -> None:
    pairs = [(name, "sgd") for name in names] + [(name, "adam") for name in names if name in ADAM]
    for name, optimizer in pairs:
        key = name if optimizer == "sgd" else f"{name}, {optimizer}"
        if part == "rates":
            search = rate(name, scale, optimizer)
            tried = {str(each): score[0] for each, score in search.tried.items()}
            _say(f"{key}: {search.best} of {tried}")
            keep(part, key, {"learning_rate": search.best, "tried": tried})
        else:
            rates = keep("rates", key)
            row = accuracy(name, scale, rates["learning_rate"], optimizer)
            _say(f"{key}: {row['accuracies']}, {row['diverged']} diverged")
            keep(part, key, row)


def _groups(names: Iterable[str]) -> list[list[str]]:
    """Names that are measured in one session: families, and what has a network of its own."""
    wanted_names = set(names) - {RECURRENT}
    families = [
        [name for name in family if name in wanted_names and not _is_recurrent(name)]
        for family in FAMILIES.values()
    ]
    own = ["asyncfgd-recursive"] if "asyncfgd-recursive" in wanted_names else []
    return [group for group in (*families, own) if group]


def _keep(path: Path, part: str, name: str, value: Any = None) -> Any:
    """Put a value into a file of results, if there is one; what is there now."""
    known = json.loads(path.read_text("utf-8")) if path.exists() else {"schema": SCHEMA}
    if value is not None:
        known.setdefault(part, {})[name] = value
        path.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
    return known[part][name]


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    main()
