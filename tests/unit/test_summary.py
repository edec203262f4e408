import json
from fractions import Fraction
from typing import Any

import pytest

from simcore.engine import simulate
from simcore.metrics import peak_bytes
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
    "steady",
    "steady_batch_s",
    "steady_speedup",
    "growth_per_batch",
    "utilization",
    "workers",
    "updates",
    "gaps",
    "steady_gaps",
    "peak_in_flight",
    "peak_bytes",
    "tie_sensitive",
    "engine",
    "seed",
]


def summary(name: str, workload: Workload | None = None, **options: Any) -> dict[str, Any]:
    schedule = build(name, **options)
    workload = workload or Workload.even(schedule.blocks)
    return summarize(simulate(schedule, workload, seed=7), workload)


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


def test_all_of_a_small_simulation() -> None:
    # Each of two modules takes 0.5 s forward and 1 s backward. 20 batches take 0.5 s to reach the
    # last module, 20 times 1.5 s there, and 1 s for the last gradient of the first.
    assert summary("fdg", modules=2, batches=20) == {
        "schema": "gradlag.simulation/1",
        "schedule": "fdg",
        "options": {"modules": 2, "batches": 20, "shrink": 1.0, "weights": "stash"},
        "makespan_s": 31.5,
        "sequential_s": 60.0,
        "speedup": 60 / 31.5,
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
        "peak_in_flight": [2, 1],
        "peak_bytes": None,
        "tie_sensitive": False,
        "engine": "simpy",
        "seed": 7,
    }


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_document_of_every_schedule(name: str) -> None:
    document = summary(name, batches=6)
    assert list(document) == KEYS
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    blocks = build(name, batches=6).blocks
    assert [each["block"] for each in document["gaps"]] == list(range(1, blocks + 1))
    assert sum(sum(each["histogram"].values()) for each in document["gaps"]) == 6 * blocks
    assert len(document["peak_in_flight"]) == blocks


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
    document = summarize(trace, workload, engine="other")
    assert document["peak_bytes"] == list(peak_bytes(trace, workload) or ()) == [12, 10]
    assert document["engine"] == "other"
    assert document["gaps"][0]["mean"] == gap_summaries(trace)[0].mean
