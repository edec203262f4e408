"""Devices: what can be said of them without a GPU."""

import pytest
import torch

from executor.streams import Place, devices_of, places_of
from simcore.errors import InputError
from simcore.schedules import build

FDG = build("fdg", modules=2, batches=2)


def test_the_cpu_needs_nothing() -> None:
    assert places_of(["cpu"], FDG) == [None, None]
    assert places_of(["cpu", "cpu"], FDG) == [None, None]


@pytest.mark.parametrize(
    ("devices", "words"),
    [
        (["cuda:99"], "PyTorch sees"),
        (["tpu"], "must be cpu, cuda or cuda:N"),
        (["cpu", "cuda", "cpu"], "one for each of the 2 workers"),
        (["mps"], "must be there"),
    ],
)
def test_bad_devices_are_refused_in_one_line(devices: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        places_of(devices, FDG)
    assert "\n" not in str(caught.value)


def test_weights_are_shared_on_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    schedule = build("hogwild", layers=2, batches=4)
    with pytest.raises(InputError, match="share the weights of block 1"):
        devices_of(["cuda:0", "cuda:1"], schedule)
    assert [str(device) for device in devices_of(["cuda"], FDG)] == ["cuda:0", "cuda:1"]


def test_payloads_are_brought_with_their_structure() -> None:
    place = Place(torch.device("cpu"))
    payload = ((torch.ones(2), (torch.zeros(1),)), torch.tensor([1]), None, 7)
    brought = place.bring(payload)
    assert torch.equal(brought[0][0], torch.ones(2))
    assert brought[2:] == (None, 7)
    assert type(brought[0][1]) is tuple
