"""Places in the tables of the slim variant of the compiled engine, all of 64-bit integers.

A name is the column of a table, whose rows are instructions (`I_`), workers (`W_`), cells, which
are blocks of a replica (`B_`), channels (`C_`), or of the one row of all else (`S_`); or a code: of
what is done at an instruction (`A_`), of why the engine comes back (`X_`).
"""

__all__ = [
    "A_BUFFERED",
    "A_END",
    "A_EVALUATE",
    "A_FORGET",
    "A_JUMP",
    "A_LOOP",
    "A_MOVE",
    "A_PASS",
    "A_PENDING",
    "A_READ",
    "A_RECEIVE",
    "A_REPLAY",
    "A_SEND",
    "A_TAKE",
    "A_UPDATE",
    "B_COLUMNS",
    "B_COUNT",
    "B_GAPS",
    "B_HELD",
    "B_LONGEST",
    "B_PASSES",
    "B_PEAK",
    "B_PENDING",
    "B_PLACE",
    "B_ROOM",
    "B_VERSION",
    "C_CAPACITY",
    "C_COLUMNS",
    "C_ENDED",
    "C_FIRST",
    "C_FREED",
    "C_HEAD",
    "C_LATENCY",
    "C_LEFT",
    "C_MASK",
    "C_RECEIVER",
    "C_RECEIVER_WAITS",
    "C_RING",
    "C_RUN",
    "C_SENDER",
    "C_SENDER_WAITS",
    "C_STRIDE",
    "C_TAIL",
    "C_TRANSMIT",
    "C_WIRE",
    "I_ACTION",
    "I_CARE",
    "I_COLUMNS",
    "I_COPIED",
    "I_DONE",
    "I_FROM",
    "I_OF",
    "I_REGISTER",
    "I_ROUNDS",
    "I_ROW",
    "I_TARGET",
    "I_TICKS",
    "I_TO",
    "I_TOGGLE",
    "I_WANT",
    "S_BUFFER",
    "S_CHANNELS",
    "S_COLUMNS",
    "S_CURRENT",
    "S_EXIT_AT",
    "S_EXIT_WORKER",
    "S_FIRST",
    "S_FUEL",
    "S_KEPT",
    "S_LIVE",
    "S_MOST_IDLE",
    "S_POOL",
    "S_QUEUED",
    "S_SHIFT",
    "S_STASH",
    "S_USED",
    "S_VISITS",
    "S_WORKERS",
    "W_AT",
    "W_BUSY",
    "W_CELLS",
    "W_CELLS_END",
    "W_COLUMNS",
    "W_ENDED",
    "W_IDLE",
    "W_LAST",
    "W_MASK",
    "W_OPERATIONS",
    "W_REGISTERS",
    "W_RING",
    "W_SENDS",
    "W_SENDS_END",
    "W_STRIDE",
    "W_TIME",
    "X_BLOCKED",
    "X_DEADLOCK",
    "X_EXPLORE",
    "X_FINISHED",
    "X_FUEL",
    "X_ILLEGAL",
    "X_LIMIT",
    "X_POOL",
]

# What the engine does at an instruction.
(
    A_RECEIVE,
    A_TAKE,  # a receive from a source
    A_SEND,
    A_READ,  # a pass that reads the weights for a gradient
    A_BUFFERED,  # the same, where weights are kept for some passes
    A_REPLAY,
    A_PENDING,  # a pass that completes a gradient
    A_FORGET,  # a pass after which the batch is done with, without a gradient
    A_EVALUATE,
    A_PASS,  # any other computation with a batch
    A_UPDATE,
    A_LOOP,
    A_MOVE,
    A_JUMP,
    A_END,
) = range(15)

# An instruction. A LOOP has a place to go on at, how often, how often yet; a MOVE two registers.
(
    I_ACTION,
    I_TICKS,
    I_REGISTER,  # of the batch
    I_CARE,  # the bits of the batch's entry that must be those of I_WANT
    I_WANT,
    I_TOGGLE,  # the bits that change
    I_COPIED,  # the bits that are set
    I_OF,  # place of the channel or cell
) = range(8)
I_COLUMNS = 8
I_TARGET = I_WANT  # of a receive: where it goes on once the channel is closed, -1 if unknown
I_ROW, I_ROUNDS, I_DONE = 1, 2, 3
I_TO, I_FROM = 1, 2

# A worker.
(
    W_AT,  # the instruction, as a place in memory
    W_TIME,
    W_LAST,  # the end of its last operation
    W_BUSY,
    W_OPERATIONS,
    W_REGISTERS,
    W_RING,  # entries of batches: number and items in one, then the version read in each cell
    W_MASK,
    W_STRIDE,
    W_CELLS,
    W_CELLS_END,
    W_SENDS,
    W_SENDS_END,
    W_IDLE,  # operations since the last computation
    W_ENDED,
) = range(15)
W_COLUMNS = 16

# A cell.
(
    B_VERSION,
    B_PLACE,  # of the version read, in an entry
    B_PENDING,  # versions read by pending gradients, and by how many in a row
    B_ROOM,
    B_COUNT,
    B_GAPS,  # how many gradients had each gap
    B_LONGEST,
    B_HELD,  # batches in flight
    B_PEAK,
    B_PASSES,
) = range(10)
B_COLUMNS = 10

# A channel: a ring of (batch, tick of arrival).
(
    C_HEAD,  # messages received
    C_TAIL,  # messages sent
    C_RING,
    C_MASK,
    C_RECEIVER_WAITS,
    C_SENDER_WAITS,
    C_RECEIVER,
    C_SENDER,
    C_TRANSMIT,
    C_LATENCY,
    C_WIRE,  # the tick from which on it is free
    C_ENDED,  # the tick at which it was closed, -1 before
    C_CAPACITY,  # 0 for none
    C_FREED,  # a ring of ticks at which messages were received
    C_LEFT,  # what a source holds
    C_FIRST,
    C_STRIDE,
    C_RUN,
) = range(18)
C_COLUMNS = 18

# All else.
(
    S_WORKERS,
    S_CHANNELS,
    S_CURRENT,  # the worker that runs, -1 for none
    S_FIRST,  # the queue of workers that can go on
    S_QUEUED,
    S_LIVE,  # workers that have not ended
    S_SHIFT,  # an entry is the batch, shifted by so many bits, and the items' bits
    S_KEPT,  # the bits that must be gone at the end
    S_USED,  # of the pool
    S_POOL,
    S_BUFFER,
    S_STASH,
    S_MOST_IDLE,
    S_FUEL,  # loops and jumps until it comes back
    S_EXIT_WORKER,
    S_EXIT_AT,
    S_VISITS,
) = range(17)
S_COLUMNS = 17

# Why the engine comes back; 0 for no reason.
(
    X_BLOCKED,
    X_FINISHED,
    X_EXPLORE,
    X_ILLEGAL,
    X_LIMIT,
    X_POOL,
    X_FUEL,
    X_DEADLOCK,
) = range(8)
