"""Where workers run, what connects them, and what befalls them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import prod
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from simcore.border import (
    Count,
    FileModel,
    Name,
    Positive,
    Seconds,
    dump_json,
    json_schema_of,
    non_negative,
    positive,
    read_model,
)
from simcore.errors import InputError
from simcore.faults import Loss, LossFile, Pause, PauseFile, Straggler, StragglerFile
from simcore.ticks import Number

__all__ = [
    "Cluster",
    "Device",
    "Link",
    "Placement",
    "Transfers",
    "cluster_json_schema",
    "dump_cluster",
    "load_cluster",
    "ring_all_reduce_s",
]

Placement = tuple[int, ...] | Literal["private", "shared"]
Transfers = Literal["serial", "shared"]


@dataclass(frozen=True, slots=True)
class Device:
    """A machine or accelerator whose active operations share its speed.

    `speeds[c - 1]` is the speed of each of c active operations, dimensionless: 1 is the speed at
    which the workload was measured. Beyond the list the total speed stays that of its last entry;
    without a list, operations slow down when there are more of them than cores.
    """

    name: str
    cores: int = 1
    speeds: tuple[Fraction, ...] = ()

    def speed(self, active: int) -> Fraction:
        """Speed of each operation while so many, at least one, are active.

        >>> Device("cpu", cores=2).speed(3)
        Fraction(2, 3)
        >>> Device("cpu", cores=2, speeds=(Fraction(1), Fraction(9, 10))).speed(3)
        Fraction(3, 5)
        """
        if not self.speeds:
            return min(Fraction(1), Fraction(self.cores, active))
        listed = min(active, len(self.speeds))
        return self.speeds[listed - 1] * Fraction(listed, active)


@dataclass(frozen=True, slots=True)
class Link:
    """What a message costs.

    The wire takes `latency_s` plus its bytes over `bytes_per_s` (None: infinite). The sending and
    the receiving worker are themselves busy for `send_s` and `receive_s` with each message.

    Transfers over one wire are `serial`, one at a time in the order in which they begin, or
    `shared`, all at once with even shares of the bandwidth. Each channel has a wire of its own,
    but channels whose links name the same `wire` share that one.
    """

    latency_s: Fraction = Fraction(0)
    bytes_per_s: Fraction | None = None
    send_s: Fraction = Fraction(0)
    receive_s: Fraction = Fraction(0)
    wire: str | None = None
    transfers: Transfers = "serial"


def ring_all_reduce_s(link: Link, members: int, payload_bytes: int) -> Fraction:
    """Seconds in which so many members make so many bytes of each the sum or mean of all.

    Each member passes on a piece of one r-th to its neighbour, 2 (r - 1) times, all at once: r - 1
    times until every piece is summed up, and as often until all members have all pieces. Hence
    2 (r - 1) / r times the bytes over the bandwidth, plus 2 (r - 1) latencies (Patarasuk and Yuan,
    Journal of Parallel and Distributed Computing 69, 2009). Nothing else is on the way meanwhile.

    >>> ring_all_reduce_s(Link(Fraction(1, 2), bytes_per_s=Fraction(100)), 4, 1000)
    Fraction(18, 1)
    """
    steps = 2 * (members - 1)
    transfer = Fraction(0)
    if link.bytes_per_s is not None:
        transfer = payload_bytes / link.bytes_per_s / members
    return steps * (transfer + link.latency_s)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Devices, the workers' places on them, the links of channels and groups, and faults.

    `placement` lists the device of each worker, both counted from 0. With the one device of a
    "private" cluster each worker has a copy of it for itself; that of a "shared" one serves all.
    `links` are those of single channels and groups by name; every other one has `link`.
    """

    devices: tuple[Device, ...]
    placement: Placement
    link: Link = Link()
    links: Mapping[str, Link] = field(default_factory=dict)
    stragglers: tuple[Straggler, ...] = ()
    pauses: tuple[Pause, ...] = ()
    losses: tuple[Loss, ...] = ()

    @classmethod
    def private(cls, latency_s: Number = 0, bytes_per_s: Number | None = None) -> Self:
        """A cluster where every worker has a one-core device of its own.

        Raises:
            InputError: a negative latency, or a bandwidth that is not positive.
        """
        latency = non_negative(latency_s, "link latency")
        bandwidth = None if bytes_per_s is None else positive(bytes_per_s, "link bandwidth")
        return cls((Device("device"),), "private", Link(latency, bandwidth))

    @classmethod
    def shared(cls, device: Device) -> Self:
        """A cluster where all workers share one device and messages cost nothing."""
        return cls((device,), "shared")

    def device_of(self, worker: int) -> int:
        """The number of the worker's device; both count from 0.

        Raises:
            InputError: the placement does not list the worker.
        """
        if self.placement == "private":
            return worker
        if self.placement == "shared":
            return 0
        if worker >= len(self.placement):
            rule = f"must list the device of every worker, and worker {worker} has none"
            shown = f"{len(self.placement)} devices long"
            raise InputError("placement", shown, rule, "add the missing devices to the cluster")
        return self.placement[worker]

    def device(self, number: int) -> Device:
        """The device of this number, as `device_of` gives it."""
        return self.devices[0 if self.placement == "private" else number]

    def link_of(self, name: str) -> Link:
        """The link over which this channel's messages, or this group's averages, travel."""
        return self.links.get(name, self.link)

    @property
    def faults(self) -> tuple[Pause | Loss, ...]:
        """What stops workers, for a while or for good."""
        return (*self.pauses, *self.losses)

    def slowdown(self, worker: int) -> Fraction:
        """The factor on the compute times of a worker, counted from 0; 1 is as measured."""
        factors = (each.factor for each in self.stragglers if each.worker == worker)
        return prod(factors, start=Fraction(1))


