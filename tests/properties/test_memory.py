"""Memory against a count by hand, on random simulations: one loop for each category."""

from collections import defaultdict
from fractions import Fraction
from itertools import pairwise
from math import ceil
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simcore.costs import message_bytes
from simcore.holdings import CATEGORIES, holdings_of
from simcore.memory import memory_over_time, peak_memory
from simcore.metrics import peak_in_flight
from simcore.schedule import Schedule
from simcore.trace import Trace
from simcore.workload import Workload
from tests.properties.by_hand import NAMES, Row, drawn, few, passes_by_batch, rows

every_schedule = pytest.mark.parametrize("name", NAMES)


class Held(NamedTuple):
    worker: int
    category: str
    start: int
    end: int | None
    size: int


def held_by_hand(schedule: Schedule, trace: Trace, workload: Workload) -> list[Held]:
    """Every holding of a whole run, one loop for each category."""
    found = [*held_always(schedule, trace, workload), *held_as_copies(schedule, trace, workload)]
    parameters = {k: layer.parameter_bytes for k, layer in enumerate(workload.layers, 1)}
    parts = schedule.micro_batches
    learned: dict[tuple[int, int], int] = {}
    for row in rows(schedule, trace, "backward", "backward_weight", "project", "update"):
        key = row.worker, row.block
        if row.kind != "update":
            learned.setdefault(key, row.end)
        elif key in learned:
            size = parameters[row.block]
            found.append(Held(row.worker, "gradients", learned.pop(key), row.end, size))
    assert not learned
    outputs = [workload.input_bytes, *(layer.activation_bytes for layer in workload.layers)]
    directions: dict[tuple[int, int], Held] = {}
    for (block, batch), passes in passes_by_batch(schedule, trace).items():
        last = passes[-1]
        match [row.kind for row in passes]:
            case ["evaluate"]:
                continue
            case ["tangent", "project"]:
                # One seed stands for all directions.
                drawn_anew = schedule.weights.keep == "seed"
                size = 8 if drawn_anew else parameters[block] * schedule.weights.tangents
                first = passes[0]
                key = block, batch // parts
                since = directions[key].start if key in directions else first.start
                directions[key] = Held(first.worker, "tangents", since, last.end, size)
                continue
            case ["forward", "replay", *_]:
                first, replay, *_ = passes
                size = ceil(Fraction(outputs[block - 1], parts))
                found += handed("inputs", trace, first, replay, replay.end, size)
                maker = replay
            case ["forward", *_]:
                maker = passes[0]
            case kinds:
                raise AssertionError(kinds)
        size = ceil(Fraction(workload.layers[block - 1].saved_bytes, parts))
        found += handed("activations", trace, maker, last, last.end, size)
    found += directions.values()
    for number, channel in enumerate(schedule.channels):
        size = ceil(message_bytes(schedule, channel, workload))
        if channel.source or schedule.is_local(channel):
            continue
        here = [row for row in rows(schedule, trace, "send", "receive") if row.block == number]
        received = {row.batch: row for row in here if row.kind == "receive"}
        for row in here:
            if row.kind == "send":
                to = received[row.batch]
                found.append(Held(to.worker, "messages", row.end, to.end, size))
    return found


def held_always(schedule: Schedule, trace: Trace, workload: Workload) -> list[Held]:
    found = []
    rules = schedule.weights
    for cell, owner in owners(schedule, trace).items():
        layer = workload.layers[cell[1] - 1]
        size = layer.parameter_bytes
        found.append(Held(owner, "weights", trace.start, None, size))
        updaters = {row.worker for row in rows(schedule, trace, "update") if row.cell == cell}
        for worker in [owner] if rules.momentum == "shared" else updaters:
            state = size * workload.optimizer_states
            found.append(Held(worker, "optimizer", trace.start, None, state))
        if rules.write == "assign":
            found += [Held(worker, "copies", trace.start, None, size) for worker in updaters]
        if any(row.cell == cell for row in rows(schedule, trace, "estimate")):
            found.append(Held(owner, "auxiliary", trace.start, None, layer.auxiliary_bytes))
    return found


