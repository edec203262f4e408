import json
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcore.cluster import (
    Cluster,
    Device,
    Link,
    Placement,
    cluster_json_schema,
    dump_cluster,
    load_cluster,
    ring_all_reduce_s,
)
from simcore.errors import InputError
from simcore.faults import Loss, Pause, Straggler
from simcore.ticks import Number

T = TypeVar("T")

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
seconds = st.fractions(min_value=0)
positive = st.fractions(min_value=0).filter(bool)
devices = st.builds(Device, names, st.integers(1, 2**53), st.lists(positive, max_size=3).map(tuple))
links = st.builds(Link, seconds, st.none() | positive, seconds, seconds, st.none() | names)
shared_links = st.builds(Link, seconds, transfers=st.just("shared"))
moments = st.tuples(seconds, st.none()) | st.tuples(st.none(), positive)
workers = st.integers(0, 9)
stragglers = st.builds(Straggler, workers, positive)
pauses = st.builds(
    lambda worker, length, moment: Pause(worker, length, *moment), workers, positive, moments
)
losses = st.builds(lambda worker, moment: Loss(worker, *moment), workers, moments)


def few(what: st.SearchStrategy[T]) -> st.SearchStrategy[tuple[T, ...]]:
    return st.lists(what, max_size=2).map(tuple)


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    known = draw(st.lists(devices, min_size=1, max_size=3))
    placements: st.SearchStrategy[Placement] = st.lists(
        st.integers(0, len(known) - 1), min_size=1, max_size=5
    ).map(tuple)
    if len(known) == 1:
        placements |= st.sampled_from(["private", "shared"])
    by_channel = draw(st.dictionaries(names, links | shared_links, max_size=2))
    faults = draw(few(stragglers)), draw(few(pauses)), draw(few(losses))
    return Cluster(tuple(known), draw(placements), draw(links), by_channel, *faults)


def document(**changes: object) -> dict[str, Any]:
    return {
        "schema": "gradlag.cluster/1",
        "devices": [{"name": "cpu", "cores": 2}],
        "placement": "shared",
        **changes,
    }


def written(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "cluster.json"
    path.write_text(json.dumps(content), "utf-8")
    return path


@pytest.mark.parametrize(
    ("device", "speeds"),
    [
        (Device("one"), ["1", "1/2", "1/3"]),
        (Device("three", cores=3), ["1", "1", "1", "3/4", "3/5"]),
        (Device("measured", 2, (Fraction(1), Fraction(9, 10))), ["1", "9/10", "3/5", "9/20"]),
        (Device("fast", 4, (Fraction(3, 2),)), ["3/2", "3/4", "1/2"]),
    ],
)
def test_speed_of_each_active_operation(device: Device, speeds: list[str]) -> None:
    assert [device.speed(active) for active in range(1, len(speeds) + 1)] == [
        Fraction(speed) for speed in speeds
    ]


@given(devices, st.integers(1, 100))
def test_beyond_its_list_and_cores_the_total_speed_of_a_device_stays(
    device: Device, more: int
) -> None:
    full = len(device.speeds) or device.cores
    assert device.speed(full + more) * (full + more) == device.speed(full) * full


def test_private_devices() -> None:
    cluster = Cluster.private(latency_s=0.1, bytes_per_s="1e9")
    assert [cluster.device_of(worker) for worker in range(3)] == [0, 1, 2]
    assert cluster.device(2).cores == 1
    assert cluster.link_of("data") == Link(Fraction(1, 10), Fraction(10**9))


def test_private_costs_nothing_by_default() -> None:
    assert Cluster.private().link_of("data") == Link(Fraction(0), None, Fraction(0), Fraction(0))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((-1, None), "link latency is -1: must not be negative; give 0 or more"),
        (
            ("soon", 1),
            "link latency is 'soon': must be a number; give one such as 0.25, 1e-3 or 1/3",
        ),
        ((0, 0), "link bandwidth is 0: must be more than 0; give a positive number"),
    ],
)
def test_private_refuses(arguments: tuple[Number, Number | None], line: str) -> None:
    with pytest.raises(InputError) as caught:
        Cluster.private(*arguments)
    assert str(caught.value) == line


