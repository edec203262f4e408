"""What a worker does at an operation, in the compiled engine: before it can start, and after it."""

import simcore.compiled_layout as x
from simcore.compiled_channels import depart, free_slot, serve, take_slot, touch, wait
from simcore.compiled_ledger import (
    batch_of,
    change_items,
    compute,
    forget,
    raise_version,
    update,
)
from simcore.compiled_memory import (
    Memory,
    channel_row,
    compiled,
    instruction_row,
    listen_row,
    worker_row,
)
from simcore.compiled_rounds import leave_groups, meet

__all__ = ["end_worker", "finish", "is_full", "next_operation", "prepare"]


@compiled
def next_operation(m: Memory, number: int) -> bool:
    """Go on to the next operation. False if the program has ended."""
    worker = worker_row(m, number)
    at = m[worker + x.W_AT]
    while True:
        row = m[x.O_CODE] + at * x.I_COLUMNS
        action = m[row + x.I_ACTION]
        if action < x.A_MOVE:
            m[worker + x.W_AT] = at
            return True
        if action == x.A_LOOP:
            count = m[x.O_COUNTS] + at
            m[count] += 1
            if m[count] < m[row + x.I_B]:
                at = m[row + x.I_A]
            else:
                m[count] = 0
                at += 1
        elif action == x.A_MOVE:
            registers = m[x.O_REGISTERS] + number * m[x.S_REGISTERS]
            m[registers + m[row + x.I_A]] = m[registers + m[row + x.I_B]]
            at += 1
        elif action == x.A_JUMP:
            at = m[row + x.I_A]
        else:
            m[worker + x.W_AT] = at
            return False


@compiled
def prepare(m: Memory, number: int, now: int) -> int:
    """How long the operation takes now; -1 if it has to wait, -2 - X_ if it must not go on."""
    worker = worker_row(m, number)
    row = instruction_row(m, worker)
    action = m[row + x.I_ACTION]
    if action <= x.A_LOAD:
        return compute(m, number, row)
    if action == x.A_SEND:
        if not take_slot(m, number, m[row + x.I_A]):
            return -1
        batch = batch_of(m, number, row)
        first, end = m[row + x.I_EFFECTS], m[row + x.I_EFFECTS_END]
        if batch < 0 or not change_items(m, first, end, batch):
            return -2 - x.X_ILLEGAL
        m[worker + x.W_HELD] += m[row + x.I_HELD]
        return m[channel_row(m, m[row + x.I_A]) + x.C_SEND]
    if action == x.A_RECEIVE:
        if m[worker + x.W_SERVED] < 0 and not serve(m, number):
            wait(m, number)
            return -1
        if m[worker + x.W_BATCH] < 0:
            return 0
        heard = m[listen_row(m, m[row + x.I_A] + m[worker + x.W_SERVED])]
        return m[channel_row(m, heard) + x.C_RECEIVE]
    return meet(m, number, now)


@compiled
def is_full(m: Memory, number: int) -> int:
    """What has to be made larger before a worker does an operation (X_); 0 for nothing."""
    if m[x.S_SPANS] >= m[x.S_SPANS_SIZE]:
        return x.X_SPANS
    if m[x.S_GRADIENTS] + m[worker_row(m, number) + x.W_PENDING] > m[x.S_GRADIENTS_SIZE]:
        return x.X_GRADIENTS
    if m[x.S_FREE] < 0 or m[x.S_CALENDAR] > m[x.S_TIMES_SIZE]:
        return x.X_MESSAGES
    return 0