def held_as_copies(schedule: Schedule, trace: Trace, workload: Workload) -> list[Held]:
    """At every tick: the distinct versions before the current that backward passes still need."""
    found = []
    snapshots: dict[tuple[int, int], Row] = {}
    for row in rows(schedule, trace, "snapshot", "merge"):
        if row.kind == "snapshot":
            snapshots[row.worker, row.block] = row
        else:
            taken = snapshots.pop((row.worker, row.block))
            size = workload.layers[row.block - 1].parameter_bytes
            found.append(Held(row.worker, "copies", taken.start, row.end, size))
    if schedule.weights.policy != "stash":
        return found
    for cell, owner in owners(schedule, trace).items():
        size = workload.layers[cell[1] - 1].parameter_bytes
        raises = [row for row in rows(schedule, trace, "update", "merge") if row.cell == cell]
        needs = []
        for passes in passes_by_batch(schedule, trace).values():
            ways = ("backward", "backward_input", "backward_through")
            down = [row for row in passes if row.kind in ways]
            if passes[0].cell == cell and down:
                needs.append((down[0].end, passes[0].version))
        ticks = sorted({row.end for row in raises} | {end for end, _ in needs})
        for tick, after in pairwise([*ticks, trace.end]):
            current = sum(row.end <= tick for row in raises)
            old = {version for end, version in needs if tick < end and version < current}
            found += [Held(owner, "copies", tick, after, size) for _ in old]
    return found


def owners(schedule: Schedule, trace: Trace) -> dict[tuple[int, int], int]:
    found: dict[tuple[int, int], int] = {}
    for row in rows(schedule, trace, "update"):
        found.setdefault(row.cell, row.worker)
    for number, worker in enumerate(schedule.workers):
        for block in worker.blocks:
            found.setdefault((worker.replica, block), number)
    return found


def handed(category: str, trace: Trace, maker: Row, taker: Row, end: int, size: int) -> list[Held]:
    if maker.worker == taker.worker:
        return [Held(maker.worker, category, maker.start, end, size)]
    received = [
        row["end"]
        for row in trace.of_kind("receive")
        if row["worker"] == taker.worker and row["batch"] == taker.batch
    ]
    at = min(max(int(received[0]), maker.start), end)
    return [
        Held(maker.worker, category, maker.start, at, size),
        Held(taker.worker, category, at, end, size),
    ]


@every_schedule
@few
@given(st.data())
def test_memory_is_the_sum_of_what_is_held(name: str, data: st.DataObject) -> None:
    simulation = drawn(data, name)
    schedule, workload, trace = simulation.schedule, simulation.blocks, simulation.run()
    expected = held_by_hand(schedule, trace, workload)
    holdings = holdings_of(trace, schedule, workload)
    peaks = peak_memory(holdings, trace)
    ticks = {*trace.spans["start"].tolist(), *trace.spans["end"].tolist()}
    for worker, peak in enumerate(peaks):
        memory = memory_over_time(holdings, worker)
        assert (memory.held >= 0).all()
        for tick in ticks:
            at = int(np.searchsorted(memory.ticks, tick, side="right")) - 1
            found = memory.held[at].tolist() if at >= 0 else [0] * len(CATEGORIES)
            now = dict.fromkeys(CATEGORIES, 0)
            for held in expected:
                if (
                    held.worker == worker
                    and held.start <= tick
                    and (held.end is None or tick < held.end)
                ):
                    now[held.category] += held.size
            assert dict(zip(CATEGORIES, found, strict=True)) == now, f"{worker} at {tick}"
        assert peak.bytes == sum(peak.categories.values())
        # What is held for no time at all is seen by the peak alone.
        assert peak.bytes >= memory.held.sum(axis=1).max(initial=0)
        if not any(held.start == held.end for held in expected):
            assert peak.bytes == memory.held.sum(axis=1).max(initial=0)


@every_schedule
@few
@given(st.data())
def test_memory_ends_with_what_training_leaves(name: str, data: st.DataObject) -> None:
    simulation = drawn(data, name)
    schedule, workload, trace = simulation.schedule, simulation.blocks, simulation.run()
    holdings = holdings_of(trace, schedule, workload)
    left = np.zeros(len(CATEGORIES), np.int64)
    for worker in range(len(schedule.workers)):
        held = memory_over_time(holdings, worker).held
        left += held[-1] if len(held) else 0
    found = dict(zip(CATEGORIES, left.tolist(), strict=True))
    copies = max(1, len({worker.replica for worker in schedule.workers}))
    assert found.pop("weights") == copies * sum(layer.parameter_bytes for layer in workload.layers)
    found.pop("optimizer"), found.pop("auxiliary")
    if schedule.weights.write == "assign":
        found.pop("copies")
    assert not any(found.values())


@every_schedule
@few
@given(st.data())
def test_batches_in_flight(name: str, data: st.DataObject) -> None:
    simulation = drawn(data, name)
    schedule, trace = simulation.schedule, simulation.run()
    most = peak_in_flight(trace)
    lasting: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for passes in passes_by_batch(schedule, trace).values():
        lasting[passes[0].cell].append((passes[0].start, passes[-1].end))
    for block in range(1, schedule.blocks + 1):
        at_once = [
            sum(start <= tick < end for start, end in each)
            for cell, each in lasting.items()
            for tick, _ in each
            if cell[1] == block
        ]
        assert most[block - 1] >= max(at_once)
        if all(start < end for each in lasting.values() for start, end in each):
            assert most[block - 1] == max(at_once)
