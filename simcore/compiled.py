"""The event loop of the compiled engine; it does what `simcore.engine` does, instant by instant.

Whatever would raise an error there makes it stop with X_ILLEGAL, and a number that might not fit
with X_LIMIT: the reference then runs instead. It also stops where a table is full or something has
to be found out, and is called again with the same tables.
"""

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

import simcore.compiled_layout as x
from simcore.compiled_tables import Ints

__all__ = ["run"]

# Events: the kind, in the lowest bits, and of what.
COMPLETION, WAKE_UP, MESSAGE, ROUND, FAULT_BEGINS, FAULT_ENDS = range(6)
_LARGEST = 2**61


@intrinsic
def _pointer(context: Any, array: Any) -> Any:
    """The address of an array's first number, which costs nothing to pass on."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return context.make_array(signature.args[0])(context, builder, given[0]).data

    return types.CPointer(types.int64)(array), generate


@njit(cache=True)
def _push(m: Ints, heap: int, size: int, value: int) -> None:
    place = size
    while place > 0:
        above = (place - 1) >> 1
        if m[heap + above] <= value:
            break
        m[heap + place] = m[heap + above]
        place = above
    m[heap + place] = value


@njit(cache=True)
def _pop(m: Ints, heap: int, size: int) -> int:
    """Take the smallest of so many numbers."""
    first, last = m[heap], m[heap + size - 1]
    size -= 1
    place = 0
    while True:
        below = 2 * place + 1
        if below >= size:
            break
        if below + 1 < size and m[heap + below + 1] < m[heap + below]:
            below += 1
        if m[heap + below] >= last:
            break
        m[heap + place] = m[heap + below]
        place = below
    m[heap + place] = last
    return first


@njit(cache=True)
def _plan(m: Ints, time: int, event: int) -> None:
    times, events = m[x.O_TIMES], m[x.O_EVENTS]
    place = m[x.S_CALENDAR]
    m[x.S_CALENDAR] = place + 1
    while place > 0:
        above = (place - 1) >> 1
        if m[times + above] <= time:
            break
        m[times + place] = m[times + above]
        m[events + place] = m[events + above]
        place = above
    m[times + place] = time
    m[events + place] = event


@njit(cache=True)
def _next(m: Ints) -> int:
    """Take the event that is next."""
    times, events = m[x.O_TIMES], m[x.O_EVENTS]
    size = m[x.S_CALENDAR] - 1
    m[x.S_CALENDAR] = size
    found = m[events + 0]
    time, event = m[times + size], m[events + size]
    place = 0
    while True:
        below = 2 * place + 1
        if below >= size:
            break
        if below + 1 < size and m[times + below + 1] < m[times + below]:
            below += 1
        if m[times + below] >= time:
            break
        m[times + place] = m[times + below]
        m[events + place] = m[events + below]
        place = below
    m[times + place] = time
    m[events + place] = event
    return found


@njit(cache=True)
def _wake(m: Ints, worker: int) -> None:
    size = m[x.S_RUNNABLE]
    _push(m, m[x.O_RUNNABLE], size, worker)
    m[x.S_RUNNABLE] = size + 1


# Devices


@njit(cache=True)
def _advance_device(m: Ints, number: int, now: int) -> None:
    device = m[x.O_DEVICES] + number * x.D_COLUMNS
    active = m[device + x.D_ACTIVE]
    if active > 0:
        work = (now - m[device + x.D_NOW]) * m[m[x.O_SPEEDS] + m[device + x.D_SPEEDS] + active - 1]
        for place in range(m[device + x.D_WORKERS], m[device + x.D_WORKERS_END]):
            worker = m[x.O_WORKERS] + (m[m[x.O_RESIDENTS] + place]) * x.W_COLUMNS
            if m[worker + x.W_ACTIVE]:
                m[worker + x.W_WORK] -= work
    m[device + x.D_NOW] = now


@njit(cache=True)
def _change_device(m: Ints, number: int, now: int) -> None:
    _advance_device(m, number, now)
    m[m[x.O_DEVICES] + number * x.D_COLUMNS + x.D_CHANGED] = 1


@njit(cache=True)
def _complete(m: Ints, now: int) -> None:
    """Take the operations that are over now from the devices that are due."""
    for number in range(m[x.S_DEVICES_SIZE]):
        device = m[x.O_DEVICES] + number * x.D_COLUMNS
        if not m[device + x.D_DUE]:
            continue
        m[device + x.D_DUE] = 0
        _change_device(m, number, now)
        for place in range(m[device + x.D_WORKERS], m[device + x.D_WORKERS_END]):
            resident = m[m[x.O_RESIDENTS] + place]
            worker = m[x.O_WORKERS] + resident * x.W_COLUMNS
            if m[worker + x.W_ACTIVE] and m[worker + x.W_WORK] <= 0:
                m[worker + x.W_ACTIVE] = 0
                m[device + x.D_ACTIVE] -= 1
                _push(m, m[x.O_DONE], m[x.S_DONE], resident)
                m[x.S_DONE] += 1


@njit(cache=True)
def _plan_devices(m: Ints) -> None:
    for number in range(m[x.S_DEVICES_SIZE]):
        device = m[x.O_DEVICES] + number * x.D_COLUMNS
        if not m[device + x.D_CHANGED]:
            continue
        m[device + x.D_CHANGED] = 0
        active = m[device + x.D_ACTIVE]
        if active == 0:
            continue
        least = np.int64(_LARGEST * 2)
        for place in range(m[device + x.D_WORKERS], m[device + x.D_WORKERS_END]):
            worker = m[x.O_WORKERS] + (m[m[x.O_RESIDENTS] + place]) * x.W_COLUMNS
            if m[worker + x.W_ACTIVE] and m[worker + x.W_WORK] < least:
                least = m[worker + x.W_WORK]
        speed = m[m[x.O_SPEEDS] + m[device + x.D_SPEEDS] + active - 1]
        moment = m[device + x.D_NOW] + (least + speed - 1) // speed
        if moment != m[device + x.D_PLANNED]:
            m[device + x.D_PLANNED] = moment
            _plan(m, moment, number << 3 | WAKE_UP)


# Items


@njit(cache=True)
def _effects(m: Ints, first: int, end: int, batch: int) -> bool:
    """Take and make items of a batch; whether that is legal."""
    for place in range(first, end):
        effect = m[x.O_EFFECTS] + place * 5
        mask = m[m[x.O_HELD] + m[effect + 0] * m[x.S_BATCHES] + batch]
        if (mask & m[effect + 1]) != m[effect + 1]:
            return False
        mask &= ~m[effect + 2]
        if mask & m[effect + 3]:
            return False
        m[m[x.O_HELD] + m[effect + 0] * m[x.S_BATCHES] + batch] = mask | m[effect + 4]
    return True


# Channels


@njit(cache=True)
def _touch(m: Ints, number: int) -> None:
    if not m[m[x.O_CHANNELS] + number * x.C_COLUMNS + x.C_TOUCHED]:
        m[m[x.O_CHANNELS] + number * x.C_COLUMNS + x.C_TOUCHED] = 1
        m[m[x.O_TOUCHED] + m[x.S_TOUCHED]] = number
        m[x.S_TOUCHED] += 1


@njit(cache=True)
def _serve(m: Ints, worker: int) -> bool:
    """Take the message that a receiver gets now; False if it has to wait."""
    row = m[x.O_CODE] + (m[m[x.O_WORKERS] + worker * x.W_COLUMNS + x.W_AT]) * x.I_COLUMNS
    closed = True
    for place in range(m[row + x.I_B]):
        channel = (
            m[x.O_CHANNELS] + (m[m[x.O_LISTENS] + (m[row + x.I_A] + place) * 2 + 0]) * x.C_COLUMNS
        )
        if m[channel + x.C_SOURCE]:
            if m[channel + x.C_LEFT] == 0:
                continue
            number = m[channel + x.C_NEXT]
            m[channel + x.C_NEXT] = number + 1
            m[channel + x.C_LEFT] -= 1
            run = m[channel + x.C_RUN]
            start = (m[channel + x.C_FIRST] + number // run * m[channel + x.C_STRIDE]) * run
            m[m[x.O_WORKERS] + worker * x.W_COLUMNS + x.W_SERVED] = place
            m[m[x.O_WORKERS] + worker * x.W_COLUMNS + x.W_BATCH] = start + number % run
            return True
        message = m[channel + x.C_HEAD]
        if message >= 0:
            m[m[x.O_WORKERS] + worker * x.W_COLUMNS + x.W_SERVED] = place
            m[m[x.O_WORKERS] + worker * x.W_COLUMNS + x.W_BATCH] = m[
                m[x.O_MESSAGES] + message * 4 + 2
            ]
            m[channel + x.C_HEAD] = m[m[x.O_MESSAGES] + message * 4 + 3]
            m[m[x.O_MESSAGES] + message * 4 + 3] = m[x.S_FREE]
            m[x.S_FREE] = message
            return True
        if m[channel + x.C_SENDERS] > 0 or m[channel + x.C_UNDERWAY] > 0:
            closed = False
    if closed:
        m[m[x.O_WORKERS] + worker * x.W_COLUMNS + x.W_SERVED] = 0
        m[m[x.O_WORKERS] + worker * x.W_COLUMNS + x.W_BATCH] = -1
    return closed


@njit(cache=True)
def _leave_line(m: Ints, channel: int, worker: int) -> None:
    first, count = m[channel + x.C_LINE], m[channel + x.C_WAITING]
    for place in range(first, first + count):
        if m[m[x.O_LINES] + place] == worker:
            for later in range(place, first + count - 1):
                m[m[x.O_LINES] + later] = m[m[x.O_LINES] + later + 1]
            m[channel + x.C_WAITING] = count - 1
            return


@njit(cache=True)
def _leave_lines(m: Ints, worker: int) -> None:
    row = m[x.O_CODE] + (m[m[x.O_WORKERS] + worker * x.W_COLUMNS + x.W_AT]) * x.I_COLUMNS
    for place in range(m[row + x.I_B]):
        _leave_line(
            m,
            m[x.O_CHANNELS] + (m[m[x.O_LISTENS] + (m[row + x.I_A] + place) * 2 + 0]) * x.C_COLUMNS,
            worker,
        )
    m[m[x.O_WORKERS] + worker * x.W_COLUMNS + x.W_SINCE] = 0


@njit(cache=True)
def _wait(m: Ints, worker: int) -> None:
    m[x.S_WAITS] += 1
    m[m[x.O_WORKERS] + worker * x.W_COLUMNS + x.W_SINCE] = m[x.S_WAITS]
    row = m[x.O_CODE] + (m[m[x.O_WORKERS] + worker * x.W_COLUMNS + x.W_AT]) * x.I_COLUMNS
    for place in range(m[row + x.I_B]):
        channel = (
            m[x.O_CHANNELS] + (m[m[x.O_LISTENS] + (m[row + x.I_A] + place) * 2 + 0]) * x.C_COLUMNS
        )
        first, count = m[channel + x.C_LINE], m[channel + x.C_WAITING]
        there = False
        for other in range(first, first + count):
            there |= m[m[x.O_LINES] + other] == worker
        if not there:
            m[m[x.O_LINES] + first + count] = worker
            m[channel + x.C_WAITING] = count + 1


@njit(cache=True)
def _withdraw(m: Ints, number: int) -> None:
    worker = m[x.O_WORKERS] + number * x.W_COLUMNS
    if m[worker + x.W_SINCE] > 0:
        _leave_lines(m, number)
    if m[worker + x.W_BLOCKED] > 0:
        channel = m[x.O_CHANNELS] + (m[worker + x.W_BLOCKED] - 1) * x.C_COLUMNS
        m[worker + x.W_BLOCKED] = 0
        first, size = m[channel + x.C_QUEUE], m[channel + x.C_QUEUE_SIZE]
        kept = 0
        for place in range(m[channel + x.C_BLOCKED]):
            other = m[m[x.O_QUEUES] + first + (m[channel + x.C_QUEUE_HEAD] + place) % size]
            if other != number:
                m[m[x.O_QUEUES] + first + (m[channel + x.C_QUEUE_HEAD] + kept) % size] = other
                kept += 1
        m[channel + x.C_BLOCKED] = kept
    m[worker + x.W_JOINS] = 0


@njit(cache=True)
def _depart(m: Ints, number: int, batch: int, now: int) -> None:
    channel = m[x.O_CHANNELS] + number * x.C_COLUMNS
    m[channel + x.C_UNDERWAY] += 1
    message = m[x.S_FREE]
    m[x.S_FREE] = m[m[x.O_MESSAGES] + message * 4 + 3]
    m[m[x.O_MESSAGES] + message * 4 + 0] = m[x.S_DEPARTURES]
    m[m[x.O_MESSAGES] + message * 4 + 1] = number
    m[m[x.O_MESSAGES] + message * 4 + 2] = batch
    m[m[x.O_MESSAGES] + message * 4 + 3] = -1
    m[x.S_DEPARTURES] += 1
    wire = m[channel + x.C_WIRE]
    moment = max(now, m[m[x.O_WIRES] + wire]) + m[channel + x.C_TRANSMIT]
    m[m[x.O_WIRES] + wire] = moment
    moment += m[channel + x.C_LATENCY]
    if moment == now:
        m[m[x.O_DUE] + m[x.S_DUE]] = message
        m[x.S_DUE] += 1
    else:
        _plan(m, moment, message << 3 | MESSAGE)


@njit(cache=True)
def _deliver(m: Ints) -> None:
    """Deliver what is due, in the order of departure, and serve whoever waits for it."""
    count = m[x.S_DUE]
    for place in range(1, count):
        message = m[m[x.O_DUE] + place]
        departure = m[m[x.O_MESSAGES] + message * 4 + 0]
        while place > 0 and m[m[x.O_MESSAGES] + (m[m[x.O_DUE] + place - 1]) * 4 + 0] > departure:
            m[m[x.O_DUE] + place] = m[m[x.O_DUE] + place - 1]
            place -= 1
        m[m[x.O_DUE] + place] = message
    for place in range(count):
        message = m[m[x.O_DUE] + place]
        number = m[m[x.O_MESSAGES] + message * 4 + 1]
        channel = m[x.O_CHANNELS] + number * x.C_COLUMNS
        m[channel + x.C_UNDERWAY] -= 1
        if m[channel + x.C_HEAD] < 0:
            m[channel + x.C_HEAD] = message
        else:
            m[m[x.O_MESSAGES] + m[channel + x.C_TAIL] * 4 + 3] = message
        m[channel + x.C_TAIL] = message
        _touch(m, number)
    m[x.S_DUE] = 0
    if m[x.S_TOUCHED] > 0:
        _serve_waiting(m)


@njit(cache=True)
def _serve_waiting(m: Ints) -> None:
    """Serve receivers of the channels that were touched, first come, first served."""
    served = np.int64(0)
    while True:
        first, since = np.int64(-1), np.int64(_LARGEST)
        for place in range(m[x.S_TOUCHED]):
            channel = m[x.O_CHANNELS] + (m[m[x.O_TOUCHED] + place]) * x.C_COLUMNS
            for other in range(
                m[channel + x.C_LINE], m[channel + x.C_LINE] + m[channel + x.C_WAITING]
            ):
                worker = m[m[x.O_LINES] + other]
                if served < m[m[x.O_WORKERS] + worker * x.W_COLUMNS + x.W_SINCE] < since:
                    first, since = worker, m[m[x.O_WORKERS] + worker * x.W_COLUMNS + x.W_SINCE]
        if first < 0:
            break
        served = since
        if _serve(m, first):
            _leave_lines(m, first)
            _wake(m, first)
    for place in range(m[x.S_TOUCHED]):
        m[m[x.O_CHANNELS] + (m[m[x.O_TOUCHED] + place]) * x.C_COLUMNS + x.C_TOUCHED] = 0
    m[x.S_TOUCHED] = 0


@njit(cache=True)
def _free_slot(m: Ints, number: int) -> None:
    channel = m[x.O_CHANNELS] + number * x.C_COLUMNS
    if m[channel + x.C_SOURCE]:
        return
    if m[channel + x.C_BLOCKED] == 0:
        m[channel + x.C_TAKEN] -= 1
        return
    heir = m[m[x.O_QUEUES] + m[channel + x.C_QUEUE] + m[channel + x.C_QUEUE_HEAD]]
    m[channel + x.C_QUEUE_HEAD] = (m[channel + x.C_QUEUE_HEAD] + 1) % m[channel + x.C_QUEUE_SIZE]
    m[channel + x.C_BLOCKED] -= 1
    m[m[x.O_WORKERS] + heir * x.W_COLUMNS + x.W_BLOCKED] = 0
    m[m[x.O_WORKERS] + heir * x.W_COLUMNS + x.W_HAS_SLOT] = 1
    _wake(m, heir)


# Rounds


@njit(cache=True)
def _start_round(m: Ints, number: int, now: int) -> None:
    """Start the next round if all members that there still are have arrived for it."""
    row = m[x.O_ROUNDS] + number * x.R_COLUMNS
    there = np.int64(0)
    for place in range(m[row + x.R_MEMBERS], m[row + x.R_MEMBERS_END]):
        member = m[x.O_MEMBERS] + place * x.M_COLUMNS
        if not m[member + x.M_LEFT]:
            there += 1
            if m[member + x.M_ARRIVED] <= m[row + x.R_STARTED]:
                return
    if there == 0:
        return
    began = max(now, m[m[x.O_GROUPS] + m[row + x.R_GROUP]])
    ends = began + (m[row + x.R_TICKS] if m[row + x.R_CONTRIBUTED] else 0)
    m[m[x.O_GROUPS] + m[row + x.R_GROUP]] = ends
    m[row + x.R_NEXT_BEGAN] = began
    m[row + x.R_NEXT_CONTRIBUTED] = m[row + x.R_CONTRIBUTED]
    m[row + x.R_CONTRIBUTED] = 0
    m[row + x.R_STARTED] += 1
    # How many have arrived for the round after this one.
    m[row + x.R_ARRIVED] = 0
    if ends == now:
        _finish_round(m, number)
    else:
        _plan(m, ends, number << 3 | ROUND)


@njit(cache=True)
def _finish_round(m: Ints, number: int) -> None:
    row = m[x.O_ROUNDS] + number * x.R_COLUMNS
    m[row + x.R_BEGAN] = m[row + x.R_NEXT_BEGAN]
    m[row + x.R_LAST_CONTRIBUTED] = m[row + x.R_NEXT_CONTRIBUTED]
    m[row + x.R_FINISHED] += 1
    for place in range(m[row + x.R_MEMBERS], m[row + x.R_MEMBERS_END]):
        worker = m[m[x.O_MEMBERS] + place * x.M_COLUMNS + x.M_WORKER]
        if m[m[x.O_WORKERS] + worker * x.W_COLUMNS + x.W_JOINS] == number + 1:
            m[m[x.O_WORKERS] + worker * x.W_COLUMNS + x.W_JOINS] = 0
            _wake(m, worker)


@njit(cache=True)
def _leave_groups(m: Ints, number: int, now: int) -> None:
    """A worker has ended: the rounds of each of its groups go on without it, oldest block first."""
    worker = m[x.O_WORKERS] + number * x.W_COLUMNS
    first, end = m[worker + x.W_GROUPS], m[worker + x.W_GROUPS_END]
    left = first
    while left < end:
        group = m[
            m[x.O_ROUNDS]
            + (m[m[x.O_MEMBERS] + (m[m[x.O_MEMBERSHIPS] + left]) * x.M_COLUMNS + x.M_ROUND])
            * x.R_COLUMNS
            + x.R_GROUP
        ]
        upto = left
        while (
            upto < end
            and m[
                m[x.O_ROUNDS]
                + (m[m[x.O_MEMBERS] + (m[m[x.O_MEMBERSHIPS] + upto]) * x.M_COLUMNS + x.M_ROUND])
                * x.R_COLUMNS
                + x.R_GROUP
            ]
            == group
        ):
            m[m[x.O_MEMBERS] + (m[m[x.O_MEMBERSHIPS] + upto]) * x.M_COLUMNS + x.M_LEFT] = 1
            upto += 1
        done = np.int64(0)
        while True:
            best, created = np.int64(-1), np.int64(_LARGEST)
            for place in range(left, upto):
                round_ = m[
                    m[x.O_MEMBERS] + (m[m[x.O_MEMBERSHIPS] + place]) * x.M_COLUMNS + x.M_ROUND
                ]
                if done < m[m[x.O_ROUNDS] + round_ * x.R_COLUMNS + x.R_CREATED] < created:
                    best, created = round_, m[m[x.O_ROUNDS] + round_ * x.R_COLUMNS + x.R_CREATED]
            if best < 0:
                break
            done = created
            _start_round(m, best, now)
        left = upto


@njit(cache=True)
def _meet(m: Ints, number: int, now: int) -> int:
    """Arrive for a round; -1 if its result has to be waited for, -2 if that is not legal."""
    worker, row = (
        m[x.O_WORKERS] + number * x.W_COLUMNS,
        m[x.O_CODE] + (m[m[x.O_WORKERS] + number * x.W_COLUMNS + x.W_AT]) * x.I_COLUMNS,
    )
    member = m[x.O_MEMBERS] + m[row + x.I_EFFECTS] * x.M_COLUMNS
    which = m[member + x.M_ROUND]
    round_ = m[x.O_ROUNDS] + which * x.R_COLUMNS
    slot = m[row + x.I_SLOT]
    joins = m[row + x.I_ACTION] == x.A_JOIN
    if m[worker + x.W_REACHED] < 0:
        m[worker + x.W_REACHED] = now
        if m[round_ + x.R_CREATED] == 0:
            m[x.S_CREATED] += 1
            m[round_ + x.R_CREATED] = m[x.S_CREATED]
        if not joins or m[member + x.M_ARRIVED] == m[member + x.M_JOINED]:
            if m[member + x.M_ARRIVED] != m[member + x.M_JOINED]:
                return -3
            m[member + x.M_CONTRIBUTED] = 0
            if slot >= 0:
                block = m[x.O_BLOCKS] + slot * x.B_COLUMNS
                if m[block + x.B_CONTRIBUTED]:
                    return -2
                if m[block + x.B_COUNT] > 0 or m[block + x.B_SNAPSHOT] > 0:
                    m[block + x.B_CONTRIBUTED] = 1
                    m[member + x.M_CONTRIBUTED] = 1
                    m[round_ + x.R_CONTRIBUTED] += 1
            m[member + x.M_ARRIVED] += 1
            _start_round(m, which, now)
    if not joins:
        return 0
    if m[round_ + x.R_FINISHED] <= m[member + x.M_JOINED]:
        m[worker + x.W_JOINS] = which + 1
        return -1
    m[member + x.M_JOINED] += 1
    m[worker + x.W_REACHED] = max(m[worker + x.W_REACHED], m[round_ + x.R_BEGAN])
    if slot >= 0:
        block = m[x.O_BLOCKS] + slot * x.B_COLUMNS
        m[block + x.B_CONTRIBUTED] = 0
        if m[block + x.B_SNAPSHOT] > 0:
            m[block + x.B_SNAPSHOT] = 2
        elif m[round_ + x.R_LAST_CONTRIBUTED] > m[member + x.M_CONTRIBUTED]:
            m[block + x.B_JOINED] = 1
    m[worker + x.W_BATCH] = m[round_ + x.R_LAST_CONTRIBUTED]
    return 0


# Computations


@njit(cache=True)
def _factor(m: Ints, variation: int, number: int, place: int) -> float:
    """A random factor: the integer has its bits."""
    row = (variation * m[x.S_WORKERS_SIZE] + number) * m[x.S_CHUNK] + place
    return np.int64(m[m[x.O_FACTORS] + row]).view(np.float64)


@njit(cache=True)
def _uniform_ticks(m: Ints, number: int, row: int) -> int:
    """How long the next computation takes; -2 if the number does not fit, -4 to get factors."""
    worker = m[x.O_WORKERS] + number * x.W_COLUMNS
    if m[row + x.I_VARIATION] < 0 or m[row + x.I_TICKS] == 0:
        m[worker + x.W_COUNT] += 1
        return m[row + x.I_TICKS]
    place = m[worker + x.W_COUNT] - m[worker + x.W_BASE]
    if place >= m[x.S_CHUNK]:
        return -4
    m[worker + x.W_COUNT] += 1
    ticks = np.rint(
        np.float64(m[row + x.I_TICKS]) * _factor(m, m[row + x.I_VARIATION], number, place)
    )
    if not ticks < _LARGEST:
        return -3
    return max(np.int64(1), np.int64(ticks))


@njit(cache=True)
def _batch(m: Ints, number: int, row: int) -> int:
    register = m[row + x.I_REGISTER]
    return (
        m[m[x.O_REGISTERS] + number * m[x.S_REGISTERS] + register]
        if register >= 0
        else -1 - register
    )


@njit(cache=True)
def _compute(m: Ints, number: int, row: int) -> int:
    """Take what a computation needs; its ticks, -2 if it is not legal."""
    action, slot = m[row + x.I_ACTION], m[row + x.I_SLOT]
    worker = m[x.O_WORKERS] + number * x.W_COLUMNS
    if action == x.A_PASS or action == x.A_LOAD:
        batch = _batch(m, number, row)
        if batch < 0 or not _effects(m, m[row + x.I_EFFECTS], m[row + x.I_EFFECTS_END], batch):
            return -2
        m[worker + x.W_HELD] += m[row + x.I_HELD]
        if m[row + x.I_END] == x.END_PENDING:
            _append(m, number, slot, m[row + x.I_A], batch)
        return 0
    block = m[x.O_BLOCKS] + slot * x.B_COLUMNS
    if action == x.A_UPDATE:
        if m[block + x.B_CONTRIBUTED] and not m[block + x.B_SNAPSHOT]:
            return -2
        if m[block + x.B_COUNT] == 0 and not m[block + x.B_JOINED]:
            return -2
        m[block + x.B_JOINED] = 0
    elif action == x.A_SNAPSHOT:
        if m[block + x.B_SNAPSHOT] > 0:
            return -2
        m[block + x.B_SNAPSHOT] = 1
        m[worker + x.W_SNAPSHOTS] += 1
    else:
        if m[block + x.B_SNAPSHOT] != 2:
            return -2
        m[block + x.B_SNAPSHOT] = 0
        m[worker + x.W_SNAPSHOTS] -= 1
    return 0


@njit(cache=True)
def _append(m: Ints, number: int, slot: int, of: int, batch: int) -> None:
    """A gradient is pending."""
    block = m[x.O_BLOCKS] + slot * x.B_COLUMNS
    m[m[x.O_LEDGER] + (of * m[x.S_BATCHES] + batch) * x.L_COLUMNS + x.L_NEXT] = -1
    if m[block + x.B_COUNT] == 0:
        m[block + x.B_HEAD] = batch
    else:
        m[m[x.O_LEDGER] + (of * m[x.S_BATCHES] + m[block + x.B_TAIL]) * x.L_COLUMNS + x.L_NEXT] = (
            batch
        )
    m[block + x.B_TAIL] = batch
    m[block + x.B_COUNT] += 1
    m[m[x.O_WORKERS] + number * x.W_COLUMNS + x.W_PENDING] += 1


@njit(cache=True)
def _begin(m: Ints, number: int, now: int) -> int:
    """The operation starts: versions are read. Not 0 if it must not."""
    worker = m[x.O_WORKERS] + number * x.W_COLUMNS
    row = m[x.O_CODE] + m[worker + x.W_AT] * x.I_COLUMNS
    m[worker + x.W_STARTED] = now
    begin = m[row + x.I_BEGIN]
    if m[row + x.I_ACTION] != x.A_PASS and m[row + x.I_ACTION] != x.A_SNAPSHOT:
        return 0
    if begin == x.BEGIN_NOTHING:
        m[worker + x.W_VERSION] = -1
        return 0
    version = m[m[x.O_VERSIONS] + m[row + x.I_VERSION]]
    if begin == x.BEGIN_VERSION:
        m[worker + x.W_VERSION] = version
        return 0
    batch = _batch(m, number, row)
    read = m[x.O_LEDGER] + (m[row + x.I_A] * m[x.S_BATCHES] + batch) * x.L_COLUMNS
    if begin == x.BEGIN_FORWARD:
        if m[read + x.L_FORWARD] >= 0:
            return -3
        if m[x.S_BUFFER] > 0:
            done = m[m[x.O_PASSES] + m[row + x.I_VERSION]]
            wanted = max(np.int64(0), done // m[x.S_BUFFER] - 1)
            m[m[x.O_PASSES] + m[row + x.I_VERSION]] = done + 1
            if not version - 1 <= wanted <= version:
                return -2
            version = wanted
        m[read + x.L_FIRST] = version
        m[read + x.L_FORWARD] = version
        m[worker + x.W_VERSION] = version
        return 0
    if m[read + x.L_FORWARD] < 0:
        return -3
    if begin == x.BEGIN_REPLAY:
        if not m[x.S_STASH]:
            m[read + x.L_FORWARD] = version
        m[worker + x.W_VERSION] = m[read + x.L_FORWARD]
    elif begin == x.BEGIN_BACKWARD:
        if m[x.S_ASSIGN]:
            if not m[x.S_REFRESH_ALL]:
                m[m[x.O_BLOCKS] + m[row + x.I_SLOT] * x.B_COLUMNS + x.B_BASE] = version
            elif m[row + x.I_A] == m[x.S_BLOCKS]:
                for slot in range(m[worker + x.W_SLOTS], m[worker + x.W_SLOTS_END]):
                    m[m[x.O_BLOCKS] + slot * x.B_COLUMNS + x.B_BASE] = m[
                        m[x.O_VERSIONS] + m[m[x.O_BLOCKS] + slot * x.B_COLUMNS + x.B_VERSION]
                    ]
        m[read + x.L_BACKWARD] = m[read + x.L_FORWARD] if m[x.S_STASH] else version
        m[worker + x.W_VERSION] = m[read + x.L_BACKWARD]
    elif begin == x.BEGIN_WEIGHT:
        if m[read + x.L_BACKWARD] < 0:
            return -3
        m[worker + x.W_VERSION] = m[read + x.L_BACKWARD]
    else:
        m[read + x.L_BACKWARD] = m[read + x.L_FORWARD]
        m[worker + x.W_VERSION] = m[read + x.L_BACKWARD]
    return 0


@njit(cache=True)
def _span(m: Ints, number: int, now: int, kind: int, block: int, batch: int, version: int) -> None:
    worker, place = m[x.O_WORKERS] + number * x.W_COLUMNS, m[x.S_SPANS]
    span = m[x.O_SPANS] + place * 8
    m[span + 0] = m[worker + x.W_STARTED]
    m[span + 1] = now
    m[span + 2] = number
    m[span + 3] = m[worker + x.W_INDEX]
    m[span + 4] = kind
    m[span + 5] = block
    m[span + 6] = batch
    m[span + 7] = version
    m[x.S_SPANS] = place + 1


@njit(cache=True)
def _update(m: Ints, number: int, now: int, row: int) -> None:
    """Raise the version and apply the worker's pending gradients."""
    version = m[m[x.O_VERSIONS] + m[row + x.I_VERSION]]
    m[m[x.O_VERSIONS] + m[row + x.I_VERSION]] = version + 1
    block = m[x.O_BLOCKS] + m[row + x.I_SLOT] * x.B_COLUMNS
    _span(m, number, now, m[row + x.I_KIND], m[row + x.I_A], -1, version)
    base = m[block + x.B_BASE] if m[block + x.B_BASE] >= 0 else version
    batch = m[block + x.B_HEAD]
    place = m[x.S_GRADIENTS]
    for _ in range(m[block + x.B_COUNT]):
        read, gradient = (
            m[x.O_LEDGER] + (m[row + x.I_A] * m[x.S_BATCHES] + batch) * x.L_COLUMNS,
            m[x.O_GRADIENTS] + place * 9,
        )
        m[gradient + 0] = now
        m[gradient + 1] = number
        m[gradient + 2] = m[row + x.I_A]
        m[gradient + 3] = batch
        m[gradient + 4] = m[read + x.L_FIRST]
        m[gradient + 5] = m[read + x.L_FORWARD]
        m[gradient + 6] = m[read + x.L_BACKWARD]
        m[gradient + 7] = version
        m[gradient + 8] = base
        m[read + x.L_FORWARD] = -1
        m[read + x.L_BACKWARD] = -1
        batch = m[read + x.L_NEXT]
        place += 1
    m[x.S_GRADIENTS] = place
    m[m[x.O_WORKERS] + number * x.W_COLUMNS + x.W_PENDING] -= m[block + x.B_COUNT]
    m[block + x.B_COUNT] = 0


