"""Devices of the compiled engine: processor sharing, as `simcore.sharing` does it.

They are followed only where something is shared, or workers pause: otherwise an operation is over
after so many ticks, and that is planned at once.
"""

import simcore.compiled_layout as x
from simcore.compiled_memory import LARGEST, Memory, compiled, device_row, plan, push, worker_row

__all__ = ["change_device", "complete", "interrupt_operation", "plan_devices", "resume_operation"]


@compiled
def change_device(m: Memory, number: int, now: int) -> None:
    """Bring a device up to now; it is about to change."""
    device = device_row(m, number)
    active = m[device + x.D_ACTIVE]
    if active > 0:
        work = (now - m[device + x.D_NOW]) * m[m[x.O_SPEEDS] + m[device + x.D_SPEEDS] + active - 1]
        for place in range(m[device + x.D_WORKERS], m[device + x.D_WORKERS_END]):
            worker = worker_row(m, m[m[x.O_RESIDENTS] + place])
            if m[worker + x.W_ACTIVE]:
                m[worker + x.W_WORK] -= work
    m[device + x.D_NOW] = now
    if not m[device + x.D_CHANGED]:
        m[device + x.D_CHANGED] = 1
        m[m[x.O_CHANGED] + m[x.S_CHANGED]] = number
        m[x.S_CHANGED] += 1


@compiled
def complete(m: Memory, now: int) -> None:
    """Take the operations that are over now from the devices that are due."""
    for ready in range(m[x.S_READY]):
        number = m[m[x.O_READY] + ready]
        device = device_row(m, number)
        m[device + x.D_DUE] = 0
        change_device(m, number, now)
        for place in range(m[device + x.D_WORKERS], m[device + x.D_WORKERS_END]):
            resident = m[m[x.O_RESIDENTS] + place]
            worker = worker_row(m, resident)
            if m[worker + x.W_ACTIVE] and m[worker + x.W_WORK] <= 0:
                m[worker + x.W_ACTIVE] = 0
                m[device + x.D_ACTIVE] -= 1
                push(m, m[x.O_DONE], m[x.S_DONE], resident)
                m[x.S_DONE] += 1
    m[x.S_READY] = 0


@compiled
def plan_devices(m: Memory) -> None:
    """Plan the completions that are next on the devices that have changed."""
    for changed in range(m[x.S_CHANGED]):
        number = m[m[x.O_CHANGED] + changed]
        device = device_row(m, number)
        m[device + x.D_CHANGED] = 0
        active = m[device + x.D_ACTIVE]
        if active == 0:
            continue
        least = LARGEST * 2
        for place in range(m[device + x.D_WORKERS], m[device + x.D_WORKERS_END]):
            worker = worker_row(m, m[m[x.O_RESIDENTS] + place])
            if m[worker + x.W_ACTIVE] and m[worker + x.W_WORK] < least:
                least = m[worker + x.W_WORK]
        speed = m[m[x.O_SPEEDS] + m[device + x.D_SPEEDS] + active - 1]
        moment = m[device + x.D_NOW] + (least + speed - 1) // speed
        if moment != m[device + x.D_PLANNED]:
            m[device + x.D_PLANNED] = moment
            plan(m, moment, number << 3 | x.V_WAKE_UP)
    m[x.S_CHANGED] = 0


@compiled
def interrupt_operation(m: Memory, number: int, now: int) -> None:
    """Let a worker's operation, if it is at one, make no progress from now on."""
    worker = worker_row(m, number)
    change_device(m, m[worker + x.W_DEVICE], now)
    if m[worker + x.W_ACTIVE]:
        m[worker + x.W_ACTIVE] = 0
        m[worker + x.W_SUSPENDED] = 1
        m[device_row(m, m[worker + x.W_DEVICE]) + x.D_ACTIVE] -= 1


@compiled
def resume_operation(m: Memory, number: int, now: int) -> bool:
    """Let what was suspended go on; whether there was anything."""
    worker = worker_row(m, number)
    if not m[worker + x.W_SUSPENDED]:
        return False
    change_device(m, m[worker + x.W_DEVICE], now)
    m[worker + x.W_SUSPENDED] = 0
    m[worker + x.W_ACTIVE] = 1
    m[device_row(m, m[worker + x.W_DEVICE]) + x.D_ACTIVE] += 1
    return True
