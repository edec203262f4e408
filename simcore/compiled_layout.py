"""Places in the tables that the compiled engine works on; every table is of 64-bit integers.

A name is the column of a table, whose rows are instructions (`I_`), workers (`W_`), blocks of
workers (`B_`), channels (`C_`), messages (`Q_`), rounds of a group over a block (`R_`), members of
these (`M_`), devices (`D_`), gradients of a batch (`L_`), what an operation does to items (`E_`);
a place in the one row of all else (`S_`), which also says where each table begins (`O_`); or a
code: of what is done at an instruction (`A_`), of what a computation reads when it starts
(`BEGIN_`) and leaves when it ends (`END_`), of events (`V_`), of why the engine comes back (`X_`).
"""

# What the engine does at an instruction: computations, messages, rounds, control.
A_PASS, A_UPDATE, A_SNAPSHOT, A_MERGE, A_LOAD = range(5)
A_SEND, A_RECEIVE, A_ARRIVE, A_JOIN = range(5, 9)
A_MOVE, A_LOOP, A_JUMP, A_END = range(9, 13)

# What a computation reads when it starts, and what it leaves when it ends.
BEGIN_NOTHING, BEGIN_VERSION, BEGIN_FORWARD, BEGIN_REPLAY, BEGIN_BACKWARD = range(5)
BEGIN_WEIGHT, BEGIN_PROJECT = range(5, 7)
END_NOTHING, END_PENDING, END_FORGET = range(3)

# Events: the kind, in the lowest three bits, and of what.
V_COMPLETION, V_WAKE_UP, V_MESSAGE, V_ROUND, V_FAULT_BEGINS, V_FAULT_ENDS = range(6)

# Why the engine comes back. From X_ILLEGAL on there is no going on.
X_FINISHED, X_BUDGET, X_EXPLORE, X_SPANS, X_GRADIENTS, X_MESSAGES, X_FACTORS = range(7)
X_ILLEGAL, X_LIMIT, X_TWICE, X_EARLY = range(7, 11)

# An instruction; see `simcore.lowering.Lowering` for the first five.
I_CODE, I_A, I_B, I_REGISTER, I_TARGET, I_ACTION = range(6)
I_TICKS, I_VARIATION = range(6, 8)  # of its duration; -1 if that does not vary
I_KIND, I_BEGIN, I_END = range(8, 11)
I_EFFECTS, I_EFFECTS_END = range(11, 13)  # rows of what it does to items
I_HELD = 13  # how many more items the worker holds afterwards
I_SLOT, I_VERSION = range(14, 16)  # of the worker's blocks; place of the version of the block
I_COLUMNS = 16

# What an operation does to items: of row E_ROW of the masks, those in E_NEEDED must be there, those
# in E_TAKEN go, those in E_ABSENT must not be there then, those in E_GIVEN come. For a receive, of
# each channel that it listens to: between which rows of this table its own are.
E_ROW, E_NEEDED, E_TAKEN, E_ABSENT, E_GIVEN = range(5)
E_FIRST, E_END = range(1, 3)
E_COLUMNS = 5

# A worker; eight columns are a line of a processor's cache, and those used most come first. Where
# it is (W_STAGE is 1 at an operation, 0 before it), and the operation that it is at;
W_AT, W_STAGE, W_ENDED, W_INDEX, W_IDLE, W_STARTED, W_TICKS, W_VERSION = range(8)
# what was served (W_SERVED is the place of the channel in the list, -1 for none), since when it
# waits for it; how many items and gradients it has, and computations it has begun;
W_SERVED, W_BATCH, W_SINCE, W_HAS_SLOT, W_STANDING, W_HELD, W_PENDING, W_COUNT = range(8, 16)
# waiting for a slot (the channel + 1) or a round (+ 1), and since when it is at a round;
W_BLOCKED, W_JOINS, W_REACHED = range(16, 19)
# the instruction of which it has to know how its program goes on, and its answer;
W_ASKED, W_ANSWER = range(19, 21)
# its snapshots, the first row of its items, how many of its random factors are behind;
W_SNAPSHOTS, W_HELD_AT, W_BASE = range(21, 24)
# what its device does for it; faults;
W_DEVICE, W_WORK, W_ACTIVE, W_SUSPENDED, W_STOOD = range(24, 29)
# and rows of its blocks, the channels that it sends to, its rounds.
W_SLOTS, W_SLOTS_END, W_SENDS, W_SENDS_END, W_GROUPS, W_GROUPS_END = range(29, 35)
W_COLUMNS = 40