@njit(cache=True)
def _finish(m: Ints, number: int, now: int) -> bool:
    """The operation completes. Whether that is legal."""
    worker = m[x.O_WORKERS] + number * x.W_COLUMNS
    at = m[worker + x.W_AT]
    row = m[x.O_CODE] + at * x.I_COLUMNS
    action = m[row + x.I_ACTION]
    m[worker + x.W_STAGE] = 0
    m[worker + x.W_AT] = at + 1
    if action == x.A_PASS:
        batch = _batch(m, number, row)
        if m[row + x.I_END] == x.END_FORGET:
            m[
                m[x.O_LEDGER]
                + (m[row + x.I_A] * m[x.S_BATCHES] + batch) * x.L_COLUMNS
                + x.L_FORWARD
            ] = -1
            m[
                m[x.O_LEDGER]
                + (m[row + x.I_A] * m[x.S_BATCHES] + batch) * x.L_COLUMNS
                + x.L_BACKWARD
            ] = -1
        _span(m, number, now, m[row + x.I_KIND], m[row + x.I_A], batch, m[worker + x.W_VERSION])
    elif action == x.A_UPDATE:
        _update(m, number, now, row)
    elif action == x.A_SEND:
        batch = _batch(m, number, row)
        _span(m, number, now, m[row + x.I_KIND], m[row + x.I_A], batch, -1)
        _depart(m, m[row + x.I_A], batch, now)
    elif action == x.A_RECEIVE:
        return _receive(m, number, now, row)
    elif action == x.A_MERGE:
        version = m[m[x.O_VERSIONS] + m[row + x.I_VERSION]]
        m[m[x.O_VERSIONS] + m[row + x.I_VERSION]] = version + 1
        _span(m, number, now, m[row + x.I_KIND], m[row + x.I_A], -1, version)
    elif action == x.A_SNAPSHOT:
        _span(m, number, now, m[row + x.I_KIND], m[row + x.I_A], -1, m[worker + x.W_VERSION])
    elif action == x.A_LOAD:
        _span(m, number, now, m[row + x.I_KIND], 0, _batch(m, number, row), -1)
    else:
        m[worker + x.W_STARTED] = m[worker + x.W_REACHED]
        m[worker + x.W_REACHED] = -1
        _span(m, number, now, m[row + x.I_KIND], m[row + x.I_A], m[row + x.I_B], -1)
        if action == x.A_JOIN and m[worker + x.W_BATCH] == 0 and m[row + x.I_TARGET] != -2:
            m[worker + x.W_AT] = m[row + x.I_TARGET]
            if m[row + x.I_TARGET] < 0:
                _ask(m, number, at, -1)
    return True


