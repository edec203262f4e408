"""Recipes say what the papers print, and every one of them can be used."""

import pickle
from itertools import groupby

import pytest
import torch
from torch import nn

from executor.learning_rates import Cosine, Steps, read_shape
from executor.recipes import RECIPES, find_recipe
from simcore.errors import InputError

every_recipe = pytest.mark.parametrize("name", RECIPES)
GIVEN = 1e-3  # where a validation set has to choose


def given(name: str) -> float | None:
    return GIVEN if RECIPES[name].candidates else None


@every_recipe
def test_a_recipe_makes_its_optimiser(name: str) -> None:
    recipe = RECIPES[name]
    make = pickle.loads(pickle.dumps(recipe.make_optimizer(2, given(name))))
    optimizer = make([nn.Parameter(torch.ones(2))])
    [group] = optimizer.param_groups
    assert type(optimizer).__name__.lower() == recipe.optimizer
    assert group["lr"] == recipe.rate(2, given(name))
    for option, value in recipe.options.items():
        assert group[option] == value


@every_recipe
def test_a_recipe_has_one_way_to_its_learning_rate(name: str) -> None:
    recipe = RECIPES[name]
    ways = [recipe.learning_rate, recipe.scaled, recipe.candidates or None]
    assert sum(way is not None for way in ways) == 1
    assert recipe.rate(given=0.5) == 0.5
    assert recipe.source
    assert recipe.networks


@every_recipe
def test_rates_begin_with_the_warm_up_and_go_down(name: str) -> None:
    recipe, length = RECIPES[name], 2
    rates = recipe.learning_rates(length, given=given(name))
    epochs = recipe.epochs or 100
    base = recipe.rate(given=given(name))
    found = [base * rates.factor(mini_batch) for mini_batch in range(length * epochs)]
    assert max(found) <= base * (1 + 1e-12)
    if recipe.warm_up is None:
        assert found[0] == base
        return
    count, _, rate = recipe.warm_up.partition(":")
    warm = length * int(count)
    if rate:
        assert found[:warm] == pytest.approx([float(rate)] * warm)
        assert found[warm] > float(rate)
    else:
        assert found[:warm] == pytest.approx([base * n / warm for n in range(1, warm + 1)])


@every_recipe
def test_schedules_fit_into_the_epochs(name: str) -> None:
    recipe = RECIPES[name]
    if recipe.schedule is None:
        assert recipe.candidates  # AsyncFGD prints none
        return
    shape = read_shape(recipe.schedule)
    if isinstance(shape, Steps):
        assert recipe.epochs is not None
        assert shape.milestones[-1] < recipe.epochs
        assert shape.gamma == 0.1
    else:
        assert isinstance(shape, Cosine)
        assert recipe.patience_epochs == 30


def test_fdg_as_printed() -> None:
    """SGD, 0.1, momentum 0.9, 5e-4, batches of 128, 300 epochs, /10 at 150, 225 and 275."""
    recipe = find_recipe("fdg-cifar10-warm-up")
    rates = recipe.learning_rates(batches_per_epoch=391)
    found = [0.1 * rates.factor(391 * epoch) for epoch in range(300)]
    runs = [(round(value, 9), len(list(run))) for value, run in groupby(found)]
    assert runs == [(0.01, 3), (0.1, 147), (0.01, 75), (0.001, 50), (0.0001, 25)]
    assert (recipe.batch_size, recipe.epochs, recipe.augment) == (128, 300, True)
    assert dict(recipe.options) == {"momentum": 0.9, "weight_decay": 5e-4}
    without = find_recipe("fdg-cifar10").learning_rates(391)
    assert without.factor(0) == 1.0


def test_adl_as_printed() -> None:
    """0.1 b M / 256 with b = 32: 0.0125, 0.025 and 0.05 for M = 1, 2 and 4."""
    for name, decay, epochs in (("adl-cifar10", 5e-4, 300), ("adl-imagenet", 1e-4, 90)):
        recipe = find_recipe(name)
        assert [recipe.rate(count) for count in (1, 2, 4)] == [0.0125, 0.025, 0.05]
        assert recipe.options["weight_decay"] == decay
        assert recipe.epochs == epochs
    rates = find_recipe("adl-imagenet").learning_rates(10)
    at = [rates.factor(10 * epoch) for epoch in (3, 29, 30, 59, 60, 79, 80, 89)]
    assert at == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_async_bp_as_printed() -> None:
    """The table of hyperparameters, column by column."""
    columns = {
        "cifar100-resnet18": (128, 0.015, 0.9, 100, "5:0.005", 0.005),
        "cifar100-resnet50": (128, 0.015, 0.9, 120, "5:0.005", 0.005),
        "cifar10-resnet18": (128, 0.015, 0.9, 105, "3:0.005", 0.005),
        "cifar10-resnet50": (128, 0.015, 0.9, 120, "5:0.005", 0.005),
        "imagenet-resnet50": (250, 0.015, 0.9, 250, "5:0.0035", 0.0035),
        "imdb-lstm": (75, 0.001, None, 150, None, 0.0),
    }
    for column, expected in columns.items():
        recipe = find_recipe(f"async-bp-{column}")
        period = read_shape(recipe.schedule or "")
        assert isinstance(period, Cosine)
        found = (
            recipe.batch_size,
            recipe.learning_rate,
            recipe.options.get("momentum"),
            period.period,
            recipe.warm_up,
            recipe.options["weight_decay"],
        )
        assert found == expected
    names = [name for name in RECIPES if name.startswith("async-bp")]
    assert len(names) == len(columns)
    [group] = (
        find_recipe("async-bp-imdb-lstm")
        .make_optimizer()([nn.Parameter(torch.ones(1))])
        .param_groups
    )
    assert group["betas"][0] == 0.9


def test_asyncfgd_leaves_the_rate_to_validation() -> None:
    recipe = find_recipe("asyncfgd")
    assert (recipe.epochs, recipe.schedule, recipe.augment) == (None, None, None)
    line = (
        "learning rate is 'AsyncFGD, sections 6.1 and 6.5, algorithm 2': must be chosen by "
        "validation; give one of 1e-05, 0.0001, 0.001, 0.01"
    )
    for use in (recipe.rate, recipe.make_optimizer, lambda: recipe.learning_rates(1)):
        with pytest.raises(InputError) as caught:
            use()
        assert str(caught.value) == line


def test_an_unknown_recipe_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"did you mean fdg-cifar10\?$"):
        find_recipe("fdg-cifar")


@every_recipe
def test_data_and_networks_are_known_here(name: str) -> None:
    from executor.data import DATA_SETS
    from executor.models import MODELS, NETWORKS

    recipe = RECIPES[name]
    assert set(recipe.data) <= set(DATA_SETS)
    assert {network.partition(":")[0] for network in recipe.networks} <= {*MODELS, *NETWORKS}
