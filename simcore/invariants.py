"""What holds of the trace of every whole run, simulated or real, whatever the schedule.

Each invariant takes a schedule and a trace, and raises `AssertionError` naming the spans that break
it.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple, TypeVar

from simcore.ops import KINDS, kind_of
from simcore.schedule import Schedule
from simcore.trace import Trace

__all__ = ["INVARIANTS", "PARTIAL", "check_trace", "operations_of"]

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
    names = [kind_of(kind) for kind in KINDS]
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


_TAKE_FORWARD: Final = ("forward", "tangent", "evaluate")
_COMPUTE: Final = ("backward", "backward_weight", "project")
_GO_DOWN: Final = ("backward", "backward_input", "backward_through", "project")


def every_batch_passes_once(schedule: Schedule, trace: Trace) -> None:
    """Each block takes each batch forward once, and computes its gradient once.

    No gradient follows a pass that is evaluated only, or whose gradient just goes through.
    """
    every = Counter((k, b) for k in range(1, schedule.blocks + 1) for b in range(schedule.batches))
    found = Counter((span.block, span.batch) for span in _spans(trace, *_TAKE_FORWARD))
    assert found == every, f"forward: missing {every - found}, too often {found - every}"
    without = _spans(trace, "evaluate", "backward_through")
    every -= Counter((span.block, span.batch) for span in without)
    found = Counter((span.block, span.batch) for span in _spans(trace, *_COMPUTE))
    assert found == every, f"backward: missing {every - found}, too often {found - every}"


def passes_keep_the_order_of_blocks(schedule: Schedule, trace: Trace) -> None:
    """A batch goes forward block by block; backward block by block where weights say how."""
    for spans in _by(lambda span: span.batch, _spans(trace)).values():
        ups = {span.block: span for span in spans if span.kind in _TAKE_FORWARD}
        downs = {span.block: span for span in spans if span.kind in _GO_DOWN}
        chained = schedule.weights.feedback in ("weights", "random") and not any(
            span.kind == "project" for span in spans
        )
        way = [ups[k] for k in sorted(ups)]
        way += [downs[k] for k in sorted(downs, reverse=True)] if chained else []
        each = [[ups[k], downs[k]] for k in downs]
        again = [s for s in spans if s.kind in ("replay", "backward_weight")]
        each += [[ups[s.block], s] for s in again if s.kind == "replay"]
        each += [[s, downs[s.block]] for s in again if s.kind == "replay"]
        each += [[downs[s.block], s] for s in again if s.kind == "backward_weight"]
        for before, after in [*pairwise(way), *each]:
            assert before.end <= after.start, f"{after} starts before {before} has ended"


def _versions(trace: Trace) -> dict[tuple[int, int], list[_Span]]:
    """What raised the version of each block of each replica, in the order of the versions found."""
    replica = trace.header.replicas or (0,) * len(trace.header.workers)
    groups = _by(lambda s: (replica[s.worker], s.block), _spans(trace, "update", "merge"))
    for spans in groups.values():
        spans.sort(key=lambda span: span.version)
    return groups


def versions_grow_by_one(schedule: Schedule, trace: Trace) -> None:
    """Updates and merges of a block find versions 0, 1, 2, ..., and land in this order."""
    for spans in _versions(trace).values():
        assert [span.version for span in spans] == list(range(len(spans)))
        # Real updates land somewhere within their spans, which may overlap.
        ends = [span.end for span in spans if trace.header.origin == "simulated"]
        assert ends == sorted(ends), f"updates land out of order: {spans}"


def passes_read_the_version_of_their_start(schedule: Schedule, trace: Trace) -> None:
    """In simulated time, a pass sees all updates that have landed when it starts, and no other."""
    if trace.header.origin != "simulated":
        return
    landed = _versions(trace)
    read = {(s.block, s.batch): s.version for s in _spans(trace, "forward", "tangent")}
    stashed = schedule.weights.policy == "stash"
    kept = ["replay", *_GO_DOWN] if stashed else ["project"]
    for span in _spans(trace, *_TAKE_FORWARD, "replay", *_GO_DOWN):
        if span.kind in kept:
            assert span.version == read[span.block, span.batch], f"{span} does not keep its weights"
            continue
        replica = schedule.workers[span.worker].replica
        raised = landed.get((replica, span.block), [])
        before = sum(update.end < span.start for update in raised)
        by_then = sum(update.end <= span.start for update in raised)
        # What takes no time may come before or after the updates of its own instant.
        least = before if span.start == span.end else by_then
        if schedule.weights.buffer and span.kind == "forward":
            least = max(0, least - 1)
        assert least <= span.version <= by_then, f"{span} read another version than {by_then}"


def gradients_are_applied_once(schedule: Schedule, trace: Trace) -> None:
    """Every gradient is applied, once, after it was computed and not before it was read."""
    computed = {(s.block, s.batch): s for s in _spans(trace, *_COMPUTE)}
    rows, every = trace.gradients, Counter(list(computed))
    found = Counter(zip(rows["block"].tolist(), rows["batch"].tolist(), strict=True))
    assert found == every, f"missing {every - found}, too often {found - every}"
    for row in rows:
        backward = computed[int(row["block"]), int(row["batch"])]
        assert row["time"] >= backward.end, f"{row} was applied before {backward} ended"
        assert row["worker"] == backward.worker, f"{row} was computed by another: {backward}"
        assert row["version_backward"] == backward.version, f"{row} and {backward} differ"


def gaps_are_not_negative(schedule: Schedule, trace: Trace) -> None:
    """Versions are read before they are raised: v_f <= v_b <= v_a, and no base is newer."""
    rows = trace.gradients
    assert (rows["version_first"] >= 0).all()
    assert (rows["version_first"] <= rows["version_forward"]).all()
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
            continue
        # A message departs and is taken at one instant: in simulated time, or behind the lock that
        # the start of a real span is taken in. Several processes share no such lock: then it is
        # somewhere within the span.
        ends = *schedule.senders[channel], *schedule.receivers[channel]
        loose = not simulated and len(ends) > 2
        sends = [s for s in spans if s.kind == "send"]
        sent = {s.batch: (s.end, s.end) if simulated else (s.start, s.start) for s in sends}
        if loose:
            sent = {s.batch: (s.start, s.end) for s in sends}
        assert received.keys() <= sent.keys(), f"{channel.name}: received, but never sent"
        taken = {b: (s.start, s.end if loose else s.start) for b, s in received.items()}
        for batch, span in received.items():
            assert sent[batch][0] <= taken[batch][1], f"{span} was received before it departed"
            for other in received:
                overtook = sent[batch][1] < sent[other][0] and taken[other][1] < taken[batch][0]
                assert not overtook, f"batch {other} overtook batch {batch} on {channel.name}"


def sources_are_used_up(schedule: Schedule, trace: Trace) -> None:
    """Every batch of a source is received once."""
    received = _by(lambda span: span.block, _spans(trace, "receive"))
    for number, channel in enumerate(schedule.channels):
        if channel.source:
            found = sorted(span.batch for span in received[number])
            assert found == channel.held(schedule.batches), f"{channel.name} gave {found}"


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
    sources_are_used_up,
    full_channels_wait,
)

# Where a worker was lost, batches may stop half-way, and gradients may never be applied.
PARTIAL: Final = tuple(
    each
    for each in INVARIANTS
    if each not in (every_batch_passes_once, gradients_are_applied_once, sources_are_used_up)
)


def check_trace(schedule: Schedule, trace: Trace, *, partial: bool = False) -> None:
    """Check every invariant of a whole run, simulated or real, or those of a `partial` one.

    A run is partial if it lost a worker before that had ended. Raises `AssertionError`.
    """
    for invariant in PARTIAL if partial else INVARIANTS:
        invariant(schedule, trace)