@njit(cache=True)
def _ask(m: Ints, number: int, at: int, answer: int) -> None:
    worker = m[x.O_WORKERS] + number * x.W_COLUMNS
    m[worker + x.W_AT] = -1
    m[worker + x.W_TICKS] = at
    m[worker + x.W_WORK] = answer


@njit(cache=True)
def _receive(m: Ints, number: int, now: int, row: int) -> bool:
    worker = m[x.O_WORKERS] + number * x.W_COLUMNS
    place, batch = m[worker + x.W_SERVED], m[worker + x.W_BATCH]
    m[worker + x.W_SERVED] = -1
    at = m[worker + x.W_AT] - 1
    if batch < 0:
        m[worker + x.W_AT] = m[row + x.I_TARGET]
        if m[row + x.I_TARGET] < 0:
            _ask(m, number, at, -1)
        return True
    listen = m[x.O_LISTENS] + (m[row + x.I_A] + place) * 2
    channel = m[x.O_CHANNELS] + m[listen + 0] * x.C_COLUMNS
    held = m[row + x.I_EFFECTS] + place
    first, end = m[m[x.O_EFFECTS] + held * 5 + 1], m[m[x.O_EFFECTS] + held * 5 + 2]
    if not _effects(m, first, end, batch):
        return False
    m[worker + x.W_HELD] += m[channel + x.C_HELD]
    _span(m, number, now, m[row + x.I_KIND], m[listen + 0], batch, -1)
    m[m[x.O_REGISTERS] + number * m[x.S_REGISTERS] + m[row + x.I_REGISTER]] = batch
    m[worker + x.W_AT] = m[listen + 1]
    if m[listen + 1] < 0:
        _ask(m, number, at, place)
    _free_slot(m, m[listen + 0])
    return True


