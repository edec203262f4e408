"""The flags and files that say what layers cost and what connects workers."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from analysis.cli.options import FLAGS, flag
from simcore.errors import InputError
from simcore.registry import Entry

if TYPE_CHECKING:
    from simcore.cluster import Cluster
    from simcore.schedule import Schedule
    from simcore.workload import Workload

__all__ = [
    "BackwardRatio",
    "ClusterFile",
    "Costs",
    "ForwardTime",
    "LinkBandwidth",
    "LinkLatency",
    "UpdateTime",
    "WorkloadFile",
    "fitted",
    "read_cluster",
    "read_workload",
    "refuse_unknown_links",
]

_PANEL: Final = "Costs"
_WHOLE: Final = "of the whole network for one batch, in seconds"

WorkloadFile = Annotated[
    str | None, flag("--workload", "FILE", "costs of layers, as `gradlag profile` writes", _PANEL)
]
ForwardTime = Annotated[
    str | None, flag("--forward-time", "S", f"forward time {_WHOLE} (default 1)", _PANEL)
]
BackwardRatio = Annotated[
    str | None,
    flag("--backward-ratio", "BETA", "backward time over forward time (default 2)", _PANEL),
]
UpdateTime = Annotated[
    str | None, flag("--update-time", "S", f"update time {_WHOLE} (default 0)", _PANEL)
]
ClusterFile = Annotated[
    str | None, flag("--cluster", "FILE", "devices, workers' places on them, links", _PANEL)
]
LinkLatency = Annotated[
    str | None, flag("--link-latency", "S", "seconds on the way of a message (default 0)", _PANEL)
]
LinkBandwidth = Annotated[
    str | None,
    flag("--link-bandwidth", "BYTES_PER_S", "of each link (default infinite)", _PANEL),
]


@dataclass(frozen=True, slots=True)
class Costs:
    """What layers cost: those of a file, or even ones, as many as there are blocks."""

    file: str | None
    layers: "Workload | None"
    forward_s: str
    backward_ratio: str
    update_s: str

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
    blocks = given.get(name, layers if name == "layers" else entry.defaults[name])
    assert isinstance(blocks, int)
    if blocks > layers:
        rule = f"must be at most {layers}, the number of layers {where}"
        default = "" if name in given else ", unless it is given,"
        raise InputError(
            f"{FLAGS[name]}{default}", blocks, rule, f"give {FLAGS[name]} {layers} or less"
        )
    return {**given, name: blocks}


def read_workload(
    file: str | None, forward_time: str | None, backward_ratio: str | None, update_time: str | None
) -> Costs:
    """The costs that the flags say. Raises `InputError` for bad ones, and for both kinds."""
    from simcore.border import non_negative, positive

    times = {
        "--forward-time": forward_time,
        "--backward-ratio": backward_ratio,
        "--update-time": update_time,
    }
    _not_with("--workload", file, times, "the file says what layers cost")
    positive(forward_time or "1", "--forward-time")
    for name in ("--backward-ratio", "--update-time"):
        non_negative(times[name] or "0", name)
    layers = None
    if file is not None:
        from simcore.workload import load_workload

        layers = load_workload(file)
    return Costs(file, layers, forward_time or "1", backward_ratio or "2", update_time or "0")


def read_cluster(file: str | None, latency: str | None, bandwidth: str | None) -> "Cluster":
    """The cluster that the flags say. Raises `InputError` for bad ones, and for both kinds."""
    from simcore.border import non_negative, positive
    from simcore.cluster import Cluster, load_cluster

    given = {"--link-latency": latency, "--link-bandwidth": bandwidth}
    _not_with("--cluster", file, given, "the file says what messages cost")
    if file is not None:
        return load_cluster(file)
    return Cluster.private(
        non_negative(latency or "0", "--link-latency"),
        None if bandwidth is None else positive(bandwidth, "--link-bandwidth"),
    )


def refuse_unknown_links(cluster: "Cluster", schedule: "Schedule", file: str | None) -> None:
    """Raise `InputError` for a link of a channel that the schedule does not have."""
    names = [channel.name for channel in schedule.channels]
    for name in cluster.links:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
            rule = f"must name a channel of {schedule.name}, which has {', '.join(names[:8])}"
            rule += ", ..." if len(names) > 8 else ""
            raise InputError(f"{file}: links", name, rule, f"did you mean {near}?")


def _not_with(file_flag: str, file: str | None, flags: Mapping[str, str | None], why: str) -> None:
    for name, text in flags.items():
        if file is not None and text is not None:
            raise InputError(
                name, text, f"must not be given with {file_flag}", f"leave one out, as {why}"
            )
