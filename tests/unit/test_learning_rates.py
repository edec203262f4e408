"""Learning rates are those of torch's schedulers, and those that the papers describe."""

import itertools
import math
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    SequentialLR,
)

from executor.learning_rates import (
    AlphaRamp,
    Constant,
    Cosine,
    LearningRate,
    Steps,
    WarmUp,
    linear_scaling,
    read_shape,
    read_warm_up,
)
from simcore.errors import InputError

BASE = 0.1
PER_EPOCH = 3


def optimizer() -> SGD:
    return SGD([nn.Parameter(torch.zeros(1))], lr=BASE)


def rates_of(scheduler: LRScheduler, steps: int) -> list[float]:
    """The rate of each period between two steps of torch's scheduler."""
    found = []
    for _ in range(steps):
        found.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return found


def by_epoch(rate: LearningRate, epochs: int) -> list[float]:
    """Our rates, which must be the same for all mini-batches of an epoch."""
    found = []
    for epoch in range(epochs):
        in_epoch = range(epoch * rate.batches_per_epoch, (epoch + 1) * rate.batches_per_epoch)
        [factor] = {rate.factor(mini_batch) for mini_batch in in_epoch}
        found.append(BASE * factor)
    return found


@pytest.mark.parametrize("gamma", [0.1, 0.5, 2.0])
def test_steps_are_those_of_torch(gamma: float) -> None:
    rate = LearningRate(PER_EPOCH, Steps((2, 5, 6), gamma))
    scheduler = MultiStepLR(optimizer(), [2, 5, 6], gamma)
    assert by_epoch(rate, 9) == pytest.approx(rates_of(scheduler, 9), rel=1e-12)


@pytest.mark.parametrize("least", [0.0, 0.2])
def test_the_cosine_is_that_of_torch_after_its_period_too(least: float) -> None:
    rate = LearningRate(PER_EPOCH, Cosine(7, least))
    scheduler = CosineAnnealingLR(optimizer(), 7, eta_min=least * BASE)
    found = by_epoch(rate, 20)
    assert found == pytest.approx(rates_of(scheduler, 20), rel=1e-9, abs=1e-12)
    assert found[7] == pytest.approx(least * BASE, abs=1e-15)


def test_a_constant_warm_up_is_that_of_torch() -> None:
    rate = LearningRate(PER_EPOCH, warm_up=WarmUp(4, 0.3, gradual=False))
    scheduler = ConstantLR(optimizer(), 0.3, total_iters=4)
    assert by_epoch(rate, 8) == pytest.approx(rates_of(scheduler, 8), rel=1e-12)


@pytest.mark.parametrize("factor", [0.0, 0.01, 0.5])
def test_a_gradual_warm_up_is_that_of_torch(factor: float) -> None:
    """In n mini-batches: torch's first rate is our first, and its last step is our n-th batch."""
    rate = LearningRate(PER_EPOCH, warm_up=WarmUp(4, factor))
    n = 4 * PER_EPOCH
    start = factor + (1 - factor) / n
    scheduler = LinearLR(optimizer(), start_factor=start, total_iters=n - 1)
    found = [BASE * rate.factor(mini_batch) for mini_batch in range(2 * n)]
    assert found == pytest.approx(rates_of(scheduler, 2 * n), rel=1e-9)


@pytest.mark.parametrize(
    ("shape", "make"),
    [
        (Cosine(6), lambda given: CosineAnnealingLR(given, 6)),
        (Steps((2, 3)), lambda given: MultiStepLR(given, [2, 3], 0.1)),
    ],
    ids=lambda value: str(value).partition(" at ")[0],
)
def test_a_schedule_after_the_warm_up_is_chained_as_by_torch(shape: Any, make: Any) -> None:
    rate = LearningRate(PER_EPOCH, shape, WarmUp(2, 0.3, gradual=False), after_warm_up=True)
    given = optimizer()
    warm_up = ConstantLR(given, 0.3, total_iters=100)
    scheduler = SequentialLR(given, [warm_up, make(given)], milestones=[2])
    assert by_epoch(rate, 10) == pytest.approx(rates_of(scheduler, 10), rel=1e-9, abs=1e-12)


def test_milestones_are_epochs_of_the_training_whatever_the_warm_up() -> None:
    """FDG: warm-up at a tenth for 3 epochs, then /10 at 150, 225, 275 of 300 epochs."""
    rate = LearningRate(2, read_shape("step:150,225,275"), read_warm_up("3:0.01", BASE))
    found = by_epoch(rate, 300)
    runs = [(value, len(list(run))) for value, run in itertools.groupby(found)]
    assert [length for _, length in runs] == [3, 147, 75, 50, 25]
    assert [value for value, _ in runs] == pytest.approx([0.01, 0.1, 0.01, 0.001, 0.0001])