@njit(cache=True)
def _prepare(m: Ints, number: int, row: int, now: int) -> int:
    """How long the operation takes now; -1 if it has to wait, -2 if it is not legal."""
    worker = m[x.O_WORKERS] + number * x.W_COLUMNS
    action = m[row + x.I_ACTION]
    if action <= x.A_LOAD:
        drawn = m[worker + x.W_COUNT] - m[worker + x.W_BASE]
        if drawn >= m[x.S_CHUNK] and m[row + x.I_VARIATION] >= 0 and m[row + x.I_TICKS] > 0:
            return -4
        if _compute(m, number, row) < 0:
            return -2
        return _uniform_ticks(m, number, row)
    if action == x.A_SEND:
        channel = m[x.O_CHANNELS] + m[row + x.I_A] * x.C_COLUMNS
        if not m[worker + x.W_HAS_SLOT]:
            if 0 <= m[channel + x.C_CAPACITY] <= m[channel + x.C_TAKEN]:
                place = m[channel + x.C_QUEUE_HEAD] + m[channel + x.C_BLOCKED]
                size = m[channel + x.C_QUEUE_SIZE]
                m[m[x.O_QUEUES] + m[channel + x.C_QUEUE] + place % size] = number
                m[channel + x.C_BLOCKED] += 1
                m[worker + x.W_BLOCKED] = m[row + x.I_A] + 1
                return -1
            m[channel + x.C_TAKEN] += 1
        m[worker + x.W_HAS_SLOT] = 0
        batch = _batch(m, number, row)
        if batch < 0 or not _effects(m, m[row + x.I_EFFECTS], m[row + x.I_EFFECTS_END], batch):
            return -2
        m[worker + x.W_HELD] += m[row + x.I_HELD]
        return m[channel + x.C_SEND]
    if action == x.A_RECEIVE:
        if m[worker + x.W_SERVED] < 0 and not _serve(m, number):
            _wait(m, number)
            return -1
        if m[worker + x.W_BATCH] < 0:
            return 0
        return m[
            m[x.O_CHANNELS]
            + (m[m[x.O_LISTENS] + (m[row + x.I_A] + m[worker + x.W_SERVED]) * 2 + 0]) * x.C_COLUMNS
            + x.C_RECEIVE
        ]
    return _meet(m, number, now)


