"""The slim variant of the compiled engine: schedules whose workers only exchange messages.

Where every worker has a device of its own, every channel one sender and one receiver, and every
block of a replica one worker, nothing depends on the order in which workers are looked at: an
operation starts at the larger of two times, when its worker is ready and when its message arrives,
and versions, gaps and batches in flight of a block are those that its own worker sees (Kahn 1974:
such processes always do the same). So there is no calendar of events and no instant to settle. This
is another interpreter of the same instructions than `simcore.compiled`, as that one's order of
events is what it saves: each worker runs on alone until it needs a message that has not been sent
yet, or has sent as many as a ring holds. Tests hold both together.

Items are followed as there, in few bits for each batch that a worker has something of. Whatever
would be an error makes it stop with X_ILLEGAL.
"""

import simcore.compiled_slim_layout as x
from simcore.compiled_memory import LARGEST, Memory, compiled, inlined
from simcore.compiled_slim_cells import pass_through, update
from simcore.compiled_slim_tables import more_entries, wake, widen

__all__ = ["loop"]


@compiled
def _end(
    workers: Memory,
    channels: Memory,
    cells: Memory,
    sends: Memory,
    pool: Memory,
    queue: Memory,
    s: Memory,
    w: int,
) -> bool:
    """A program has ended. Whether nothing is left over."""
    if workers[w + x.W_IDLE] > s[x.S_MOST_IDLE]:
        return False
    ring, stride = workers[w + x.W_RING], workers[w + x.W_STRIDE]
    for place in range(ring, ring + (workers[w + x.W_MASK] + 1) * stride, stride):
        if pool[place] & s[x.S_KEPT]:
            return False
    for b in range(workers[w + x.W_CELLS], workers[w + x.W_CELLS_END], x.B_COLUMNS):
        if cells[b + x.B_COUNT] > 0:
            return False
    for place in range(workers[w + x.W_SENDS], workers[w + x.W_SENDS_END]):
        c = sends[place]
        channels[c + x.C_ENDED] = workers[w + x.W_TIME]
        if channels[c + x.C_RECEIVER_WAITS]:
            channels[c + x.C_RECEIVER_WAITS] = 0
            wake(queue, s, channels[c + x.C_RECEIVER])
    s[x.S_LIVE] -= 1
    return True


@compiled
def _closed(code: Memory, channels: Memory, s: Memory, w: int, at: int, time: int) -> int:
    """When a channel that is empty was closed for its receiver; below 0 why it has to wait."""
    c = code[at + x.I_OF]
    ended = channels[c + x.C_ENDED]
    if ended < 0:
        channels[c + x.C_RECEIVER_WAITS] = 1
        return -1 - x.X_BLOCKED
    if code[at + x.I_TARGET] < 0:
        s[x.S_EXIT_WORKER], s[x.S_EXIT_AT] = w // x.W_COLUMNS, at // x.I_COLUMNS
        return -1 - x.X_EXPLORE
    return max(time, ended)


@compiled
def _source(channels: Memory, c: int) -> int:
    """The next batch of a source."""
    number, run = channels[c + x.C_HEAD], channels[c + x.C_RUN]
    if run == 1:
        return channels[c + x.C_FIRST] + number * channels[c + x.C_STRIDE]
    start = channels[c + x.C_FIRST] + number // run * channels[c + x.C_STRIDE]
    return start * run + number % run


