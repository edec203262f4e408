"""Drives the slim variant of the compiled engine: tables, what it asks for, what it has counted.

Tables do not grow with the number of batches: a worker has entries for as many batches as it has
something of, a cell counts of as many gaps as there are, a channel a ring.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

import simcore.compiled_slim_layout as x
from simcore.cluster import Cluster
from simcore.compiled_slim_code import Code, refuse_rows
from simcore.compiled_tables import Ints
from simcore.costs import Costs
from simcore.lowering import Lowering, Unliftable
from simcore.ops import Channel
from simcore.patience import Patience
from simcore.schedule import Schedule
from simcore.timing import Timing

__all__ = ["Counted", "count"]

_ENTRIES: Final = 8  # of a worker, to begin with: a power of 2, like all that follow
_RING: Final = 16
_PENDING: Final = 4
_GAPS: Final = 8
_MOST_CAPACITY: Final = 2**16
_MOST_BYTES: Final = 2**31
_FUEL: Final = 20_000_000  # rounds of loops between two looks at the clock of others


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """What happened, in ticks: the last end, and by worker how long it was busy.

    By cell, which is a block of a replica: the block, its updates, the most batches in flight, and
    how many gradients had each gap, as far as there is any.
    """

    end: int
    busy: Ints
    operations: int
    blocks: Ints
    updates: Ints
    peaks: Ints
    gaps: tuple[Ints, ...]
    visits: int


def count(
    schedule: Schedule,
    costs: Costs,
    cluster: Cluster,
    timing: Timing,
    lowering: Lowering,
) -> Counted:
    """Run a schedule without recording it. The first operation starts at tick 0.

    Raises `Unliftable`, with the reason, for whatever is not so simple; programs that break a rule
    and deadlocks among it.
    """
    _refuse(schedule, costs, cluster, timing)
    run = _Run(schedule, costs, timing, lowering)
    run.run()
    return run.counted()


def _refuse(schedule: Schedule, costs: Costs, cluster: Cluster, timing: Timing) -> None:
    """Raise `Unliftable` where workers do more to each other than to send messages."""
    if timing.variations.random:
        raise Unliftable("durations are random")
    if cluster.faults:
        raise Unliftable("workers stop")
    if schedule.groups:
        raise Unliftable("workers join groups")
    devices = [cluster.device_of(worker) for worker in range(len(schedule.workers))]
    if len(set(devices)) < len(devices):
        raise Unliftable("workers share a device")
    private = cluster.placement == "private"
    if any(cluster.device(each).speed(1) != 1 for each in (devices[:1] if private else devices)):
        raise Unliftable("a device has a speed of its own")
    for channel, delays in zip(schedule.channels, costs.delays, strict=True):
        if len(schedule.senders[channel]) > 1 or len(schedule.receivers[channel]) != 1:
            raise Unliftable("workers share a channel")
        if (channel.capacity or 0) > _MOST_CAPACITY:
            raise Unliftable("a channel is bounded, but hardly")
        if delays.transmit:
            link = cluster.link_of(channel.name)
            if link.wire is not None or link.transfers == "shared":
                raise Unliftable("transfers share a wire")
    _refuse_sources([channel for channel in schedule.channels if channel.source])


def _refuse_sources(sources: list[Channel]) -> None:
    shapes = {(each.stride, each.run) for each in sources}
    firsts = {each.first for each in sources}
    if sources and (len(shapes) > 1 or len(firsts) < len(sources)):
        raise Unliftable("several sources hold a batch")


class _Run:
    def __init__(
        self, schedule: Schedule, costs: Costs, timing: Timing, lowering: Lowering
    ) -> None:
        refuse_rows(lowering)
        self.schedule, self.lowering = schedule, lowering
        self.code = Code(lowering, timing)
        number = len(schedule.workers)
        self.rows = self.code.rows
        self.workers = np.zeros((number, x.W_COLUMNS), np.int64)
        self.cells = np.zeros((len(self.code.cells), x.B_COLUMNS), np.int64)
        self.channels = np.zeros((len(schedule.channels) + 1, x.C_COLUMNS), np.int64)
        self.state = np.zeros(x.S_COLUMNS, np.int64)
        self._set_state()
        self._set_channels(costs)
        self.sends = self._set_workers()
        self._set_cells()
        self.pool = self._pool()
        self._refuse_late_starts()
        self._refuse_moments()

    def run(self) -> None:
        """Run to the end."""
        # Imported here, because compiled code takes long to load.
        from simcore.compiled_slim import run

        registers = np.zeros((len(self.workers), self.lowering.registers + 1), np.int64)
        queue = np.arange(len(self.workers))
        while True:
            self.state[x.S_FUEL] = _FUEL
            if registers.shape[1] < self.lowering.registers + 1:
                raise Unliftable("batches are first kept after the end of a channel")
            match run(
                self.rows,
                self.workers,
                self.channels,
                self.cells,
                registers,
                self.sends,
                self.pool,
                queue,
                self.state,
            ):
                case x.X_FINISHED:
                    return
                case x.X_FUEL:
                    pass
                case x.X_EXPLORE:
                    self._explore()
                case x.X_ILLEGAL:
                    raise Unliftable("a program breaks a rule")
                case x.X_LIMIT:
                    raise Unliftable("a number is too large")
                case x.X_POOL:
                    raise Unliftable("workers have something of too many batches at once")
                case _:
                    raise Unliftable("workers wait for ever")

    def counted(self) -> Counted:
        """What was counted."""
        gaps = []
        for first, longest in self.cells[:, [x.B_GAPS, x.B_LONGEST]].tolist():
            there = self.pool[first : first + longest]
            filled = np.flatnonzero(there)
            gaps.append(there[: int(filled[-1]) + 1 if len(filled) else 0].copy())
        return Counted(
            int(self.workers[:, x.W_LAST].max()),
            self.workers[:, x.W_BUSY].copy(),
            int(self.workers[:, x.W_OPERATIONS].sum()),
            self.code.cells[:, 1],
            self.cells[:, x.B_VERSION].copy(),
            self.cells[:, x.B_PEAK].copy(),
            tuple(gaps),
            int(self.state[x.S_VISITS]),
        )

    def _explore(self) -> None:
        """Record how a program goes on where its channel is closed."""
        at = int(self.state[x.S_EXIT_AT])
        self.lowering.explore(at, None)
        refuse_rows(self.lowering)
        before = self.rows
        self.code.more()
        self._refuse_moments()
        self.rows = self.code.rows
        self.rows[: len(before)] = before  # how often loops have been reached
        self.rows[at, x.I_TARGET] = self.lowering.code[at][4] * x.I_COLUMNS
        self.state[x.S_KEPT] = self.code.kept

    def _set_state(self) -> None:
        schedule, state = self.schedule, self.state
        state[x.S_WORKERS] = state[x.S_QUEUED] = state[x.S_LIVE] = len(schedule.workers)
        state[x.S_CHANNELS] = len(schedule.channels)
        state[x.S_CURRENT] = -1
        state[x.S_SHIFT], state[x.S_KEPT] = self.code.shift, self.code.kept
        state[x.S_BUFFER] = schedule.weights.buffer
        state[x.S_STASH] = schedule.weights.policy == "stash"
        state[x.S_MOST_IDLE] = Patience(schedule).most

    def _set_channels(self, costs: Costs) -> None:
        schedule, rows = self.schedule, self.channels
        rows[:, x.C_ENDED] = -1
        rows[:, x.C_MASK] = _RING - 1
        for n, channel in enumerate(schedule.channels):
            delays, senders = costs.delays[n], schedule.senders[channel]
            rows[n, x.C_RECEIVER] = schedule.receivers[channel][0]
            rows[n, x.C_TRANSMIT], rows[n, x.C_LATENCY] = delays.transmit, delays.latency
            if senders:
                rows[n, x.C_SENDER] = senders[0]
                rows[n, x.C_CAPACITY] = channel.capacity or 0
                continue
            rows[n, x.C_ENDED] = 0
            if channel.source:
                rows[n, x.C_FIRST], rows[n, x.C_STRIDE] = channel.first, channel.stride
                rows[n, x.C_RUN] = channel.run
                rows[n, x.C_TAIL] = _held(channel, schedule.batches)

    def _set_workers(self) -> Ints:
        """Returns the channels that workers send to."""
        schedule, rows = self.schedule, self.workers
        number = {channel: n for n, channel in enumerate(schedule.channels)}
        sends: list[int] = []
        counts = np.bincount(self.code.cells[:, 0], minlength=len(rows))
        ends = np.cumsum(counts)
        rows[:, x.W_AT] = np.array(self.lowering.entries, np.int64) * x.I_COLUMNS
        rows[:, x.W_REGISTERS] = np.arange(len(rows)) * (self.lowering.registers + 1)
        rows[:, x.W_MASK], rows[:, x.W_STRIDE] = _ENTRIES - 1, 1 + counts
        rows[:, x.W_CELLS], rows[:, x.W_CELLS_END] = (
            (ends - counts) * x.B_COLUMNS,
            ends * x.B_COLUMNS,
        )
        for worker, row in zip(schedule.workers, rows, strict=True):
            row[x.W_SENDS] = len(sends)
            sends += [number[channel] * x.C_COLUMNS for channel in worker.sends]
            row[x.W_SENDS_END] = len(sends)
        return np.array([*sends, 0], np.int64)

    def _set_cells(self) -> None:
        workers = self.code.cells[:, 0]
        first = self.workers[workers, x.W_CELLS] // x.B_COLUMNS
        self.cells[:, x.B_PLACE] = np.arange(len(self.cells)) - first + 1
        self.cells[:, x.B_ROOM], self.cells[:, x.B_LONGEST] = _PENDING, _GAPS

    def _pool(self) -> Ints:
        """Memory for all that may grow. It takes none as long as it is not used."""
        used = 0

        def room(rows: Ints, column: int, sizes: Ints) -> None:
            nonlocal used
            rows[:, column] = used + np.cumsum(sizes) - sizes
            used += int(sizes.sum())

        room(self.workers, x.W_RING, _ENTRIES * self.workers[:, x.W_STRIDE])
        room(self.cells, x.B_PENDING, self.cells[:, x.B_ROOM])
        room(self.cells, x.B_GAPS, self.cells[:, x.B_LONGEST])
        room(self.channels, x.C_RING, 2 * (self.channels[:, x.C_MASK] + 1))
        room(self.channels, x.C_FREED, self.channels[:, x.C_CAPACITY])
        size = max(_MOST_BYTES // 8, 2 * used)
        while True:
            try:
                pool = np.empty(size, np.int64)
                break
            except MemoryError:
                size //= 2
                if size < 2 * used:
                    raise
        pool[:used] = 0
        self.state[x.S_USED], self.state[x.S_POOL] = used, size
        return pool

    def _refuse_late_starts(self) -> None:
        """Raise `Unliftable` if it is not plain that somebody starts at tick 0."""
        first = self.rows[self.workers[:, x.W_AT] // x.I_COLUMNS]
        action = first[:, x.I_ACTION]
        takes = action == x.A_TAKE
        full = self.channels[first[takes, x.I_OF] // x.C_COLUMNS, x.C_TAIL] > 0
        if not (full.any() or ((action > x.A_TAKE) & (action <= x.A_UPDATE)).any()):
            raise Unliftable("nobody starts at once")

    def _refuse_moments(self) -> None:
        """Raise `Unliftable` if a batch may be in flight in a cell for no time.

        At one tick, what ends is let go before what begins is taken. Of one worker that is the
        order in which it happens, but for what begins and ends at the same tick.
        """
        rows = self.code.rows
        action, at_once = rows[:, x.I_ACTION], rows[:, x.I_TICKS] == 0
        begins = (action == x.A_READ) | (action == x.A_BUFFERED)
        ends = (action == x.A_PENDING) | (action == x.A_FORGET)
        cells = [rows[at_once & these, x.I_OF] for these in (begins, ends)]
        if len(np.intersect1d(*cells)) or (at_once & (action == x.A_EVALUATE)).any():
            raise Unliftable("batches pass through a block in no time")


def _held(channel: Channel, batches: int) -> int:
    """How many of so many batches a source holds, as `Channel.held` lists them."""
    whole, rest = divmod(batches, channel.stride * channel.run)
    return whole * channel.run + min(max(rest - channel.first * channel.run, 0), channel.run)