@njit(cache=True)
def _end_worker(m: Ints, number: int, now: int) -> bool:
    worker = m[x.O_WORKERS] + number * x.W_COLUMNS
    m[worker + x.W_ENDED] = 1
    if m[worker + x.W_HELD] or m[worker + x.W_PENDING] or m[worker + x.W_SNAPSHOTS]:
        return False
    for place in range(m[worker + x.W_SENDS], m[worker + x.W_SENDS_END]):
        m[m[x.O_CHANNELS] + (m[m[x.O_SENDS] + place]) * x.C_COLUMNS + x.C_SENDERS] -= 1
        _touch(m, m[m[x.O_SENDS] + place])
    _leave_groups(m, number, now)
    return True


@njit(cache=True)
def _fetch(m: Ints, number: int) -> bool:
    """Go on to the next operation. False if the program has ended."""
    worker = m[x.O_WORKERS] + number * x.W_COLUMNS
    at = m[worker + x.W_AT]
    while True:
        row = m[x.O_CODE] + at * x.I_COLUMNS
        action = m[row + x.I_ACTION]
        if action < x.A_MOVE:
            m[worker + x.W_AT] = at
            return True
        if action == x.A_LOOP:
            m[m[x.O_COUNTS] + at] += 1
            if m[m[x.O_COUNTS] + at] < m[row + x.I_B]:
                at = m[row + x.I_A]
            else:
                m[m[x.O_COUNTS] + at] = 0
                at += 1
        elif action == x.A_MOVE:
            m[m[x.O_REGISTERS] + number * m[x.S_REGISTERS] + m[row + x.I_A]] = m[
                m[x.O_REGISTERS] + number * m[x.S_REGISTERS] + m[row + x.I_B]
            ]
            at += 1
        elif action == x.A_JUMP:
            at = m[row + x.I_A]
        else:
            m[worker + x.W_AT] = at
            return False


