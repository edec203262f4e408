"""The time of a batch, computed and not simulated, and the cycle of events that bounds it.

In a static schedule that repeats, a mini-batch takes in the long run the largest ratio, over all
cycles of what comes after what, of the time around to the mini-batches that it takes to come back
to where it was (Baccelli et al. 1992, section 2.5). That cycle is what bounds the schedule: making
anything else faster changes nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from simcore.bodies import MOST_EVENTS, Edge, Recorded, Repeating, repeatings
from simcore.cluster import Cluster
from simcore.errors import InputError
from simcore.max_plus import largest_cycle_ratio
from simcore.schedule import Schedule
from simcore.workload import Workload

__all__ = ["CycleTime", "bottleneck_values", "critical", "cycle_time"]

_MOST_SHOWN: Final = 8  # parts of a cycle that the sentence has
# Events that have no name of their own in a cycle: what comes of them has.
_SILENT: Final = ("arrive", "join", "transfer", "round")


@dataclass(frozen=True, slots=True)
class CycleTime:
    """Seconds of a mini-batch in the long run, exact, and the cycle that it takes them for.

    `cycle` are its parts in words, in their order; around it, one comes to what is `batches`
    mini-batches later. `text` says it in a sentence.
    """

    batch_s: Fraction
    cycle: tuple[str, ...]
    batches: int
    text: str


def cycle_time(
    schedule: Schedule,
    blocks: Workload,
    cluster: Cluster | None = None,
    *,
    most_events: int = MOST_EVENTS,
) -> CycleTime:
    """The cycle that bounds a static schedule whose block k costs what layer k of `blocks` does.

    The schedule must have been built by its name, for it is recorded with other numbers of batches,
    with `most_events` events at most. Where modules do not wait for each other it is the pace of
    the slowest.

    Raises `NotStaticError`, an `InputError` that says why, if programs choose between messages, if
    devices, wires or channels are shared, for faults of workers, and for programs that are not
    seen to repeat themselves; other errors as `simcore.engine.simulate`.

    >>> from simcore.schedules import build
    >>> found = cycle_time(build("fdg", modules=3), Workload.even(3, 3, update_s=3))
    >>> found.batch_s, found.text
    (Fraction(4, 1), 'module 1: forward, backward, update bounds this schedule')
    """
    recorded = Recorded(schedule, blocks, cluster or Cluster.private())
    found = next(repeatings(recorded, most_events=most_events))
    return critical(found, recorded)


def critical(repeating: Repeating, recorded: Recorded) -> CycleTime:
    """The largest cycle ratio of a schedule that repeats, in seconds and in words."""
    ratio, cycle = largest_cycle_ratio(len(repeating.nodes), repeating.edges)
    cycle = _of_one_lane(repeating, ratio) or cycle
    words = tuple(_parts(repeating, cycle, recorded))
    # The cycle is told from what a worker does, not from what brings it there.
    own = next((at for at, part in enumerate(words) if ": " in part), 0)
    words = (*words[own:], *words[:own])
    batches = sum(edge.lag for edge in cycle) * repeating.period
    shown = "; ".join(words[:_MOST_SHOWN])
    if len(words) > _MOST_SHOWN:
        shown += f"; and {len(words) - _MOST_SHOWN} more parts"
    several = f", once around in {batches} batches" if batches > repeating.period else ""
    verb = "bounds" if len(words) == 1 else "bound"
    text = f"{shown} {verb} this schedule{several}" if words else "nothing takes time"
    batch_s = ratio * recorded.costs.tick.seconds / repeating.period
    return CycleTime(batch_s, words, batches, text)


def _of_one_lane(repeating: Repeating, ratio: Fraction) -> list[Edge]:
    """The cycle of a lane alone that takes as long, if there is one: it is the easiest to tell."""
    around: dict[int, list[Edge]] = {}
    for edge in repeating.edges:
        (lane, place), (other, after) = repeating.nodes[edge.before], repeating.nodes[edge.after]
        length = repeating.bodies[lane].length
        if lane == other and after == (place + 1) % length and edge.lag == (after <= place):
            around.setdefault(lane, []).append(edge)
    for lane, edges in around.items():
        if len(edges) == repeating.bodies[lane].length and sum(e.ticks for e in edges) == ratio:
            return edges
    return []


def bottleneck_values(
    schedule: Schedule, blocks: Workload, cluster: Cluster | None, most_events: int = MOST_EVENTS
) -> dict[str, Any]:
    """`batch_s`, `cycle`, `batches` and `text` of `CycleTime` as JSON values.

    Where there is no such cycle all but the `text`, which says why, are None.
    """
    try:
        found = cycle_time(schedule, blocks, cluster, most_events=most_events)
    except InputError as error:
        return {"batch_s": None, "cycle": None, "batches": None, "text": f"{error}"}
    return {
        "batch_s": float(found.batch_s),
        "cycle": list(found.cycle),
        "batches": found.batches,
        "text": found.text,
    }


def _parts(repeating: Repeating, cycle: Sequence[Edge], recorded: Recorded) -> Iterator[str]:
    """A cycle in words: what each worker does on it, and what takes it on to the next one."""
    if not cycle:
        return
    lanes, workers = repeating.recording.lanes, repeating.recording.workers
    lane_of = [repeating.nodes[edge.after][0] for edge in cycle]
    # A part begins where the lane changes; the cycle is told from the first worker on it.
    turns = [at for at in range(len(cycle)) if lane_of[at] != lane_of[at - 1]]
    begin = min(turns, key=lambda at: lane_of[at]) if turns else _first(cycle)
    edges = [*cycle[begin:], *cycle[:begin]]
    doing: list[str] = []
    lane = repeating.nodes[edges[0].after][0]
    for edge in edges:
        now = repeating.nodes[edge.after][0]
        if now != lane and doing:
            yield f"{lanes[lane].name}: {', '.join(doing)}"
            doing = []
        if repeating.nodes[edge.before][0] != now and now < workers:
            yield from _way(repeating, edge, recorded)
        lane = now
        word = _word(repeating, edge.after, recorded) if edge.ticks else ""
        if word and word not in doing:
            doing.append(word)
        if now >= workers:
            if edge.ticks:
                yield lanes[now].name
            doing = []
    if doing:
        yield f"{lanes[lane].name}: {', '.join(doing)}"


def _first(cycle: Sequence[Edge]) -> int:
    """Where a cycle within one lane begins: behind what takes it to another iteration."""
    return next(at for at, edge in enumerate(cycle) if edge.lag)


def _way(repeating: Repeating, edge: Edge, recorded: Recorded) -> Iterator[str]:
    """What takes a cycle from one worker to the next; a message that is there at once is silent."""
    schedule, (kind, place, _, _) = recorded.schedule, repeating.event(edge.after)
    if kind == "receive" and recorded.costs.delays[place].latency:
        yield f"message {schedule.channels[place].name}"
    elif kind == "send":
        yield f"room in {schedule.channels[place].name}"
    elif kind == "join":
        yield f"round of {schedule.groups[place].name}"


def _word(repeating: Repeating, node: int, recorded: Recorded) -> str:
    schedule, (kind, block, _, _) = recorded.schedule, repeating.event(node)
    if kind in ("send", "receive"):
        delays, name = recorded.costs.delays[block], schedule.channels[block].name
        takes_time = delays.send if kind == "send" else delays.receive
        return f"{kind} {name}" if takes_time else ""
    if kind in _SILENT:
        return ""
    lane = repeating.nodes[node][0]
    word = kind.replace("_", " ")
    several = lane < len(schedule.workers) and len(schedule.workers[lane].blocks) > 1
    return f"{word} of block {block}" if several and block else word
