"""The flags and files that say what layers cost and what connects workers."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Final

from analysis.cli.options import FLAGS, flag
from simcore.errors import InputError
from simcore.registry import Entry

if TYPE_CHECKING:
    from simcore.cluster import Cluster
    from simcore.schedule import Schedule
    from simcore.workload import Workload

__all__ = [
    "CostFlags",
    "Costs",
    "LinkFlags",
    "WorkloadFile",
    "fitted",
    "refuse_unfit",
]

_PANEL: Final = "Costs"
_WHOLE: Final = "of the whole network for one batch, in seconds"

WorkloadFile = Annotated[
    str | None,
    flag(
        "--workload",
        "FILE",
        "costs of layers: what `gradlag profile` writes, a trace of torch.profiler, or PipeDream's "
        "graph.txt",
        _PANEL,
    ),
]


@dataclass(frozen=True, slots=True)
class CostFlags:
    """What layers cost: a file, or times of even layers."""

    workload: WorkloadFile = None
    forward_time: Annotated[
        str | None, flag("--forward-time", "S", f"forward time {_WHOLE} (default 1)", _PANEL)
    ] = None
    backward_ratio: Annotated[
        str | None,
        flag("--backward-ratio", "BETA", "backward time over forward time (default 2)", _PANEL),
    ] = None
    update_time: Annotated[
        str | None, flag("--update-time", "S", f"update time {_WHOLE} (default 0)", _PANEL)
    ] = None

    def read(self) -> "Costs":
        """The costs. Raises `InputError` for bad ones, and for both kinds."""
        from simcore.border import non_negative, positive

        times = {
            "--forward-time": self.forward_time,
            "--backward-ratio": self.backward_ratio,
            "--update-time": self.update_time,
        }
        _not_with("--workload", self.workload, times, "the file says what layers cost")
        forward = positive(_given(self.forward_time, "1"), "--forward-time")
        ratio = non_negative(_given(self.backward_ratio, "2"), "--backward-ratio")
        update = non_negative(_given(self.update_time, "0"), "--update-time")
        layers = None
        if self.workload is not None:
            from simcore.interop.workloads import load_workload_any

            layers = load_workload_any(self.workload)
        return Costs(self.workload, layers, forward, ratio, update)


@dataclass(frozen=True, slots=True)
class LinkFlags:
    """What connects workers: a file, or links that are all alike."""

    cluster: Annotated[
        str | None, flag("--cluster", "FILE", "devices, workers' places on them, links", _PANEL)
    ] = None
    link_latency: Annotated[
        str | None,
        flag("--link-latency", "S", "seconds on the way of a message (default 0)", _PANEL),
    ] = None
    link_bandwidth: Annotated[
        str | None,
        flag("--link-bandwidth", "BYTES_PER_S", "of each link (default infinite)", _PANEL),
    ] = None

    def read(self) -> "Cluster":
        """The cluster. Raises `InputError` for bad values, and for both kinds."""
        from simcore.border import non_negative, positive
        from simcore.cluster import Cluster, load_cluster

        given = {"--link-latency": self.link_latency, "--link-bandwidth": self.link_bandwidth}
        _not_with("--cluster", self.cluster, given, "the file says what messages cost")
        if self.cluster is not None:
            return load_cluster(self.cluster)
        bandwidth = self.link_bandwidth
        return Cluster.private(
            non_negative(_given(self.link_latency, "0"), "--link-latency"),
            None if bandwidth is None else positive(bandwidth, "--link-bandwidth"),
        )


@dataclass(frozen=True, slots=True)
class Costs:
    """What layers cost: those of a file, or even ones, as many as there are blocks."""

    file: str | None
    layers: "Workload | None"
    forward_s: Fraction
    backward_ratio: Fraction
    update_s: Fraction

    def fitted(self, entry: Entry, given: Mapping[str, object]) -> dict[str, object]:
        """The options with as many blocks as the layers of the file allow.

        Raises `InputError` for more blocks than layers.
        """
        if self.layers is None:
            return dict(given)
        return fitted(entry, given, len(self.layers.layers), f"in {self.file}")

    def blocks(self, count: int) -> "Workload":
        """The costs of so many blocks."""
        from simcore.partition import blocks_of, partition
        from simcore.workload import Workload

        if self.layers is None:
            return Workload.even(count, self.forward_s, self.backward_ratio, self.update_s)
        return blocks_of(self.layers, partition(self.layers, count))


def fitted(entry: Entry, given: Mapping[str, object], layers: int, where: str) -> dict[str, object]:
    """The options of a schedule for a network of so many layers.

    In a layer-wise schedule each layer is a block unless fewer are asked for. Raises `InputError`
    for more blocks than layers.
    """
    name = entry.blocks_option
    if name is None:
        if entry.fixed_blocks > layers:
            rule = f"must be at most {layers}, the number of layers {where}"
            what = f"blocks of {entry.name}"
            raise InputError(what, entry.fixed_blocks, rule, "use a larger network")
        return dict(given)
    blocks = given.get(name, layers if name == "layers" else entry.defaults[name])
    assert isinstance(blocks, int)
    made = entry.blocks({**given, name: blocks})
    if made > layers:
        most, rest = layers * blocks // made, f"the number of layers {where}"
        if not most:
            rule = f"must be at most {layers}, {rest}"
            raise InputError(FLAGS["chunks"], made // blocks, rule, "give fewer")
        rest = rest if made == blocks else f"as there are {layers} layers {where}"
        value = blocks if name in given else f"{blocks}, its default"
        rule = f"must be at most {most}, {rest}"
        raise InputError(FLAGS[name], value, rule, f"give {FLAGS[name]} {most} or less")
    return {**given, name: blocks}


def refuse_unfit(cluster: "Cluster", schedule: "Schedule", file: str | None) -> None:
    """Raise `InputError` for a cluster that is not one for the schedule.

    It has a link of a channel or group that the schedule does not have, no device for a worker, or
    a fault of a worker that there is not.
    """
    from simcore.faults import refuse_strangers

    refuse_strangers((*cluster.stragglers, *cluster.faults), len(schedule.workers))
    names = [channel.name for channel in schedule.channels]
    names += [group.name for group in schedule.groups]
    for name in cluster.links:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
            rule = f"must name a channel of {schedule.name}, which has {', '.join(names[:8])}"
            rule += ", ..." if len(names) > 8 else ""
            raise InputError(f"{file}: links", name, rule, f"did you mean {near}?")
    if isinstance(cluster.placement, tuple) and len(cluster.placement) < len(schedule.workers):
        listed, workers = len(cluster.placement), len(schedule.workers)
        rule = f"must list the device of each of the {workers} workers of {schedule.name}"
        raise InputError(f"{file}: placement", f"{listed} long", rule, "add the missing ones")


def _given(text: str | None, default: str) -> str:
    return default if text is None else text


def _not_with(file_flag: str, file: str | None, flags: Mapping[str, str | None], why: str) -> None:
    for name, text in flags.items():
        if file is not None and text is not None:
            raise InputError(
                name, text, f"must not be given with {file_flag}", f"leave one out, as {why}"
            )
