"""Collectives of the compiled engine: rounds of groups, as `simcore.rounds` has them."""

import simcore.compiled_layout as x
from simcore.compiled_memory import (
    LARGEST,
    Memory,
    block_row,
    compiled,
    inlined,
    instruction_row,
    member_row,
    plan,
    round_row,
    wake,
    worker_row,
)

__all__ = ["finish_round", "leave_groups", "meet"]


@compiled
def _start_round(m: Memory, number: int, now: int) -> None:
    """Start the next round if all members that there still are have arrived for it."""
    row = round_row(m, number)
    there = 0
    for place in range(m[row + x.R_MEMBERS], m[row + x.R_MEMBERS_END]):
        member = member_row(m, place)
        if not m[member + x.M_LEFT]:
            there += 1
            if m[member + x.M_ARRIVED] <= m[row + x.R_STARTED]:
                return
    if there == 0:
        return
    free = m[x.O_GROUPS] + m[row + x.R_GROUP]
    began = max(now, m[free])
    ends = began + (m[row + x.R_TICKS] if m[row + x.R_CONTRIBUTED] else 0)
    m[free] = ends
    m[row + x.R_NEXT_BEGAN] = began
    m[row + x.R_NEXT_CONTRIBUTED] = m[row + x.R_CONTRIBUTED]
    m[row + x.R_CONTRIBUTED] = 0
    m[row + x.R_STARTED] += 1
    if ends == now:
        finish_round(m, number)
    else:
        plan(m, ends, number << 3 | x.V_ROUND)


@compiled
def finish_round(m: Memory, number: int) -> None:
    """A round is over; members that wait for it go on."""
    row = round_row(m, number)
    m[row + x.R_BEGAN] = m[row + x.R_NEXT_BEGAN]
    m[row + x.R_LAST_CONTRIBUTED] = m[row + x.R_NEXT_CONTRIBUTED]
    m[row + x.R_FINISHED] += 1
    for place in range(m[row + x.R_MEMBERS], m[row + x.R_MEMBERS_END]):
        waits = m[member_row(m, place) + x.M_WORKER]
        if m[worker_row(m, waits) + x.W_JOINS] == number + 1:
            m[worker_row(m, waits) + x.W_JOINS] = 0
            wake(m, waits)


@inlined
def _member(m: Memory, place: int) -> int:
    """The row of a membership of a worker."""
    return member_row(m, m[m[x.O_MEMBERSHIPS] + place])


@inlined
def _group(m: Memory, place: int) -> int:
    return m[round_row(m, m[_member(m, place) + x.M_ROUND]) + x.R_GROUP]


@compiled
def leave_groups(m: Memory, number: int, now: int) -> None:
    """A worker has ended: the rounds of each of its groups go on without it, oldest block first."""
    worker = worker_row(m, number)
    left, end = m[worker + x.W_GROUPS], m[worker + x.W_GROUPS_END]
    while left < end:
        behind = left
        while behind < end and _group(m, behind) == _group(m, left):
            m[_member(m, behind) + x.M_LEFT] = 1
            behind += 1
        done = 0
        while True:
            best, created = -1, LARGEST
            for place in range(left, behind):
                candidate = m[_member(m, place) + x.M_ROUND]
                at = m[round_row(m, candidate) + x.R_CREATED]
                if done < at < created:
                    best, created = candidate, at
            if best < 0:
                break
            done = created
            _start_round(m, best, now)
        left = behind


@compiled
def _arrive(m: Memory, member: int, slot: int, now: int) -> int:
    """Contribute what there is of a block; 0, or why not (`X_`)."""
    number = m[member + x.M_ROUND]
    row = round_row(m, number)
    if m[row + x.R_CREATED] == 0:
        m[x.S_CREATED] += 1
        m[row + x.R_CREATED] = m[x.S_CREATED]
    if m[member + x.M_ARRIVED] != m[member + x.M_JOINED]:
        return x.X_EARLY
    m[member + x.M_CONTRIBUTED] = 0
    if slot >= 0:
        block = block_row(m, slot)
        if m[block + x.B_CONTRIBUTED]:
            return x.X_ILLEGAL
        if m[block + x.B_COUNT] > 0 or m[block + x.B_SNAPSHOT] > 0:
            m[block + x.B_CONTRIBUTED] = 1
            m[member + x.M_CONTRIBUTED] = 1
            m[row + x.R_CONTRIBUTED] += 1
    m[member + x.M_ARRIVED] += 1
    _start_round(m, number, now)
    return 0


@compiled
def meet(m: Memory, number: int, now: int) -> int:
    """Arrive for a round; -1 if its result has to be waited for, -2 - X_ if it must not."""
    worker = worker_row(m, number)
    row = instruction_row(m, worker)
    member, slot = member_row(m, m[row + x.I_EFFECTS]), m[row + x.I_SLOT]
    joins = m[row + x.I_ACTION] == x.A_JOIN
    if m[worker + x.W_REACHED] < 0:
        m[worker + x.W_REACHED] = now
        if not joins or m[member + x.M_ARRIVED] == m[member + x.M_JOINED]:
            wrong = _arrive(m, member, slot, now)
            if wrong:
                return -2 - wrong
    if not joins:
        return 0
    which = m[member + x.M_ROUND]
    over = round_row(m, which)
    if m[over + x.R_FINISHED] <= m[member + x.M_JOINED]:
        m[worker + x.W_JOINS] = which + 1
        return -1
    m[member + x.M_JOINED] += 1
    m[worker + x.W_REACHED] = max(m[worker + x.W_REACHED], m[over + x.R_BEGAN])
    if slot >= 0:
        block = block_row(m, slot)
        m[block + x.B_CONTRIBUTED] = 0
        if m[block + x.B_SNAPSHOT] > 0:
            m[block + x.B_SNAPSHOT] = 2
        elif m[over + x.R_LAST_CONTRIBUTED] > m[member + x.M_CONTRIBUTED]:
            m[block + x.B_JOINED] = 1
    m[worker + x.W_BATCH] = m[over + x.R_LAST_CONTRIBUTED]
    return 0
