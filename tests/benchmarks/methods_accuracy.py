"""How well each method learns: its learning rate, and the accuracies of several seeds at it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Any, Final

import torch
from torch import nn

from analysis.experiment import Experiment, Wanted
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
from tests.benchmarks.methods_page import FAMILIES, METHODS, RECURRENT

__all__ = ["LADDER", "Method", "Scale", "Search", "accuracy", "climbed", "rate"]

# One ladder of learning rates for all methods. Where climbing it begins is no limit.
LADDER: Final = tuple(float(f"{digit}e{power}") for power in range(-6, 2) for digit in (1, 3))
# A bound on the queue costs no time and keeps gradients fresh; without one they grow ever staler.
_OPTIONS: Final[Mapping[str, Mapping[str, object]]] = {
    "async-lu": {"queue_capacity": 1},
    "async-bu": {"queue_capacity": 1},
    "asyncfgd-recursive": {"time_steps": 8},
}
_VARIANTS: Final[Mapping[str, Mapping[str, object]]] = {
    "16 directions": {"tangents": 16},
    "stash": {"weights": "stash"},
}
_TIME_STEPS: Final = 8  # the rows of a digit
_HELD_OUT: Final = 5  # every fifth training sample is held out while rates are chosen
_FIRST_TUNING_SEED: Final = 100


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is trained, and on what. Reported are the seeds 0, 1, ...; rates see others.

    Rates of what is lock-free, and of random feedback, see more of them: no two runs of the one are
    alike, and the other is unstable at rates just above its best.
    """

    batches: int = 400
    batch_size: int = 64
    seeds: int = 5
    tuning_seeds: int = 2
    unsteady_tuning_seeds: int = 5
    model: str = "mlp:4x64"
    recurrent: str = "rnn:3x64"


@dataclass(frozen=True, slots=True)
class Method:
    """A schedule, by SGD on the usual network; or a variant of it, as the page says.

    >>> Method.of("fgd, adam").optimizer, Method.of("fdg").wanted.label
    ('adam', 'fdg:modules=2')
    """

    key: str
    name: str
    variant: str = ""

    @classmethod
    def of(cls, key: str) -> "Method":
        """The method of a key of `METHODS`. Raises `InputError` for another."""
        if key not in METHODS:
            raise InputError("method", key, f"must be one of {'; '.join(METHODS)}", "choose")
        name, _, variant = key.partition(", ")
        return cls(key, "bp" if key == RECURRENT else name, variant)

    @property
    def wanted(self) -> Wanted:
        """The schedule with two modules, where it has modules, and else with its defaults."""
        modules = {"modules": 2} if "modules" in SCHEDULES[self.name].defaults else {}
        own = _VARIANTS.get(self.variant, {})
        return Wanted(self.name, {**modules, **_OPTIONS.get(self.name, {}), **own})

    @property
    def optimizer(self) -> str:
        """The optimiser's name."""
        return "adam" if self.variant == "adam" else "sgd"

    @property
    def is_recurrent(self) -> bool:
        """Whether it trains the recurrent network."""
        return self.key in (RECURRENT, "asyncfgd-recursive", "asyncfgd-recursive, adam")

    def experiment(
        self, scale: Scale, learning_rate: float, seed: int, *, held_out: bool
    ) -> Experiment:
        """What is trained with a seed, and tested on test samples or on held-out ones."""
        data = _data(held_out)
        model = make_model(scale.recurrent if self.is_recurrent else scale.model, data, seed)
        if self.variant == "tanh":
            _replace_relu(model)
        return Experiment(
            model,
            data,
            Workload.even(len(layers_of(model))),
            scale.batch_size,
            scale.batches,
            make_optimizer(self.optimizer, learning_rate),
            seed,
            threads=1,
            time_steps=_TIME_STEPS if self.is_recurrent else None,
        )

    def trained(self, experiment: Experiment) -> RunResult | None:
        """The result of a run, or None if training diverged."""
        training = experiment.training(self.wanted)
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


def _replace_relu(model: nn.Sequential) -> None:
    for layer in model:
        assert isinstance(layer, nn.Sequential)
        for place, part in enumerate(layer):
            if isinstance(part, nn.ReLU):
                layer[place] = nn.Tanh()


@dataclass(frozen=True, slots=True)
class Search:
    """What climbing the ladder found: the best rate, and the score of each that was tried.

    A score is (share of held-out samples that are classified right, -mean loss of the last epoch),
    means over seeds; where a run diverged (0, -rate), so that climbing goes down.
    """

    best: float
    tried: Mapping[float, tuple[float, float]]


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


def rate(method: Method, scale: Scale) -> Search:
    """The learning rate at which a method does best on held-out samples, dimensionless."""
    seeds = scale.tuning_seeds
    if method.name in (*FAMILIES["lock-free"], *FAMILIES["random feedback"]):
        seeds = scale.unsteady_tuning_seeds

    def score(learning_rate: float) -> tuple[float, float]:
        right, losses = [], []
        for seed in range(_FIRST_TUNING_SEED, _FIRST_TUNING_SEED + seeds):
            experiment = method.experiment(scale, learning_rate, seed, held_out=True)
            result = method.trained(experiment)
            if result is None or result.state is None:
                return 0.0, -learning_rate
            last = experiment.data.batches_per_epoch(scale.batch_size)
            losses.append(fmean(loss for _, loss, _ in result.losses[-last:]))
            right.append(experiment.accuracy(result.state))
        return fmean(right), -fmean(losses)

    small = method.optimizer == "adam" or method.name in FAMILIES["forward gradients"]
    return climbed(score, 0.001 if small else 0.1)


def accuracy(method: Method, scale: Scale, learning_rate: float) -> dict[str, Any]:
    """The test accuracies of all seeds; a run that diverged counts as chance."""
    found, mean_gaps, diverged = [], [], 0
    runtime = "replay"
    for seed in range(scale.seeds):
        experiment = method.experiment(scale, learning_rate, seed, held_out=False)
        result = method.trained(experiment)
        if result is None or result.state is None:
            diverged += 1
            found.append(1 / experiment.data.classes)
            continue
        found.append(experiment.accuracy(result.state))
        known = gaps(result.trace)
        mean_gaps.append(float(known.mean()) if len(known) else 0.0)
        runtime = str(result.trace.header.about["runtime"])
    return {
        "options": dict(method.wanted.options),
        "learning_rate": learning_rate,
        "accuracies": found,
        "diverged": diverged,
        "gap_mean": fmean(mean_gaps) if mean_gaps else None,
        "runtime": runtime,
        "batches": scale.batches,
        "model": scale.recurrent if method.is_recurrent else scale.model,
        "machine": describe_machine(),
    }