@inlined
def _receive(
    code: Memory,
    workers: Memory,
    channels: Memory,
    registers: Memory,
    pool: Memory,
    queue: Memory,
    s: Memory,
    w: int,
    at: int,
    time: int,
) -> int:
    """Take the next message of a channel that has one; when that is done, or -1 - why not."""
    c = code[at + x.I_OF]
    head = channels[c + x.C_HEAD]
    arrival = 0
    if code[at + x.I_ACTION] == x.A_TAKE:
        batch = _source(channels, c)
    else:
        place = channels[c + x.C_RING] + 2 * (head & channels[c + x.C_MASK])
        batch, arrival = pool[place], pool[place + 1]
    shift = s[x.S_SHIFT]
    while True:
        entry = _entry(workers, w, batch)
        word = pool[entry]
        if word >> shift == batch:
            break
        if not word & s[x.S_KEPT]:
            word = batch << shift
            break
        if not more_entries(workers, pool, s, w):
            return -1 - x.X_POOL
    if word & code[at + x.I_CARE]:
        return -1 - x.X_ILLEGAL
    pool[entry] = (word ^ code[at + x.I_TOGGLE]) | code[at + x.I_COPIED]
    registers[workers[w + x.W_REGISTERS] + code[at + x.I_REGISTER]] = batch
    channels[c + x.C_HEAD] = head + 1
    time = max(time, arrival) + code[at + x.I_TICKS]
    capacity = channels[c + x.C_CAPACITY]
    if capacity > 0:
        pool[channels[c + x.C_FREED] + head % capacity] = time
    if channels[c + x.C_SENDER_WAITS]:
        channels[c + x.C_SENDER_WAITS] = 0
        wake(queue, s, channels[c + x.C_SENDER])
    return time


@inlined
def _send(
    code: Memory,
    channels: Memory,
    pool: Memory,
    queue: Memory,
    s: Memory,
    at: int,
    batch: int,
    time: int,
) -> int:
    """Put a message into a ring; when that is done, or -1 if there is no room."""
    c = code[at + x.I_OF]
    tail = channels[c + x.C_TAIL]
    sent = tail - channels[c + x.C_HEAD]
    capacity = channels[c + x.C_CAPACITY]
    if sent > channels[c + x.C_MASK] or (capacity > 0 and sent >= capacity):
        channels[c + x.C_SENDER_WAITS] = 1
        return -1
    if tail >= capacity > 0:
        time = max(time, pool[channels[c + x.C_FREED] + tail % capacity])
    time += code[at + x.I_TICKS]
    moment = time
    if channels[c + x.C_TRANSMIT] > 0:
        moment = max(moment, channels[c + x.C_WIRE]) + channels[c + x.C_TRANSMIT]
        channels[c + x.C_WIRE] = moment
    place = channels[c + x.C_RING] + 2 * (tail & channels[c + x.C_MASK])
    pool[place], pool[place + 1] = batch, moment + channels[c + x.C_LATENCY]
    channels[c + x.C_TAIL] = tail + 1
    if channels[c + x.C_RECEIVER_WAITS]:
        channels[c + x.C_RECEIVER_WAITS] = 0
        wake(queue, s, channels[c + x.C_RECEIVER])
    return time


@inlined
def _use(
    code: Memory,
    workers: Memory,
    channels: Memory,
    cells: Memory,
    registers: Memory,
    pool: Memory,
    queue: Memory,
    s: Memory,
    w: int,
    at: int,
    time: int,
) -> int:
    """Send or compute with a batch that must be there; when that is done, or -1 - why not."""
    batch = registers[workers[w + x.W_REGISTERS] + code[at + x.I_REGISTER]]
    entry = _entry(workers, w, batch)
    word = pool[entry]
    if (word ^ (batch << s[x.S_SHIFT] | code[at + x.I_WANT])) & code[at + x.I_CARE]:
        return -1 - x.X_ILLEGAL
    action = code[at + x.I_ACTION]
    if action == x.A_SEND:
        time = _send(code, channels, pool, queue, s, at, batch, time)
        if time < 0:
            return -1 - x.X_BLOCKED
    else:
        if action < x.A_PASS:
            why = pass_through(action, cells, pool, s, code[at + x.I_OF], entry)
            if why:
                return -1 - why
        time += code[at + x.I_TICKS]
    pool[entry] = (word ^ code[at + x.I_TOGGLE]) | code[at + x.I_COPIED]
    return time


@inlined
def _entry(workers: Memory, w: int, batch: int) -> int:
    """Where a worker keeps what it has of a batch."""
    return workers[w + x.W_RING] + (batch & workers[w + x.W_MASK]) * workers[w + x.W_STRIDE]


@inlined
def _control(code: Memory, registers: Memory, own: int, at: int) -> int:
    """Where a LOOP, a MOVE or a JUMP leads."""
    action = code[at + x.I_ACTION]
    if action == x.A_JUMP:
        return code[at + x.I_ROW]
    if action == x.A_MOVE:
        registers[own + code[at + x.I_TO]] = registers[own + code[at + x.I_FROM]]
        return at + x.I_COLUMNS
    done = code[at + x.I_DONE] + 1
    if done < code[at + x.I_ROUNDS]:
        code[at + x.I_DONE] = done
        return code[at + x.I_ROW]
    code[at + x.I_DONE] = 0
    return at + x.I_COLUMNS


