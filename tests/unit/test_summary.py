import json
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from simcore.cluster import Cluster
from simcore.engine import simulate
from simcore.memory import memory_of
from simcore.occupancy import STATES
from simcore.schedules import SCHEDULES, build
from simcore.staleness import gap_summaries
from simcore.summary import summarize
from simcore.workload import Layer, Workload

# The keys that the command line documents, in its order.
KEYS = [
    "schema",
    "schedule",
    "options",
    "makespan_s",
    "sequential_s",
    "speedup",
    "batches_per_update",
    "samples_per_update",
    "equal_speedup",
    "steady",
    "steady_batch_s",
    "steady_speedup",
    "growth_per_batch",
    "utilization",
    "workers",
    "updates",
    "gaps",
    "steady_gaps",
    "gaps_by_phase",
    "time_staleness_s",
    "inconsistency",
    "fresh_fraction",
    "lost_updates",
    "sojourn",
    "law",
    "peak_in_flight",
    "peak_bytes",
    "memory",
    "traffic",
    "occupancy",
    "tie_sensitive",
    "tie_range",
    "tie_examined",
    "engine",
    "seed",
]


def summary(name: str, workload: Workload | None = None, **options: Any) -> dict[str, Any]:
    schedule = build(name, **options)
    workload = workload or Workload.even(schedule.blocks)
    return summarize(simulate(schedule, workload, seed=7), workload, schedule)


def gap(block: int, mean: float, **histogram: int) -> dict[str, Any]:
    counts = {key.removeprefix("of_"): count for key, count in histogram.items()}
    values = sorted(map(int, counts))
    return {
        "block": block,
        "mean": mean,
        "min": values[0],
        "max": values[-1],
        "histogram": counts,
    }


def link(name: str, *queue: float) -> dict[str, Any]:
    """Twenty messages of unknown size, and how many are under way."""
    rest = dict.fromkeys(("bytes", "bytes_per_s", "utilization"))
    keys = ("most_messages", "mean_messages", "steady_mean_messages")
    return {"link": name, "messages": 20, **rest, **dict(zip(keys, queue, strict=True))}


def worker(name: str, **states: float) -> dict[str, Any]:
    return {"worker": name, **{f"{state}_s": 0.0 for state in STATES}, **states}


def law(block: int, sojourn_s: float, gap: int) -> dict[str, Any]:
    """A sojourn in which nothing waits, in a cycle of 1.5 s."""
    return {
        "replica": 0,
        "block": block,
        "sojourn_s": sojourn_s,
        "cycle_s": 1.5,
        "gap": gap,
        "gap_by_law": gap,
        "exact": True,
        "floor_s": sojourn_s,
        "floor": gap,
        "excess": 0.0,
    }


