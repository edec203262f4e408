"""Clipping of one block's gradients is that of torch.nn.utils, and changes no tensor of others."""

import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from executor.clipping import Clip, read_clip
from simcore.errors import InputError

SHAPES = [(3, 4), (4,), (2, 3, 1), ()]


def drawn(scale: float = 1.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [scale * torch.randn(shape, generator=generator) for shape in SHAPES]


def by_torch(
    clip: Callable[[list[nn.Parameter], float], object], gradients: list[torch.Tensor], limit: float
) -> list[torch.Tensor]:
    parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    clip(parameters, limit)
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


@pytest.mark.parametrize("scale", [1e-6, 0.01, 1.0, 1e6])
@pytest.mark.parametrize("limit", [0.02, 1.0, 4.0])
@pytest.mark.parametrize(("kind", "clip"), [("norm", clip_grad_norm_), ("value", clip_grad_value_)])
def test_gradients_are_clipped_as_by_torch(
    kind: Any, clip: Any, limit: float, scale: float
) -> None:
    gradients = drawn(scale)
    expected = by_torch(clip, gradients, limit)
    norm = Clip(kind, limit).apply(gradients)
    assert norm == pytest.approx(torch.cat([g.flatten() for g in drawn(scale)]).norm().item())
    for found, wanted in zip(gradients, expected, strict=True):
        assert torch.equal(found, wanted)


def test_a_norm_just_within_the_limit_is_treated_as_by_torch() -> None:
    """torch adds 1e-6 to the norm, so that a norm that equals the limit is clipped a little."""
    gradients = [torch.tensor([3.0, 4.0])]
    expected = by_torch(clip_grad_norm_, gradients, 5.0)
    assert Clip("norm", 5.0).apply(gradients) == 5.0
    assert torch.equal(gradients[0], expected[0])


@pytest.mark.parametrize("clip", [Clip("norm", 0.5), Clip("value", 0.25)], ids=str)
def test_tensors_that_were_given_stay_as_they_are(clip: Clip) -> None:
    given = drawn()
    gradients = list(given)
    clip.apply(gradients)
    for tensor, original, clipped in zip(given, drawn(), gradients, strict=True):
        assert torch.equal(tensor, original)
        assert tensor is not clipped


def test_one_tensor_as_the_gradient_of_two_parameters_is_clipped_once() -> None:
    """Of two parameters that are added, autograd returns one tensor twice."""
    first, second = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
    loss = (torch.full((4,), 5.0) * (first + second)).sum()
    gradients = list(torch.autograd.grad(loss, [first, second]))
    assert gradients[0] is gradients[1]
    norm = Clip("norm", 1.0).apply(gradients)
    assert norm == pytest.approx(5 * math.sqrt(8))
    for gradient in gradients:
        assert gradient.tolist() == pytest.approx([1 / math.sqrt(8)] * 4, rel=1e-5)


@pytest.mark.parametrize("clip", [Clip("norm", 1.0), Clip("value", 0.5)], ids=str)
def test_a_gradient_that_is_one_number_seen_many_times_is_clipped(clip: Clip) -> None:
    """The gradient of a sum is an expanded tensor, which cannot be written in place."""
    bias = nn.Parameter(torch.zeros(4))
    gradients = list(torch.autograd.grad(bias.sum(), [bias]))
    assert gradients[0].stride() == (0,)
    assert clip.apply(gradients) == 2.0
    assert gradients[0].tolist() == pytest.approx([0.5] * 4, rel=1e-5)


def test_gradients_within_the_limit_are_not_copied() -> None:
    for clip in (Clip("norm", 100.0), Clip("value", 100.0)):
        given = drawn()
        gradients = list(given)
        clip.apply(gradients)
        assert all(found is tensor for found, tensor in zip(gradients, given, strict=True))


@pytest.mark.parametrize("clip", [Clip("norm", 1.0), Clip("value", 1.0)], ids=str)
def test_gradients_that_are_not_finite_do_not_pass_for_clipped(clip: Clip) -> None:
    gradients = [torch.tensor([1.0, math.nan]), torch.ones(2)]
    assert math.isnan(clip.apply(gradients))
    assert bool(gradients[0].isnan().any())


@pytest.mark.parametrize("clip", [Clip("norm", 1.0), Clip("value", 1.0)], ids=str)
def test_a_block_may_have_nothing_to_clip(clip: Clip) -> None:
    assert clip.apply([]) == 0.0
    gradients = [torch.empty(0), torch.full((1,), 2.0)]
    assert clip.apply(gradients) == 2.0
    assert gradients[1].item() == pytest.approx(1.0, rel=1e-5)


def test_a_clip_reads_and_travels() -> None:
    assert read_clip("norm:1.5") == Clip("norm", 1.5)
    assert read_clip("value:5e-1") == Clip("value", 0.5)
    apply = pickle.loads(pickle.dumps(Clip("value", 0.5).apply))
    gradients = [torch.tensor([1.0])]
    apply(gradients)
    assert gradients[0].item() == 0.5


@pytest.mark.parametrize("text", ["", "norm", "norm:", "norm:0", "norm:-1", "norm:nan", "max:1"])
def test_a_bad_text_is_refused(text: str) -> None:
    rule = "must be norm:LIMIT or value:LIMIT with a limit above 0; write norm:1.0, for instance"
    with pytest.raises(InputError) as caught:
        read_clip(text)
    assert str(caught.value) == f"clipping is '{text}': {rule}"


@pytest.mark.parametrize(("kind", "limit"), [("max", 1.0), ("norm", 0.0), ("value", math.inf)])
def test_a_bad_clip_is_refused(kind: Any, limit: float) -> None:
    with pytest.raises(InputError):
        Clip(kind, limit)