@njit(cache=True)
def _is_full(m: Ints, number: int) -> int:
    """What has to be made larger before a worker does an operation; 0 for nothing."""
    if m[x.S_SPANS] + 1 > m[x.S_SPANS_SIZE]:
        return x.X_SPANS
    if (
        m[x.S_GRADIENTS] + m[m[x.O_WORKERS] + number * x.W_COLUMNS + x.W_PENDING]
        > m[x.S_GRADIENTS_SIZE]
    ):
        return x.X_GRADIENTS
    if m[x.S_FREE] < 0:
        return x.X_MESSAGES
    if (
        m[x.S_CALENDAR] + m[x.S_WORKERS_SIZE] + m[x.S_DEVICES_SIZE] + m[x.S_ROUNDS_SIZE] + 8
        > m[x.S_TIMES_SIZE]
    ):
        return x.X_MESSAGES
    return 0


@njit(cache=True)
def _advance(m: Ints, number: int, now: int) -> int:
    """Run a worker until it blocks or reaches an operation that takes time; or an exit's code."""
    worker = m[x.O_WORKERS] + number * x.W_COLUMNS
    while not m[worker + x.W_ENDED]:
        if m[worker + x.W_AT] < 0:
            m[x.S_EXIT_WORKER] = number
            m[x.S_EXIT_AT] = m[worker + x.W_TICKS]
            m[x.S_EXIT_ANSWER] = m[worker + x.W_WORK]
            return x.X_EXPLORE
        full = _is_full(m, number)
        if full:
            return full
        if m[worker + x.W_STAGE] == 0:
            if not _fetch(m, number):
                return 0 if _end_worker(m, number, now) else x.X_ILLEGAL
            m[worker + x.W_STAGE] = 1
            m[worker + x.W_INDEX] += 1
            m[x.S_OPERATIONS] += 1
            action = m[m[x.O_CODE] + m[worker + x.W_AT] * x.I_COLUMNS + x.I_ACTION]
            if action == x.A_PASS or action == x.A_LOAD:
                m[worker + x.W_IDLE] = 0
            else:
                m[worker + x.W_IDLE] += 1
                if m[worker + x.W_IDLE] > m[x.S_MOST_IDLE]:
                    return x.X_ILLEGAL
        ticks = _prepare(m, number, m[x.O_CODE] + m[worker + x.W_AT] * x.I_COLUMNS, now)
        if ticks == -1:
            return 0
        if ticks < 0:
            m[x.S_EXIT_WORKER] = number
            return x.X_ILLEGAL if ticks == -2 else x.X_LIMIT if ticks == -3 else x.X_FACTORS
        if ticks > 0:
            m[m[x.O_STARTING] + m[x.S_STARTING]] = number
            m[x.S_STARTING] += 1
            m[worker + x.W_TICKS] = ticks
            return 0
        begun = _begin(m, number, now)
        if begun < 0:
            return x.X_ILLEGAL if begun == -2 else x.X_LIMIT
        if not _finish(m, number, now):
            return x.X_ILLEGAL
    return 0