def test_a_shared_device() -> None:
    device = Device("cpu", cores=2)
    cluster = Cluster.shared(device)
    assert [cluster.device_of(worker) for worker in range(3)] == [0, 0, 0]
    assert cluster.device(0) is device


def test_a_placement_by_list() -> None:
    first, second = Device("first"), Device("second")
    cluster = Cluster((first, second), (1, 0, 1))
    assert [cluster.device_of(worker) for worker in range(3)] == [1, 0, 1]
    assert cluster.device(1) is second
    with pytest.raises(InputError) as caught:
        cluster.device_of(3)
    assert str(caught.value) == (
        "placement is '3 devices long': must list the device of every worker, "
        "and worker 3 has none; add the missing devices to the cluster"
    )


def test_a_channel_may_have_a_link_of_its_own() -> None:
    slow = Link(latency_s=Fraction(1))
    cluster = Cluster((Device("cpu"),), "private", links={"gradients[2]": slow})
    assert cluster.link_of("gradients[2]") is slow
    assert cluster.link_of("gradients[1]") is cluster.link


@settings(deadline=None)  # the disk may be slow
@given(cluster=clusters())
def test_what_is_dumped_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, cluster: Cluster
) -> None:
    path = tmp_path_factory.mktemp("cluster") / "file.json"
    dump_cluster(cluster, path)
    assert load_cluster(path) == cluster


def test_what_may_be_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, document())
    assert load_cluster(path) == Cluster.shared(Device("cpu", cores=2))


TOML = """
schema = "gradlag.cluster/1"
placement = [0, 0, 1]
link = { bytes_per_s = 1e9, wire = "network", transfers = "shared" }

[[devices]]
name = "first"
cores = 2
speeds = [1, 0.93]

[[devices]]
name = "second"
cores = 1

[links."gradients[2]"]
latency_s = "1/3"

[[stragglers]]
worker = 2
factor = 1.5

[[pauses]]
worker = 0
at_s = 10
for_s = 2.5

[[losses]]
worker = 1
mean_s = 3600
"""


