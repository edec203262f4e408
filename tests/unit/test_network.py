import re
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import nn

from executor.network import block_shapes, layers_of, split
from simcore.errors import InputError


def names(layers: list[nn.Sequential]) -> list[list[str]]:
    return [[type(part).__name__ for part in layer] for layer in layers]


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (nn.Sequential(nn.Linear(2, 2)), [["Linear"]]),
        # What learns nothing belongs to the layer before it, ...
        (
            nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Dropout(), nn.Linear(2, 2), nn.Tanh()),
            [["Linear", "ReLU", "Dropout"], ["Linear", "Tanh"]],
        ),
        # ... and at the beginning to the first layer.
        (
            nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(4, 2), nn.Linear(2, 2)),
            [["Flatten", "ReLU", "Linear"], ["Linear"]],
        ),
        # Normalisation learns, unless it is told not to.
        (
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()),
            [["Conv2d"], ["BatchNorm2d", "ReLU"]],
        ),
        (
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, affine=False)),
            [["Conv2d", "BatchNorm2d"]],
        ),
        # A child is never cut open.
        (
            nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Linear(2, 2)),
            [["Sequential"], ["Linear"]],
        ),
        # Frozen parameters are not to be learned.
        (
            nn.Sequential(frozen(nn.Linear(2, 2)), nn.Linear(2, 2), frozen(nn.Linear(2, 2))),
            [["Linear", "Linear", "Linear"]],
        ),
        # Names of children do not matter.
        (
            nn.Sequential(OrderedDict(body=nn.Linear(2, 2), act=nn.ReLU(), head=nn.Linear(2, 2))),
            [["Linear", "ReLU"], ["Linear"]],
        ),
    ],
)
def test_layers(model: nn.Sequential, expected: list[list[str]]) -> None:
    assert names(layers_of(model)) == expected


def test_a_module_without_parameters_may_be_used_twice() -> None:
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(2, 2), relu, nn.Linear(2, 2), relu)
    assert names(layers_of(model)) == [["Linear", "ReLU"], ["Linear", "ReLU"]]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.there = nn.Linear(2, 2)
        self.back = nn.Linear(2, 2)
        self.back.weight = self.there.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.back(self.there(inputs))
        return found


def twice() -> nn.Module:
    linear = nn.Linear(2, 2)
    return nn.Sequential(linear, nn.ReLU(), linear)


def tied_layers() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    return model


def test_a_parameter_may_be_used_twice_within_a_child() -> None:
    assert names(layers_of(nn.Sequential(Tied(), nn.Linear(2, 2)))) == [["Tied"], ["Linear"]]


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (
            lambda: nn.Linear(2, 2),
            "model is 'Linear': must be an nn.Sequential; wrap its parts in one",
        ),
        (
            lambda: nn.Sequential(nn.ReLU()),
            "model is 'Sequential': must have parameters to learn; add a layer that learns",
        ),
        (
            nn.Sequential,
            "model is 'Sequential': must have parameters to learn; add a layer that learns",
        ),
        (
            lambda: nn.Sequential(frozen(nn.Linear(2, 2))),
            "model is 'Sequential': must have parameters to learn; add a layer that learns",
        ),
        (
            twice,
            "parameter is 'weight': must not be used in two layers; "
            "put what shares it into one child of the nn.Sequential",
        ),
        (
            tied_layers,
            "parameter is 'weight': must not be used in two layers; "
            "put what shares it into one child of the nn.Sequential",
        ),
    ],
)
def test_networks_that_cannot_be_split(make: Callable[[], nn.Module], line: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(line)}$"):
        layers_of(make())


def test_blocks_are_runs_of_layers_with_the_same_parameters() -> None:
    model = nn.Sequential(nn.Flatten(), *(nn.Linear(2, 2) for _ in range(4)), nn.Tanh())
    blocks = split(model, (0, 1, 3, 4))
    assert names(blocks) == [["Flatten", "Linear"], ["Linear", "Linear"], ["Linear", "Tanh"]]
    found = [parameter for block in blocks for parameter in block.parameters()]
    assert all(a is b for a, b in zip(found, model.parameters(), strict=True))
    inputs = torch.randn(3, 2)
    outputs = inputs
    for block in blocks:
        outputs = block(outputs)
    assert torch.equal(outputs, model(inputs))


@pytest.mark.parametrize(
    "bounds", [(0, 1), (0, 1, 5), (1, 2, 3), (0, 2, 1, 3), (0, 2, 2, 3), (0,), (3,), ()]
)
def test_bounds_must_cover_all_layers(bounds: tuple[int, ...]) -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
    line = f"bounds of blocks is '{bounds}': must rise from 0 to the 3 layers of the model"
    with pytest.raises(InputError, match=f"^{re.escape(line)}"):
        split(model, bounds)


def test_shapes_are_found_without_a_trace() -> None:
    """Training mode, statistics, random state, gradients: all stay as they were."""
    blocks = split(
        nn.Sequential(
            nn.Conv2d(1, 2, 3),
            nn.BatchNorm2d(2),
            nn.Dropout(),
            nn.Flatten(),
            nn.Linear(8, 3),
        ),
        (0, 2, 3),
    )
    blocks[1].eval()
    before = {name: tensor.clone() for name, tensor in blocks[0].state_dict().items()}
    torch.manual_seed(0)
    outputs = block_shapes(blocks, torch.randn(5, 1, 4, 4))
    drawn = torch.rand(3)
    assert [tuple(output.shape) for output in outputs] == [(5, 1, 4, 4), (5, 8), (5, 3)]
    assert not any(output.requires_grad for output in outputs)
    assert [block.training for block in blocks] == [True, False]
    after = blocks[0].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    torch.manual_seed(0)
    torch.randn(5, 1, 4, 4)
    assert torch.equal(drawn, torch.rand(3))