def _placement(value: object) -> object:
    numbers = value if isinstance(value, list) else ()
    if value in ("private", "shared"):
        return value
    if numbers and all(type(number) is int and number >= 0 for number in numbers):
        return tuple(numbers)
    rule = "must be private, shared, or a list with the number of each worker's device"
    raise InputError("", value, rule, "give one of them, such as [0, 0, 1]")


class DeviceFile(FileModel):
    """A device; speeds are those of each of 1, 2, ... active operations, 1 as measured."""

    name: Name
    cores: Count
    speeds: tuple[Positive, ...] = ()


class LinkFile(FileModel):
    """What a message costs; a bandwidth of null is infinite.

    Channels whose links name the same wire share it; a wire of null is the channel's own. Transfers
    over a wire are serial, one at a time, or shared, all at once with even shares of the bandwidth.
    """

    latency_s: Seconds = Fraction(0)
    bytes_per_s: Positive | None = None
    send_s: Seconds = Fraction(0)
    receive_s: Seconds = Fraction(0)
    wire: Name | None = None
    transfers: Transfers = "serial"


class ClusterFile(FileModel):
    """Devices, the workers' places on them, links of channels and groups by name, and faults."""

    schema_: Literal["gradlag.cluster/1"] = Field(alias="schema")
    devices: Annotated[tuple[DeviceFile, ...], Field(min_length=1)]
    placement: Annotated[
        Placement,
        PlainValidator(_placement),
        WithJsonSchema(
            {
                "anyOf": [
                    {"enum": ["private", "shared"]},
                    {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
                ]
            }
        ),
    ]
    link: LinkFile = LinkFile()
    links: dict[str, LinkFile] = Field(default_factory=dict)
    stragglers: tuple[StragglerFile, ...] = ()
    pauses: tuple[PauseFile, ...] = ()
    losses: tuple[LossFile, ...] = ()

    @model_validator(mode="after")
    def _wires_are_of_one_kind(self) -> Self:
        kinds: dict[str, Transfers] = {}
        for name, link in [("", self.link), *self.links.items()]:
            if link.wire is not None and kinds.setdefault(link.wire, link.transfers) != (
                link.transfers
            ):
                what = f"links[{name!r}].transfers"
                rule = f"must be the same in all links of the wire {link.wire}"
                raise InputError(what, link.transfers, rule, f"give {kinds[link.wire]}")
        return self

    @model_validator(mode="after")
    def _places_exist(self) -> Self:
        known = len(self.devices)
        if isinstance(self.placement, str):
            if known > 1:
                rule = f"must be a list, because there are {known} devices"
                raise InputError("placement", self.placement, rule, "list each worker's device")
            return self
        for worker, number in enumerate(self.placement):
            if number >= known:
                rule = f"must be the number of one of the devices, 0 to {known - 1}"
                raise InputError(f"placement[{worker}]", number, rule, "give one of those")
        return self


def load_cluster(path: str | os.PathLike[str]) -> Cluster:
    """Read a cluster file: TOML if its name ends in .toml, else JSON.

    Decimals are exact; a string such as "1/3" is an exact ratio.

    Raises:
        InputError: names file, key, value, rule and remedy of the file's first problem.
    """
    content = read_model(path, ClusterFile)
    return Cluster(
        devices=tuple(Device(**dict(device)) for device in content.devices),
        placement=content.placement,
        link=Link(**dict(content.link)),
        links={name: Link(**dict(link)) for name, link in content.links.items()},
        stragglers=tuple(Straggler(**dict(straggler)) for straggler in content.stragglers),
        pauses=tuple(Pause(**dict(pause)) for pause in content.pauses),
        losses=tuple(Loss(**dict(loss)) for loss in content.losses),
    )


def dump_cluster(cluster: Cluster, path: str | os.PathLike[str]) -> None:
    """Write a cluster file, whole or not at all; `load_cluster` reads an equal cluster back.

    Raises:
        InputError: the file cannot be written.
    """
    dump_json(path, "gradlag.cluster/1", cluster)


def cluster_json_schema() -> dict[str, Any]:
    """The JSON Schema of cluster files."""
    return json_schema_of(ClusterFile)
