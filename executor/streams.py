"""Where workers compute: devices and streams, behind one interface.

Without a GPU there is nothing to do, and the place of a worker is None. On a GPU each worker has a
stream of its own, so that operations of several workers on one device can overlap. An operation has
ended when its kernels have: only then is its end recorded, or what it made handed over. So what a
worker receives is complete, whatever stream made it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from simcore.errors import InputError
from simcore.schedule import Schedule

__all__ = ["Place", "devices_of", "places_of", "working"]


class Place:
    """A worker's device, and its stream if the device has any."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @property
    def random_devices(self) -> list[torch.device]:
        """The devices, besides the CPU, whose random state draws of the worker change."""
        return [self.device] if self.stream is not None else []

    def bring(self, payload: Any) -> Any:
        """A payload with its tensors on this device; what is no tensor stays as it is."""
        if isinstance(payload, torch.Tensor):
            brought = payload.to(self.device)
            if self.stream is not None:
                # Its memory must not be given to another stream while this one may still read it.
                brought.record_stream(self.stream)
            return brought
        if isinstance(payload, tuple | list):
            return type(payload)(self.bring(part) for part in payload)
        return payload


@contextmanager
def working(place: Place | None) -> Iterator[None]:
    """What an operation runs in: its kernels are on the worker's stream, and done at the end."""
    if place is None or place.stream is None:
        yield
        return
    with torch.cuda.device(place.device), torch.cuda.stream(place.stream):
        yield
        place.stream.synchronize()


def places_of(devices: Sequence[str], schedule: Schedule) -> list[Place | None]:
    """The place of each worker: `devices` is one for all, or one for each.

    `cpu`; `cuda:N`; or `cuda`: the GPUs in turn. Workers that share the weights of a block must be
    on one device. Raises `InputError` for a device that there is not, for another number of devices
    than workers, and for shared weights on several devices.
    """
    found = devices_of(devices, schedule)
    if all(device.type == "cpu" for device in found):
        return [None] * len(found)
    return [Place(device) for device in found]


def devices_of(devices: Sequence[str], schedule: Schedule) -> list[torch.device]:
    """The device of each worker; as `places_of`, before anything is made on one."""
    workers = schedule.workers
    if len(devices) not in (1, len(workers)):
        rule = f"must be one for all or one for each of the {len(workers)} workers"
        raise InputError("devices", ",".join(devices), rule, "give as many")
    names = list(devices) if len(devices) > 1 else list(devices) * len(workers)
    found = [_device(name, number) for number, name in enumerate(names)]
    homes: dict[tuple[int, int], torch.device] = {}
    for worker, device in zip(workers, found, strict=True):
        for block in worker.blocks:
            if homes.setdefault((worker.replica, block), device) != device:
                rule = f"must be one for all workers that share the weights of block {block}"
                raise InputError("devices", ",".join(devices), rule, "give one")
    return found


def _device(name: str, worker: int) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        rule = "must be cpu, cuda or cuda:N"
        raise InputError("device", name, rule, "choose one of these") from error
    if device.type == "cpu":
        return device
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    if device.index is None:
        device = torch.device(device.type, worker % count if count else 0)
    if device.index >= count:
        rule = f"must be there: PyTorch sees {count} CUDA device{'' if count == 1 else 's'}"
        raise InputError("device", name, rule, "use cpu, or install PyTorch with CUDA")
    return device
