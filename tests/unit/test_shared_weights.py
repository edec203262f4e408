"""Shared weights: views keep dtype, shape and strides, and are the same for all who adopt them."""

import copy

import pytest
import torch
from torch import nn

from executor.network import split
from executor.shared_weights import SharedWeights, shared_blocks, tensors_of
from simcore.errors import InputError
from simcore.schedules import build


def network() -> nn.Sequential:
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(16, 5),
        nn.Linear(5, 2, bias=False).double().requires_grad_(False),
    )
    return model.to(memory_format=torch.channels_last)


BOUNDS = (0, 1, 2, 3)


def test_values_and_strides_are_kept_and_changes_are_seen_by_all() -> None:
    model = network()
    # A layer for each child that learns: the convolution, the normalisation, the linear layers.
    blocks = split(model, BOUNDS)
    shared = SharedWeights.create("test", {k: tensors_of(blocks[k - 1]) for k in (1, 2, 3)})
    copies = [split(copy.deepcopy(model), BOUNDS) for _ in range(2)]
    for own in copies:
        for block in (1, 2, 3):
            shared.adopt(block, tensors_of(own[block - 1]))
    for block, one, other in zip(blocks, *copies, strict=True):
        for tensors in zip(tensors_of(block), tensors_of(one), tensors_of(other), strict=True):
            assert len({(t.dtype, t.shape, t.stride(), t.requires_grad) for t in tensors}) == 1
            assert all(torch.equal(tensors[0], t) for t in tensors)
            assert tensors[0].data_ptr() != tensors[1].data_ptr()
    inputs = torch.randn(6, 3, 4, 4)
    for own in copies:  # the statistics count the passes of both
        nn.Sequential(*own[:2])(inputs)
    optimizer = torch.optim.SGD(copies[0][2].parameters(), lr=1.0)
    weight = copies[0][2][0].weight
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    state = shared.state(model, blocks)
    assert state.keys() == model.state_dict().keys()
    assert state["1.num_batches_tracked"] == 2
    assert torch.equal(copies[1][2][0].weight, model[3].weight - 1)
    assert torch.equal(state["3.weight"], model[3].weight - 1)
    assert torch.equal(state["4.weight"], model[4].weight)
    before = state["3.weight"].clone()
    with torch.no_grad():
        weight.zero_()
    assert torch.equal(state["3.weight"], before)


def test_only_some_blocks_and_a_head_are_shared_and_tied_tensors_stay_tied() -> None:
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    head = nn.Linear(3, 2)
    block = nn.Sequential(nn.Linear(2, 3), tied)
    assert [len(tensors_of(block)), len(tensors_of(block, head))] == [5, 7]
    shared = SharedWeights.create("tied", {2: tensors_of(block, head)})
    own = copy.deepcopy((block, head))
    shared.adopt(2, tensors_of(*own))
    assert own[0][1][0].weight is own[0][1][1].weight
    with torch.no_grad():
        own[1].bias.fill_(7)
        own[0][1][1].weight.fill_(3)
    model = nn.Sequential(nn.Linear(9, 2), block)
    state = shared.state(model, [model[0], block])
    assert {"1.1.0.weight", "1.1.1.weight"} < state.keys()
    assert not any(name.startswith("0.") for name in state)
    assert (state["1.1.0.weight"] == 3).all()
    assert (shared.views(2, tensors_of(block, head))[-1] == 7).all()


def test_memory_that_there_is_not_is_refused_in_one_line() -> None:
    huge = torch.empty(2**50, device="meta")
    with pytest.raises(InputError, match="size in bytes of the shared weights 'huge'"):
        SharedWeights.create("huge", {1: [huge]})


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("fdg", {"modules": 3}, {}),
        ("ddp", {"modules": 2}, {}),
        ("hogwild", {"layers": 2}, {0: [1, 2]}),
        ("hogwild", {"layers": 2, "processes": 1}, {}),
        ("lapsgd", {"layers": 1, "processes": 1}, {0: [1], 1: [1]}),
    ],
)
def test_blocks_are_shared_by_workers_of_one_replica(name, options, expected) -> None:
    assert shared_blocks(build(name, batches=8, **options)) == expected
