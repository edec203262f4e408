"""Messages as bytes: what goes in comes out."""

import pytest
import torch

from executor.distributed_streams import packed, packet_bytes, unpacked


def same(sent: list[torch.Tensor], found: list[torch.Tensor]) -> None:
    assert len(sent) == len(found)
    for one, other in zip(sent, found, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert one.device == other.device
        assert torch.equal(one, other)


def test_any_tensor_comes_out_as_it_went_in() -> None:
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(5, 7, generator=generator)
    sent = [
        values,
        values.t(),
        values[::2, 1::3],
        values.to(torch.bfloat16),
        values > 0,
        torch.tensor(3),
        torch.tensor(2.5, dtype=torch.float64),
        torch.empty(0, 4),
        torch.arange(9, dtype=torch.int16),
        torch.complex(values, values).conj(),
        values.requires_grad_(),
    ]
    message = packed(4, sent)
    assert message.dtype == torch.uint8
    assert len(message) == packet_bytes(sent)
    same(sent, unpacked(message))
    longer = torch.cat([message, torch.full((100,), 7, dtype=torch.uint8)])
    same(sent, unpacked(longer))
    same([], unpacked(packed(-1, [])))


def test_tensors_of_one_message_do_not_disturb_each_other() -> None:
    one, other = unpacked(packed(0, [torch.ones(3), torch.ones(3)]))
    one.requires_grad_()
    product = (one * other).sum()
    late = unpacked(packed(0, [torch.ones(3), torch.ones(3)]))
    weight = torch.ones(3, requires_grad=True)
    kept = (weight * late[0]).sum()
    late[1].add_(1)  # would spoil the graph if both counted their changes together
    kept.backward()
    product.backward()
    assert torch.equal(weight.grad, torch.ones(3))
    assert not any(tensor.data_ptr() % 64 for tensor in late)


def test_a_message_is_a_copy() -> None:
    values = torch.zeros(4)
    message = packed(0, [values])
    values.add_(1)
    assert torch.equal(unpacked(message)[0], torch.zeros(4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tensors_of_a_device_come_out_on_one() -> None:
    values = torch.arange(6.0).view(2, 3)
    sent = [values.cuda(), values, values.cuda().t()]
    same(sent, unpacked(packed(1, sent)))