@njit(cache=True)
def _interrupt(m: Ints, now: int) -> None:
    """Let workers stop and go on."""
    workers = m[x.O_WORKERS]
    for number in range(m[x.S_WORKERS_SIZE]):
        m[workers + number * x.W_COLUMNS + x.W_STOOD] = m[
            workers + number * x.W_COLUMNS + x.W_STANDING
        ]
    for place in range(m[x.S_FAULTS]):
        fault = m[x.O_FAULTS] + place * 2
        m[workers + m[fault] * x.W_COLUMNS + x.W_STANDING] += m[fault + 1]
    m[x.S_FAULTS] = 0
    for number in range(m[x.S_WORKERS_SIZE]):
        worker = workers + number * x.W_COLUMNS
        if m[worker + x.W_STOOD] <= 0 < m[worker + x.W_STANDING]:
            _change_device(m, m[worker + x.W_DEVICE], now)
            if m[worker + x.W_ACTIVE]:
                m[worker + x.W_ACTIVE] = 0
                m[m[x.O_DEVICES] + m[worker + x.W_DEVICE] * x.D_COLUMNS + x.D_ACTIVE] -= 1
                m[worker + x.W_SUSPENDED] = 1
            _withdraw(m, number)
    for number in range(m[x.S_WORKERS_SIZE]):
        worker = workers + number * x.W_COLUMNS
        if m[worker + x.W_STANDING] <= 0 < m[worker + x.W_STOOD]:
            if m[worker + x.W_SUSPENDED]:
                _change_device(m, m[worker + x.W_DEVICE], now)
                m[worker + x.W_SUSPENDED] = 0
                m[worker + x.W_ACTIVE] = 1
                m[m[x.O_DEVICES] + m[worker + x.W_DEVICE] * x.D_COLUMNS + x.D_ACTIVE] += 1
            else:
                _wake(m, number)


