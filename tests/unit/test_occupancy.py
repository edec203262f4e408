from fractions import Fraction

from simcore.cluster import Cluster, Device, Link
from simcore.engine import simulate
from simcore.occupancy import STATES, occupancy, occupancy_s
from simcore.schedules import build
from simcore.trace import KIND, Header, Recorder, Trace
from simcore.workload import Workload


def made(*spans: tuple[int, int, int, str]) -> Trace:
    """A trace of two workers, from (start, end, worker, kind)."""
    recorder = Recorder()
    for index, (start, end, worker, kind) in enumerate(spans):
        recorder.span(start, end, worker, index, KIND[kind], 1, 0, 0)
    return recorder.trace(Header("real", "made", {}, 1, 9, ("a", "b"), (), Fraction(1, 2)))


def named(trace: Trace) -> list[dict[str, int]]:
    return [
        {state: ticks for state, ticks in zip(STATES, row, strict=True) if ticks}
        for row in occupancy(trace).tolist()
    ]


def test_every_state() -> None:
    trace = made(
        (10, 11, 0, "receive"),
        (11, 13, 0, "forward"),
        (14, 17, 0, "backward"),
        (21, 22, 0, "send"),
        (27, 33, 0, "receive"),
        (40, 47, 0, "join"),
        (47, 47, 0, "update"),
        (12, 60, 1, "load"),
    )
    first = {
        "computing": 2 + 3,
        "sending": 1,
        "receiving": 1 + 6,
        "reducing": 7,
        "starved": 5,
        "blocked": 4,
        "waiting": 7,
        "other": 1,
        "done": 13,
    }
    assert named(trace) == [first, {"computing": 48, "early": 2}]
    assert occupancy_s(trace)[1]["computing"] == 24.0


def test_what_is_not_there_is_idle() -> None:
    assert named(made()) == [{}, {}]
    assert named(made((3, 5, 0, "forward"))) == [{"computing": 2}, {"done": 2}]


def test_of_a_pipeline() -> None:
    # Two modules of 1 s forward and 2 s backward; the first one waits for gradients at 4 and, at
    # the end, for the last one: batches reach the second every 3 s, from 1 s on.
    trace = simulate(build("fdg", modules=2, batches=4), Workload.even(2, 2, 2))
    first = {"computing": 12, "starved": 3}
    assert named(trace) == [first, {"computing": 12, "early": 1, "done": 2}]


def test_work_with_messages_and_a_full_channel() -> None:
    link = Link(send_s=Fraction(1), receive_s=Fraction(2))
    cluster = Cluster((Device("one"),), "private", link)
    schedule = build("async-lu", layers=1, batches=3, backward_threads=1, queue_capacity=1)
    trace = simulate(schedule, Workload.even(1, 1, 8), cluster)
    # Forward passes end at 1, 3 and 6, and take a second more to send. The slot is free when the
    # message before has been received: at 4 and, after 8 s of computing, at 14. The backward thread
    # is busy without a pause until 32.
    ahead, behind = named(trace)
    assert ahead == {"computing": 3, "sending": 3, "blocked": 1 + 8, "done": 17}
    assert behind == {"computing": 24, "receiving": 6, "early": 2}
