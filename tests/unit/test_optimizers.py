"""Every optimiser of torch.optim steps here as it does by itself, and bad options are refused."""

import copy
import inspect
import pickle
from collections.abc import Callable, Iterable
from functools import partial
from threading import Lock
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from executor.data import generated
from executor.learning_rates import LearningRate, Steps, WarmUp
from executor.optimizers import OPTIMIZERS, MuonWithAdamW, make_optimizer, optimizer_options
from executor.threads import run_threads
from executor.training import DataSource, Learning, Training
from executor.weights import BlockWeights
from simcore.errors import InputError
from simcore.schedule import WeightRules
from simcore.schedules import build

CLASSES = {name.lower(): kind for name, kind in vars(torch.optim).items() if inspect.isclass(kind)}
RATE = 0.05
# What is off by default, as texts; each must still step as the class does.
OPTIONS: list[tuple[str, dict[str, str], dict[str, Any]]] = [
    (
        "sgd",
        {"momentum": "0.9", "nesterov": "true", "weight_decay": "5e-4"},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
    ),
    ("sgd", {"momentum": "0.5", "dampening": "0.1", "foreach": "true"}, {}),
    ("Adam", {"betas": "0.9, 0.95", "amsgrad": "True"}, {"betas": (0.9, 0.95), "amsgrad": True}),
    ("adam", {"eps": "1e-4", "maximize": "true", "foreach": "false"}, {"eps": 1e-4}),
    ("rmsprop", {"centered": "true", "momentum": "0.9"}, {"centered": True, "momentum": 0.9}),
    ("adagrad", {"initial_accumulator_value": "0.1", "lr_decay": "0.01"}, {}),
    ("adafactor", {"eps": "none,0.01", "weight_decay": "0.1"}, {"eps": (None, 0.01)}),
    ("nadam", {"decoupled_weight_decay": "true", "weight_decay": "0.1"}, {}),
    ("asgd", {"t0": "2", "lambd": "0.01"}, {"t0": 2.0}),
    ("rprop", {"etas": "0.4,1.3", "step_sizes": "1e-5,10"}, {"etas": (0.4, 1.3)}),
]
CASES = [(name, {}) for name in OPTIMIZERS] + [(name, texts) for name, texts, _ in OPTIONS]
RULES = [
    WeightRules("stash"),
    WeightRules("mixed"),
    WeightRules("mixed", "assign", "layer"),
]


def block() -> nn.Module:
    """Parameters of every shape: matrices, a bias, scales, and the weights of a convolution."""
    torch.manual_seed(0)
    return nn.ModuleList([nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Conv2d(1, 2, 3), nn.Linear(2, 2)])


def nothing() -> Any:
    """What an update tells the ledger; there is none here."""


def gradients_of(parameters: Iterable[torch.Tensor], step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(parameter.shape, generator=generator) for parameter in parameters]


def alone(make: Callable[[Any], Optimizer], steps: int, rates: list[float]) -> list[torch.Tensor]:
    """The weights of a block after steps of plain torch; `rates` are factors on the rate."""
    parameters = list(block().parameters())
    optimizer = make(parameters)
    for step in range(steps):
        for parameter, gradient in zip(parameters, gradients_of(parameters, step), strict=True):
            parameter.grad = gradient
        for group in optimizer.param_groups:
            group["lr"] = RATE * rates[step]
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def values(name: str, options: dict[str, str]) -> dict[str, Any]:
    """Options as Python's own reading of them."""
    words = {"true": True, "false": False, "none": None}
    found: dict[str, Any] = {}
    for option, text in options.items():
        parts = [part.strip().lower() for part in text.split(",")]
        read = [words[part] if part in words else float(part) for part in parts]
        found[option] = tuple(read) if len(read) > 1 else read[0]
    return found


def by_torch(name: str, options: dict[str, str]) -> Callable[[Any], Optimizer]:
    return lambda parameters: CLASSES[name.lower()](parameters, lr=RATE, **values(name, options))