def test_the_gradual_warm_up_of_the_released_code_of_adl() -> None:
    """lr/100 + 0.99 lr (step + 1 + epoch length) / (epochs length), then the milestones."""
    length, epochs = 5, 3
    rate = LearningRate(length, Steps((4, 6)), WarmUp(epochs, 0.01))
    for epoch, step in itertools.product(range(8), range(length)):
        expected = BASE * 0.1 ** ((epoch >= 4) + (epoch >= 6))
        if epoch < epochs:
            done = step + 1 + epoch * length
            expected = 0.01 * BASE + (BASE - 0.01 * BASE) * done / (epochs * length)
        found = BASE * rate.factor(epoch * length + step)
        assert found == pytest.approx(expected, rel=1e-12)


def test_a_warm_up_may_end_within_an_epoch_or_be_none() -> None:
    assert [LearningRate(4, warm_up=WarmUp(0.5)).factor(n) for n in range(3)] == [0.5, 1.0, 1.0]
    assert LearningRate(4, warm_up=WarmUp(0)).factor(0) == 1.0


def test_alpha_rises_as_in_the_paper() -> None:
    """AsyncFGD I.1: 0 for 10 epochs, then steps of 0.0075 up to alpha* = 0.15 in 20 epochs."""
    ramp = AlphaRamp(batches_per_epoch=4)
    alpha = [0.15 * ramp.factor(4 * epoch) for epoch in range(40)]
    assert alpha[:10] == [0.0] * 10
    rises = [after - before for before, after in itertools.pairwise(alpha[10:31])]
    assert rises == pytest.approx([0.0075] * 20)
    assert alpha[30:] == [0.15] * 10
    for epoch in range(40):
        assert len({ramp.factor(4 * epoch + position) for position in range(4)}) == 1
    assert AlphaRamp(4, frozen_epochs=0, rising_epochs=0).factor(0) == 1.0


def test_the_linear_scaling_rule() -> None:
    assert linear_scaling(256) == 0.1
    assert linear_scaling(32) == pytest.approx(0.0125)
    assert linear_scaling(32, 4) == 4 * linear_scaling(32)
    for bad in ((0, 1), (32, 0)):
        with pytest.raises(InputError):
            linear_scaling(*bad)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("constant", Constant()),
        ("step:30,60,80", Steps((30, 60, 80))),
        ("step:5:0.5", Steps((5,), 0.5)),
        ("cosine:105", Cosine(105)),
    ],
)
def test_texts_of_schedules(text: str, shape: Any) -> None:
    assert read_shape(text) == shape


@pytest.mark.parametrize(
    "text",
    [
        "",
        "constant:1",
        "step",
        "step:",
        "step:a",
        "cosine:x",
        "poly:2",
        "step:1:0.1:2",
        "cosine:1:2",
        "step:1,,2",
        "step:1.5",
    ],
)
def test_a_bad_schedule_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        read_shape(text)
    assert str(caught.value) == (
        f"learning-rate schedule is '{text}': must be constant, step:EPOCH,EPOCH,...[:GAMMA] or "
        "cosine:EPOCHS; write step:150,225,275, for instance"
    )


@pytest.mark.parametrize(
    "text",
    [
        "step:3,2",
        "step:0,2",
        "step:2,2",
        "step:-1",
        "step:2:0",
        "step:2:nan",
        "cosine:0",
        "cosine:-5",
        "cosine:inf",
    ],
)
def test_numbers_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"must be (epochs that rise from 1|above 0); "):
        read_shape(text)


def test_texts_of_warm_ups() -> None:
    assert read_warm_up("3", 0.1) == WarmUp(3.0)
    assert read_warm_up("2.5:0.05", 0.1) == WarmUp(2.5, 0.5, gradual=False)
    for text in ("", "x", "3:", "3:x", "-1", "nan", "3:0", "3:-1", "3:inf"):
        with pytest.raises(InputError, match="must be EPOCHS or EPOCHS:RATE"):
            read_warm_up(text, 0.1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LearningRate(0),
        lambda: AlphaRamp(0),
        lambda: AlphaRamp(1, frozen_epochs=-1),
        lambda: WarmUp(-1),
        lambda: WarmUp(1, -0.5),
        lambda: WarmUp(1, 0.0, gradual=False),
        lambda: Cosine(1, least=2.0),
        lambda: Steps(()),
    ],
)
def test_bad_values_are_refused(make: Any) -> None:
    with pytest.raises(InputError):
        make()


def test_factors_travel_to_other_processes() -> None:
    rate = LearningRate(7, Cosine(5), WarmUp(2, 0.1), after_warm_up=True)
    ramp = AlphaRamp(7)
    for function in (rate.factor, ramp.factor):
        copied = pickle.loads(pickle.dumps(function))
        assert [copied(n) for n in range(300)] == [function(n) for n in range(300)]
    assert all(math.isfinite(rate.factor(n)) for n in range(1000))