def test_all_of_a_small_simulation() -> None:
    # Each of two modules takes 0.5 s forward and 1 s backward. 20 batches take 0.5 s to reach the
    # last module, 20 times 1.5 s there, and 1 s for the last gradient of the first.
    assert summary("fdg", modules=2, batches=20) == {
        "schema": "gradlag.simulation/1",
        "schedule": "fdg",
        "options": SCHEDULES["fdg"].defaults | {"modules": 2, "batches": 20},
        "makespan_s": 31.5,
        "sequential_s": 60.0,
        "speedup": 60 / 31.5,
        "batches_per_update": 1,
        "samples_per_update": None,
        "equal_speedup": 60 / 31.5,
        "steady": "window",
        "steady_batch_s": 1.5,
        "steady_speedup": 2.0,
        "growth_per_batch": None,
        "utilization": 60 / 63,
        "workers": 2,
        "updates": 40,
        "gaps": [gap(1, 0.95, of_0=1, of_1=19), gap(2, 0.0, of_0=20)],
        # The modules update with batch i at 3 + 1.5 i and at 2 + 1.5 i. Batch 2 is the first that
        # the first one reads at a version above 0, and it takes the last one at 28.5 s: both
        # modules update with batches 3 to 17 in between.
        "steady_gaps": [gap(1, 1.0, of_1=15), gap(2, 0.0, of_0=15)],
        "gaps_by_phase": {
            "start_up": [gap(1, 2 / 3, of_0=1, of_1=2), gap(2, 0.0, of_0=3)],
            "steady": [gap(1, 1.0, of_1=15), gap(2, 0.0, of_0=15)],
            "drain": [gap(1, 1.0, of_1=2), gap(2, 0.0, of_0=2)],
        },
        "time_staleness_s": [{"block": k, "mean": 0.0, "min": 0.0, "max": 0.0} for k in (1, 2)],
        # The first module has seen one batch less than the second, but for batch 0.
        "inconsistency": {
            "across_blocks": {
                "all": {"mean": 0.95, "min": 0, "max": 1},
                "steady": {"mean": 1.0, "min": 1, "max": 1},
            },
            "forward_to_backward": {
                "all": {"mean": 0.0, "min": 0, "max": 0},
                "steady": {"mean": 0.0, "min": 0, "max": 0},
            },
        },
        "fresh_fraction": {"all": 0.5, "steady": 0.5},
        "lost_updates": [0, 0],
        # Two steps of 1.5 s in the first module, one in the last; alone, no batch is any faster.
        "sojourn": [law(1, sojourn_s=3.0, gap=1), law(2, sojourn_s=1.5, gap=0)],
        "law": None,
        "peak_in_flight": [2, 1],
        "peak_bytes": None,
        "memory": None,
        # Nothing waits but the second batch, for 1 s, as the first module has two at the start.
        "traffic": [link("gradients[1]", 1, 0, 0), link("activations[2]", 1, 1 / 31.5, 0)],
        "occupancy": [
            worker("module 1", computing_s=30.0, starved_s=1.5),
            worker("module 2", computing_s=30.0, early_s=0.5, done_s=1.0),
        ],
        "tie_sensitive": False,
        "tie_range": [
            {"block": 1, "mean": [0.95, 0.95], "min": 0, "max": 1},
            {"block": 2, "mean": [0.0, 0.0], "min": 0, "max": 0},
        ],
        "tie_examined": None,
        "engine": "simpy",
        "seed": 7,
    }


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_document_of_every_schedule(name: str) -> None:
    schedule = build(name, batches=6)
    workload = Workload.even(schedule.blocks)
    trace = simulate(schedule, workload)
    document = summarize(trace, workload, schedule)
    assert list(document) == KEYS
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert [each["block"] for each in document["gaps"]] == list(range(1, schedule.blocks + 1))
    counted = sum(sum(each["histogram"].values()) for each in document["gaps"])
    assert counted == len(trace.gradients)
    assert len(document["peak_in_flight"]) == schedule.blocks
    for worker in document["occupancy"]:
        spent = sum(seconds for key, seconds in worker.items() if key != "worker")
        assert spent == pytest.approx(document["makespan_s"])


def test_growth_leaves_no_steady_values() -> None:
    document = summary("async-lu", layers=2, batches=100, backward_threads=1)
    steady = [document[key] for key in ("steady_batch_s", "steady_speedup", "steady_gaps")]
    assert steady == [None, None, None]
    assert document["growth_per_batch"] == 0.5


def test_sizes_give_bytes() -> None:
    layers = tuple(
        Layer("", Fraction(1), Fraction(1), parameter_bytes=8, saved_bytes=2) for _ in range(2)
    )
    workload = Workload("sized", layers)
    schedule = build("fdg", modules=2, batches=9)
    trace = simulate(schedule, workload)
    cluster = Cluster.private(bytes_per_s=1)
    document = summarize(trace, workload, schedule, cluster, engine="other")
    # The weights and a copy of them, the graphs of two batches; the weights, a graph, a gradient.
    assert document["peak_bytes"] == [8 + 8 + 2 * 2, 8 + 8]
    found = memory_of(trace, schedule, workload)
    assert found is not None
    for each, peak in zip(document["memory"], found[1], strict=True):
        assert each["peak_s"] == peak.tick * trace.header.tick_s
        assert each["peak_bytes"] == peak.bytes
        assert {f"{name}_bytes" for name in peak.categories} <= each.keys()
    assert [each["utilization"] for each in document["traffic"]] == [0.0, 0.0]
    assert document["engine"] == "other"
    assert document["gaps"][0]["mean"] == gap_summaries(trace)[0].mean


def test_speedups_at_equal_samples_per_update() -> None:
    workload = replace(Workload.even(2, update_s=1), batch_size=64)
    found = summary("adl", workload, modules=2, batches=8, accumulation=4)
    assert found["batches_per_update"] == 4
    assert found["samples_per_update"] == 256
    # Backpropagation updates after each batch, or as rarely: 8 (1 + 2 + 1) s, or 8 (1 + 2) + 2 s.
    assert found["equal_speedup"] * 32 == pytest.approx(found["speedup"] * 26)
    assert summary("ddp", workload, modules=2, replicas=2, batches=8)["samples_per_update"] == 128
