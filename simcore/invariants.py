"""What holds of the trace of every whole run, simulated or real, whatever the schedule.

Each invariant takes a schedule and a trace, and raises `AssertionError` naming the spans that break
it.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple, TypeVar

from simcore.ops import KINDS
from simcore.schedule import Schedule
from simcore.trace import Trace

__all__ = ["INVARIANTS", "check_trace", "operations_of"]

T = TypeVar("T")


class _Span(NamedTuple):
    start: int
    end: int
    worker: int
    at: int
    kind: str
    block: int
    batch: int
    version: int


def _spans(trace: Trace, *kinds: str) -> list[_Span]:
    names = [kind.__name__.lower() for kind in KINDS]
    found = []
    for row in trace.spans.tolist():
        span = _Span(*row)
        span = span._replace(kind=names[row[4]])
        if not kinds or span.kind in kinds:
            found.append(span)
    return found


def _by(key: Callable[[_Span], T], spans: Sequence[_Span]) -> dict[T, list[_Span]]:
    groups: dict[T, list[_Span]] = defaultdict(list)
    for span in spans:
        groups[key(span)].append(span)
    return groups


def operations_of(trace: Trace) -> tuple[tuple[tuple[str, int, int], ...], ...]:
    """What each worker did, in its order and in the words of `simcore.validate.Verdict`."""
    spans = sorted(_spans(trace), key=lambda span: span.at)
    workers = _by(lambda span: span.worker, spans)
    return tuple(
        tuple((span.kind, span.block, span.batch) for span in workers[number])
        for number in range(len(trace.header.workers))
    )


def workers_do_one_thing_at_a_time(schedule: Schedule, trace: Trace) -> None:
    """Spans of a worker follow each other in the order of its program."""
    for spans in _by(lambda span: span.worker, _spans(trace)).values():
        spans.sort(key=lambda span: span.at)
        for before, after in pairwise(spans):
            assert before.at < after.at, f"{before} and {after} have one index"
            assert before.start <= before.end <= after.start, f"{before} and {after} overlap"


def every_batch_passes_once(schedule: Schedule, trace: Trace) -> None:
    """Each block takes each batch forward once, and backward once."""
    every = Counter((k, b) for k in range(1, schedule.blocks + 1) for b in range(schedule.batches))
    for kind in ("forward", "backward"):
        found = Counter((span.block, span.batch) for span in _spans(trace, kind))
        assert found == every, f"{kind}: missing {every - found}, too often {found - every}"


def passes_keep_the_order_of_blocks(schedule: Schedule, trace: Trace) -> None:
    """A batch goes forward block by block, then backward block by block."""
    for spans in _by(lambda span: span.batch, _spans(trace, "forward", "backward")).values():
        ups = {span.block: span for span in spans if span.kind == "forward"}
        downs = {span.block: span for span in spans if span.kind == "backward"}
        way = [ups[k] for k in sorted(ups)] + [downs[k] for k in sorted(downs, reverse=True)]
        for before, after in pairwise(way):
            assert before.end <= after.start, f"{after} starts before {before} has ended"


def versions_grow_by_one(schedule: Schedule, trace: Trace) -> None:
    """The updates of a block find versions 0, 1, 2, ..., and land in this order."""
    for spans in _by(lambda span: span.block, _spans(trace, "update")).values():
        spans.sort(key=lambda span: span.version)
        assert [span.version for span in spans] == list(range(len(spans)))
        # Real updates land somewhere within their spans, which may overlap.
        ends = [span.end for span in spans if trace.header.origin == "simulated"]
        assert ends == sorted(ends), f"updates land out of order: {spans}"


def passes_read_the_version_of_their_start(schedule: Schedule, trace: Trace) -> None:
    """In simulated time, a pass sees all updates that have landed when it starts, and no other."""
    if trace.header.origin != "simulated":
        return
    landed = _by(lambda span: span.block, _spans(trace, "update"))
    read = {(s.block, s.batch): s.version for s in _spans(trace, "forward")}
    for span in _spans(trace, "forward", "backward"):
        if span.kind == "backward" and schedule.weights.policy == "stash":
            assert span.version == read[span.block, span.batch], f"{span} does not keep its weights"
            continue
        before = sum(update.end < span.start for update in landed[span.block])
        by_then = sum(update.end <= span.start for update in landed[span.block])
        # What takes no time may come before or after the updates of its own instant.
        least = before if span.start == span.end else by_then
        assert least <= span.version <= by_then, f"{span} read another version than {by_then}"


def gradients_are_applied_once(schedule: Schedule, trace: Trace) -> None:
    """Every gradient is applied, once, after it was computed and not before it was read."""
    every = Counter((k, b) for k in range(1, schedule.blocks + 1) for b in range(schedule.batches))
    rows = trace.gradients
    found = Counter(zip(rows["block"].tolist(), rows["batch"].tolist(), strict=True))
    assert found == every, f"missing {every - found}, too often {found - every}"
    computed = {(s.block, s.batch): s for s in _spans(trace, "backward")}
    for row in rows:
        backward = computed[int(row["block"]), int(row["batch"])]
        assert row["time"] >= backward.end, f"{row} was applied before {backward} ended"
        assert row["worker"] == backward.worker, f"{row} was computed by another: {backward}"
        assert row["version_backward"] == backward.version, f"{row} and {backward} differ"


def gaps_are_not_negative(schedule: Schedule, trace: Trace) -> None:
    """Versions are read before they are raised: v_f <= v_b <= v_a, and no base is newer."""
    rows = trace.gradients
    assert (rows["version_forward"] >= 0).all()
    assert (rows["version_forward"] <= rows["version_backward"]).all()
    assert (rows["version_backward"] <= rows["version_applied"]).all()
    if schedule.weights.write == "add":
        assert (rows["version_base"] == rows["version_applied"]).all()
    else:
        assert (rows["version_base"] >= 0).all()
        assert (rows["version_base"] <= rows["version_applied"]).all()


def messages_keep_their_order(schedule: Schedule, trace: Trace) -> None:
    """What departs first is received first, no message twice, and none before it departs."""
    simulated = trace.header.origin == "simulated"
    for number, channel in enumerate(schedule.channels):
        spans = [s for s in _spans(trace, "send", "receive") if s.block == number]
        received = {s.batch: s for s in spans if s.kind == "receive"}
        assert len(received) == sum(s.kind == "receive" for s in spans), f"twice on {channel.name}"
        if channel.source:
            assert sorted(received) == list(range(schedule.batches)), f"{channel.name} is left over"
            continue
        # Real messages depart while their span lasts, behind the lock that its start is taken in.
        sent = {s.batch: s.end if simulated else s.start for s in spans if s.kind == "send"}
        assert received.keys() <= sent.keys(), f"{channel.name}: received, but never sent"
        for batch, span in received.items():
            assert sent[batch] <= span.start, f"{span} was received before it departed"
            for other, after in received.items():
                in_order = sent[batch] >= sent[other] or span.start <= after.start
                assert in_order, f"batch {other} overtook batch {batch} on {channel.name}"


def full_channels_wait(schedule: Schedule, trace: Trace) -> None:
    """No channel holds more messages than its capacity."""
    freed = "end" if trace.header.origin == "simulated" else "start"
    for number, channel in enumerate(schedule.channels):
        if channel.capacity is None or channel.source:
            continue
        spans = [s for s in _spans(trace, "send", "receive") if s.block == number]
        changes = [(s.start, 1) if s.kind == "send" else (getattr(s, freed), -1) for s in spans]
        held = 0
        for _, change in sorted(changes):  # at one instant, slots are freed first
            held += change
            assert held <= channel.capacity, f"{channel.name} holds {held}"


INVARIANTS: Final[tuple[Callable[[Schedule, Trace], None], ...]] = (
    workers_do_one_thing_at_a_time,
    every_batch_passes_once,
    passes_keep_the_order_of_blocks,
    versions_grow_by_one,
    passes_read_the_version_of_their_start,
    gradients_are_applied_once,
    gaps_are_not_negative,
    messages_keep_their_order,
    full_channels_wait,
)


def check_trace(schedule: Schedule, trace: Trace) -> None:
    """Check every invariant of a whole run, simulated or real. Raises `AssertionError`."""
    for invariant in INVARIANTS:
        invariant(schedule, trace)
