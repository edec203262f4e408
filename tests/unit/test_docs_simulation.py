"""The page of the JSON of simulations has every key that a document has, in its order."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from simcore.cluster import Cluster
from simcore.engine import simulate
from simcore.faults import Loss
from simcore.holdings import CATEGORIES
from simcore.long_summary import summarize_long
from simcore.occupancy import STATES
from simcore.schedules import build
from simcore.slack import slack_values
from simcore.steady import long_run
from simcore.summary import summarize
from simcore.ticks import exact
from simcore.workload import Layer, Workload

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "simulation.md").read_text()
TABLES = [  # the names in the first column of each
    [
        name
        for row in re.findall(r"^\| (.*?) \|", table, re.M)
        for name in re.findall(r"`(\w+)`", row)
    ]
    for table in re.findall(r"(?:^\|.*\n)+", PAGE, re.M)
]
TIME, STALENESS, SOJOURN, LAW, MEMORY, TRAFFIC, REST, SLACK = TABLES


def document(name: str, cluster: Cluster | None = None, **options: Any) -> dict[str, Any]:
    schedule = build(name, batches=40, **options)
    layer = Layer("", exact(1), exact(2), parameter_bytes=8, activation_bytes=8, saved_bytes=8)
    workload = Workload("sized", (layer,) * schedule.blocks, batch_size=2)
    trace = simulate(schedule, workload, cluster)
    found = summarize(trace, workload, schedule, cluster)
    if name == "fdg" and cluster is None:
        found["slack"] = slack_values(schedule, workload, Cluster.private())
    return found


def test_keys_of_documents() -> None:
    lossy = replace(Cluster.private(), losses=(Loss(0, exact(5)),))
    keys = [*TIME, *STALENESS, *MEMORY, *REST]
    found = ["how", "ground", "period_batches", "bottleneck"]
    assert keys[-7:] == ["lost", "waiting", *found, "slack"]
    always = keys[:-7]
    assert [*document("fdg", modules=2)] == [*always, "slack"]
    assert [*document("fdg", lossy, modules=2)] == [*always, "lost", "waiting"]


def test_keys_of_long_runs() -> None:
    schedule = build("fdg", modules=2)
    layer = Layer("", exact(1), exact(2), parameter_bytes=8, activation_bytes=8, saved_bytes=8)
    workload = Workload("sized", (layer,) * 2, batch_size=2)
    found = summarize_long(long_run(schedule, workload, batches=10**9), schedule, workload)
    keys = [*TIME, *STALENESS, *MEMORY, *REST]
    assert [*found] == [*keys[:-7], *keys[-5:-1]]
    assert [*found["gaps"][0]] == [*document("fdg", modules=2)["gaps"][0]]
    assert [*found["memory"][0]] == [*document("fdg", modules=2)["memory"][0]]
    assert not [key for key in found["bottleneck"] if f"`{key}`" not in PAGE]


def test_keys_of_parts() -> None:
    found = document("async-lu", layers=2)
    law, traffic = found["law"], found["traffic"]
    assert [*law] == LAW
    assert [*law["measured"]] == LAW[:5]
    assert [*found["sojourn"][0]] == SOJOURN
    assert [*traffic[0]] == TRAFFIC
    assert [*document("fdg", modules=2)["slack"]] == SLACK


@pytest.mark.parametrize("name", ["fdg", "async-lu", "lapsgd", "gpipe"])
def test_every_inner_key_is_named_somewhere(name: str) -> None:
    known = {f"{state}_s" for state in STATES} | {f"{each}_bytes" for each in CATEGORIES}
    found = document(name)
    del found["options"]
    unnamed = {key for key in keys_within(found) if not key.isdigit()} - known
    assert not [key for key in unnamed if f"`{key}`" not in PAGE]


def keys_within(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from keys_within(each)