@pytest.mark.parametrize("rules", RULES, ids=str)
@pytest.mark.parametrize(
    ("name", "options"), [case for case in CASES if case[0] != "muon"], ids=lambda value: str(value)
)
def test_a_block_is_stepped_as_by_torch(
    name: str, options: dict[str, str], rules: WeightRules
) -> None:
    """Under stash the state goes along to copies: before every step but the first, a graph lives.

    The learning rate changes on the way, as schedules want.
    """
    rates = [1.0, 1.0, 0.5, 0.5, 0.1]
    make = make_optimizer(name, RATE, options)
    weights = BlockWeights(block(), rules, make, exclusive=True, lock=Lock())
    seen = []
    for step, rate in enumerate(rates):
        before = weights.current
        before.graphs += step > 0
        if rules.write == "assign":
            weights.renew_copy(0)
        gradients = gradients_of(before.parameters.values(), step)
        weights.step(0, gradients, nothing, rate)
        seen.append(weights.current)
    copies = len({id(leaves) for leaves in seen})
    assert copies == (len(rates) if rules.policy == "stash" else 1)
    expected = alone(by_torch(name, options), len(rates), rates)
    found = list(weights.current.parameters.values())
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_small_network_is_trained_as_by_torch(name: str) -> None:
    """Backpropagation by a real run, with a rate that falls after three batches."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    data, batches = generated(samples=100, features=8, classes=3), 6
    rate = LearningRate(3, Steps((1,)), WarmUp(1, 0.5))
    make = make_optimizer(name, RATE)
    schedule: Any = partial(build, "bp", modules=1, batches=batches)
    source = DataSource(data, 32, 0)
    training = Training(schedule, model, (0, 2), source, make, learning=Learning(rate=rate.factor))
    result = run_threads(training)
    plain = copy.deepcopy(model)
    optimizer = make(plain.parameters())
    for number in range(batches):
        inputs, labels = data.batch(number, 32, 0)
        loss = nn.functional.cross_entropy(plain(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = RATE * rate.factor(number)
        optimizer.step()
        assert result.losses[number][1] == pytest.approx(loss.item(), rel=1e-5)
    assert result.state is not None
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(result.state[key], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("name", "texts", "expected"), OPTIONS, ids=lambda value: str(value))
def test_texts_are_read_by_what_they_stand_for(
    name: str, texts: dict[str, str], expected: dict[str, Any]
) -> None:
    optimizer = make_optimizer(name, RATE, texts)(block().parameters())
    [group] = optimizer.param_groups
    assert {option: group[option] for option in expected} == expected
    as_values = make_optimizer(name, RATE, values(name, texts))(block().parameters())
    plain = by_torch(name, texts)(block().parameters())
    for other in (as_values, plain):
        assert other.defaults == optimizer.defaults


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_maker_travels_to_other_processes(name: str) -> None:
    make = pickle.loads(
        pickle.dumps(
            make_optimizer(name.upper(), 0.25, {"weight_decay": "0.5"})
            if "weight_decay" in optimizer_options(name)
            else make_optimizer(name.upper(), 0.25)
        )
    )
    for group in make(block().parameters()).param_groups:
        assert group["lr"] == 0.25
        assert group.get("weight_decay", 0.5) == 0.5


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_a_learning_rate_the_class_decides(name: str) -> None:
    [group] = make_optimizer(name)([nn.Parameter(torch.ones(2, 2))]).param_groups
    assert group["lr"] == inspect.signature(CLASSES[name]).parameters["lr"].default


def test_all_optimisers_of_torch_are_there_but_two() -> None:
    kinds = {name for name, kind in CLASSES.items() if issubclass(kind, Optimizer)}
    assert kinds - set(OPTIMIZERS) == {"optimizer", "lbfgs", "sparseadam"}


# Muon


def parts(parameters: list[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    return [p for p in parameters if p.dim() == 2], [p for p in parameters if p.dim() != 2]


def test_muon_and_adamw_share_a_block() -> None:
    """Matrices as by Muon, the rest as by AdamW, through copies and rates that change."""
    rates = [1.0, 1.0, 0.5, 0.1]
    make = make_optimizer("muon", RATE, {"weight_decay": "0.02", "momentum": "0.9"})
    weights = BlockWeights(block(), WeightRules("stash"), make, exclusive=True, lock=Lock())
    plain = list(block().parameters())
    matrices, others = parts(plain)
    assert (len(matrices), len(others)) == (2, 6)
    optimizers = (
        Muon(matrices, lr=RATE, weight_decay=0.02, momentum=0.9, adjust_lr_fn="match_rms_adamw"),
        AdamW(others, lr=RATE, weight_decay=0.02),
    )
    for step, rate in enumerate(rates):
        weights.current.graphs += step > 0
        weights.step(0, gradients_of(plain, step), nothing, rate)
        for parameter, gradient in zip(plain, gradients_of(plain, step), strict=True):
            parameter.grad = gradient
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = RATE * rate
            optimizer.step()
    for ours, theirs in zip(weights.current.parameters.values(), plain, strict=True):
        assert torch.equal(ours, theirs)


def test_blocks_of_one_kind_need_one_of_the_two() -> None:
    make = make_optimizer("muon", RATE, {"adjust_lr_fn": "original"})
    matrices, others = parts(list(block().parameters()))
    muon = make(matrices)
    assert isinstance(muon, Muon)
    assert muon.param_groups[0]["adjust_lr_fn"] == "original"
    assert isinstance(make(others), AdamW)


def test_the_state_of_muon_and_adamw_is_saved_and_loaded() -> None:
    make = make_optimizer("muon", RATE)
    first, second = list(block().parameters()), list(block().parameters())
    one, other = make(first), make(second)
    assert isinstance(one, MuonWithAdamW)
    for step in range(4):
        if step == 2:  # the other goes on from here
            with torch.no_grad():
                for source, target in zip(first, second, strict=True):
                    target.copy_(source)
            other.load_state_dict(copy.deepcopy(one.state_dict()))
        for parameters, optimizer in ((first, one), (second, other)):
            for parameter, gradient in zip(parameters, gradients_of(first, step), strict=True):
                parameter.grad = gradient
            if optimizer is one or step >= 2:
                optimizer.step()
    for source, target in zip(first, second, strict=True):
        assert torch.equal(source, target)


# Refusals


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ("sgdd",),
            f"optimizer is 'sgdd': must be one of {', '.join(OPTIMIZERS)}; did you mean sgd?",
        ),
        (
            ("LBFGS",),
            "optimizer is 'LBFGS': must step by gradients alone: it computes the loss again within "
            f"a step; use one of {', '.join(OPTIMIZERS)}",
        ),
        (
            ("SparseAdam",),
            "optimizer is 'SparseAdam': must take dense gradients: it takes sparse ones only; "
            f"use one of {', '.join(OPTIMIZERS)}",
        ),
        (("sgd", -0.5), "learning rate is -0.5: must be above 0; give 0.1, say"),
        (("sgd", float("nan")), "learning rate is nan: must be above 0; give 0.1, say"),
        (
            ("sgd", 0.1, {"momentun": "0.9"}),
            "option of sgd is 'momentun': must be one of momentum, dampening, weight_decay, "
            "nesterov, maximize, foreach, differentiable, fused; did you mean momentum?",
        ),
        (
            ("sgd", 0.1, {"lr": "0.2"}),
            "option lr is '0.2': is the learning rate; give it as such",
        ),
        (
            ("sgd", 0.1, {"momentum": "much"}),
            "momentum of sgd is 'much': must be a number; give one",
        ),
        (
            ("sgd", 0.1, {"momentum": "inf"}),
            "momentum of sgd is 'inf': must be finite; give a number",
        ),
        (
            ("sgd", 0.1, {"nesterov": "yes"}),
            "nesterov of sgd is 'yes': must be true or false; give one of these",
        ),
        (
            ("adam", 0.1, {"betas": "0.9"}),
            "betas of adam is '0.9': must be 2 numbers with commas between; "
            "the default is 0.9,0.999",
        ),
        (
            ("muon", 0.1, {"ns_steps": "2.5"}),
            "ns_steps of muon is '2.5': must be a whole number; give one",
        ),
        (
            ("sgd", 0.1, {"nesterov": "true"}),
            "optimizer is 'sgd(nesterov=True, lr=0.1)': must be accepted by torch.optim (Nesterov "
            "momentum requires a momentum and zero dampening); change its options",
        ),
        (
            ("rmsprop", 0.1, {"alpha": "2"}),
            "optimizer is 'rmsprop(alpha=2.0, lr=0.1)': must keep weights finite, which two steps "
            "with gradients of 1 did not; change its options",
        ),
    ],
    ids=str,
)
def test_bad_input_is_refused_in_one_line(arguments: Any, line: str) -> None:
    with pytest.raises(InputError) as caught:
        make_optimizer(*arguments)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adam", {"betas": "0.9,1.5"}),
        ("adam", {"fused": "true", "foreach": "true"}),
        ("adam", {"differentiable": "true"}),
        ("muon", {"ns_steps": "200"}),
        ("muon", {"adjust_lr_fn": "mine"}),
        ("sgd", {"momentum": [0.9]}),
    ],
    ids=str,
)
def test_what_torch_refuses_is_refused_when_the_maker_is_made(name: str, options: Any) -> None:
    with pytest.raises(InputError, match=r"must be accepted by torch\.optim \(.+\)"):
        make_optimizer(name, 0.1, options)


def test_a_fused_optimiser_is_made_and_refused_under_stash_elsewhere() -> None:
    make = make_optimizer("sgd", 0.1, {"fused": "true"})
    with pytest.raises(InputError, match="must not be fused"):
        BlockWeights(block(), WeightRules("stash"), make, exclusive=True, lock=Lock())