# A block of a worker: its pending gradients; its snapshot (1: made, 2: averaged) and what rounds do
# with it; for workers that assign, the version of their copy; where the block's version is.
B_HEAD, B_TAIL, B_COUNT, B_SNAPSHOT, B_JOINED, B_CONTRIBUTED, B_BASE, B_VERSION = range(8)
B_COLUMNS = 8

# A channel: its messages, what receiving one adds to items,
C_CAPACITY, C_TAKEN, C_UNDERWAY, C_HEAD, C_TAIL, C_SOURCE, C_HELD, C_BLOCKED = range(8)
# its delays; receivers that wait: the place of their line, how many; whether to look at them;
C_SEND, C_TRANSMIT, C_LATENCY, C_RECEIVE, C_WIRE, C_LINE, C_WAITING, C_TOUCHED = range(8, 16)
# senders; those that wait (C_BLOCKED is how many): place and size of their ring, the first;
C_SENDERS, C_QUEUE, C_QUEUE_SIZE, C_QUEUE_HEAD = range(16, 20)
# batches of a source.
C_LEFT, C_NEXT, C_FIRST, C_STRIDE, C_RUN = range(20, 25)
C_COLUMNS = 32

# A message.
Q_DEPARTURE, Q_CHANNEL, Q_BATCH, Q_NEXT = range(4)
Q_COLUMNS = 4

# The rounds of a group over a block: how many have started and finished, who contributed to the one
# that gathers, that is under way, that is over; when these began; the order in which they are.
R_STARTED, R_FINISHED, R_CONTRIBUTED, R_NEXT_CONTRIBUTED, R_LAST_CONTRIBUTED = range(5)
R_NEXT_BEGAN, R_BEGAN, R_CREATED, R_TICKS, R_GROUP = range(5, 10)
R_MEMBERS, R_MEMBERS_END = range(10, 12)
R_COLUMNS = 12

# A member of a group, for one block.
M_WORKER, M_ROUND, M_ARRIVED, M_JOINED, M_CONTRIBUTED, M_LEFT = range(6)
M_COLUMNS = 6

# A device.
D_NOW, D_ACTIVE, D_DENOMINATOR, D_PLANNED, D_CHANGED, D_DUE = range(6)
D_SPEEDS, D_WORKERS, D_WORKERS_END = range(6, 9)
D_COLUMNS = 9

# The gradient of a batch in a block: versions that were read, and the next pending batch.
L_FIRST, L_FORWARD, L_BACKWARD, L_NEXT = range(4)
L_COLUMNS = 4

# Of which there is one: the present instant, and how much there is in each list,
S_NOW, S_SETTLED, S_CURRENT, S_OPERATIONS, S_BUDGET = range(5)
S_SPANS, S_GRADIENTS, S_CALENDAR, S_DONE, S_DUE, S_FAULTS, S_RUNNABLE, S_STARTING = range(5, 13)
S_TOUCHED, S_READY, S_CHANGED = range(13, 16)
# what is counted; the first free message; the worker for which the engine comes back,
S_DEPARTURES, S_WAITS, S_CREATED, S_FREE, S_EXIT_WORKER = range(16, 21)
# rules,
S_MOST_IDLE, S_SHARED, S_STASH, S_ASSIGN, S_REFRESH_ALL, S_BUFFER = range(21, 27)
# sizes,
S_BLOCKS, S_BATCHES, S_REGISTERS, S_CHUNK, S_WORKERS_SIZE, S_DEVICES_SIZE = range(27, 33)
S_ROUNDS_SIZE, S_SPANS_SIZE, S_GRADIENTS_SIZE, S_TIMES_SIZE = range(33, 37)
# and where tables begin; that of the workers comes at once.
O_CODE, O_LISTENS, O_EFFECTS, O_BLOCKS, O_CHANNELS, O_ROUNDS, O_MEMBERS = range(37, 44)
O_DEVICES, O_LEDGER, O_HELD, O_VERSIONS, O_PASSES, O_REGISTERS, O_COUNTS = range(44, 51)
O_LINES, O_QUEUES, O_SENDS, O_WIRES, O_MESSAGES, O_RUNNABLE, O_DONE = range(51, 58)
O_DUE, O_STARTING, O_TIMES, O_EVENTS, O_GROUPS, O_MEMBERSHIPS, O_FAULTS = range(58, 65)
O_SPEEDS, O_RESIDENTS, O_TOUCHED, O_READY, O_CHANGED, O_FACTORS = range(65, 71)
O_GRADIENTS, O_SPANS, O_WORKERS = range(71, 74)
S_COLUMNS = 80

__all__ = [name for name in dir() if name[0].isupper()]
