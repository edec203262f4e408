"""Places in the tables that the compiled engine works on; every table is of 64-bit integers.

A name is the column of a table, whose rows are instructions (`I_`), workers (`W_`), blocks of
workers (`B_`), channels (`C_`), rounds of a group over a block (`R_`), members of these (`M_`),
devices (`D_`), gradients of a batch (`L_`); a place in the one row of all else (`S_`); or a code:
of what is done at an instruction (`A_`), of what a computation reads when it starts (`BEGIN_`) and
leaves when it ends (`END_`), of why the engine comes back (`X_`).
"""

__all__ = [
    "A_ARRIVE",
    "A_END",
    "A_JOIN",
    "A_JUMP",
    "A_LOAD",
    "A_LOOP",
    "A_MERGE",
    "A_MOVE",
    "A_PASS",
    "A_RECEIVE",
    "A_SEND",
    "A_SNAPSHOT",
    "A_UPDATE",
    "BEGIN_BACKWARD",
    "BEGIN_FORWARD",
    "BEGIN_NOTHING",
    "BEGIN_PROJECT",
    "BEGIN_REPLAY",
    "BEGIN_VERSION",
    "BEGIN_WEIGHT",
    "B_BASE",
    "B_COLUMNS",
    "B_CONTRIBUTED",
    "B_COUNT",
    "B_HEAD",
    "B_JOINED",
    "B_SNAPSHOT",
    "B_TAIL",
    "B_VERSION",
    "C_BLOCKED",
    "C_CAPACITY",
    "C_COLUMNS",
    "C_EFFECTS",
    "C_EFFECTS_END",
    "C_FIRST",
    "C_HEAD",
    "C_HELD",
    "C_LATENCY",
    "C_LEFT",
    "C_LINE",
    "C_NEXT",
    "C_QUEUE",
    "C_QUEUE_HEAD",
    "C_QUEUE_SIZE",
    "C_RECEIVE",
    "C_RUN",
    "C_SEND",
    "C_SENDERS",
    "C_SOURCE",
    "C_STRIDE",
    "C_TAIL",
    "C_TAKEN",
    "C_TOUCHED",
    "C_TRANSMIT",
    "C_UNDERWAY",
    "C_WAITING",
    "C_WIRE",
    "D_ACTIVE",
    "D_CHANGED",
    "D_COLUMNS",
    "D_DENOMINATOR",
    "D_DUE",
    "D_NOW",
    "D_PLANNED",
    "D_SPEEDS",
    "D_WORKERS",
    "D_WORKERS_END",
    "END_FORGET",
    "END_NOTHING",
    "END_PENDING",
    "I_A",
    "I_ACTION",
    "I_B",
    "I_BEGIN",
    "I_CODE",
    "I_COLUMNS",
    "I_EFFECTS",
    "I_EFFECTS_END",
    "I_END",
    "I_HELD",
    "I_KIND",
    "I_REGISTER",
    "I_SLOT",
    "I_TARGET",
    "I_TICKS",
    "I_VARIATION",
    "I_VERSION",
    "L_BACKWARD",
    "L_COLUMNS",
    "L_FIRST",
    "L_FORWARD",
    "L_NEXT",
    "M_ARRIVED",
    "M_COLUMNS",
    "M_CONTRIBUTED",
    "M_JOINED",
    "M_LEFT",
    "M_ROUND",
    "M_WORKER",
    "R_ARRIVED",
    "R_BEGAN",
    "R_COLUMNS",
    "R_CONTRIBUTED",
    "R_CREATED",
    "R_FINISHED",
    "R_GROUP",
    "R_LAST_CONTRIBUTED",
    "R_MEMBERS",
    "R_MEMBERS_END",
    "R_NEXT_BEGAN",
    "R_NEXT_CONTRIBUTED",
    "R_STARTED",
    "R_TICKS",
    "S_ASSIGN",
    "S_BATCHES",
    "S_BLOCKS",
    "S_BUDGET",
    "S_BUFFER",
    "S_CALENDAR",
    "S_COLUMNS",
    "S_CREATED",
    "S_CURRENT",
    "S_DEPARTURES",
    "S_DONE",
    "S_DUE",
    "S_EXIT_ANSWER",
    "S_EXIT_AT",
    "S_EXIT_WORKER",
    "S_FAULTS",
    "S_FREE",
    "S_GRADIENTS",
    "S_MOST_IDLE",
    "S_NOW",
    "S_OPERATIONS",
    "S_REFRESH_ALL",
    "S_RUNNABLE",
    "S_SETTLED",
    "S_SHARED",
    "S_SPANS",
    "S_STARTED_AT",
    "S_STARTING",
    "S_STASH",
    "S_TOUCHED",
    "S_WAITS",
    "W_ACTIVE",
    "W_AT",
    "W_BASE",
    "W_BATCH",
    "W_BLOCKED",
    "W_COLUMNS",
    "W_COUNT",
    "W_DEVICE",
    "W_ENDED",
    "W_GROUPS",
    "W_GROUPS_END",
    "W_HAS_SLOT",
    "W_HELD",
    "W_HELD_AT",
    "W_IDLE",
    "W_INDEX",
    "W_JOINS",
    "W_PENDING",
    "W_REACHED",
    "W_SENDS",
    "W_SENDS_END",
    "W_SERVED",
    "W_SINCE",
    "W_SLOTS",
    "W_SLOTS_END",
    "W_SNAPSHOTS",
    "W_STAGE",
    "W_STANDING",
    "W_STARTED",
    "W_STOOD",
    "W_SUSPENDED",
    "W_TICKS",
    "W_VERSION",
    "W_WORK",
    "X_BUDGET",
    "X_EXPLORE",
    "X_FACTORS",
    "X_FINISHED",
    "X_GRADIENTS",
    "X_ILLEGAL",
    "X_LIMIT",
    "X_MESSAGES",
    "X_SPANS",
]

