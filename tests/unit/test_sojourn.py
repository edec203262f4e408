import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from simcore.cluster import Cluster
from simcore.engine import simulate
from simcore.faults import Pause
from simcore.schedules import build
from simcore.sojourn import critical_path_s, sojourn_law, sojourn_ticks, sojourn_values
from simcore.workload import Workload


def test_a_sojourn_lasts_from_the_read_to_the_own_landing() -> None:
    # Module 2, the last, sends its gradient before its update, so that module 1 waits 3 s for it.
    schedule, workload = build("fdg", modules=2, batches=3), Workload.even(2, 2, 2, 2)
    trace = simulate(schedule, workload)
    sojourns = {
        (row["block"], row["batch"]): int(ticks) * trace.header.tick_s
        for row, ticks in zip(trace.gradients, sojourn_ticks(trace, schedule), strict=True)
    }
    expected = {}
    for span in trace.of_kind("forward"):
        cell = int(span["block"]), int(span["batch"])
        landed = trace.gradients[
            (trace.gradients["block"] == cell[0]) & (trace.gradients["batch"] == cell[1])
        ]["time"]
        expected[cell] = (int(landed[0]) - int(span["start"])) * trace.header.tick_s
    assert sojourns == expected
    assert sojourns[2, 0] == 1 + 2 + 1
    assert sojourns[1, 0] == 1 + (1 + 2) + 2 + 1


def test_a_replay_reads_again() -> None:
    # Features replay: what counts is the replay, right before the backward pass.
    schedule, workload = build("fr", modules=3, batches=9), Workload.even(3, 3, 2, 3)
    trace = simulate(schedule, workload)
    seconds = np.unique(sojourn_ticks(trace, schedule) * float(trace.header.tick_s))
    assert seconds.tolist() == [1 + 2 + 1]


def test_the_critical_path_is_that_of_a_single_batch() -> None:
    # Forward 1, 2, 3, then backward and update 3, 2, 1, but for the update of the last module: only
    # the others send their gradient after it.
    schedule, workload = build("fdg", modules=3, batches=30), Workload.even(3, 3, 2, 3)
    assert critical_path_s(schedule, workload) == (11, 7, 4)
    late = Cluster.private(Fraction(1, 2))
    assert critical_path_s(schedule, workload, late) == (13, 8, 4)


def test_nothing_stands_still_on_the_critical_path() -> None:
    schedule, workload = build("fdg", modules=2, batches=30), Workload.even(2, 2, 2, 2)
    paused = replace(Cluster.private(), pauses=(Pause(0, Fraction(5), at_s=Fraction(1)),))
    assert critical_path_s(schedule, workload, paused) == critical_path_s(schedule, workload)


def test_each_replica_has_its_own_law() -> None:
    schedule = build("fdg", modules=2, batches=40, replicas=2)
    workload = Workload.even(2, 2, 2, 1)
    laws = sojourn_law(simulate(schedule, workload), schedule, workload)
    assert laws is not None
    assert [(law.replica, law.block) for law in laws] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert all(law.exact and law.gap == law.gap_by_law for law in laws)


def test_double_buffers_read_old_weights_on_purpose() -> None:
    # A forward pass that does not read the newest version is outside the law.
    schedule, workload = build("pipedream-2bw", modules=2, batches=30), Workload.even(2)
    laws = sojourn_law(simulate(schedule, workload), schedule, workload)
    assert laws is not None
    assert [(law.gap, law.exact) for law in laws] == [(1, False), (1, False)]
    assert all(law.gap_by_law < 1 for law in laws)


@pytest.mark.parametrize(
    ("name", "options"),
    [("fdg", {"batches": 4}), ("async-lu", {"batches": 99, "backward_threads": 1})],
)
def test_no_law_without_a_steady_window(name: str, options: dict[str, int]) -> None:
    schedule, workload = build(name, **options), Workload.even(4)
    assert sojourn_law(simulate(schedule, workload), schedule, workload) is None
    assert sojourn_values(None) is None


def test_values_are_those_of_json() -> None:
    schedule, workload = build("async-lu", layers=2, batches=20), Workload.even(2, 2, "1.5")
    values = sojourn_values(sojourn_law(simulate(schedule, workload), schedule, workload))
    assert values is not None
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values[0] == {
        "replica": 0,
        "block": 1,
        "sojourn_s": 5.0,
        "cycle_s": 2.0,
        "gap": 2.0,
        "gap_by_law": 2.0,
        "exact": True,
        "floor_s": 5.0,
        "floor": 2,
        "excess": 0.0,
    }
