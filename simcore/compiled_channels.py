"""Messages of the compiled engine: what `simcore.post`, its mailboxes and serial wires do.

Messages that have arrived at a channel are a chain; receivers and senders that wait are lists.
"""

import simcore.compiled_layout as x
from simcore.compiled_memory import (
    LARGEST,
    Memory,
    channel_row,
    compiled,
    inlined,
    instruction_row,
    listen_row,
    message_row,
    plan,
    wake,
    worker_row,
)

__all__ = ["deliver", "depart", "free_slot", "serve", "take_slot", "touch", "wait", "withdraw"]


@compiled
def touch(m: Memory, number: int) -> None:
    """Whoever waits for a channel has to be looked at."""
    channel = channel_row(m, number)
    if not m[channel + x.C_TOUCHED]:
        m[channel + x.C_TOUCHED] = 1
        m[m[x.O_TOUCHED] + m[x.S_TOUCHED]] = number
        m[x.S_TOUCHED] += 1


# Receivers


@inlined
def _heard(m: Memory, row: int, place: int) -> int:
    """The row of the channel at this place of those that an instruction listens to."""
    return channel_row(m, m[listen_row(m, m[row + x.I_A] + place)])


@compiled
def serve(m: Memory, number: int) -> bool:
    """Take the message that a receiver gets now; False if it has to wait."""
    worker = worker_row(m, number)
    row = instruction_row(m, worker)
    closed = True
    for place in range(m[row + x.I_B]):
        channel = _heard(m, row, place)
        if m[channel + x.C_SOURCE]:
            if m[channel + x.C_LEFT] == 0:
                continue
            m[worker + x.W_SERVED] = place
            m[worker + x.W_BATCH] = _next_of_source(m, channel)
            return True
        message = m[channel + x.C_HEAD]
        if message >= 0:
            at = message_row(m, message)
            m[worker + x.W_SERVED] = place
            m[worker + x.W_BATCH] = m[at + x.Q_BATCH]
            m[channel + x.C_HEAD] = m[at + x.Q_NEXT]
            m[at + x.Q_NEXT] = m[x.S_FREE]
            m[x.S_FREE] = message
            return True
        if m[channel + x.C_SENDERS] > 0 or m[channel + x.C_UNDERWAY] > 0:
            closed = False
    if closed:
        m[worker + x.W_SERVED] = 0
        m[worker + x.W_BATCH] = -1
    return closed


