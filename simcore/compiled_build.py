"""All tables of the compiled engine, as they are before anything happens."""

from math import lcm
from typing import Final

import numpy as np

import simcore.compiled_layout as x
from simcore.cluster import Cluster
from simcore.compiled_code import Items, Places, encoded
from simcore.compiled_tables import Ints, Tables, packed
from simcore.costs import Costs
from simcore.faults import Pause
from simcore.interruptions import moment_s
from simcore.lowering import LOOP, Lowering, Unliftable
from simcore.ops import COPIED
from simcore.patience import Patience
from simcore.schedule import Schedule
from simcore.timing import Timing

__all__ = ["CHUNK", "first_tables", "refuse_beyond"]

CHUNK: Final = 256  # random factors of a worker that are drawn at once
_LARGEST: Final = 2**61
_MOST_BYTES: Final = 2**30
_MOST_ROWS: Final = 2**22  # to begin with


def refuse_beyond(schedule: Schedule, cluster: Cluster) -> None:
    """Raise `Unliftable` for what the compiled engine cannot do."""
    for link in (cluster.link, *cluster.links.values()):
        if link.transfers == "shared" and link.bytes_per_s is not None:
            raise Unliftable("transfers share a wire")
    cells = (schedule.blocks + 1) * schedule.batches * x.L_COLUMNS
    cells += len(schedule.workers) * schedule.batches
    if 8 * cells > _MOST_BYTES:
        raise Unliftable("versions of so many batches and blocks at once are too many")