@inlined
def _why_not_on(s: Memory, time: int, idle: int) -> int:
    """Why a worker may not go round and round; 0 if it may."""
    if idle > s[x.S_MOST_IDLE]:
        return x.X_ILLEGAL
    if time > LARGEST:
        return x.X_LIMIT
    s[x.S_FUEL] -= 1
    return x.X_FUEL if s[x.S_FUEL] < 0 else 0


@compiled
def _visit(
    code: Memory,
    workers: Memory,
    channels: Memory,
    cells: Memory,
    registers: Memory,
    sends: Memory,
    pool: Memory,
    queue: Memory,
    s: Memory,
    w: int,
) -> int:
    """Run a worker until it has to wait (0), has ended, or something is needed."""
    at, time, last = workers[w + x.W_AT], workers[w + x.W_TIME], workers[w + x.W_LAST]
    busy, operations = workers[w + x.W_BUSY], workers[w + x.W_OPERATIONS]
    idle, why = workers[w + x.W_IDLE], 0
    while why == 0:
        action = code[at + x.I_ACTION]
        if action > x.A_UPDATE:
            if action == x.A_END:
                workers[w + x.W_ENDED] = 1
                break
            at = _control(code, registers, workers[w + x.W_REGISTERS], at)
            why = _why_not_on(s, time, idle)
            continue
        if action <= x.A_TAKE:
            if _is_empty(channels, code[at + x.I_OF]):
                moment = _closed(code, channels, s, w, at, time)
                if moment >= 0:
                    time, at = moment, code[at + x.I_TARGET]
                    idle += 1
                    continue
            else:
                moment = _receive(code, workers, channels, registers, pool, queue, s, w, at, time)
        elif action == x.A_UPDATE:
            why = update(cells, pool, s, code[at + x.I_OF])
            moment = time + code[at + x.I_TICKS]
        else:
            if action > x.A_SEND:
                why = x.X_ILLEGAL if idle > s[x.S_MOST_IDLE] else 0
                idle = -1
            moment = _use(code, workers, channels, cells, registers, pool, queue, s, w, at, time)
        if moment < 0:
            why = -1 - moment
            break
        if why == 0:
            time = last = moment
            busy += code[at + x.I_TICKS]
            operations += 1
            idle += 1
            at += x.I_COLUMNS
    workers[w + x.W_AT], workers[w + x.W_TIME], workers[w + x.W_LAST] = at, time, last
    workers[w + x.W_BUSY], workers[w + x.W_OPERATIONS] = busy, operations
    workers[w + x.W_IDLE] = idle
    if workers[w + x.W_ENDED] and not _end(workers, channels, cells, sends, pool, queue, s, w):
        return x.X_ILLEGAL
    return why


@inlined
def _is_empty(channels: Memory, c: int) -> bool:
    return channels[c + x.C_HEAD] == channels[c + x.C_TAIL]


@compiled
def loop(
    code: Memory,
    workers: Memory,
    channels: Memory,
    cells: Memory,
    registers: Memory,
    sends: Memory,
    pool: Memory,
    queue: Memory,
    s: Memory,
) -> int:
    """Run until it is over or something is needed; returns why (`X_`)."""
    while True:
        if s[x.S_CURRENT] < 0:
            if s[x.S_LIVE] == 0:
                return x.X_FINISHED
            if s[x.S_QUEUED] == 0:
                why = widen(channels, pool, queue, s)
                if why:
                    return why
            s[x.S_CURRENT] = queue[s[x.S_FIRST]]
            s[x.S_FIRST] += 1
            if s[x.S_FIRST] == s[x.S_WORKERS]:
                s[x.S_FIRST] = 0
            s[x.S_QUEUED] -= 1
            s[x.S_VISITS] += 1
        w = s[x.S_CURRENT] * x.W_COLUMNS
        why = _visit(code, workers, channels, cells, registers, sends, pool, queue, s, w)
        if why:
            return why
        s[x.S_CURRENT] = -1