@njit(cache=True)
def _settle(m: Ints, now: int) -> int:
    """Settle the present instant, then start together what takes time."""
    while True:
        while m[x.S_DONE] > 0:
            number = m[m[x.O_DONE] + 0]
            full = _is_full(m, number)
            if full:
                return full
            _pop(m, m[x.O_DONE], m[x.S_DONE])
            m[x.S_DONE] -= 1
            if not _finish(m, number, now):
                return x.X_ILLEGAL
            _wake(m, number)
        if m[x.S_FAULTS] > 0:
            _interrupt(m, now)
        if m[x.S_DUE] > 0 or m[x.S_TOUCHED] > 0:
            _deliver(m)
        if m[x.S_RUNNABLE] == 0:
            break
        number = _pop(m, m[x.O_RUNNABLE], m[x.S_RUNNABLE])
        m[x.S_RUNNABLE] -= 1
        if m[m[x.O_WORKERS] + number * x.W_COLUMNS + x.W_STANDING] <= 0:
            m[x.S_CURRENT] = number
            full = _advance(m, number, now)
            if full:
                return full
            m[x.S_CURRENT] = -1
    return _start(m, now)


@njit(cache=True)
def _start(m: Ints, now: int) -> int:
    for place in range(m[x.S_STARTING]):
        number = m[m[x.O_STARTING] + place]
        worker = m[x.O_WORKERS] + number * x.W_COLUMNS
        ticks = m[worker + x.W_TICKS]
        if ticks > _LARGEST - now:
            return x.X_LIMIT
        if m[x.S_SHARED]:
            device = m[x.O_DEVICES] + m[worker + x.W_DEVICE] * x.D_COLUMNS
            if ticks > _LARGEST // m[device + x.D_DENOMINATOR]:
                return x.X_LIMIT
            _change_device(m, m[worker + x.W_DEVICE], now)
            m[worker + x.W_WORK] = ticks * m[device + x.D_DENOMINATOR]
            m[worker + x.W_ACTIVE] = 1
            m[device + x.D_ACTIVE] += 1
        else:
            _plan(m, now + ticks, number << 3 | COMPLETION)
        begun = _begin(m, number, now)
        if begun < 0:
            return x.X_ILLEGAL if begun == -2 else x.X_LIMIT
    m[x.S_STARTING] = 0
    if m[x.S_SHARED]:
        _plan_devices(m)
    return 0


@njit(cache=True)
def _happen(m: Ints, event: int) -> None:
    """An event that the present instant begins with."""
    of = event >> 3
    kind = event & 7
    if kind == COMPLETION:
        _push(m, m[x.O_DONE], m[x.S_DONE], of)
        m[x.S_DONE] += 1
    elif kind == MESSAGE:
        m[m[x.O_DUE] + m[x.S_DUE]] = of
        m[x.S_DUE] += 1
    elif kind == WAKE_UP:
        m[m[x.O_DEVICES] + of * x.D_COLUMNS + x.D_DUE] = 1
    elif kind == ROUND:
        _finish_round(m, of)
    else:
        m[m[x.O_FAULTS] + m[x.S_FAULTS] * 2 + 0] = of
        m[m[x.O_FAULTS] + m[x.S_FAULTS] * 2 + 1] = 1 if kind == FAULT_BEGINS else -1
        m[x.S_FAULTS] += 1


@njit(cache=True)
def run(memory: Ints) -> int:
    """Run until it is over or something is needed; returns why (`X_`)."""
    m = _pointer(memory)
    if m[x.S_CURRENT] >= 0:
        full = _advance(m, m[x.S_CURRENT], m[x.S_NOW])
        if full:
            return full
        m[x.S_CURRENT] = -1
    while True:
        if not m[x.S_SETTLED]:
            full = _settle(m, m[x.S_NOW])
            if full:
                return full
            m[x.S_SETTLED] = 1
        if m[x.S_CALENDAR] == 0:
            return x.X_FINISHED
        now = m[m[x.O_TIMES] + 0]
        if now > _LARGEST:
            return x.X_LIMIT
        m[x.S_NOW] = now
        while m[x.S_CALENDAR] > 0 and m[m[x.O_TIMES] + 0] == now:
            _happen(m, _next(m))
        if m[x.S_SHARED]:
            _complete(m, now)
        m[x.S_SETTLED] = 0
        if m[x.S_OPERATIONS] > m[x.S_BUDGET]:
            return x.X_BUDGET
