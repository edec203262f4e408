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
from simcore.compiled_memory import LARGEST, Memory, compiled

__all__ = ["loop"]


@compiled
def _room(pool: Memory, s: Memory, size: int) -> int:
    """So many more numbers of the pool, all 0; their place, -1 if there are none."""
    first = s[x.S_USED]
    if size > s[x.S_POOL] - first:
        return -1
    s[x.S_USED] = first + size
    for place in range(first, first + size):
        pool[place] = 0
    return first


@compiled
def _more_entries(workers: Memory, pool: Memory, s: Memory, w: int) -> bool:
    """Give a worker entries for twice as many batches."""
    ring, mask, stride = workers[w + x.W_RING], workers[w + x.W_MASK], workers[w + x.W_STRIDE]
    larger = 2 * mask + 1
    place = _room(pool, s, (larger + 1) * stride)
    if place < 0:
        return False
    items = (1 << s[x.S_SHIFT]) - 1
    for old in range(ring, ring + (mask + 1) * stride, stride):
        if pool[old] & items == 0:
            continue
        new = place + ((pool[old] >> s[x.S_SHIFT]) & larger) * stride
        for column in range(stride):
            pool[new + column] = pool[old + column]
    workers[w + x.W_RING], workers[w + x.W_MASK] = place, larger
    return True


@compiled
def _longer(pool: Memory, s: Memory, cells: Memory, b: int, first: int, size: int) -> bool:
    """Make a list of a cell twice as long; `first` and `size` are its columns."""
    old, count = cells[b + first], cells[b + size]
    place = _room(pool, s, 2 * count)
    if place < 0:
        return False
    for n in range(count):
        pool[place + n] = pool[old + n]
    cells[b + first], cells[b + size] = place, 2 * count
    return True


@compiled
def _wake(queue: Memory, s: Memory, worker: int) -> None:
    place = s[x.S_FIRST] + s[x.S_QUEUED]
    if place >= s[x.S_WORKERS]:
        place -= s[x.S_WORKERS]
    queue[place] = worker
    s[x.S_QUEUED] += 1


@compiled
def _widen(channels: Memory, pool: Memory, queue: Memory, s: Memory) -> int:
    """Nobody can go on: give rings that are full twice the room."""
    found = False
    for c in range(0, s[x.S_CHANNELS] * x.C_COLUMNS, x.C_COLUMNS):
        head, mask, ring = channels[c + x.C_HEAD], channels[c + x.C_MASK], channels[c + x.C_RING]
        if not channels[c + x.C_SENDER_WAITS] or channels[c + x.C_TAIL] - head <= mask:
            continue
        larger = 2 * mask + 1
        place = _room(pool, s, 2 * (larger + 1))
        if place < 0:
            return x.X_POOL
        for n in range(head, channels[c + x.C_TAIL]):
            pool[place + 2 * (n & larger)] = pool[ring + 2 * (n & mask)]
            pool[place + 2 * (n & larger) + 1] = pool[ring + 2 * (n & mask) + 1]
        channels[c + x.C_RING], channels[c + x.C_MASK] = place, larger
        channels[c + x.C_SENDER_WAITS] = 0
        _wake(queue, s, channels[c + x.C_SENDER])
        found = True
    return x.X_BLOCKED if found else x.X_DEADLOCK


@compiled
def _update(cells: Memory, pool: Memory, s: Memory, b: int) -> int:
    """Apply pending gradients and raise the version; not 0 if it must not, or has no room."""
    version = cells[b + x.B_VERSION]
    count = cells[b + x.B_COUNT]
    if count == 0:
        return x.X_ILLEGAL
    while count > 0:
        pending = cells[b + x.B_PENDING] + count
        gap = version - pool[pending - 2]
        if gap >= cells[b + x.B_LONGEST]:
            cells[b + x.B_COUNT] = count
            if not _longer(pool, s, cells, b, x.B_GAPS, x.B_LONGEST):
                return x.X_POOL
        else:
            pool[cells[b + x.B_GAPS] + gap] += pool[pending - 1]
            count -= 2
    cells[b + x.B_COUNT] = 0
    cells[b + x.B_VERSION] = version + 1
    return 0


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
            _wake(queue, s, channels[c + x.C_RECEIVER])
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


