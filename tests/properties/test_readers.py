"""Readers of traces against counts by hand, on random simulations: one loop for each definition."""

from collections import defaultdict
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simcore.consistency import batches_seen, drift, fresh_fractions, inconsistency
from simcore.costs import message_bytes
from simcore.metrics import busy_s
from simcore.occupancy import STATES, occupancy
from simcore.passes import passes_of
from simcore.staleness import PHASES, gap_summaries, gaps, gaps_by_phase, time_staleness
from simcore.traffic import traffic_of
from simcore.window import steady_window
from tests.properties.by_hand import NAMES, drawn, few, passes_by_batch, rows

every_schedule = pytest.mark.parametrize("name", NAMES)


# Occupancy


@every_schedule
@few
@given(st.data())
def test_occupancy_adds_up(name: str, data: st.DataObject) -> None:
    simulation = drawn(data, name)
    schedule, trace = simulation.schedule, simulation.run()
    ticks = occupancy(trace)
    assert (ticks >= 0).all()
    assert (ticks.sum(axis=1) == trace.end - trace.start).all()
    busy = ticks[:, :4].sum(axis=1).tolist()
    assert tuple(float(each * trace.header.tick_s) for each in busy) == busy_s(trace)
    by_hand = np.zeros_like(ticks)
    before = {}
    for row in rows(schedule, trace):
        idle = {"send": "blocked", "receive": "starved", "join": "waiting"}.get(row.kind, "other")
        busy_with = {
            "send": "sending", "receive": "receiving", "arrive": "reducing", "join": "reducing"
        }.get(row.kind, "computing")  # fmt: skip
        if row.worker not in before:
            idle = "early"
        since = before.get(row.worker, trace.start)
        by_hand[row.worker, STATES.index(idle)] += row.start - since
        by_hand[row.worker, STATES.index(busy_with)] += row.end - row.start
        before[row.worker] = row.end
    for worker in range(len(schedule.workers)):
        by_hand[worker, -1] = trace.end - before.get(worker, trace.start)
    np.testing.assert_array_equal(ticks, by_hand)


# Traffic


@every_schedule
@few
@given(st.data())
def test_traffic_is_what_was_sent(name: str, data: st.DataObject) -> None:
    simulation = drawn(data, name)
    schedule, trace = simulation.schedule, simulation.run()
    links = traffic_of(trace, schedule, simulation.blocks, simulation.cluster)
    found = {link.link: link for link in links}
    sent = rows(schedule, trace, "send")
    for number, channel in enumerate(schedule.channels):
        if channel.source or schedule.is_local(channel):
            assert channel.name not in found
            continue
        link = found.pop(channel.name)
        assert link.messages == sum(row.block == number for row in sent)
        size = message_bytes(schedule, channel, simulation.blocks)
        assert link.bytes == link.messages * size
    assert [*found] == [group.name for group in schedule.groups if group.blocks]


@every_schedule
@few
@given(st.data())
def test_messages_under_way_by_hand(name: str, data: st.DataObject) -> None:
    """Between any two neighbouring moments, count the messages that departed and did not land."""
    simulation = drawn(data, name)
    schedule, trace = simulation.schedule, simulation.run()
    window = steady_window(trace)
    received = {(row.block, row.batch): row.end for row in rows(schedule, trace, "receive")}
    links = {
        link.link: link
        for link in traffic_of(trace, schedule, simulation.blocks, simulation.cluster)
    }
    for number, channel in enumerate(schedule.channels):
        if channel.name not in links:
            continue
        link = links[channel.name]
        lives = [
            (row.end, received.get((number, row.batch), trace.end))
            for row in rows(schedule, trace, "send")
            if row.block == number
        ]

        def under_way(tick: Fraction, lives: list[tuple[int, int]] = lives) -> int:
            return sum(since < tick < until for since, until in lives)

        ticks = sorted({*trace.spans["end"].tolist(), *(window or ()), trace.start, trace.end})
        pieces = [(a, b, under_way(Fraction(a + b, 2))) for a, b in pairwise(ticks)]
        momentary = any(since == until for since, until in lives)
        fewest = max([int(momentary), *(count for _, _, count in pieces)])
        assert link.most_messages is not None
        assert link.most_messages >= fewest
        if not momentary:
            assert link.most_messages == fewest
        for (begin, end), mean in (
            ((trace.start, trace.end), link.mean_messages),
            (window or (0, 0), link.steady_mean_messages),
        ):
            held = sum((b - a) * count for a, b, count in pieces if begin <= a and b <= end)
            assert mean == (Fraction(held, end - begin) if end > begin else None)