# What the engine does at an instruction.
(
    A_PASS,
    A_UPDATE,
    A_SNAPSHOT,
    A_MERGE,
    A_LOAD,
    A_SEND,
    A_RECEIVE,
    A_ARRIVE,
    A_JOIN,
    A_MOVE,
    A_LOOP,
    A_JUMP,
    A_END,
) = range(13)

# What a computation reads when it starts.
(
    BEGIN_NOTHING,
    BEGIN_VERSION,
    BEGIN_FORWARD,
    BEGIN_REPLAY,
    BEGIN_BACKWARD,
    BEGIN_WEIGHT,
    BEGIN_PROJECT,
) = range(7)

# What a computation leaves when it ends.
(
    END_NOTHING,
    END_PENDING,
    END_FORGET,
) = range(3)

# An instruction; see `simcore.lowering.Lowering` for the first five.
(
    I_CODE,
    I_A,
    I_B,
    I_REGISTER,
    I_TARGET,
    I_ACTION,
    I_TICKS,
    I_KIND,
    I_BEGIN,
    I_END,
    I_EFFECTS,  # the first row of the items that it takes and makes
    I_EFFECTS_END,
    I_SLOT,  # of the worker's blocks
    I_VERSION,  # place of the version of the block
    I_HELD,  # how many more items the worker holds afterwards
    I_VARIATION,  # of its duration, -1 for none
) = range(16)
I_COLUMNS = 16

# A worker.
(
    W_AT,
    W_INDEX,
    W_STAGE,  # 1: at an operation, 0: at the next instruction
    W_STARTED,
    W_VERSION,
    W_HAS_SLOT,
    W_REACHED,
    W_SERVED,  # the place of the channel in the list, -1 for none
    W_BATCH,
    W_ENDED,
    W_HELD,
    W_COUNT,
    W_IDLE,
    W_PENDING,
    W_SNAPSHOTS,
    W_SINCE,
    W_JOINS,  # the round that it waits for, + 1
    W_STANDING,
    W_STOOD,
    W_DEVICE,
    W_WORK,
    W_ACTIVE,
    W_SUSPENDED,
    W_BLOCKED,  # the channel whose slot it waits for, + 1
    W_HELD_AT,  # first row of its items
    W_SLOTS,  # first and last row of its blocks
    W_SLOTS_END,
    W_SENDS,
    W_SENDS_END,
    W_TICKS,
    W_BASE,  # how many of its random factors are behind
    W_GROUPS,
    W_GROUPS_END,
) = range(33)
W_COLUMNS = 33