@compiled
def finish(m: Memory, number: int, now: int) -> bool:
    """The operation completes. Whether that is legal."""
    worker = worker_row(m, number)
    row = instruction_row(m, worker)
    action, of = m[row + x.I_ACTION], m[row + x.I_A]
    m[worker + x.W_STAGE] = 0
    if action == x.A_RECEIVE:
        return _receive(m, number, now, row)
    m[worker + x.W_AT] += 1
    if action == x.A_PASS:
        batch = batch_of(m, number, row)
        if m[row + x.I_END] == x.END_FORGET:
            forget(m, of, batch)
        _span(m, number, now, row, of, batch, m[worker + x.W_VERSION])
    elif action == x.A_UPDATE:
        version = raise_version(m, row)
        _span(m, number, now, row, of, -1, version)
        update(m, number, now, row, version)
    elif action == x.A_SEND:
        batch = batch_of(m, number, row)
        _span(m, number, now, row, of, batch, -1)
        depart(m, of, batch, now)
    elif action == x.A_MERGE:
        _span(m, number, now, row, of, -1, raise_version(m, row))
    elif action == x.A_SNAPSHOT:
        _span(m, number, now, row, of, -1, m[worker + x.W_VERSION])
    elif action == x.A_LOAD:
        _span(m, number, now, row, 0, batch_of(m, number, row), -1)
    else:
        _leave_round(m, number, now, row)
    return True


@compiled
def _span(m: Memory, number: int, now: int, row: int, of: int, batch: int, version: int) -> None:
    """Add a row to the trace; `of` is a block or channel."""
    worker, place = worker_row(m, number), m[x.S_SPANS]
    span = m[x.O_SPANS] + place * 8
    m[span] = m[worker + x.W_STARTED]
    m[span + 1] = now
    m[span + 2] = number
    m[span + 3] = m[worker + x.W_INDEX]
    m[span + 4] = m[row + x.I_KIND]
    m[span + 5] = of
    m[span + 6] = batch
    m[span + 7] = version
    m[x.S_SPANS] = place + 1


@compiled
def _receive(m: Memory, number: int, now: int, row: int) -> bool:
    """Take what was served: a batch, or the news that all channels are closed."""
    worker = worker_row(m, number)
    place, batch = m[worker + x.W_SERVED], m[worker + x.W_BATCH]
    m[worker + x.W_SERVED] = -1
    if batch < 0:
        _go_on(m, worker, m[row + x.I_TARGET], -1)
        return True
    listen = listen_row(m, m[row + x.I_A] + place)
    effect = m[x.O_EFFECTS] + (m[row + x.I_EFFECTS] + place) * x.E_COLUMNS
    if not change_items(m, m[effect + x.E_FIRST], m[effect + x.E_END], batch):
        return False
    channel = m[listen]
    m[worker + x.W_HELD] += m[channel_row(m, channel) + x.C_HELD]
    _span(m, number, now, row, channel, batch, -1)
    m[m[x.O_REGISTERS] + number * m[x.S_REGISTERS] + m[row + x.I_REGISTER]] = batch
    _go_on(m, worker, m[listen + 1], place)
    free_slot(m, channel)
    return True


@compiled
def _leave_round(m: Memory, number: int, now: int, row: int) -> None:
    """A worker has arrived for a round, or has its result."""
    worker = worker_row(m, number)
    m[worker + x.W_STARTED] = m[worker + x.W_REACHED]
    m[worker + x.W_REACHED] = -1
    _span(m, number, now, row, m[row + x.I_A], m[row + x.I_B], -1)
    target = m[row + x.I_TARGET]
    if m[row + x.I_ACTION] == x.A_JOIN and m[worker + x.W_BATCH] == 0 and target != -2:
        m[worker + x.W_AT] -= 1
        _go_on(m, worker, target, -1)


@compiled
def _go_on(m: Memory, worker: int, target: int, answer: int) -> None:
    """Go on at an instruction; what there is below 0 has yet to be recorded."""
    if target < 0:
        m[worker + x.W_ASKED] = m[worker + x.W_AT]
        m[worker + x.W_ANSWER] = answer
    m[worker + x.W_AT] = target


@compiled
def end_worker(m: Memory, number: int, now: int) -> bool:
    """A program has ended: its channels and groups go on without it. Whether that is legal."""
    worker = worker_row(m, number)
    m[worker + x.W_ENDED] = 1
    if m[worker + x.W_HELD] or m[worker + x.W_PENDING] or m[worker + x.W_SNAPSHOTS]:
        return False
    for place in range(m[worker + x.W_SENDS], m[worker + x.W_SENDS_END]):
        channel = m[m[x.O_SENDS] + place]
        m[channel_row(m, channel) + x.C_SENDERS] -= 1
        touch(m, channel)
    leave_groups(m, number, now)
    return True
