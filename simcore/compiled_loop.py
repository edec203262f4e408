"""The event loop of the compiled engine; it does what `simcore.engine` does, instant by instant.

Whatever would raise an error there makes it stop with X_ILLEGAL, and what it cannot do with a later
code: the reference then runs instead. It also stops where a table is full or something has to be
found out, and is called again with the same memory.
"""

import simcore.compiled_layout as x
from simcore.compiled_channels import deliver, withdraw
from simcore.compiled_devices import (
    change_device,
    complete,
    interrupt_operation,
    plan_devices,
    resume_operation,
)
from simcore.compiled_ledger import begin
from simcore.compiled_memory import (
    LARGEST,
    Memory,
    compiled,
    device_row,
    instruction_row,
    plan,
    pop,
    push,
    take_event,
    wake,
    worker_row,
)
from simcore.compiled_operations import end_worker, finish, is_full, next_operation, prepare
from simcore.compiled_rounds import finish_round

__all__ = ["loop"]


@compiled
def _fetch(m: Memory, number: int, now: int) -> int:
    """Go on to the worker's next operation, or let it end; 0, or why the engine comes back."""
    worker = worker_row(m, number)
    if not next_operation(m, number):
        return 0 if end_worker(m, number, now) else x.X_ILLEGAL
    m[worker + x.W_STAGE] = 1
    m[worker + x.W_INDEX] += 1
    m[x.S_OPERATIONS] += 1
    action = m[instruction_row(m, worker) + x.I_ACTION]
    if action == x.A_PASS or action == x.A_LOAD:
        m[worker + x.W_IDLE] = 0
    else:
        m[worker + x.W_IDLE] += 1
        if m[worker + x.W_IDLE] > m[x.S_MOST_IDLE]:
            return x.X_ILLEGAL
    return 0


@compiled
def _advance(m: Memory, number: int, now: int) -> int:
    """Run a worker until it blocks or reaches an operation that takes time; or why not (X_)."""
    worker = worker_row(m, number)
    while True:
        if m[worker + x.W_AT] < 0:
            m[x.S_EXIT_WORKER] = number
            return x.X_EXPLORE
        why = is_full(m, number)
        if why == 0 and m[worker + x.W_STAGE] == 0:
            why = _fetch(m, number, now)
        if why or m[worker + x.W_ENDED]:
            return why
        ticks = prepare(m, number, now)
        if ticks == -1:
            return 0
        if ticks < 0:
            m[x.S_EXIT_WORKER] = number
            return -2 - ticks
        if ticks > 0:
            m[m[x.O_STARTING] + m[x.S_STARTING]] = number
            m[x.S_STARTING] += 1
            m[worker + x.W_TICKS] = ticks
            return 0
        why = begin(m, number, now)
        if why:
            return why
        if not finish(m, number, now):
            return x.X_ILLEGAL


@compiled
def _interrupt(m: Memory, now: int) -> None:
    """Let workers stop and go on; who goes on stands at the end of every line."""
    workers = m[x.S_WORKERS_SIZE]
    for number in range(workers):
        worker = worker_row(m, number)
        m[worker + x.W_STOOD] = m[worker + x.W_STANDING]
    for place in range(m[x.S_FAULTS]):
        fault = m[x.O_FAULTS] + place * 2
        m[worker_row(m, m[fault]) + x.W_STANDING] += m[fault + 1]
    m[x.S_FAULTS] = 0
    for number in range(workers):
        worker = worker_row(m, number)
        if m[worker + x.W_STOOD] <= 0 < m[worker + x.W_STANDING]:
            interrupt_operation(m, number, now)
            withdraw(m, number)
    for number in range(workers):
        worker = worker_row(m, number)
        stands = m[worker + x.W_STANDING] > 0
        if m[worker + x.W_STOOD] > 0 and not stands and not resume_operation(m, number, now):
            wake(m, number)