# A block of a worker: gradients that are pending, and what rounds do with it.
(
    B_HEAD,
    B_TAIL,
    B_COUNT,
    B_SNAPSHOT,  # 1: made, 2: averaged
    B_JOINED,
    B_CONTRIBUTED,
    B_BASE,
    B_VERSION,
) = range(8)
B_COLUMNS = 8

# A channel.
(
    C_CAPACITY,
    C_TAKEN,
    C_SENDERS,
    C_UNDERWAY,
    C_HEAD,
    C_TAIL,
    C_SEND,
    C_TRANSMIT,
    C_LATENCY,
    C_RECEIVE,
    C_WIRE,
    C_SOURCE,
    C_LEFT,
    C_NEXT,
    C_FIRST,
    C_STRIDE,
    C_RUN,
    C_LINE,  # where the line of waiting receivers begins, and how long it is
    C_WAITING,
    C_QUEUE,  # the same for waiting senders: place, size, first, number
    C_QUEUE_SIZE,
    C_QUEUE_HEAD,
    C_BLOCKED,
    C_TOUCHED,
    C_EFFECTS,
    C_EFFECTS_END,
    C_HELD,
) = range(27)
C_COLUMNS = 27

# The rounds of a group over a block.
(
    R_STARTED,
    R_FINISHED,
    R_ARRIVED,
    R_CONTRIBUTED,
    R_TICKS,
    R_BEGAN,
    R_NEXT_BEGAN,
    R_NEXT_CONTRIBUTED,
    R_LAST_CONTRIBUTED,
    R_CREATED,
    R_GROUP,
    R_MEMBERS,  # of M_ rows, one per member
    R_MEMBERS_END,
) = range(13)
R_COLUMNS = 13

# A member of a group, for one block.
(
    M_WORKER,
    M_ARRIVED,
    M_JOINED,
    M_CONTRIBUTED,
    M_LEFT,
    M_ROUND,
) = range(6)
M_COLUMNS = 6

# A device.
(
    D_NOW,
    D_ACTIVE,
    D_DENOMINATOR,
    D_PLANNED,
    D_CHANGED,
    D_DUE,
    D_SPEEDS,
    D_WORKERS,
    D_WORKERS_END,
) = range(9)
D_COLUMNS = 9

# The gradient of a batch in a block: versions that were read, and the next pending batch.
(
    L_FIRST,
    L_FORWARD,
    L_BACKWARD,
    L_NEXT,
) = range(4)
L_COLUMNS = 4

# Numbers of which there is one.
(
    S_NOW,
    S_CURRENT,
    S_SPANS,
    S_GRADIENTS,
    S_RUNNABLE,
    S_DONE,
    S_DUE,
    S_STARTING,
    S_CALENDAR,
    S_DEPARTURES,
    S_WAITS,
    S_FREE,  # the first free message
    S_SETTLED,
    S_CREATED,
    S_FAULTS,
    S_TOUCHED,
    S_OPERATIONS,
    S_MOST_IDLE,
    S_SHARED,
    S_STASH,
    S_ASSIGN,
    S_REFRESH_ALL,
    S_BUFFER,
    S_BLOCKS,
    S_BATCHES,
    S_EXIT_WORKER,
    S_EXIT_AT,
    S_EXIT_ANSWER,
    S_BUDGET,
    S_STARTED_AT,
) = range(30)
S_COLUMNS = 30

# Why the engine comes back.
(
    X_FINISHED,
    X_EXPLORE,
    X_SPANS,
    X_GRADIENTS,
    X_MESSAGES,
    X_FACTORS,
    X_ILLEGAL,
    X_LIMIT,
    X_BUDGET,
) = range(9)