@compiled
def _next_of_source(m: Memory, channel: int) -> int:
    number, run = m[channel + x.C_NEXT], m[channel + x.C_RUN]
    m[channel + x.C_NEXT] = number + 1
    m[channel + x.C_LEFT] -= 1
    if run == 1:
        return m[channel + x.C_FIRST] + number * m[channel + x.C_STRIDE]
    start = (m[channel + x.C_FIRST] + number // run * m[channel + x.C_STRIDE]) * run
    return start + number % run


@compiled
def wait(m: Memory, number: int) -> None:
    """Let a worker wait for the first of its channels that has a message."""
    worker = worker_row(m, number)
    m[x.S_WAITS] += 1
    m[worker + x.W_SINCE] = m[x.S_WAITS]
    row = instruction_row(m, worker)
    for place in range(m[row + x.I_B]):
        channel = _heard(m, row, place)
        line, count = m[x.O_LINES] + m[channel + x.C_LINE], m[channel + x.C_WAITING]
        there = False  # in this line, for a channel may be listed twice
        for other in range(line, line + count):
            there |= m[other] == number
        if not there:
            m[line + count] = number
            m[channel + x.C_WAITING] = count + 1


@compiled
def _leave_line(m: Memory, channel: int, number: int) -> None:
    line, count = m[x.O_LINES] + m[channel + x.C_LINE], m[channel + x.C_WAITING]
    for place in range(line, line + count):
        if m[place] == number:
            for later in range(place, line + count - 1):
                m[later] = m[later + 1]
            m[channel + x.C_WAITING] = count - 1
            return


@compiled
def _leave_lines(m: Memory, number: int) -> None:
    worker = worker_row(m, number)
    row = instruction_row(m, worker)
    for place in range(m[row + x.I_B]):
        _leave_line(m, _heard(m, row, place), number)
    m[worker + x.W_SINCE] = 0


@compiled
def withdraw(m: Memory, number: int) -> None:
    """Let a worker leave all lines in which it waits: for messages, for a slot, for a round."""
    worker = worker_row(m, number)
    if m[worker + x.W_SINCE] > 0:
        _leave_lines(m, number)
    if m[worker + x.W_BLOCKED] > 0:
        channel = channel_row(m, m[worker + x.W_BLOCKED] - 1)
        m[worker + x.W_BLOCKED] = 0
        queue, size = m[x.O_QUEUES] + m[channel + x.C_QUEUE], m[channel + x.C_QUEUE_SIZE]
        head, kept = m[channel + x.C_QUEUE_HEAD], 0
        for place in range(m[channel + x.C_BLOCKED]):
            other = m[queue + (head + place) % size]
            if other != number:
                m[queue + (head + kept) % size] = other
                kept += 1
        m[channel + x.C_BLOCKED] = kept
    m[worker + x.W_JOINS] = 0


# Messages on their way


@compiled
def depart(m: Memory, number: int, batch: int, now: int) -> None:
    """Put a message on its link: the transfer over the wire, then the latency."""
    channel = channel_row(m, number)
    m[channel + x.C_UNDERWAY] += 1
    message = m[x.S_FREE]
    at = message_row(m, message)
    m[x.S_FREE] = m[at + x.Q_NEXT]
    m[at + x.Q_DEPARTURE] = m[x.S_DEPARTURES]
    m[at + x.Q_CHANNEL] = number
    m[at + x.Q_BATCH] = batch
    m[at + x.Q_NEXT] = -1
    m[x.S_DEPARTURES] += 1
    wire = m[x.O_WIRES] + m[channel + x.C_WIRE]
    moment = max(now, m[wire]) + m[channel + x.C_TRANSMIT]
    m[wire] = moment
    moment += m[channel + x.C_LATENCY]
    if moment == now:
        m[m[x.O_DUE] + m[x.S_DUE]] = message
        m[x.S_DUE] += 1
    else:
        plan(m, moment, message << 3 | x.V_MESSAGE)


@compiled
def deliver(m: Memory) -> None:
    """Deliver what is due, in the order of departure, and serve whoever waits for it."""
    count, due = m[x.S_DUE], m[x.O_DUE]
    for later in range(1, count):
        place, message = later, m[due + later]
        departure = m[message_row(m, message) + x.Q_DEPARTURE]
        while place > 0 and m[message_row(m, m[due + place - 1]) + x.Q_DEPARTURE] > departure:
            m[due + place] = m[due + place - 1]
            place -= 1
        m[due + place] = message
    for place in range(count):
        message = m[due + place]
        number = m[message_row(m, message) + x.Q_CHANNEL]
        channel = channel_row(m, number)
        m[channel + x.C_UNDERWAY] -= 1
        if m[channel + x.C_HEAD] < 0:
            m[channel + x.C_HEAD] = message
        else:
            m[message_row(m, m[channel + x.C_TAIL]) + x.Q_NEXT] = message
        m[channel + x.C_TAIL] = message
        touch(m, number)
    m[x.S_DUE] = 0
    if m[x.S_TOUCHED] > 0:
        _serve_waiting(m)


@compiled
def _serve_waiting(m: Memory) -> None:
    """Serve receivers of the channels that were touched, first come, first served."""
    served = 0
    while True:
        first, since = -1, LARGEST
        for place in range(m[x.S_TOUCHED]):
            channel = channel_row(m, m[m[x.O_TOUCHED] + place])
            line = m[x.O_LINES] + m[channel + x.C_LINE]
            for other in range(line, line + m[channel + x.C_WAITING]):
                number = m[other]
                waits = m[worker_row(m, number) + x.W_SINCE]
                if served < waits < since:
                    first, since = number, waits
        if first < 0:
            break
        served = since
        if serve(m, first):
            _leave_lines(m, first)
            wake(m, first)
    for place in range(m[x.S_TOUCHED]):
        m[channel_row(m, m[m[x.O_TOUCHED] + place]) + x.C_TOUCHED] = 0
    m[x.S_TOUCHED] = 0


# Slots


@compiled
def take_slot(m: Memory, number: int, of: int) -> bool:
    """Whether a worker has a slot of a channel for its message; it queues up if it has none."""
    worker, channel = worker_row(m, number), channel_row(m, of)
    if not m[worker + x.W_HAS_SLOT]:
        if 0 <= m[channel + x.C_CAPACITY] <= m[channel + x.C_TAKEN]:
            place = m[channel + x.C_QUEUE_HEAD] + m[channel + x.C_BLOCKED]
            ring = m[x.O_QUEUES] + m[channel + x.C_QUEUE]
            m[ring + place % m[channel + x.C_QUEUE_SIZE]] = number
            m[channel + x.C_BLOCKED] += 1
            m[worker + x.W_BLOCKED] = of + 1
            return False
        m[channel + x.C_TAKEN] += 1
    m[worker + x.W_HAS_SLOT] = 0
    return True


@compiled
def free_slot(m: Memory, of: int) -> None:
    """A message has been received: its slot goes to the sender that has waited longest."""
    channel = channel_row(m, of)
    if m[channel + x.C_SOURCE]:
        return
    if m[channel + x.C_BLOCKED] == 0:
        m[channel + x.C_TAKEN] -= 1
        return
    head = m[channel + x.C_QUEUE_HEAD]
    heir = m[m[x.O_QUEUES] + m[channel + x.C_QUEUE] + head]
    m[channel + x.C_QUEUE_HEAD] = (head + 1) % m[channel + x.C_QUEUE_SIZE]
    m[channel + x.C_BLOCKED] -= 1
    worker = worker_row(m, heir)
    m[worker + x.W_BLOCKED] = 0
    m[worker + x.W_HAS_SLOT] = 1
    wake(m, heir)
