"""The event loop of the compiled engine; it does what `simcore.engine` does, instant by instant.

Whatever would raise an error there makes it stop with X_ILLEGAL, and a number that might not fit
with X_LIMIT: the reference then runs instead. It also stops where a table is full or something has
to be found out, and is called again with the same tables.
"""

import numpy as np
from numba import njit

import simcore.compiled_layout as x
from simcore.compiled_tables import Ints, Tables

__all__ = ["run"]

# Events: the kind, in the lowest bits, and of what.
COMPLETION, WAKE_UP, MESSAGE, ROUND, FAULT_BEGINS, FAULT_ENDS = range(6)
_LARGEST = 2**61


@njit(cache=True)
def _push(heap: Ints, size: int, value: int) -> None:
    place = size
    while place > 0:
        above = (place - 1) >> 1
        if heap[above] <= value:
            break
        heap[place] = heap[above]
        place = above
    heap[place] = value


@njit(cache=True)
def _pop(heap: Ints, size: int) -> int:
    """Take the smallest of so many numbers."""
    first, last = heap[0], heap[size - 1]
    size -= 1
    place = 0
    while True:
        below = 2 * place + 1
        if below >= size:
            break
        if below + 1 < size and heap[below + 1] < heap[below]:
            below += 1
        if heap[below] >= last:
            break
        heap[place] = heap[below]
        place = below
    heap[place] = last
    return first


@njit(cache=True)
def _plan(t: Tables, time: int, event: int) -> None:
    times, events = t.times, t.events
    place = t.state[x.S_CALENDAR]
    t.state[x.S_CALENDAR] = place + 1
    while place > 0:
        above = (place - 1) >> 1
        if times[above] <= time:
            break
        times[place] = times[above]
        events[place] = events[above]
        place = above
    times[place] = time
    events[place] = event


@njit(cache=True)
def _next(t: Tables) -> int:
    """Take the event that is next."""
    times, events = t.times, t.events
    size = t.state[x.S_CALENDAR] - 1
    t.state[x.S_CALENDAR] = size
    found = events[0]
    time, event = times[size], events[size]
    place = 0
    while True:
        below = 2 * place + 1
        if below >= size:
            break
        if below + 1 < size and times[below + 1] < times[below]:
            below += 1
        if times[below] >= time:
            break
        times[place] = times[below]
        events[place] = events[below]
        place = below
    times[place] = time
    events[place] = event
    return found


@njit(cache=True)
def _wake(t: Tables, worker: int) -> None:
    size = t.state[x.S_RUNNABLE]
    _push(t.runnable, size, worker)
    t.state[x.S_RUNNABLE] = size + 1


# Devices


@njit(cache=True)
def _advance_device(t: Tables, number: int, now: int) -> None:
    device = t.devices[number]
    active = device[x.D_ACTIVE]
    if active > 0:
        work = (now - device[x.D_NOW]) * t.speeds[device[x.D_SPEEDS] + active - 1]
        for place in range(device[x.D_WORKERS], device[x.D_WORKERS_END]):
            worker = t.workers[t.residents[place]]
            if worker[x.W_ACTIVE]:
                worker[x.W_WORK] -= work
    device[x.D_NOW] = now


@njit(cache=True)
def _change_device(t: Tables, number: int, now: int) -> None:
    _advance_device(t, number, now)
    t.devices[number, x.D_CHANGED] = 1


@njit(cache=True)
def _complete(t: Tables, now: int) -> None:
    """Take the operations that are over now from the devices that are due."""
    for number in range(len(t.devices)):
        device = t.devices[number]
        if not device[x.D_DUE]:
            continue
        device[x.D_DUE] = 0
        _change_device(t, number, now)
        for place in range(device[x.D_WORKERS], device[x.D_WORKERS_END]):
            resident = t.residents[place]
            worker = t.workers[resident]
            if worker[x.W_ACTIVE] and worker[x.W_WORK] <= 0:
                worker[x.W_ACTIVE] = 0
                device[x.D_ACTIVE] -= 1
                _push(t.done, t.state[x.S_DONE], resident)
                t.state[x.S_DONE] += 1


@njit(cache=True)
def _plan_devices(t: Tables) -> None:
    for number in range(len(t.devices)):
        device = t.devices[number]
        if not device[x.D_CHANGED]:
            continue
        device[x.D_CHANGED] = 0
        active = device[x.D_ACTIVE]
        if active == 0:
            continue
        least = np.int64(_LARGEST * 2)
        for place in range(device[x.D_WORKERS], device[x.D_WORKERS_END]):
            worker = t.workers[t.residents[place]]
            if worker[x.W_ACTIVE] and worker[x.W_WORK] < least:
                least = worker[x.W_WORK]
        speed = t.speeds[device[x.D_SPEEDS] + active - 1]
        moment = device[x.D_NOW] + (least + speed - 1) // speed
        if moment != device[x.D_PLANNED]:
            device[x.D_PLANNED] = moment
            _plan(t, moment, number << 3 | WAKE_UP)


# Items