def test_a_toml_file(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(TOML, "utf-8")
    assert load_cluster(path) == Cluster(
        (Device("first", 2, (Fraction(1), Fraction(93, 100))), Device("second")),
        (0, 0, 1),
        Link(bytes_per_s=Fraction(10**9), wire="network", transfers="shared"),
        {"gradients[2]": Link(latency_s=Fraction(1, 3))},
        (Straggler(2, Fraction(3, 2)),),
        (Pause(0, Fraction(5, 2), at_s=Fraction(10)),),
        (Loss(1, mean_s=Fraction(3600)),),
    )


def test_slowdowns_multiply() -> None:
    slow = Straggler(1, Fraction(3, 2)), Straggler(0, Fraction(2)), Straggler(1, Fraction(4))
    cluster = Cluster((Device("cpu"),), "private", stragglers=slow)
    assert [cluster.slowdown(worker) for worker in range(3)] == [2, 6, 1]


@given(
    links,
    st.integers(1, 7),
    st.integers(0, 1000),
)
def test_a_ring_reduces_piece_by_piece(link: Link, members: int, size: int) -> None:
    """Every member passes pieces on to its neighbour until it holds the sum of all pieces."""
    held = [[{member} for _ in range(members)] for member in range(members)]  # member, piece
    seconds = Fraction(0)
    steps = 0
    while any(piece != set(range(members)) for pieces in held for piece in pieces):
        sent = [
            (member, (member - steps) % members, held[member][(member - steps) % members])
            for member in range(members)
        ]
        for member, piece, content in sent:
            held[(member + 1) % members][piece] = held[(member + 1) % members][piece] | content
        seconds += link.latency_s
        seconds += Fraction(size, members) / link.bytes_per_s if link.bytes_per_s else 0
        steps += 1
    assert ring_all_reduce_s(link, members, size) == seconds


TIME = "must be given unless mean_s is, the mean of a random time; give one of the two"
PLACEMENT = (
    "must be private, shared, or a list with the number of each worker's device; "
    "give one of them, such as [0, 0, 1]"
)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"schema": "gradlag.workload/1"},
            "schema is 'gradlag.workload/1': must be 'gradlag.cluster/1'; correct it in the file",
        ),
        ({"devices": []}, "devices is '[]': must not be empty; give at least one entry"),
        (
            {"devices": [{"name": "cpu"}]},
            "devices[0].cores is 'missing': the key is required; add it",
        ),
        (
            {"devices": [{"name": "cpu", "cores": 0}]},
            "devices[0].cores is 0: must be greater than or equal to 1; correct it in the file",
        ),
        (
            {"devices": [{"name": "cpu", "cores": 2, "speeds": [1, 0]}]},
            "devices[0].speeds[1] is 0: must be more than 0; give a positive number",
        ),
        ({"placement": "everywhere"}, f"placement is 'everywhere': {PLACEMENT}"),
        ({"placement": []}, f"placement is '[]': {PLACEMENT}"),
        ({"placement": [True]}, f"placement is '[true]': {PLACEMENT}"),
        ({"placement": [0, -1]}, f"placement is '[0, -1]': {PLACEMENT}"),
        ({"placement": {"0": 0}}, f"placement is '{{\"0\": 0}}': {PLACEMENT}"),
        (
            {"placement": [0, 1]},
            "placement[1] is 1: must be the number of one of the devices, 0 to 0; "
            "give one of those",
        ),
        (
            {"devices": [{"name": "a", "cores": 1}, {"name": "b", "cores": 1}]},
            "placement is 'shared': must be a list, because there are 2 devices; "
            "list each worker's device",
        ),
        (
            {"link": {"latency_s": -1}},
            "link.latency_s is -1: must not be negative; give 0 or more",
        ),
        (
            {"link": {"bytes_per_s": 0}},
            "link.bytes_per_s is 0: must be more than 0; give a positive number",
        ),
        (
            {"link": {"transfers": "both"}},
            "link.transfers is 'both': must be 'serial' or 'shared'; correct it in the file",
        ),
        (
            {"link": {"wire": "bus"}, "links": {"a": {"wire": "bus", "transfers": "shared"}}},
            "links['a'].transfers is 'shared': must be the same in all links of the wire bus; "
            "give serial",
        ),
        (
            {"stragglers": [{"worker": 0, "factor": 0}]},
            "stragglers[0].factor is 0: must be more than 0; give a positive number",
        ),
        (
            {"stragglers": [{"worker": -1, "factor": 2}]},
            "stragglers[0].worker is -1: must be greater than or equal to 0; "
            "correct it in the file",
        ),
        (
            {"losses": [{"worker": 0}]},
            f"losses[0].at_s is 'missing': {TIME}",
        ),
        (
            {"pauses": [{"worker": 0, "for_s": 1, "at_s": 0, "mean_s": 1}]},
            f"pauses[0].at_s is 'given with mean_s': {TIME}",
        ),
        (
            {"pauses": [{"worker": 0, "for_s": 0, "at_s": 0}]},
            "pauses[0].for_s is 0: must be more than 0; give a positive number",
        ),
        ({"links": []}, "links is '[]': must be an object; put it in braces"),
        (
            {"links": {"gradients[2]": {"send_s": float("nan")}}},
            "links['gradients[2]'].send_s is nan: must be finite; give a finite number",
        ),
        (
            {"links": {"data": {"latency": 1}}},
            "links.data.latency is 1: there is no such key; remove it or correct its spelling",
        ),
    ],
)
def test_a_bad_document_is_one_clear_line(
    tmp_path: Path, changes: dict[str, object], line: str
) -> None:
    path = written(tmp_path, document(**changes))
    with pytest.raises(InputError) as caught:
        load_cluster(path)
    assert str(caught.value) == f"{path}: {line}"


def test_the_json_schema_states_keys_and_defaults() -> None:
    schema = cluster_json_schema()
    assert schema["properties"]["schema"]["const"] == "gradlag.cluster/1"
    assert schema["required"] == ["schema", "devices", "placement"]
    assert list(schema["$defs"]["DeviceFile"]["properties"]) == list(Device.__dataclass_fields__)
    link = schema["$defs"]["LinkFile"]["properties"]
    assert list(link) == list(Link.__dataclass_fields__)
    assert link["latency_s"]["default"] == 0
    assert link["bytes_per_s"]["default"] is None
