import json
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcore.cluster import Cluster, Device, Link
from simcore.engine import simulate
from simcore.perfetto import dump_perfetto, to_perfetto
from simcore.schedules import SCHEDULES, build
from simcore.trace import KIND, Header, Recorder, Trace
from simcore.workload import Workload

Event = dict[str, Any]


def fdg(update_s: float = 0.5, cluster: Cluster | None = None, batches: int = 3) -> Trace:
    workload = Workload.even(2, forward_s=2, backward_ratio=2, update_s=2 * update_s)
    return simulate(build("fdg", modules=2, batches=batches), workload, cluster)


def events(*traces: Trace, phase: str, **values: object) -> list[Event]:
    found = [event for event in to_perfetto(*traces)["traceEvents"] if event["ph"] == phase]
    return [event for event in found if values.items() <= event.items()]


def enclosing(slices: list[Event], arrow: Event) -> Event:
    """The slice in which an arrow begins or ends: it starts at or before, and ends after it."""
    (found,) = (
        each
        for each in slices
        if (each["pid"], each["tid"]) == (arrow["pid"], arrow["tid"])
        and each["ts"] <= arrow["ts"] < each["ts"] + each["dur"]
    )
    return found


def arrows(trace: Trace) -> list[tuple[str, str, str]]:
    """Name, first and last slice of each arrow."""
    slices = events(trace, phase="X")
    ends = {event["id"]: event for event in events(trace, phase="f", bp="e")}
    return [
        (
            begin["name"],
            enclosing(slices, begin)["name"],
            enclosing(slices, ends[begin["id"]])["name"],
        )
        for begin in events(trace, phase="s")
    ]


def test_a_process_for_each_trace_and_a_thread_for_each_worker() -> None:
    names = events(fdg(), fdg(), phase="M", name="process_name")
    assert [event["args"]["name"] for event in names] == ["simulated fdg"] * 2
    assert [event["pid"] for event in names] == [1, 2]
    threads = events(fdg(), fdg(), phase="M", name="thread_name", pid=2)
    assert [(each["tid"], each["args"]["name"]) for each in threads] == [
        (1, "module 1"),
        (2, "module 2"),
    ]


def test_computations_are_slices_in_microseconds() -> None:
    (forward,) = events(fdg(), phase="X", name="F2 batch 0")
    assert forward == {
        "ph": "X",
        "name": "F2 batch 0",
        "cat": "computation",
        "ts": 1_000_000,
        "dur": 1_000_000,
        "pid": 1,
        "tid": 2,
        "args": {"block": 2, "batch": 0, "version": 0},
    }
    assert len(events(fdg(), phase="X")) == 3 * 2 * 3


def test_an_update_shows_the_gaps_that_it_ends() -> None:
    updates = events(fdg(), phase="X", name="U1")
    expected = [(0, [0], [0]), (1, [1], [1]), (2, [2], [1])]
    assert [
        tuple(each["args"][key] for key in ("version", "batch", "gap")) for each in updates
    ] == (expected)
    accumulated = simulate(
        build("adl", modules=2, batches=4, accumulation=2), Workload.even(2, update_s=1)
    )
    gaps = [each["args"]["gap"] for each in events(accumulated, phase="X", name="U1")]
    assert [len(each) for each in gaps] == [2, 2]


def test_what_takes_no_time_is_not_drawn() -> None:
    assert events(fdg(update_s=0), phase="X", name="U1") == []
    assert {event["cat"] for event in events(fdg(), phase="X")} == {"computation"}


def test_messages_that_take_time_are_slices() -> None:
    link = Link(send_s=Fraction(1, 4), receive_s=Fraction(1, 2))
    trace = fdg(cluster=Cluster((Device("device"),), "private", link))
    (send,) = events(trace, phase="X", name="send activations[2] batch 1")
    (receive,) = events(trace, phase="X", name="receive activations[2] batch 1")
    assert (send["tid"], send["dur"], receive["tid"], receive["dur"]) == (1, 250_000, 2, 500_000)
    assert send["args"] == {"channel": "activations[2]", "batch": 1}
    assert arrows(trace) == arrows(fdg())


