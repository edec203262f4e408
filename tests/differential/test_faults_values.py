"""What is not finite ends the run in the worker that computed it, not where it comes to light."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from faulty_layers import Faulty, faulty_training, run_in

from executor.failure import WorkerError
from executor.finiteness import check_gradients, check_item
from simcore.errors import RunError

REMEDY = "training diverged; use a smaller learning rate, or check_finite=False if the layers"


@pytest.mark.parametrize(
    ("fault", "place", "backward", "what"),
    [
        ("nan", 1, False, "the activation of block 1 of batch 11"),
        ("nan", 2, False, "the activation of block 2 of batch 11"),
        ("nan", 3, True, "the gradient of block 2 of batch 11"),
        ("nan", 2, True, "the gradient of block 1 of batch 11"),
        ("nan", 1, True, "the gradient of the weights of block 1 of batch 11"),
        ("nan-weight", 2, True, "the gradient of the weights of block 2 of batch 11"),
    ],
)
@pytest.mark.parametrize("runtime", ["threads", "replay"])
def test_the_worker_that_computed_it_is_named(
    runtime: str, fault: str, place: int, backward: bool, what: str
) -> None:
    asked = faulty_training(Faulty(fault, 12, backward=backward), place)
    with pytest.raises(WorkerError) as caught:
        run_in(runtime, asked)
    assert caught.value.worker == f"module {place}"
    assert caught.value.reason.startswith(f"{what} is not finite: {REMEDY}")


def test_without_the_check_it_comes_to_light_in_the_loss() -> None:
    asked = replace(faulty_training(Faulty("nan", 12), 1), check_finite=False)
    with pytest.raises(WorkerError, match=r"^module 3: the loss of batch 11 is nan"):
        run_in("replay", asked)


def test_finite_values_whose_sum_overflows_are_finite() -> None:
    large = torch.full((4,), 3e38)
    assert not large.sum().isfinite()
    check_item("activation", 1, 0, (large, torch.full((1,), float("nan"))))  # labels may be
    check_item("gradient", 1, 0, None)  # that of a loss
    check_gradients(1, 0, [large, torch.ones(2, dtype=torch.int64)])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_is_found_wherever_it_is(value: float) -> None:
    spoilt = torch.ones(1000)
    spoilt[777] = value
    with pytest.raises(RunError, match="block 2 of batch 3 is not finite"):
        check_item("derivative", 2, 3, ((torch.ones(2), spoilt), (torch.ones(1),)))
    with pytest.raises(RunError, match="the weights of block 2 of batch 3 is not finite"):
        check_gradients(2, 3, [torch.ones(1), spoilt])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("spoilt", ["inputs", "gradient"])
@pytest.mark.parametrize("layer", [nn.Linear(160, 128), nn.Conv2d(32, 64, 3, bias=False)])
def test_of_large_gradients_an_edge_tells(layer: nn.Module, spoilt: str, value: float) -> None:
    """Wherever the value is, in what comes from below or from above."""
    torch.manual_seed(0)
    inputs = torch.randn(8, 160) if isinstance(layer, nn.Linear) else torch.randn(4, 32, 5, 5)
    above = torch.randn_like(layer(inputs))
    changed = inputs if spoilt == "inputs" else above
    for _ in range(10):
        place = tuple(int(torch.randint(size, ())) for size in changed.shape)
        before, changed[place] = changed[place].clone(), value
        [weight, *_] = torch.autograd.grad(layer(inputs), [*layer.parameters()], above)
        assert weight.numel() > 2**14
        with pytest.raises(RunError, match="is not finite"):
            check_gradients(1, 0, [weight])
        changed[place] = before
        [weight, *_] = torch.autograd.grad(layer(inputs), [*layer.parameters()], above)
        check_gradients(1, 0, [weight])