# Staleness


@every_schedule
@few
@given(st.data())
def test_gaps_count_updates_alone(name: str, data: st.DataObject) -> None:
    simulation = drawn(data, name)
    schedule, trace = simulation.schedule, simulation.run()
    merged = {(row.cell, row.version) for row in rows(schedule, trace, "merge")}
    for row, gap in zip(trace.gradients, gaps(trace).tolist(), strict=True):
        cell = schedule.workers[int(row["worker"])].replica, int(row["block"])
        versions = range(int(row["version_forward"]), int(row["version_applied"]))
        assert gap == sum((cell, version) not in merged for version in versions)


@every_schedule
@few
@given(st.data())
def test_every_update_is_in_one_phase(name: str, data: st.DataObject) -> None:
    trace = drawn(data, name).run()
    phases = gaps_by_phase(trace)
    if phases is None:
        return
    assert tuple(phases) == PHASES
    for number, whole in enumerate(gap_summaries(trace)):
        counts: dict[int, int] = defaultdict(int)
        for phase in PHASES:
            for gap, count in phases[phase][number].histogram.items():
                counts[gap] += count
        assert counts == whole.histogram


@every_schedule
@few
@given(st.data())
def test_gradients_wait_for_their_updates(name: str, data: st.DataObject) -> None:
    simulation = drawn(data, name)
    schedule, trace = simulation.schedule, simulation.run()
    waited: dict[int, list[Fraction]] = defaultdict(list)
    passes = passes_by_batch(schedule, trace)
    for row in trace.gradients:
        ready = passes[int(row["block"]), int(row["batch"])][-1].end
        waited[int(row["block"])].append((int(row["time"]) - ready) * trace.header.tick_s)
    for delay in time_staleness(trace):
        each = waited[delay.block]
        if each:
            expected: Any = float(sum(each) / len(each)), float(min(each)), float(max(each))
        else:
            expected = None, None, None
        assert (delay.mean_s, delay.min_s, delay.max_s) == expected


# Consistency


@every_schedule
@few
@given(st.data())
def test_consistency_by_hand(name: str, data: st.DataObject) -> None:
    simulation = drawn(data, name)
    schedule, trace = simulation.schedule, simulation.run()
    versions: dict[tuple[int, int], dict[int, int]] = defaultdict(dict)  # cell: batch: v_a
    for row in trace.gradients:
        cell = schedule.workers[int(row["worker"])].replica, int(row["block"])
        versions[cell][int(row["batch"])] = int(row["version_applied"])
    ages: dict[int, list[int]] = defaultdict(list)
    seen, fresh = {}, defaultdict(list)
    firsts = {key: passes[0] for key, passes in passes_by_batch(schedule, trace).items()}
    for (block, batch), first in firsts.items():
        age = sum(version < first.version for version in versions[first.cell].values())
        seen[block, batch] = age
        if versions[first.cell]:
            ages[batch].append(age)
        earlier = [row.batch for row in firsts.values() if row.cell == first.cell]
        before = max((each for each in earlier if each < batch), default=None)
        if before in versions[first.cell]:
            fresh[block].append(first.version > versions[first.cell][before])
    found = passes_of(trace)
    keys = zip(found.block.tolist(), found.batch.tolist(), strict=True)
    assert dict(zip(keys, batches_seen(trace, found).tolist(), strict=True)) == seen
    spreads = [max(each) - min(each) for each in ages.values()]
    spread = inconsistency(trace)
    assert spread is not None
    assert (spread.min, spread.max) == (min(spreads), max(spreads))
    assert spread.mean == sum(spreads) / len(spreads)
    for block, share in enumerate(fresh_fractions(trace), 1):
        each = fresh[block]
        assert share == (Fraction(sum(each), len(each)) if each else None)
    newer = drift(trace)
    assert newer is not None
    assert newer.min >= 0
    if schedule.weights.policy == "stash":
        assert (newer.min, newer.max) == (0, 0)