def test_arrows_lead_from_what_was_computed_to_what_used_it() -> None:
    assert sorted(arrows(fdg(batches=2))) == [
        ("activations[2]", "F1 batch 0", "F2 batch 0"),
        ("activations[2]", "F1 batch 1", "F2 batch 1"),
        ("gradients[1]", "B2 batch 0", "B1 batch 0"),
        ("gradients[1]", "B2 batch 1", "B1 batch 1"),
        ("gradients[2]", "F2 batch 0", "B2 batch 0"),
        ("gradients[2]", "F2 batch 1", "B2 batch 1"),
    ]


def test_a_computation_without_duration_hands_its_arrow_on() -> None:
    assert ("gradients[1]", "B2 batch 0", "B1 batch 0") in arrows(fdg(update_s=0))


def test_no_arrow_without_a_computation_at_both_ends() -> None:
    # a computes and sends batch 0, and receives batch 1; b does the same the other way round, but
    # computes nothing after its receive, and nothing before its send.
    forward, send, receive = KIND["forward"], KIND["send"], KIND["receive"]
    recorder = Recorder()
    for row in (
        (0, 1, 0, 0, forward, 1, 0, 0),
        (1, 1, 0, 1, send, 0, 0, -1),
        (1, 1, 0, 2, receive, 0, 1, -1),
        (1, 2, 0, 3, forward, 1, 1, 0),
        (0, 0, 1, 0, send, 0, 1, -1),
        (0, 1, 1, 1, forward, 1, 2, 0),
        (1, 1, 1, 2, receive, 0, 0, -1),
    ):
        recorder.span(*row)
    header = Header("real", "made", {}, 1, 3, ("a", "b"), ("both",), Fraction(1))
    assert arrows(recorder.trace(header)) == []


def test_arrows_of_several_traces_are_apart() -> None:
    identities = [event["id"] for event in events(fdg(), fdg(), phase="s")]
    assert len(set(identities)) == len(identities) == 18
    for phase in ("s", "f"):
        assert {event["pid"] for event in events(fdg(), fdg(), phase=phase)} == {1, 2}


@pytest.mark.parametrize("name", SCHEDULES)
@settings(deadline=None, max_examples=10)
@given(forward_s=st.fractions("1/1000", 1), ratio=st.fractions("1/4", 3), seed=st.integers(0, 9))
def test_slices_never_overlap_and_arrows_never_go_back(
    name: str, forward_s: Fraction, ratio: Fraction, seed: int
) -> None:
    schedule = build(name, batches=4)
    workload = Workload.even(schedule.blocks, forward_s, ratio, Fraction(seed, 7))
    trace = simulate(schedule, workload, Cluster.private("1/300"), jitter=0.3, seed=seed)
    slices = events(trace, phase="X")
    for tid in range(1, len(schedule.workers) + 1):
        own = sorted((e["ts"], e["ts"] + e["dur"]) for e in slices if e["tid"] == tid)
        assert all(before[1] <= after[0] + 1e-9 for before, after in pairwise(own))
    ends = {event["id"]: event for event in events(trace, phase="f", bp="e")}
    begins = events(trace, phase="s")
    sends = int((trace.spans["kind"] == KIND["send"]).sum())
    assert len(begins) == len(ends) <= sends
    # Elsewhere a message may be followed by nothing that takes time, and then has no arrow.
    assert len(begins) == sends or name not in ("fdg", "adl", "gpipe", "pipedream", "async-lu")
    for begin in begins:
        assert begin["ts"] < ends[begin["id"]]["ts"]
        assert (begin["name"], begin["cat"]) == tuple(ends[begin["id"]][k] for k in ("name", "cat"))


def test_the_file_is_the_document(tmp_path: Path) -> None:
    dump_perfetto(tmp_path / "trace.json", fdg(), fdg())
    assert json.loads((tmp_path / "trace.json").read_text()) == to_perfetto(fdg(), fdg())