def first_tables(
    schedule: Schedule,
    lowering: Lowering,
    costs: Costs,
    cluster: Cluster,
    timing: Timing,
    seed: int,
) -> tuple[Tables, Items, Places]:
    """The tables, and where items and the blocks of workers are in them.

    Raises `Unliftable` for what the engine cannot do.
    """
    workers = _empty(len(schedule.workers), x.W_COLUMNS)
    state = _empty(x.S_COLUMNS)
    blocks, slots = _blocks(schedule, workers)
    rounds, members, places, memberships = _rounds(schedule, costs, workers)
    where = Places(slots, places)
    items = Items([{} for _ in schedule.workers])
    code, listens = encoded(schedule, lowering, timing, items, where)
    effects, first = items.table()
    workers[:, x.W_AT] = lowering.entries
    workers[:, x.W_INDEX] = -1
    workers[:, x.W_VERSION] = -1
    workers[:, x.W_REACHED] = -1
    workers[:, x.W_SERVED] = -1
    workers[:, x.W_HELD_AT] = first[:-1]
    channels, lines, queues, sends, wires = _channels(schedule, costs, cluster, workers)
    devices, speeds, residents, shared = _devices(schedule, cluster, workers)
    events = _faults(costs, cluster, seed)
    state[x.S_CURRENT] = -1
    state[x.S_MOST_IDLE] = Patience(schedule).most
    state[x.S_SHARED] = shared or bool(events)
    rules = schedule.weights
    state[x.S_STASH] = rules.policy == "stash"
    state[x.S_ASSIGN] = rules.write == "assign"
    state[x.S_REFRESH_ALL] = rules.refresh != "layer"
    state[x.S_BUFFER] = rules.buffer
    state[x.S_BLOCKS], state[x.S_BATCHES] = schedule.blocks, schedule.batches
    number = len(schedule.workers)
    room = 64 + 4 * len(channels)  # for messages on their way; there may be more
    calendar = 2 * number + len(devices) + len(rounds) + len(events) + room
    ledger = np.full((schedule.blocks + 1, schedule.batches, x.L_COLUMNS), -1, np.int64)
    copies = max(schedule.replicas) + 1
    runnable = _empty(4 * number + 16)
    runnable[:number] = np.arange(number)
    state[x.S_RUNNABLE] = number
    messages = _messages(room)
    tables = packed(
        code=code,
        listens=listens,
        effects=effects,
        workers=workers,
        blocks=blocks,
        channels=channels,
        rounds=rounds,
        members=members,
        devices=devices,
        ledger=ledger,
        held=_empty(first[-1], schedule.batches),
        versions=_empty(copies * (schedule.blocks + 1)),
        passes=_empty(copies * (schedule.blocks + 1)),
        registers=_empty(number, lowering.registers + 1),
        counts=_empty(len(code)),
        lines=lines,
        queues=queues,
        sends=sends,
        wires=wires,
        messages=messages,
        runnable=runnable,
        done=_empty(number + 1),
        due=_empty(len(messages)),
        starting=_empty(number + 1),
        times=_empty(calendar),
        events=_empty(calendar),
        groups=_empty(len(schedule.groups) + 1),
        memberships=memberships,
        faults=_empty(len(cluster.faults) * 2 + 1, 2),
        speeds=speeds,
        residents=residents,
        touched=_empty(len(channels) + 1),
        ready=_empty(len(devices) + 1),
        changed=_empty(len(devices) + 1),
        spans=np.empty((_rows(lowering), 8), np.int64),
        gradients=np.empty((_rows(lowering) // 4 + 64, 9), np.int64),
        factors=_empty(1, 1, 0),
        state=state,
    )
    _plan(tables, events)
    return tables, items, where


def _rows(lowering: Lowering) -> int:
    """About how many operations there will be, where loops say so."""
    times = [1] * len(lowering.code)
    for at, (code, a, b, _, _) in enumerate(lowering.code):
        if code == LOOP:
            for inside in range(a, at):
                times[inside] *= b
    return min(_MOST_ROWS, max(1024, sum(times) + 64))


def _empty(*shape: int) -> Ints:
    return np.zeros(shape, np.int64)


def _messages(count: int, first: int = 0) -> Ints:
    """Free messages, each with the number of the next one."""
    messages = _empty(count, x.Q_COLUMNS)
    messages[:, x.Q_NEXT] = np.arange(first + 1, first + count + 1)
    messages[-1, x.Q_NEXT] = -1
    return messages


def _blocks(schedule: Schedule, workers: Ints) -> tuple[Ints, list[dict[int, int]]]:
    slots: list[dict[int, int]] = []
    rows: list[list[int]] = []
    for number, worker in enumerate(schedule.workers):
        workers[number, x.W_SLOTS] = len(rows)
        slots.append({})
        for block in dict.fromkeys(worker.blocks):
            slots[-1][block] = len(rows)
            row = [0] * x.B_COLUMNS
            row[x.B_BASE] = -1
            row[x.B_VERSION] = worker.replica * (schedule.blocks + 1) + block
            rows.append(row)
        workers[number, x.W_SLOTS_END] = len(rows)
    return np.array(rows or [[0] * x.B_COLUMNS], np.int64), slots


def _rounds(
    schedule: Schedule, costs: Costs, workers: Ints
) -> tuple[Ints, Ints, dict[tuple[int, int, int], int], Ints]:
    """Rounds by group and block, their members, where these are, and by worker."""
    places: dict[tuple[int, int, int], int] = {}
    rounds: list[list[int]] = []
    members: list[list[int]] = []
    of_worker: list[list[int]] = [[] for _ in schedule.workers]
    for number, group in enumerate(schedule.groups):
        inside = [w for w, worker in enumerate(schedule.workers) if group in worker.joins]
        for block in dict.fromkeys((0, *group.blocks)):
            row = [0] * x.R_COLUMNS
            row[x.R_TICKS] = costs.rounds[number][block]
            row[x.R_GROUP] = number
            row[x.R_MEMBERS], row[x.R_MEMBERS_END] = len(members), len(members) + len(inside)
            for worker in inside:
                member = [0] * x.M_COLUMNS
                member[x.M_WORKER], member[x.M_ROUND] = worker, len(rounds)
                places[worker, number, block] = len(members)
                of_worker[worker].append(len(members))
                members.append(member)
            rounds.append(row)
    flat: list[int] = []
    for worker, own in enumerate(of_worker):
        workers[worker, x.W_GROUPS] = len(flat)
        flat += own
        workers[worker, x.W_GROUPS_END] = len(flat)
    return (
        np.array(rounds, np.int64).reshape(-1, x.R_COLUMNS),
        np.array(members, np.int64).reshape(-1, x.M_COLUMNS),
        places,
        np.array(flat, np.int64),
    )


def _channels(
    schedule: Schedule, costs: Costs, cluster: Cluster, workers: Ints
) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    number = {channel: n for n, channel in enumerate(schedule.channels)}
    named: dict[str, int] = {}
    rows = _empty(max(1, len(number)), x.C_COLUMNS)
    lines = queues = 0
    for channel, n in number.items():
        row, delays = rows[n], costs.delays[n]
        link = cluster.link_of(channel.name)
        row[x.C_CAPACITY] = -1 if channel.capacity is None else channel.capacity
        row[x.C_HEAD] = -1
        row[x.C_SEND], row[x.C_TRANSMIT] = delays.send, delays.transmit
        row[x.C_LATENCY], row[x.C_RECEIVE] = delays.latency, delays.receive
        row[x.C_WIRE] = n
        if link.wire is not None and not schedule.is_local(channel):
            row[x.C_WIRE] = named.setdefault(link.wire, n)
        row[x.C_SOURCE], row[x.C_FIRST] = channel.source, channel.first
        row[x.C_STRIDE], row[x.C_RUN] = channel.stride, channel.run
        if channel.source:
            row[x.C_LEFT] = len(channel.held(schedule.batches))
        else:
            row[x.C_SENDERS] = len(schedule.senders[channel])
        row[x.C_LINE] = lines
        lines += len(schedule.receivers[channel])
        row[x.C_QUEUE], row[x.C_QUEUE_SIZE] = queues, max(1, len(schedule.senders[channel]))
        queues += row[x.C_QUEUE_SIZE]
        row[x.C_HELD] = sum(item.kind not in COPIED for item in channel.carries)
    sends: list[int] = []
    for worker, row in zip(schedule.workers, workers, strict=True):
        row[x.W_SENDS] = len(sends)
        sends += [number[channel] for channel in worker.sends]
        row[x.W_SENDS_END] = len(sends)
    return (
        rows,
        _empty(lines + 1),
        _empty(int(queues) + 1),
        np.array(sends, np.int64),
        _empty(max(1, len(number))),
    )


def _devices(schedule: Schedule, cluster: Cluster, workers: Ints) -> tuple[Ints, Ints, Ints, bool]:
    """Devices, speeds, who is on them; and whether work has to be followed at all."""
    placement = [cluster.device_of(worker) for worker in range(len(schedule.workers))]
    numbers = {device: n for n, device in enumerate(dict.fromkeys(placement))}
    residents: list[list[int]] = [[] for _ in numbers]
    for worker, device in enumerate(placement):
        workers[worker, x.W_DEVICE] = numbers[device]
        residents[numbers[device]].append(worker)
    rows = _empty(len(numbers), x.D_COLUMNS)
    speeds: list[int] = []
    flat: list[int] = []
    alone = True
    for device, n in numbers.items():
        found = [cluster.device(device).speed(c) for c in range(1, len(residents[n]) + 1)]
        denominator = lcm(*(speed.denominator for speed in found))
        alone &= len(found) == 1 and found[0] == 1
        rows[n, x.D_DENOMINATOR], rows[n, x.D_PLANNED] = denominator, -1
        rows[n, x.D_SPEEDS], rows[n, x.D_WORKERS] = len(speeds), len(flat)
        speeds += [int(speed * denominator) for speed in found]
        flat += residents[n]
        rows[n, x.D_WORKERS_END] = len(flat)
    if max(speeds) > 2**40:
        raise Unliftable("the speeds of a device have no small common denominator")
    return rows, np.array(speeds, np.int64), np.array(flat, np.int64), not alone


def _faults(costs: Costs, cluster: Cluster, seed: int) -> list[tuple[int, int, int]]:
    """When who stops and goes on: (tick, worker, kind of event)."""
    found = []
    for number, fault in enumerate(cluster.faults):
        moment = costs.tick.ticks(moment_s(fault, number, seed))
        found.append((moment, fault.worker, x.V_FAULT_BEGINS))
        if isinstance(fault, Pause):
            end = moment + costs.tick.ticks(fault.for_s)
            found.append((end, fault.worker, x.V_FAULT_ENDS))
    if any(moment > _LARGEST for moment, _, _ in found):
        raise Unliftable("a fault is too late")
    return sorted(found)


def _plan(t: Tables, events: list[tuple[int, int, int]]) -> None:
    """Put faults into the calendar, which is sorted by time; those at 0 are due."""
    for moment, worker, kind in events:
        if moment == 0 and kind == x.V_FAULT_BEGINS:
            t.faults[t.state[x.S_FAULTS]] = worker, 1
            t.state[x.S_FAULTS] += 1
        else:
            place = t.state[x.S_CALENDAR]
            t.times[place], t.events[place] = moment, worker << 3 | kind
            t.state[x.S_CALENDAR] += 1