@compiled
def _pend(cells: Memory, pool: Memory, s: Memory, b: int, version: int) -> bool:
    """A gradient is pending. Those in a row that have read the same version are counted."""
    count = cells[b + x.B_COUNT]
    last = cells[b + x.B_PENDING] + count - 2
    if count > 0 and pool[last] == version:
        pool[last + 1] += 1
        return True
    if count == cells[b + x.B_ROOM] and not _longer(pool, s, cells, b, x.B_PENDING, x.B_ROOM):
        return False
    last = cells[b + x.B_PENDING] + count
    pool[last], pool[last + 1] = version, 1
    cells[b + x.B_COUNT] = count + 2
    return True


@compiled
def _cell(action: int, cells: Memory, pool: Memory, s: Memory, b: int, entry: int) -> int:
    """What a pass reads and leaves in its cell."""
    read = entry + cells[b + x.B_PLACE]
    if action == x.A_PENDING:
        cells[b + x.B_HELD] -= 1
        return 0 if _pend(cells, pool, s, b, pool[read]) else x.X_POOL
    if action == x.A_FORGET:
        cells[b + x.B_HELD] -= 1
        return 0
    version = cells[b + x.B_VERSION]
    if action == x.A_REPLAY:
        if not s[x.S_STASH]:
            pool[read] = version
        return 0
    held = cells[b + x.B_HELD] + 1
    if held > cells[b + x.B_PEAK]:
        cells[b + x.B_PEAK] = held
    if action == x.A_EVALUATE:
        return 0
    if action == x.A_BUFFERED:
        done = cells[b + x.B_PASSES]
        wanted = max(0, done // s[x.S_BUFFER] - 1)
        if not version - 1 <= wanted <= version:
            return x.X_ILLEGAL
        cells[b + x.B_PASSES] = done + 1
        version = wanted
    pool[read] = version
    cells[b + x.B_HELD] = held
    return 0


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
    ring, mask, stride = workers[w + x.W_RING], workers[w + x.W_MASK], workers[w + x.W_STRIDE]
    own = workers[w + x.W_REGISTERS]
    shift, kept, idle = s[x.S_SHIFT], s[x.S_KEPT], workers[w + x.W_IDLE]
    why = 0
    while True:
        action = code[at + x.I_ACTION]
        if action <= x.A_TAKE:
            c = code[at + x.I_OF]
            head = channels[c + x.C_HEAD]
            if head == channels[c + x.C_TAIL]:
                moment = _closed(code, channels, s, w, at, time)
                if moment < 0:
                    why = -1 - moment
                    break
                time, at = moment, code[at + x.I_TARGET]
                idle += 1
                continue
            if action == x.A_TAKE:
                batch, arrival = _source(channels, c), 0
            else:
                place = channels[c + x.C_RING] + 2 * (head & channels[c + x.C_MASK])
                batch, arrival = pool[place], pool[place + 1]
            entry = ring + (batch & mask) * stride
            word = pool[entry]
            if word >> shift != batch:
                if word & kept:
                    if not _more_entries(workers, pool, s, w):
                        why = x.X_POOL
                        break
                    ring, mask = workers[w + x.W_RING], workers[w + x.W_MASK]
                    continue
                word = batch << shift
            if word & code[at + x.I_CARE]:
                why = x.X_ILLEGAL
                break
            pool[entry] = (word ^ code[at + x.I_TOGGLE]) | code[at + x.I_COPIED]
            registers[own + code[at + x.I_REGISTER]] = batch
            channels[c + x.C_HEAD] = head + 1
            if arrival > time:
                time = arrival
            time += code[at + x.I_TICKS]
            capacity = channels[c + x.C_CAPACITY]
            if capacity > 0:
                pool[channels[c + x.C_FREED] + head % capacity] = time
            if channels[c + x.C_SENDER_WAITS]:
                channels[c + x.C_SENDER_WAITS] = 0
                _wake(queue, s, channels[c + x.C_SENDER])
        elif action <= x.A_PASS:
            b = code[at + x.I_OF]  # or a channel
            batch = registers[own + code[at + x.I_REGISTER]]
            entry = ring + (batch & mask) * stride
            word = pool[entry]
            if action == x.A_SEND:
                tail = channels[b + x.C_TAIL]
                sent = tail - channels[b + x.C_HEAD]
                capacity = channels[b + x.C_CAPACITY]
                if sent > channels[b + x.C_MASK] or (capacity > 0 and sent >= capacity):
                    channels[b + x.C_SENDER_WAITS] = 1
                    break
                if (word ^ (batch << shift | code[at + x.I_WANT])) & code[at + x.I_CARE]:
                    why = x.X_ILLEGAL
                    break
                if tail >= capacity > 0:
                    time = max(time, pool[channels[b + x.C_FREED] + tail % capacity])
                time += code[at + x.I_TICKS]
                moment = time
                if channels[b + x.C_TRANSMIT] > 0:
                    moment = max(moment, channels[b + x.C_WIRE]) + channels[b + x.C_TRANSMIT]
                    channels[b + x.C_WIRE] = moment
                place = channels[b + x.C_RING] + 2 * (tail & channels[b + x.C_MASK])
                pool[place], pool[place + 1] = batch, moment + channels[b + x.C_LATENCY]
                channels[b + x.C_TAIL] = tail + 1
                if channels[b + x.C_RECEIVER_WAITS]:
                    channels[b + x.C_RECEIVER_WAITS] = 0
                    _wake(queue, s, channels[b + x.C_RECEIVER])
            else:
                if (word ^ (batch << shift | code[at + x.I_WANT])) & code[at + x.I_CARE]:
                    why = x.X_ILLEGAL
                    break
                if idle > s[x.S_MOST_IDLE]:
                    why = x.X_ILLEGAL
                    break
                idle = -1
                if action < x.A_PASS:
                    why = _cell(action, cells, pool, s, b, entry)
                    if why:
                        break
                time += code[at + x.I_TICKS]
            pool[entry] = (word ^ code[at + x.I_TOGGLE]) | code[at + x.I_COPIED]
        elif action == x.A_UPDATE:
            why = _update(cells, pool, s, code[at + x.I_OF])
            if why:
                break
            time += code[at + x.I_TICKS]
        else:
            if action == x.A_LOOP:
                done = code[at + x.I_DONE] + 1
                if done < code[at + x.I_ROUNDS]:
                    code[at + x.I_DONE] = done
                    at = code[at + x.I_ROW]
                else:
                    code[at + x.I_DONE] = 0
                    at += x.I_COLUMNS
            elif action == x.A_MOVE:
                registers[own + code[at + x.I_TO]] = registers[own + code[at + x.I_FROM]]
                at += x.I_COLUMNS
            elif action == x.A_JUMP:
                at = code[at + x.I_ROW]
            else:
                workers[w + x.W_ENDED] = 1
                break
            s[x.S_FUEL] -= 1
            if time > LARGEST or idle > s[x.S_MOST_IDLE] or s[x.S_FUEL] < 0:
                limit = x.X_LIMIT if time > LARGEST else x.X_FUEL
                why = x.X_ILLEGAL if idle > s[x.S_MOST_IDLE] else limit
                break
            continue
        busy += code[at + x.I_TICKS]
        last = time
        operations += 1
        idle += 1
        at += x.I_COLUMNS
    workers[w + x.W_AT], workers[w + x.W_TIME], workers[w + x.W_LAST] = at, time, last
    workers[w + x.W_BUSY], workers[w + x.W_OPERATIONS] = busy, operations
    workers[w + x.W_IDLE] = idle
    if workers[w + x.W_ENDED] and not _end(workers, channels, cells, sends, pool, queue, s, w):
        return x.X_ILLEGAL
    return why


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
                why = _widen(channels, pool, queue, s)
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