@compiled
def _settle(m: Memory, now: int) -> int:
    """Settle the present instant, then start together what takes time; or why not (X_)."""
    while True:
        while m[x.S_DONE] > 0:
            number = m[m[x.O_DONE]]
            why = is_full(m, number)
            if why:
                return why
            pop(m, m[x.O_DONE], m[x.S_DONE])
            m[x.S_DONE] -= 1
            if not finish(m, number, now):
                return x.X_ILLEGAL
            wake(m, number)
        if m[x.S_FAULTS] > 0:
            _interrupt(m, now)
        if m[x.S_DUE] > 0 or m[x.S_TOUCHED] > 0:
            deliver(m)
        if m[x.S_RUNNABLE] == 0:
            return _start(m, now)
        number = pop(m, m[x.O_RUNNABLE], m[x.S_RUNNABLE])
        m[x.S_RUNNABLE] -= 1
        worker = worker_row(m, number)
        if m[worker + x.W_STANDING] <= 0 and not m[worker + x.W_ENDED]:
            m[x.S_CURRENT] = number
            why = _advance(m, number, now)
            if why:
                return why
            m[x.S_CURRENT] = -1


@compiled
def _start(m: Memory, now: int) -> int:
    """Start what takes time; 0, or why that cannot be (X_)."""
    for place in range(m[x.S_STARTING]):
        number = m[m[x.O_STARTING] + place]
        worker = worker_row(m, number)
        ticks = m[worker + x.W_TICKS]
        if ticks > LARGEST - now:
            return x.X_LIMIT
        if m[x.S_SHARED]:
            device = device_row(m, m[worker + x.W_DEVICE])
            if ticks > LARGEST // m[device + x.D_DENOMINATOR]:
                return x.X_LIMIT
            change_device(m, m[worker + x.W_DEVICE], now)
            m[worker + x.W_WORK] = ticks * m[device + x.D_DENOMINATOR]
            m[worker + x.W_ACTIVE] = 1
            m[device + x.D_ACTIVE] += 1
        else:
            plan(m, now + ticks, number << 3 | x.V_COMPLETION)
        why = begin(m, number, now)
        if why:
            return why
    m[x.S_STARTING] = 0
    if m[x.S_SHARED]:
        plan_devices(m)
    return 0


@compiled
def _happen(m: Memory, event: int) -> None:
    """An event that the present instant begins with."""
    of, kind = event >> 3, event & 7
    if kind == x.V_COMPLETION:
        push(m, m[x.O_DONE], m[x.S_DONE], of)
        m[x.S_DONE] += 1
    elif kind == x.V_MESSAGE:
        m[m[x.O_DUE] + m[x.S_DUE]] = of
        m[x.S_DUE] += 1
    elif kind == x.V_WAKE_UP:
        device = device_row(m, of)
        if not m[device + x.D_DUE]:
            m[device + x.D_DUE] = 1
            m[m[x.O_READY] + m[x.S_READY]] = of
            m[x.S_READY] += 1
    elif kind == x.V_ROUND:
        finish_round(m, of)
    else:
        fault = m[x.O_FAULTS] + m[x.S_FAULTS] * 2
        m[fault] = of
        m[fault + 1] = 1 if kind == x.V_FAULT_BEGINS else -1
        m[x.S_FAULTS] += 1


@compiled
def loop(m: Memory) -> int:
    """Run until it is over or something is needed; returns why (X_)."""
    if m[x.S_CURRENT] >= 0:
        why = _advance(m, m[x.S_CURRENT], m[x.S_NOW])
        if why:
            return why
        m[x.S_CURRENT] = -1
    while True:
        if not m[x.S_SETTLED]:
            why = _settle(m, m[x.S_NOW])
            if why:
                return why
            m[x.S_SETTLED] = 1
        if m[x.S_CALENDAR] == 0:
            return x.X_FINISHED
        if m[x.S_OPERATIONS] > m[x.S_BUDGET]:
            return x.X_BUDGET
        now = m[m[x.O_TIMES]]
        if now > LARGEST:
            return x.X_LIMIT
        m[x.S_NOW] = now
        while m[x.S_CALENDAR] > 0 and m[m[x.O_TIMES]] == now:
            _happen(m, take_event(m))
        if m[x.S_READY] > 0:
            complete(m, now)
        m[x.S_SETTLED] = 0
