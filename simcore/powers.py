"""The end of a static schedule that repeats, however often: by powers of its matrix.

The ends of all nodes in one iteration follow from those of the iterations before by a max-plus
linear rule that is the same in every iteration. So the rule is a matrix, and its powers, by
repeated squaring, give the ends after any number of iterations. The end of the run is then worked
out event by event, as it was recorded.
"""

from graphlib import TopologicalSorter

import numpy as np
from numpy.typing import NDArray

from simcore.bodies import Edge, Repeating
from simcore.max_plus import NOTHING, Affine, affine, raised

__all__ = ["end_after"]


def _ends(repeating: Repeating) -> NDArray[np.int64]:
    """The ends of all nodes in all iterations, shape (iterations, nodes), in ticks."""
    columns, count = [], repeating.iterations
    for lane, body in repeating.bodies.items():
        ends = repeating.recording.lanes[lane].ends[body.first : body.place(count, 0)]
        columns.append(np.array(ends, np.int64).reshape(count, body.length))
    return np.concatenate(columns, axis=1)


def end_after(repeating: Repeating, more: int) -> int | None:
    """The tick at which the schedule ends with so many iterations more than were recorded.

    None if the recording is too short for what its end comes after. Raises `OverflowError` as
    `simcore.max_plus.affine`.
    """
    ends = _ends(repeating)
    last = repeating.iterations - 2 - repeating.deepest
    kept = _kept(repeating.edges)
    if last - max(kept.values(), default=1) < 0:
        return None
    state = [(node, back) for node, count in kept.items() for back in range(count)]
    now = np.array([ends[last - back, node] for node, back in state], np.int64)
    offset, moved = raised(_matrix(repeating, state), more, affine(now))
    known = {
        (node, last - back): offset + int(ticks)
        for (node, back), ticks in zip(state, moved.tolist(), strict=True)
    }
    return _finished(repeating, last, known)


def _kept(edges: list[Edge]) -> dict[int, int]:
    """For how many iterations the end of each node still counts; of those that count at all."""
    kept: dict[int, int] = {}
    for edge in edges:
        if edge.lag:
            kept[edge.before] = max(kept.get(edge.before, 0), edge.lag)
    return kept


def _matrix(repeating: Repeating, state: list[tuple[int, int]]) -> Affine:
    """The rule from one iteration's state to the next one's."""
    number = {entry: n for n, entry in enumerate(state)}
    into: dict[int, list[Edge]] = {node: [] for node in range(len(repeating.nodes))}
    for edge in repeating.edges:
        into[edge.after].append(edge)
    within = {node: {e.before for e in edges if not e.lag} for node, edges in into.items()}
    rows: dict[int, NDArray[np.int64]] = {}
    for node in TopologicalSorter(within).static_order():
        row = np.full(len(state), NOTHING)
        for edge in into[node]:
            if edge.lag:
                at = number[edge.before, edge.lag - 1]
                row[at] = max(int(row[at]), edge.ticks)
            else:
                before = rows[edge.before]
                np.maximum(row, np.where(before > NOTHING, before + edge.ticks, NOTHING), out=row)
        rows[node] = row
    matrix = np.full((len(state), len(state)), NOTHING)
    for at, (node, back) in enumerate(state):
        if back:
            matrix[at, number[node, back - 1]] = 0
        else:
            matrix[at] = rows[node]
    return affine(matrix)


def _finished(repeating: Repeating, last: int, known: dict[tuple[int, int], int]) -> int | None:
    """The end of everything after iteration `last`, from the ends that are `known` of it."""
    lanes, bodies = repeating.recording.lanes, repeating.bodies
    number = {node: n for n, node in enumerate(repeating.nodes)}
    late: dict[tuple[int, int], int] = {}
    reached = [0] * len(lanes)
    end = 0

    def was(lane: int, place: int) -> int | None:
        body = bodies.get(lane)
        if (lane, place) in late:
            return late[lane, place]
        if body is None or place < body.first:
            return lanes[lane].ends[place]
        position = (place - body.first) % body.length
        return known.get((number[lane, position], body.iteration(place)))

    # From which place on the events of each lane move.
    since = [bodies[n].place(last + 1, 0) if n in bodies else 0 for n in range(len(lanes))]
    for lane in repeating.recording.order:
        place = reached[lane]
        reached[lane] += 1
        if place < since[lane]:  # whatever a repeated lane does is over when its last events are
            continue
        after = lanes[lane].after[place]
        if lane not in bodies and not any((other, before) in late for other, before, _ in after):
            end = max(end, lanes[lane].ends[place])
            continue
        ends = [(was(other, before), ticks) for other, before, ticks in after]
        found = [ticks + before for before, ticks in ends if before is not None]
        if len(found) < len(ends):
            return None
        late[lane, place] = max(found)
        end = max(end, late[lane, place])
    return end