@njit(cache=True)
def _effects(t: Tables, first: int, end: int, batch: int) -> bool:
    """Take and make items of a batch; whether that is legal."""
    for place in range(first, end):
        effect = t.effects[place]
        mask = t.held[effect[0], batch]
        if (mask & effect[1]) != effect[1]:
            return False
        mask &= ~effect[2]
        if mask & effect[3]:
            return False
        t.held[effect[0], batch] = mask | effect[4]
    return True


# Channels


@njit(cache=True)
def _touch(t: Tables, number: int) -> None:
    if not t.channels[number, x.C_TOUCHED]:
        t.channels[number, x.C_TOUCHED] = 1
        t.touched[t.state[x.S_TOUCHED]] = number
        t.state[x.S_TOUCHED] += 1


@njit(cache=True)
def _serve(t: Tables, worker: int) -> bool:
    """Take the message that a receiver gets now; False if it has to wait."""
    row = t.code[t.workers[worker, x.W_AT]]
    closed = True
    for place in range(row[x.I_B]):
        channel = t.channels[t.listens[row[x.I_A] + place, 0]]
        if channel[x.C_SOURCE]:
            if channel[x.C_LEFT] == 0:
                continue
            number = channel[x.C_NEXT]
            channel[x.C_NEXT] = number + 1
            channel[x.C_LEFT] -= 1
            run = channel[x.C_RUN]
            start = (channel[x.C_FIRST] + number // run * channel[x.C_STRIDE]) * run
            t.workers[worker, x.W_SERVED] = place
            t.workers[worker, x.W_BATCH] = start + number % run
            return True
        message = channel[x.C_HEAD]
        if message >= 0:
            t.workers[worker, x.W_SERVED] = place
            t.workers[worker, x.W_BATCH] = t.messages[message, 2]
            channel[x.C_HEAD] = t.messages[message, 3]
            t.messages[message, 3] = t.state[x.S_FREE]
            t.state[x.S_FREE] = message
            return True
        if channel[x.C_SENDERS] > 0 or channel[x.C_UNDERWAY] > 0:
            closed = False
    if closed:
        t.workers[worker, x.W_SERVED] = 0
        t.workers[worker, x.W_BATCH] = -1
    return closed


@njit(cache=True)
def _leave_line(t: Tables, channel: Ints, worker: int) -> None:
    first, count = channel[x.C_LINE], channel[x.C_WAITING]
    for place in range(first, first + count):
        if t.lines[place] == worker:
            for later in range(place, first + count - 1):
                t.lines[later] = t.lines[later + 1]
            channel[x.C_WAITING] = count - 1
            return


@njit(cache=True)
def _leave_lines(t: Tables, worker: int) -> None:
    row = t.code[t.workers[worker, x.W_AT]]
    for place in range(row[x.I_B]):
        _leave_line(t, t.channels[t.listens[row[x.I_A] + place, 0]], worker)
    t.workers[worker, x.W_SINCE] = 0


@njit(cache=True)
def _wait(t: Tables, worker: int) -> None:
    t.state[x.S_WAITS] += 1
    t.workers[worker, x.W_SINCE] = t.state[x.S_WAITS]
    row = t.code[t.workers[worker, x.W_AT]]
    for place in range(row[x.I_B]):
        channel = t.channels[t.listens[row[x.I_A] + place, 0]]
        first, count = channel[x.C_LINE], channel[x.C_WAITING]
        there = False
        for other in range(first, first + count):
            there |= t.lines[other] == worker
        if not there:
            t.lines[first + count] = worker
            channel[x.C_WAITING] = count + 1


@njit(cache=True)
def _withdraw(t: Tables, number: int) -> None:
    worker = t.workers[number]
    if worker[x.W_SINCE] > 0:
        _leave_lines(t, number)
    if worker[x.W_BLOCKED] > 0:
        channel = t.channels[worker[x.W_BLOCKED] - 1]
        worker[x.W_BLOCKED] = 0
        first, size = channel[x.C_QUEUE], channel[x.C_QUEUE_SIZE]
        kept = 0
        for place in range(channel[x.C_BLOCKED]):
            other = t.queues[first + (channel[x.C_QUEUE_HEAD] + place) % size]
            if other != number:
                t.queues[first + (channel[x.C_QUEUE_HEAD] + kept) % size] = other
                kept += 1
        channel[x.C_BLOCKED] = kept
    worker[x.W_JOINS] = 0


@njit(cache=True)
def _depart(t: Tables, number: int, batch: int, now: int) -> None:
    channel = t.channels[number]
    channel[x.C_UNDERWAY] += 1
    message = t.state[x.S_FREE]
    t.state[x.S_FREE] = t.messages[message, 3]
    t.messages[message, 0] = t.state[x.S_DEPARTURES]
    t.messages[message, 1] = number
    t.messages[message, 2] = batch
    t.messages[message, 3] = -1
    t.state[x.S_DEPARTURES] += 1
    wire = channel[x.C_WIRE]
    moment = max(now, t.wires[wire]) + channel[x.C_TRANSMIT]
    t.wires[wire] = moment
    moment += channel[x.C_LATENCY]
    if moment == now:
        t.due[t.state[x.S_DUE]] = message
        t.state[x.S_DUE] += 1
    else:
        _plan(t, moment, message << 3 | MESSAGE)


@njit(cache=True)
def _deliver(t: Tables) -> None:
    """Deliver what is due, in the order of departure, and serve whoever waits for it."""
    count = t.state[x.S_DUE]
    for place in range(1, count):
        message = t.due[place]
        departure = t.messages[message, 0]
        while place > 0 and t.messages[t.due[place - 1], 0] > departure:
            t.due[place] = t.due[place - 1]
            place -= 1
        t.due[place] = message
    for place in range(count):
        message = t.due[place]
        number = t.messages[message, 1]
        channel = t.channels[number]
        channel[x.C_UNDERWAY] -= 1
        if channel[x.C_HEAD] < 0:
            channel[x.C_HEAD] = message
        else:
            t.messages[channel[x.C_TAIL], 3] = message
        channel[x.C_TAIL] = message
        _touch(t, number)
    t.state[x.S_DUE] = 0
    if t.state[x.S_TOUCHED] > 0:
        _serve_waiting(t)


@njit(cache=True)
def _serve_waiting(t: Tables) -> None:
    """Serve receivers of the channels that were touched, first come, first served."""
    served = np.int64(0)
    while True:
        first, since = np.int64(-1), np.int64(_LARGEST)
        for place in range(t.state[x.S_TOUCHED]):
            channel = t.channels[t.touched[place]]
            for other in range(channel[x.C_LINE], channel[x.C_LINE] + channel[x.C_WAITING]):
                worker = t.lines[other]
                if served < t.workers[worker, x.W_SINCE] < since:
                    first, since = worker, t.workers[worker, x.W_SINCE]
        if first < 0:
            break
        served = since
        if _serve(t, first):
            _leave_lines(t, first)
            _wake(t, first)
    for place in range(t.state[x.S_TOUCHED]):
        t.channels[t.touched[place], x.C_TOUCHED] = 0
    t.state[x.S_TOUCHED] = 0


@njit(cache=True)
def _free_slot(t: Tables, number: int) -> None:
    channel = t.channels[number]
    if channel[x.C_SOURCE]:
        return
    if channel[x.C_BLOCKED] == 0:
        channel[x.C_TAKEN] -= 1
        return
    heir = t.queues[channel[x.C_QUEUE] + channel[x.C_QUEUE_HEAD]]
    channel[x.C_QUEUE_HEAD] = (channel[x.C_QUEUE_HEAD] + 1) % channel[x.C_QUEUE_SIZE]
    channel[x.C_BLOCKED] -= 1
    t.workers[heir, x.W_BLOCKED] = 0
    t.workers[heir, x.W_HAS_SLOT] = 1
    _wake(t, heir)


# Rounds


@njit(cache=True)
def _start_round(t: Tables, number: int, now: int) -> None:
    """Start the next round if all members that there still are have arrived for it."""
    row = t.rounds[number]
    there = np.int64(0)
    for place in range(row[x.R_MEMBERS], row[x.R_MEMBERS_END]):
        member = t.members[place]
        if not member[x.M_LEFT]:
            there += 1
            if member[x.M_ARRIVED] <= row[x.R_STARTED]:
                return
    if there == 0:
        return
    began = max(now, t.groups[row[x.R_GROUP]])
    ends = began + (row[x.R_TICKS] if row[x.R_CONTRIBUTED] else 0)
    t.groups[row[x.R_GROUP]] = ends
    row[x.R_NEXT_BEGAN] = began
    row[x.R_NEXT_CONTRIBUTED] = row[x.R_CONTRIBUTED]
    row[x.R_CONTRIBUTED] = 0
    row[x.R_STARTED] += 1
    # How many have arrived for the round after this one.
    row[x.R_ARRIVED] = 0
    if ends == now:
        _finish_round(t, number)
    else:
        _plan(t, ends, number << 3 | ROUND)


@njit(cache=True)
def _finish_round(t: Tables, number: int) -> None:
    row = t.rounds[number]
    row[x.R_BEGAN] = row[x.R_NEXT_BEGAN]
    row[x.R_LAST_CONTRIBUTED] = row[x.R_NEXT_CONTRIBUTED]
    row[x.R_FINISHED] += 1
    for place in range(row[x.R_MEMBERS], row[x.R_MEMBERS_END]):
        worker = t.members[place, x.M_WORKER]
        if t.workers[worker, x.W_JOINS] == number + 1:
            t.workers[worker, x.W_JOINS] = 0
            _wake(t, worker)


@njit(cache=True)
def _leave_groups(t: Tables, number: int, now: int) -> None:
    """A worker has ended: the rounds of each of its groups go on without it, oldest block first."""
    worker = t.workers[number]
    first, end = worker[x.W_GROUPS], worker[x.W_GROUPS_END]
    left = first
    while left < end:
        group = t.rounds[t.members[t.memberships[left], x.M_ROUND], x.R_GROUP]
        upto = left
        while upto < end and t.rounds[
            t.members[t.memberships[upto], x.M_ROUND], x.R_GROUP
        ] == group:
            t.members[t.memberships[upto], x.M_LEFT] = 1
            upto += 1
        done = np.int64(0)
        while True:
            best, created = np.int64(-1), np.int64(_LARGEST)
            for place in range(left, upto):
                round_ = t.members[t.memberships[place], x.M_ROUND]
                if done < t.rounds[round_, x.R_CREATED] < created:
                    best, created = round_, t.rounds[round_, x.R_CREATED]
            if best < 0:
                break
            done = created
            _start_round(t, best, now)
        left = upto


@njit(cache=True)
def _meet(t: Tables, number: int, now: int) -> int:
    """Arrive for a round; -1 if its result has to be waited for, -2 if that is not legal."""
    worker, row = t.workers[number], t.code[t.workers[number, x.W_AT]]
    member = t.members[row[x.I_EFFECTS]]
    which = member[x.M_ROUND]
    round_ = t.rounds[which]
    slot = row[x.I_SLOT]
    joins = row[x.I_ACTION] == x.A_JOIN
    if worker[x.W_REACHED] < 0:
        worker[x.W_REACHED] = now
        if round_[x.R_CREATED] == 0:
            t.state[x.S_CREATED] += 1
            round_[x.R_CREATED] = t.state[x.S_CREATED]
        if not joins or member[x.M_ARRIVED] == member[x.M_JOINED]:
            if member[x.M_ARRIVED] != member[x.M_JOINED]:
                return -3
            member[x.M_CONTRIBUTED] = 0
            if slot >= 0:
                block = t.blocks[slot]
                if block[x.B_CONTRIBUTED]:
                    return -2
                if block[x.B_COUNT] > 0 or block[x.B_SNAPSHOT] > 0:
                    block[x.B_CONTRIBUTED] = 1
                    member[x.M_CONTRIBUTED] = 1
                    round_[x.R_CONTRIBUTED] += 1
            member[x.M_ARRIVED] += 1
            _start_round(t, which, now)
    if not joins:
        return 0
    if round_[x.R_FINISHED] <= member[x.M_JOINED]:
        worker[x.W_JOINS] = which + 1
        return -1
    member[x.M_JOINED] += 1
    worker[x.W_REACHED] = max(worker[x.W_REACHED], round_[x.R_BEGAN])
    if slot >= 0:
        block = t.blocks[slot]
        block[x.B_CONTRIBUTED] = 0
        if block[x.B_SNAPSHOT] > 0:
            block[x.B_SNAPSHOT] = 2
        elif round_[x.R_LAST_CONTRIBUTED] > member[x.M_CONTRIBUTED]:
            block[x.B_JOINED] = 1
    worker[x.W_BATCH] = round_[x.R_LAST_CONTRIBUTED]
    return 0


# Computations


@njit(cache=True)
def _uniform_ticks(t: Tables, number: int, row: Ints) -> int:
    """How long the next computation takes; -2 if the number does not fit, -4 to get factors."""
    worker = t.workers[number]
    if row[x.I_VARIATION] < 0 or row[x.I_TICKS] == 0:
        worker[x.W_COUNT] += 1
        return row[x.I_TICKS]
    place = worker[x.W_COUNT] - worker[x.W_BASE]
    if place >= t.factors.shape[2]:
        return -4
    worker[x.W_COUNT] += 1
    ticks = np.rint(np.float64(row[x.I_TICKS]) * t.factors[row[x.I_VARIATION], number, place])
    if not ticks < _LARGEST:
        return -3
    return max(np.int64(1), np.int64(ticks))


@njit(cache=True)
def _batch(t: Tables, number: int, row: Ints) -> int:
    register = row[x.I_REGISTER]
    return t.registers[number, register] if register >= 0 else -1 - register


@njit(cache=True)
def _compute(t: Tables, number: int, row: Ints) -> int:
    """Take what a computation needs; its ticks, -2 if it is not legal."""
    action, slot = row[x.I_ACTION], row[x.I_SLOT]
    worker = t.workers[number]
    if action == x.A_PASS or action == x.A_LOAD:
        batch = _batch(t, number, row)
        if batch < 0 or not _effects(t, row[x.I_EFFECTS], row[x.I_EFFECTS_END], batch):
            return -2
        worker[x.W_HELD] += row[x.I_HELD]
        if row[x.I_END] == x.END_PENDING:
            _append(t, number, slot, row[x.I_A], batch)
        return 0
    block = t.blocks[slot]
    if action == x.A_UPDATE:
        if block[x.B_CONTRIBUTED] and not block[x.B_SNAPSHOT]:
            return -2
        if block[x.B_COUNT] == 0 and not block[x.B_JOINED]:
            return -2
        block[x.B_JOINED] = 0
    elif action == x.A_SNAPSHOT:
        if block[x.B_SNAPSHOT] > 0:
            return -2
        block[x.B_SNAPSHOT] = 1
        worker[x.W_SNAPSHOTS] += 1
    else:
        if block[x.B_SNAPSHOT] != 2:
            return -2
        block[x.B_SNAPSHOT] = 0
        worker[x.W_SNAPSHOTS] -= 1
    return 0


@njit(cache=True)
def _append(t: Tables, number: int, slot: int, of: int, batch: int) -> None:
    """A gradient is pending."""
    block = t.blocks[slot]
    t.ledger[of, batch, x.L_NEXT] = -1
    if block[x.B_COUNT] == 0:
        block[x.B_HEAD] = batch
    else:
        t.ledger[of, block[x.B_TAIL], x.L_NEXT] = batch
    block[x.B_TAIL] = batch
    block[x.B_COUNT] += 1
    t.workers[number, x.W_PENDING] += 1


@njit(cache=True)
def _begin(t: Tables, number: int, now: int) -> int:
    """The operation starts: versions are read. Not 0 if it must not."""
    worker = t.workers[number]
    row = t.code[worker[x.W_AT]]
    worker[x.W_STARTED] = now
    begin = row[x.I_BEGIN]
    if row[x.I_ACTION] != x.A_PASS and row[x.I_ACTION] != x.A_SNAPSHOT:
        return 0
    if begin == x.BEGIN_NOTHING:
        worker[x.W_VERSION] = -1
        return 0
    version = t.versions[row[x.I_VERSION]]
    if begin == x.BEGIN_VERSION:
        worker[x.W_VERSION] = version
        return 0
    batch = _batch(t, number, row)
    read = t.ledger[row[x.I_A], batch]
    state = t.state
    if begin == x.BEGIN_FORWARD:
        if read[x.L_FORWARD] >= 0:
            return -3
        if state[x.S_BUFFER] > 0:
            done = t.passes[row[x.I_VERSION]]
            wanted = max(np.int64(0), done // state[x.S_BUFFER] - 1)
            t.passes[row[x.I_VERSION]] = done + 1
            if not version - 1 <= wanted <= version:
                return -2
            version = wanted
        read[x.L_FIRST] = version
        read[x.L_FORWARD] = version
        worker[x.W_VERSION] = version
        return 0
    if read[x.L_FORWARD] < 0:
        return -3
    if begin == x.BEGIN_REPLAY:
        if not state[x.S_STASH]:
            read[x.L_FORWARD] = version
        worker[x.W_VERSION] = read[x.L_FORWARD]
    elif begin == x.BEGIN_BACKWARD:
        if state[x.S_ASSIGN]:
            if not state[x.S_REFRESH_ALL]:
                t.blocks[row[x.I_SLOT], x.B_BASE] = version
            elif row[x.I_A] == state[x.S_BLOCKS]:
                for slot in range(worker[x.W_SLOTS], worker[x.W_SLOTS_END]):
                    t.blocks[slot, x.B_BASE] = t.versions[t.blocks[slot, x.B_VERSION]]
        read[x.L_BACKWARD] = read[x.L_FORWARD] if state[x.S_STASH] else version
        worker[x.W_VERSION] = read[x.L_BACKWARD]
    elif begin == x.BEGIN_WEIGHT:
        if read[x.L_BACKWARD] < 0:
            return -3
        worker[x.W_VERSION] = read[x.L_BACKWARD]
    else:
        read[x.L_BACKWARD] = read[x.L_FORWARD]
        worker[x.W_VERSION] = read[x.L_BACKWARD]
    return 0


@njit(cache=True)
def _span(t: Tables, number: int, now: int, kind: int, block: int, batch: int, version: int) -> None:
    worker, place = t.workers[number], t.state[x.S_SPANS]
    span = t.spans[place]
    span[0] = worker[x.W_STARTED]
    span[1] = now
    span[2] = number
    span[3] = worker[x.W_INDEX]
    span[4] = kind
    span[5] = block
    span[6] = batch
    span[7] = version
    t.state[x.S_SPANS] = place + 1


@njit(cache=True)
def _update(t: Tables, number: int, now: int, row: Ints) -> None:
    """Raise the version and apply the worker's pending gradients."""
    version = t.versions[row[x.I_VERSION]]
    t.versions[row[x.I_VERSION]] = version + 1
    block = t.blocks[row[x.I_SLOT]]
    _span(t, number, now, row[x.I_KIND], row[x.I_A], -1, version)
    base = block[x.B_BASE] if block[x.B_BASE] >= 0 else version
    batch = block[x.B_HEAD]
    place = t.state[x.S_GRADIENTS]
    for _ in range(block[x.B_COUNT]):
        read, gradient = t.ledger[row[x.I_A], batch], t.gradients[place]
        gradient[0] = now
        gradient[1] = number
        gradient[2] = row[x.I_A]
        gradient[3] = batch
        gradient[4] = read[x.L_FIRST]
        gradient[5] = read[x.L_FORWARD]
        gradient[6] = read[x.L_BACKWARD]
        gradient[7] = version
        gradient[8] = base
        read[x.L_FORWARD] = -1
        read[x.L_BACKWARD] = -1
        batch = read[x.L_NEXT]
        place += 1
    t.state[x.S_GRADIENTS] = place
    t.workers[number, x.W_PENDING] -= block[x.B_COUNT]
    block[x.B_COUNT] = 0


@njit(cache=True)
def _finish(t: Tables, number: int, now: int) -> bool:
    """The operation completes. Whether that is legal."""
    worker = t.workers[number]
    at = worker[x.W_AT]
    row = t.code[at]
    action = row[x.I_ACTION]
    worker[x.W_STAGE] = 0
    worker[x.W_AT] = at + 1
    if action == x.A_PASS:
        batch = _batch(t, number, row)
        if row[x.I_END] == x.END_FORGET:
            t.ledger[row[x.I_A], batch, x.L_FORWARD] = -1
            t.ledger[row[x.I_A], batch, x.L_BACKWARD] = -1
        _span(t, number, now, row[x.I_KIND], row[x.I_A], batch, worker[x.W_VERSION])
    elif action == x.A_UPDATE:
        _update(t, number, now, row)
    elif action == x.A_SEND:
        batch = _batch(t, number, row)
        _span(t, number, now, row[x.I_KIND], row[x.I_A], batch, -1)
        _depart(t, row[x.I_A], batch, now)
    elif action == x.A_RECEIVE:
        return _receive(t, number, now, row)
    elif action == x.A_MERGE:
        version = t.versions[row[x.I_VERSION]]
        t.versions[row[x.I_VERSION]] = version + 1
        _span(t, number, now, row[x.I_KIND], row[x.I_A], -1, version)
    elif action == x.A_SNAPSHOT:
        _span(t, number, now, row[x.I_KIND], row[x.I_A], -1, worker[x.W_VERSION])
    elif action == x.A_LOAD:
        _span(t, number, now, row[x.I_KIND], 0, _batch(t, number, row), -1)
    else:
        worker[x.W_STARTED] = worker[x.W_REACHED]
        worker[x.W_REACHED] = -1
        _span(t, number, now, row[x.I_KIND], row[x.I_A], row[x.I_B], -1)
        if action == x.A_JOIN and worker[x.W_BATCH] == 0 and row[x.I_TARGET] != -2:
            worker[x.W_AT] = row[x.I_TARGET]
            if row[x.I_TARGET] < 0:
                _ask(t, number, at, -1)
    return True


@njit(cache=True)
def _ask(t: Tables, number: int, at: int, answer: int) -> None:
    worker = t.workers[number]
    worker[x.W_AT] = -1
    worker[x.W_TICKS] = at
    worker[x.W_WORK] = answer


@njit(cache=True)
def _receive(t: Tables, number: int, now: int, row: Ints) -> bool:
    worker = t.workers[number]
    place, batch = worker[x.W_SERVED], worker[x.W_BATCH]
    worker[x.W_SERVED] = -1
    at = worker[x.W_AT] - 1
    if batch < 0:
        worker[x.W_AT] = row[x.I_TARGET]
        if row[x.I_TARGET] < 0:
            _ask(t, number, at, -1)
        return True
    listen = t.listens[row[x.I_A] + place]
    channel = t.channels[listen[0]]
    held = row[x.I_EFFECTS] + place
    first, end = t.effects[held, 1], t.effects[held, 2]
    if not _effects(t, first, end, batch):
        return False
    worker[x.W_HELD] += channel[x.C_HELD]
    _span(t, number, now, row[x.I_KIND], listen[0], batch, -1)
    t.registers[number, row[x.I_REGISTER]] = batch
    worker[x.W_AT] = listen[1]
    if listen[1] < 0:
        _ask(t, number, at, place)
    _free_slot(t, listen[0])
    return True


@njit(cache=True)
def _prepare(t: Tables, number: int, row: Ints, now: int) -> int:
    """How long the operation takes now; -1 if it has to wait, -2 if it is not legal."""
    worker = t.workers[number]
    action = row[x.I_ACTION]
    if action <= x.A_LOAD:
        if row[x.I_VARIATION] >= 0 and row[x.I_TICKS] > 0:
            if worker[x.W_COUNT] - worker[x.W_BASE] >= t.factors.shape[2]:
                return -4
        if _compute(t, number, row) < 0:
            return -2
        return _uniform_ticks(t, number, row)
    if action == x.A_SEND:
        channel = t.channels[row[x.I_A]]
        if not worker[x.W_HAS_SLOT]:
            if 0 <= channel[x.C_CAPACITY] <= channel[x.C_TAKEN]:
                place = channel[x.C_QUEUE_HEAD] + channel[x.C_BLOCKED]
                size = channel[x.C_QUEUE_SIZE]
                t.queues[channel[x.C_QUEUE] + place % size] = number
                channel[x.C_BLOCKED] += 1
                worker[x.W_BLOCKED] = row[x.I_A] + 1
                return -1
            channel[x.C_TAKEN] += 1
        worker[x.W_HAS_SLOT] = 0
        batch = _batch(t, number, row)
        if batch < 0 or not _effects(t, row[x.I_EFFECTS], row[x.I_EFFECTS_END], batch):
            return -2
        worker[x.W_HELD] += row[x.I_HELD]
        return channel[x.C_SEND]
    if action == x.A_RECEIVE:
        if worker[x.W_SERVED] < 0 and not _serve(t, number):
            _wait(t, number)
            return -1
        if worker[x.W_BATCH] < 0:
            return 0
        return t.channels[t.listens[row[x.I_A] + worker[x.W_SERVED], 0], x.C_RECEIVE]
    return _meet(t, number, now)


@njit(cache=True)
def _end_worker(t: Tables, number: int, now: int) -> bool:
    worker = t.workers[number]
    worker[x.W_ENDED] = 1
    if worker[x.W_HELD] or worker[x.W_PENDING] or worker[x.W_SNAPSHOTS]:
        return False
    for place in range(worker[x.W_SENDS], worker[x.W_SENDS_END]):
        t.channels[t.sends[place], x.C_SENDERS] -= 1
        _touch(t, t.sends[place])
    _leave_groups(t, number, now)
    return True


@njit(cache=True)
def _fetch(t: Tables, number: int) -> bool:
    """Go on to the next operation. False if the program has ended."""
    worker = t.workers[number]
    at = worker[x.W_AT]
    while True:
        row = t.code[at]
        action = row[x.I_ACTION]
        if action < x.A_MOVE:
            worker[x.W_AT] = at
            return True
        if action == x.A_LOOP:
            t.counts[at] += 1
            if t.counts[at] < row[x.I_B]:
                at = row[x.I_A]
            else:
                t.counts[at] = 0
                at += 1
        elif action == x.A_MOVE:
            t.registers[number, row[x.I_A]] = t.registers[number, row[x.I_B]]
            at += 1
        elif action == x.A_JUMP:
            at = row[x.I_A]
        else:
            worker[x.W_AT] = at
            return False


@njit(cache=True)
def _is_full(t: Tables, number: int) -> int:
    """What has to be made larger before a worker does an operation; 0 for nothing."""
    state = t.state
    if state[x.S_SPANS] + 1 > len(t.spans):
        return x.X_SPANS
    if state[x.S_GRADIENTS] + t.workers[number, x.W_PENDING] > len(t.gradients):
        return x.X_GRADIENTS
    if state[x.S_FREE] < 0:
        return x.X_MESSAGES
    if state[x.S_CALENDAR] + len(t.workers) + len(t.devices) + len(t.rounds) + 8 > len(t.times):
        return x.X_MESSAGES
    return 0


@njit(cache=True)
def _advance(t: Tables, number: int, now: int) -> int:
    """Run a worker until it blocks or reaches an operation that takes time; or an exit's code."""
    worker = t.workers[number]
    while not worker[x.W_ENDED]:
        if worker[x.W_AT] < 0:
            t.state[x.S_EXIT_WORKER] = number
            t.state[x.S_EXIT_AT] = worker[x.W_TICKS]
            t.state[x.S_EXIT_ANSWER] = worker[x.W_WORK]
            return x.X_EXPLORE
        full = _is_full(t, number)
        if full:
            return full
        if worker[x.W_STAGE] == 0:
            if not _fetch(t, number):
                return 0 if _end_worker(t, number, now) else x.X_ILLEGAL
            worker[x.W_STAGE] = 1
            worker[x.W_INDEX] += 1
            t.state[x.S_OPERATIONS] += 1
            action = t.code[worker[x.W_AT], x.I_ACTION]
            if action == x.A_PASS or action == x.A_LOAD:
                worker[x.W_IDLE] = 0
            else:
                worker[x.W_IDLE] += 1
                if worker[x.W_IDLE] > t.state[x.S_MOST_IDLE]:
                    return x.X_ILLEGAL
        ticks = _prepare(t, number, t.code[worker[x.W_AT]], now)
        if ticks == -1:
            return 0
        if ticks < 0:
            t.state[x.S_EXIT_WORKER] = number
            return x.X_ILLEGAL if ticks == -2 else x.X_LIMIT if ticks == -3 else x.X_FACTORS
        if ticks > 0:
            t.starting[t.state[x.S_STARTING]] = number
            t.state[x.S_STARTING] += 1
            worker[x.W_TICKS] = ticks
            return 0
        begun = _begin(t, number, now)
        if begun < 0:
            return x.X_ILLEGAL if begun == -2 else x.X_LIMIT
        if not _finish(t, number, now):
            return x.X_ILLEGAL
    return 0


@njit(cache=True)
def _interrupt(t: Tables, now: int) -> None:
    """Let workers stop and go on."""
    workers = t.workers
    for number in range(len(workers)):
        workers[number, x.W_STOOD] = workers[number, x.W_STANDING]
    for place in range(t.state[x.S_FAULTS]):
        workers[t.faults[place, 0], x.W_STANDING] += t.faults[place, 1]
    t.state[x.S_FAULTS] = 0
    for number in range(len(workers)):
        worker = workers[number]
        if worker[x.W_STOOD] <= 0 < worker[x.W_STANDING]:
            _change_device(t, worker[x.W_DEVICE], now)
            if worker[x.W_ACTIVE]:
                worker[x.W_ACTIVE] = 0
                t.devices[worker[x.W_DEVICE], x.D_ACTIVE] -= 1
                worker[x.W_SUSPENDED] = 1
            _withdraw(t, number)
    for number in range(len(workers)):
        worker = workers[number]
        if worker[x.W_STANDING] <= 0 < worker[x.W_STOOD]:
            if worker[x.W_SUSPENDED]:
                _change_device(t, worker[x.W_DEVICE], now)
                worker[x.W_SUSPENDED] = 0
                worker[x.W_ACTIVE] = 1
                t.devices[worker[x.W_DEVICE], x.D_ACTIVE] += 1
            else:
                _wake(t, number)


@njit(cache=True)
def _settle(t: Tables, now: int) -> int:
    """Settle the present instant, then start together what takes time."""
    state = t.state
    while True:
        while state[x.S_DONE] > 0:
            number = t.done[0]
            full = _is_full(t, number)
            if full:
                return full
            _pop(t.done, state[x.S_DONE])
            state[x.S_DONE] -= 1
            if not _finish(t, number, now):
                return x.X_ILLEGAL
            _wake(t, number)
        if state[x.S_FAULTS] > 0:
            _interrupt(t, now)
        if state[x.S_DUE] > 0 or state[x.S_TOUCHED] > 0:
            _deliver(t)
        if state[x.S_RUNNABLE] == 0:
            break
        number = _pop(t.runnable, state[x.S_RUNNABLE])
        state[x.S_RUNNABLE] -= 1
        if t.workers[number, x.W_STANDING] <= 0:
            state[x.S_CURRENT] = number
            full = _advance(t, number, now)
            if full:
                return full
            state[x.S_CURRENT] = -1
    return _start(t, now)


@njit(cache=True)
def _start(t: Tables, now: int) -> int:
    state = t.state
    for place in range(state[x.S_STARTING]):
        number = t.starting[place]
        worker = t.workers[number]
        ticks = worker[x.W_TICKS]
        if ticks > _LARGEST - now:
            return x.X_LIMIT
        if state[x.S_SHARED]:
            device = t.devices[worker[x.W_DEVICE]]
            if ticks > _LARGEST // device[x.D_DENOMINATOR]:
                return x.X_LIMIT
            _change_device(t, worker[x.W_DEVICE], now)
            worker[x.W_WORK] = ticks * device[x.D_DENOMINATOR]
            worker[x.W_ACTIVE] = 1
            device[x.D_ACTIVE] += 1
        else:
            _plan(t, now + ticks, number << 3 | COMPLETION)
        begun = _begin(t, number, now)
        if begun < 0:
            return x.X_ILLEGAL if begun == -2 else x.X_LIMIT
    state[x.S_STARTING] = 0
    if state[x.S_SHARED]:
        _plan_devices(t)
    return 0


@njit(cache=True)
def _happen(t: Tables, event: int, faults: Ints) -> None:
    """An event that the present instant begins with."""
    state, of = t.state, event >> 3
    kind = event & 7
    if kind == COMPLETION:
        _push(t.done, state[x.S_DONE], of)
        state[x.S_DONE] += 1
    elif kind == MESSAGE:
        t.due[state[x.S_DUE]] = of
        state[x.S_DUE] += 1
    elif kind == WAKE_UP:
        t.devices[of, x.D_DUE] = 1
    elif kind == ROUND:
        _finish_round(t, of)
    else:
        t.faults[state[x.S_FAULTS], 0] = of
        t.faults[state[x.S_FAULTS], 1] = 1 if kind == FAULT_BEGINS else -1
        state[x.S_FAULTS] += 1


@njit(cache=True)
def run(t: Tables) -> int:
    """Run until it is over or something is needed; returns why (`X_`)."""
    state = t.state
    if state[x.S_CURRENT] >= 0:
        full = _advance(t, state[x.S_CURRENT], state[x.S_NOW])
        if full:
            return full
        state[x.S_CURRENT] = -1
    while True:
        if not state[x.S_SETTLED]:
            full = _settle(t, state[x.S_NOW])
            if full:
                return full
            state[x.S_SETTLED] = 1
        if state[x.S_CALENDAR] == 0:
            return x.X_FINISHED
        now = t.times[0]
        if now > _LARGEST:
            return x.X_LIMIT
        state[x.S_NOW] = now
        while state[x.S_CALENDAR] > 0 and t.times[0] == now:
            _happen(t, _next(t), t.faults)
        if state[x.S_SHARED]:
            _complete(t, now)
        state[x.S_SETTLED] = 0
        if state[x.S_OPERATIONS] > state[x.S_BUDGET]:
            return x.X_BUDGET
