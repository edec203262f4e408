"""`gradlag simulate`."""

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest

from simcore.schedules import SCHEDULES, build
from simcore.trace_file import load_trace
from simcore.workload import Layer, Workload, dump_workload
from tests.cli.conftest import Gradlag

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
    "how",
    "ground",
    "period_batches",
    "bottleneck",
]
FILES = {
    "trace.jsonl",
    "trace.perfetto.json",
    "timeline.png",
    "gaps.png",
    "occupancy.png",
    "memory.png",
    "summary.json",
    "schedule.csv",
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_json_of_every_schedule_has_every_key(gradlag: Gradlag, name: str) -> None:
    found = gradlag("simulate", name, "--json").json
    assert [*found] == KEYS
    assert found["schema"] == "gradlag.simulation/1"
    # The choices of async-1f1b never repeat: the reference simulates it.
    engine = "simpy" if name == "async-1f1b" else "compiled"
    assert (found["schedule"], found["engine"], found["seed"]) == (name, engine, 0)
    assert found["options"] == SCHEDULES[name].defaults
    assert found["sequential_s"] == 300
    assert found["speedup"] == pytest.approx(300 / found["makespan_s"])
    assert 0 < found["utilization"] <= 1
    blocks, passes = SCHEDULES[name].blocks({}), build(name).batches
    assert [gap["block"] for gap in found["gaps"]] == [*range(1, blocks + 1)]
    gradients = [sum(gap["histogram"].values()) for gap in found["gaps"]]
    if name == "lppsgd":  # many of its passes compute the gradients of a part of the layers
        assert all(0 < count < passes for count in gradients)
    else:
        assert gradients == [passes] * blocks
    assert len(found["peak_in_flight"]) == blocks
    assert found["peak_bytes"] is found["memory"] is None
    for worker in found["occupancy"]:
        spent = sum(value for key, value in worker.items() if key != "worker")
        assert spent == pytest.approx(found["makespan_s"])


def test_what_is_read_is_without_json(gradlag: Gradlag) -> None:
    ran = gradlag("simulate", "fdg", "--modules", 3, "--update-time", "0.5", "--batches", 40)
    assert (ran.status, ran.err) == (0, "")
    assert "fdg (modules 3, batches 40)" in ran.out
    # Equation 6 of the paper, counted in versions: max(0, 2 (K - k) - 1), here 3, 1 and 0.
    rows = [line.split()[:4] for line in ran.out.splitlines() if line.strip()[:1].isdigit()]
    assert [row[3] for row in rows] == ["3", "1", "0"]
    assert "speedup" in ran.out
    assert "utilization" in ran.out
    assert "timetable" not in ran.out


def test_short_runs_are_drawn(gradlag: Gradlag) -> None:
    ran = gradlag("simulate", "fdg", "--modules", 2, "--batches", 3, "--forward-time", 2)
    drawn = ran.out.partition("timetable")[2]
    assert "a column is 1 s" in drawn
    assert drawn.count("B1:2") == 2  # backward takes twice as long
    assert drawn.count("F2:2") == 1
    assert max(map(len, ran.out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("written", "makespan_s"), [("0.1", 0.3), ("1/3", 1.0), ("1e-3", 0.003), ("7/30", 0.7)]
)
def test_numbers_are_exact(gradlag: Gradlag, written: str, makespan_s: float) -> None:
    options = ("--modules", 1, "--batches", 1, "--forward-time", written)
    assert gradlag("simulate", "bp", *options, "--json").json["makespan_s"] == makespan_s


def test_closed_form_of_async_bp(gradlag: Gradlag) -> None:
    """(N + beta) T for one forward thread, B >= beta and no update time."""
    times = ("--forward-time", 2, "--backward-ratio", "2.5", "--backward-threads", 3)
    found = gradlag("simulate", "async-lu", *times, "--batches", 30, "--json").json
    assert found["makespan_s"] == (30 + 2.5) * 2


def test_files(gradlag: Gradlag, tmp_path: Path) -> None:
    ran = gradlag("simulate", "adl", "--batches", 10, "--json", "--out", "a/b")
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == FILES - {"memory.png"}
    assert json.loads((tmp_path / "a/b/summary.json").read_text()) == ran.json
    assert load_trace(tmp_path / "a/b/trace.jsonl").header.options == ran.json["options"]
    events = json.loads((tmp_path / "a/b/trace.perfetto.json").read_text())
    assert events["traceEvents"]
    for name in ("timeline.png", "gaps.png", "occupancy.png"):
        assert (tmp_path / "a" / "b" / name).read_bytes().startswith(b"\x89PNG")
    assert ran.err.splitlines() == [ran.err.strip()]
    assert "a/b" in ran.err


def workload(folder: Path) -> str:
    layers = tuple(Layer(f"l{n}", Fraction(n), Fraction(2 * n), saved_bytes=8) for n in (3, 1, 1))
    dump_workload(Workload("three", layers), folder / "three.json")
    return "three.json"


def test_sizes_are_drawn_and_said(gradlag: Gradlag, tmp_path: Path) -> None:
    options = ("--modules", 2, "--workload", workload(tmp_path), "--batches", 9)
    ran = gradlag("simulate", "fdg", *options, "--out", "x")
    assert {path.name for path in (tmp_path / "x").iterdir()} == FILES
    assert (tmp_path / "x" / "memory.png").read_bytes().startswith(b"\x89PNG")
    # Two layers' graphs of one batch, or one's of two.
    assert "most memory             16 B in module 1: activations 16 B" in ran.out


def table(out: str, heading: str) -> dict[str, list[str]]:
    """The rows of a table by their first column; columns are two spaces apart."""
    lines = out.partition(f"\n{heading} ")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [re.split(" {2,}", line.strip()) for line in lines]
    return {row[0]: row[1:] for row in cells}


def test_workers_and_their_time_are_read(gradlag: Gradlag) -> None:
    out = gradlag("simulate", "fdg", "--modules", 2, "--batches", 20).out
    # Each computes for 30 s of 31.5 s: the first then starves, the second begins late, ends early.
    rows = table(out, "worker")
    assert rows == {"module 1": ["95.2%", "4.8%", "0.0%"], "module 2": ["95.2%", "0.0%", "4.8%"]}


def test_law_and_measurement_are_read_side_by_side(gradlag: Gradlag) -> None:
    options = ("--forward-time", 4, "--backward-threads", 1, "--queue-capacity", 3)
    out = gradlag("simulate", "async-lu", *options).out
    rows = table(out, "F:B law")
    assert rows["queue length"] == ["3", "3"]
    assert rows["time of a batch"] == ["8 s", "8 s"]
    assert rows["mean gap"][0] == "4, 4, 4, 3"
    measured = [float(gap) for gap in rows["mean gap"][1].split(", ")]
    assert measured == pytest.approx([4, 4, 4, 3], abs=0.05)  # the queue still fills
    assert "backward threads: 2 keep pace, with 2 no batch waits" in out
    assert "longest queue           losses: at most 3 messages" in out
    growing = gradlag("simulate", "async-lu", *options[:4]).out
    assert table(growing, "F:B law")["queue length"] == ["grows", "-"]
    assert "F:B law" not in gradlag("simulate", "async-lu", "--link-latency", 1).out


def test_ties_and_updates_are_read(gradlag: Gradlag) -> None:
    out = " ".join(gradlag("simulate", "lapsgd").out.split())
    assert re.search(r"same moment: the mean of block \d from 0\.50 to \d", out)
    assert "not examined" in gradlag("simulate", "lapsgd", "--jitter", "0.1").out
    out = " ".join(gradlag("simulate", "adl", "--accumulation", 4, "--update-time", 1).out.split())
    assert "an update sees 4 batches" in out
    assert re.search(r"x, \d\.\d\dx over backpropagation that updates as rarely", out)


def test_what_is_read_fits_a_terminal(gradlag: Gradlag, tmp_path: Path) -> None:
    sized = ("--workload", workload(tmp_path), "--link-latency", 1)
    for words in (("fdg:modules=3", *sized), ("lapsgd",), ("async-bu", "--layers", 12), ("gpipe",)):
        assert max(map(len, gradlag("simulate", *words).out.splitlines())) <= 80


def test_slack(gradlag: Gradlag) -> None:
    options = ("dsp", "--modules", 2, "--batches", 20, "--slack")
    ran = gradlag("simulate", *options, "--json")
    slack = ran.json["slack"]
    assert [*ran.json] == [*KEYS, "slack"]
    assert [link["channel"] for link in slack["links"]] == ["gradients[1]", "activations[2]"]
    assert slack["in_flight"] == 2
    assert "simulating with many latencies" in ran.err
    out = gradlag("simulate", *options).out
    assert "latency hidden" in out
    assert "--in-flight 2" in out


def test_layers_of_a_workload_become_blocks(gradlag: Gradlag, tmp_path: Path) -> None:
    file = workload(tmp_path)
    found = gradlag("simulate", "bp", "--modules", 2, "--workload", file, "--json").json
    assert found["sequential_s"] == 100 * 15
    assert len(found["gaps"]) == 2
    assert found["peak_bytes"] == [3 * 8]


def test_each_layer_is_a_block_of_layerwise_schedules(gradlag: Gradlag, tmp_path: Path) -> None:
    file = workload(tmp_path)
    assert (
        gradlag("simulate", "async-lu", "--workload", file, "--json").json["options"]["layers"] == 3
    )
    fewer = gradlag("simulate", "async-lu", "--workload", file, "--layers", 2, "--json").json
    assert fewer["options"]["layers"] == 2
    assert fewer["sequential_s"] == 100 * 15


def test_clusters_and_links(gradlag: Gradlag, tmp_path: Path) -> None:
    link = {"latency_s": "1/4"}
    cluster = {
        "schema": "gradlag.cluster/1",
        "devices": [{"name": "cpu", "cores": 1}],
        "placement": "private",
        "link": link,
    }
    (tmp_path / "far.json").write_text(json.dumps(cluster))
    by_file = gradlag("simulate", "fdg", "--cluster", "far.json", "--json").json
    by_flag = gradlag("simulate", "fdg", "--link-latency", "0.25", "--json").json
    assert by_file == by_flag
    assert by_flag["makespan_s"] > gradlag("simulate", "fdg", "--json").json["makespan_s"]
    cluster["placement"] = "shared"
    (tmp_path / "one.json").write_text(json.dumps(cluster))
    shared = gradlag("simulate", "fdg", "--cluster", "one.json", "--json").json
    assert shared["speedup"] <= 1


def test_a_bandwidth_without_sizes_is_remarked(gradlag: Gradlag, tmp_path: Path) -> None:
    ran = gradlag("simulate", "fdg", "--link-bandwidth", "1e9", "--json")
    assert ran.json["speedup"] > 1
    assert "--link-bandwidth changes nothing" in ran.err


def test_randomness_comes_from_the_seed(gradlag: Gradlag) -> None:
    def makespan_s(*seed: object) -> float:
        found = gradlag("simulate", "adl", "--jitter", "0.3", *seed, "--batches", 20, "--json").json
        return float(found["makespan_s"])

    assert makespan_s() == makespan_s("--seed", 0) != makespan_s("--seed", 1)


def test_growth_without_bound_is_said(gradlag: Gradlag) -> None:
    options = ("async-lu", "--backward-ratio", 3, "--backward-threads", 2)
    ran = gradlag("simulate", *options)
    assert "growth without bound" in ran.out
    assert gradlag("simulate", *options, "--json").json["growth_per_batch"] == pytest.approx(1 / 3)
    bounded = gradlag("simulate", *options, "--queue-capacity", 1, "--json").json
    assert bounded["growth_per_batch"] is None
    written = (*options, "--queue-capacity", "unbounded")
    assert gradlag("simulate", *written, "--json").json["options"]["queue_capacity"] is None


def test_whole_numbers_may_be_written_with_a_power_of_ten(gradlag: Gradlag) -> None:
    assert gradlag("simulate", "bp", "--batches", "2e1", "--json").json["updates"] == 80


def test_a_table_of_torch_is_a_schedule(gradlag: Gradlag, tmp_path: Path) -> None:
    (tmp_path / "zb.csv").write_text("0F0,0F1,,0I0,0W0,0I1,None,0W1\n,1F0,1I0,1F1,1I1,1W0,1W1\n")
    options = ("--batches", 10, "--workload", workload(tmp_path))
    ran = gradlag("simulate", "zb.csv", *options, "--json", "--out", "x")
    found = ran.json
    assert (found["schedule"], found["options"]) == ("zb.csv", {"batches": 10})
    assert found["sequential_s"] == 10 * 15
    assert [sum(gap["histogram"].values()) for gap in found["gaps"]] == [20, 20]
    assert "cells that say None are read as idle" in ran.err
    rows = (tmp_path / "x" / "schedule.csv").read_text().splitlines()
    assert [[cell for cell in row.split(",") if cell] for row in rows] == [
        ["0F0", "0F1", "0I0", "0W0", "0I1", "0W1"],
        ["1F0", "1I0", "1F1", "1I1", "1W0", "1W1"],
    ]


def test_what_depends_on_timing_has_no_table(gradlag: Gradlag, tmp_path: Path) -> None:
    ran = gradlag("simulate", "async-lu", "--batches", 5, "--json", "--out", "x")
    left_out = {"schedule.csv", "memory.png"}
    assert {path.name for path in (tmp_path / "x").iterdir()} == FILES - left_out
    assert "no schedule.csv" in ran.err


def test_other_tools_files_are_workloads(gradlag: Gradlag, tmp_path: Path) -> None:
    (tmp_path / "graph.txt").write_text(
        "node1 -- Input -- forward_compute_time=0, backward_compute_time=0, "
        "activation_size=1.0, parameter_size=0.0\n"
        "node2 -- Linear -- forward_compute_time=1000.0, backward_compute_time=2000.0, "
        "activation_size=8.0, parameter_size=4.0\n"
        "\tnode1 -- node2\n"
    )
    found = gradlag("simulate", "bp:modules=1", "--workload", "graph.txt", "--json").json
    assert found["sequential_s"] == 100 * 3


def test_options_may_follow_the_name(gradlag: Gradlag) -> None:
    written = gradlag("simulate", "pipedream:modules=3,in_flight=3,2,1", "--json").json
    assert written["options"]["in_flight"] == [3, 2, 1]
    flags = ("--modules", 3, "--in-flight", "3,2,1")
    assert gradlag("simulate", "pipedream", *flags, "--json").json == written
