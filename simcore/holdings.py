"""What takes memory, where, and from when to when: every holding of a run, found in its trace.

Counted, each in a category of its own:

* `weights`: the parameters of every block, once for each replica, at the lowest-numbered worker
  that updates it; workers that share weights are in one machine.
* `optimizer`: its state, at each worker that updates the block, or beside the weights where the
  schedule has one state per block (`momentum=shared`).
* `copies`: old versions of weights, beside the weights, that backward passes still need (`stash`):
  each from when it is replaced until the last such pass ends. Also the own copies of workers whose
  updates assign, and snapshots.
* `gradients`: from the end of the first pass that adds to them to the end of the update.
* `activations`: the graph of a batch, from the start of the pass that makes it to the end of the
  pass that completes the gradient of the weights. If another worker runs the backward pass, it
  takes the graph over when it first receives something of the batch: a graph in a queue counts at
  the sender.
* `inputs`: what is kept for a replay, from the start of the first pass to the end of the replay.
* `tangents`: directions of forward gradients, or the 8 bytes of their seed, from the first pass
  of a mini-batch through the block to the end of the last that uses them.
* `messages`: those on the way or in a queue, at the receiver, from when they depart until they have
  been received. Graphs and kept inputs do not travel; what workers send to themselves and data that
  nobody has taken yet are not counted.
* `auxiliary`: parameters of what guesses gradients, at the worker of the weights.

Not counted: what an operation itself needs while it runs, an activation or gradient between being
made or received and being used or sent, and what the framework takes.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simcore.costs import message_bytes
from simcore.messages import messages_of
from simcore.passes import NEVER, Passes, cells, cells_of, passes_of, rows_of
from simcore.schedule import Schedule
from simcore.trace import KIND, Trace
from simcore.workload import Workload

__all__ = ["CATEGORIES", "HOLDING_COLUMNS", "has_sizes", "holdings_of"]

CATEGORIES: Final = (
    "weights",
    "optimizer",
    "gradients",
    "activations",
    "inputs",
    "copies",
    "tangents",
    "messages",
    "auxiliary",
)
HOLDING_COLUMNS: Final = ("worker", "category", "start", "end", "bytes")
_SEED_BYTES: Final = 8


def has_sizes(workload: Workload) -> bool:
    """Whether the workload says how large anything is."""
    return workload.input_bytes > 0 or any(
        layer.activation_bytes or layer.parameter_bytes or layer.saved_bytes
        for layer in workload.layers
    )


def holdings_of(trace: Trace, schedule: Schedule, workload: Workload) -> NDArray[np.void]:
    """Everything that takes memory: a table with the columns `HOLDING_COLUMNS`.

    `category` is a place in `CATEGORIES`; a holding lasts from tick `start` to tick `end`, which is
    `simcore.passes.NEVER` for what is still held when the trace ends. `workload` has a layer for
    each block. A pass of a micro-batch holds its part of a mini-batch, rounded up to a whole byte.
    """
    run = _Run.of(trace, schedule, workload)
    run.add_permanent()
    run.add_gradients()
    run.add_passes()
    run.add_copies()
    run.add_snapshots()
    run.add_messages()
    return np.concatenate(run.found)


@dataclass(slots=True)
class _Run:
    """A trace and what is needed to read it; `owner` is the worker of each cell's weights."""

    trace: Trace
    schedule: Schedule
    workload: Workload
    passes: Passes
    owner: NDArray[np.int64]
    parameters: NDArray[np.int64]
    found: list[NDArray[np.void]] = field(default_factory=list)

    @classmethod
    def of(cls, trace: Trace, schedule: Schedule, workload: Workload) -> "_Run":
        parameters = np.array([layer.parameter_bytes for layer in workload.layers], np.int64)
        replicas = cells(trace.header) // trace.header.blocks
        owner = _owners(trace, schedule)
        return cls(
            trace, schedule, workload, passes_of(trace), owner, np.tile(parameters, replicas)
        )

    def add(
        self,
        category: str,
        worker: NDArray[np.int64],
        start: ArrayLike,
        end: ArrayLike,
        size: ArrayLike,
    ) -> None:
        """Add holdings that have a size."""
        table = np.empty(len(worker), [(name, np.int64) for name in HOLDING_COLUMNS])
        table["worker"], table["category"] = worker, CATEGORIES.index(category)
        table["start"], table["end"], table["bytes"] = start, end, size
        self.found.append(table[table["bytes"] > 0])

    def per_block(self, sizes: list[int]) -> NDArray[np.int64]:
        """Bytes of each block that a pass holds, from those of a mini-batch; [0] is 0."""
        part = self.schedule.micro_batches
        return np.array([0, *(ceil(Fraction(size, part)) for size in sizes)], np.int64)

    def ends(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The ticks at which these rows end, `NEVER` for -1."""
        return np.where(rows < 0, NEVER, self.trace.spans["end"][rows])

    def add_permanent(self) -> None:
        """Weights, optimiser state, own copies of assigning workers, models of gradients."""
        spans, start = self.trace.spans, self.trace.start
        owned = np.flatnonzero(self.owner < len(self.schedule.workers))
        self.add("weights", self.owner[owned], start, NEVER, self.parameters[owned])
        updates = rows_of(self.trace, "update")
        cell = cells_of(self.trace, spans["worker"][updates], spans["block"][updates])
        worker, updated = np.divmod(
            np.unique(spans["worker"][updates] * len(self.owner) + cell), len(self.owner)
        )
        rules = self.schedule.weights
        if rules.write == "assign":
            self.add("copies", worker, start, NEVER, self.parameters[updated])
        if rules.momentum == "shared":
            worker, updated = self.owner[owned], owned
        states = self.parameters * self.workload.optimizer_states
        self.add("optimizer", worker, start, NEVER, states[updated])
        guesses = rows_of(self.trace, "estimate")
        cell = np.unique(cells_of(self.trace, spans["worker"][guesses], spans["block"][guesses]))
        models = np.array([layer.auxiliary_bytes for layer in self.workload.layers], np.int64)
        self.add("auxiliary", self.owner[cell], start, NEVER, models[cell % len(models)])

    def add_gradients(self) -> None:
        """A worker's pending gradients of a block: one sum, however many have been added."""
        spans = self.trace.spans
        rows = rows_of(self.trace, "backward", "backward_weight", "project", "update")
        place = spans["worker"][rows] * self.trace.header.blocks + spans["block"][rows] - 1
        order = np.argsort(place, kind="stable")  # within a worker, rows are in its order
        rows, place = rows[order], place[order]
        updates = spans["kind"][rows] == KIND["update"]
        fresh = np.append(True, updates[:-1] | (np.diff(place) != 0))[: len(rows)]
        first = np.flatnonzero(fresh & ~updates)
        following = np.append(np.flatnonzero(updates), -1)
        after = following[np.searchsorted(following[:-1], first)]
        applied = np.where((after >= 0) & (place[after] == place[first]), rows[after], -1)
        worker, block = spans["worker"][rows[first]], spans["block"][rows[first]]
        size = self.parameters[block - 1]
        self.add("gradients", worker, spans["end"][rows[first]], self.ends(applied), size)

    def add_passes(self) -> None:
        """Graphs, inputs kept for replays, tangents: what a batch leaves behind in a block."""
        spans, passes, layers = self.trace.spans, self.passes, self.workload.layers
        kind, start = spans["kind"], spans["start"]
        block, first, maker, last = passes.block, passes.first, passes.maker, passes.last
        ends = self.ends(last)
        replayed = (maker >= 0) & (kind[maker] == KIND["replay"])
        # In a run that was cut short, a kept input may wait for a replay that never came.
        some = self._some_of_block("replay")
        waits = ~replayed & (last < 0) & (kind[first] == KIND["forward"]) & some[block]
        graph = (maker >= 0) & ~waits
        saved = self.per_block([layer.saved_bytes for layer in layers])
        self._handed(graph, "activations", maker, last, ends, saved)
        kept = replayed | waits
        outputs = self.per_block([layer.activation_bytes for layer in layers])
        outputs[0] = self.per_block([self.workload.input_bytes])[1]
        below = np.append(0, outputs[:-1])
        replay = np.where(replayed, maker, -1)
        self._handed(kept, "inputs", first, replay, self.ends(replay), below)
        along = kind[first] == KIND["tangent"]
        rules = self.schedule.weights
        one = np.full_like(self.parameters, _SEED_BYTES)
        # One seed stands for all directions of a mini-batch.
        size = rules.tangents * self.parameters if rules.keep == "tangent" else one
        # All passes of a mini-batch share its directions.
        rows, mini_batch = first[along], passes.batch[along] // self.schedule.micro_batches
        changes = np.diff(block[along], prepend=0) | np.diff(mini_batch, prepend=-1)
        begins = np.flatnonzero(changes)
        if len(begins):
            worker, held = spans["worker"][rows[begins]], size[block[along][begins] - 1]
            since = np.minimum.reduceat(start[rows], begins)
            self.add("tangents", worker, since, np.maximum.reduceat(ends[along], begins), held)

    def _some_of_block(self, kind: str) -> NDArray[np.bool_]:
        """Whether each block has any row of this kind."""
        some = np.zeros(self.trace.header.blocks + 1, bool)
        some[self.trace.spans["block"][rows_of(self.trace, kind)]] = True
        return some

    def _handed(
        self,
        held: NDArray[np.bool_],
        category: str,
        maker: NDArray[np.int64],
        taker: NDArray[np.int64],
        end: NDArray[np.int64],
        sizes: NDArray[np.int64],
    ) -> None:
        """Add what one pass makes and another takes, perhaps in another worker."""
        spans, maker, taker, end = self.trace.spans, maker[held], taker[held], end[held]
        batch, size = self.passes.batch[held], sizes[self.passes.block[held]]
        start, giver = spans["start"][maker], spans["worker"][maker]
        receiver = np.where(taker < 0, giver, spans["worker"][taker])
        moves = giver != receiver
        handed = end.copy()
        if moves.any():
            received = self._first_received(receiver[moves], batch[moves])
            received = np.where(received == NEVER, spans["start"][taker[moves]], received)
            handed[moves] = np.clip(received, start[moves], end[moves])
        self.add(category, giver, start, handed, size)
        self.add(category, receiver[moves], handed[moves], end[moves], size[moves])

    def _first_received(
        self, worker: NDArray[np.int64], batch: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """When each of these workers first received something of the batch; `NEVER` if not."""
        spans, batches = self.trace.spans, self.trace.header.batches
        rows = rows_of(self.trace, "receive")[::-1]
        found = np.full((len(self.trace.header.workers), batches), NEVER)
        found[spans["worker"][rows], spans["batch"][rows]] = spans["end"][rows]  # the first stays
        return found[worker, batch]

    def add_copies(self) -> None:
        """Versions of weights that have been replaced and are still needed."""
        if self.schedule.weights.policy != "stash":
            return
        spans, passes = self.trace.spans, self.passes
        needs = spans["kind"][passes.first] == KIND["forward"]
        reader, until = passes.first[needs], self.ends(passes.through[needs])
        raises = rows_of(self.trace, "update", "merge")
        versions = int(spans["version"].max(initial=0)) + 1
        needed, replaced = (np.full(len(self.owner) * versions, bound) for bound in (-1, NEVER))
        np.maximum.at(needed, self._of_version(reader, versions), until)
        replaced[self._of_version(raises, versions)] = spans["end"][raises]
        kept = np.flatnonzero(needed > replaced)
        cell = kept // versions
        self.add("copies", self.owner[cell], replaced[kept], needed[kept], self.parameters[cell])

    def _of_version(self, rows: NDArray[np.int64], versions: int) -> NDArray[np.int64]:
        spans = self.trace.spans
        cell = cells_of(self.trace, spans["worker"][rows], spans["block"][rows])
        found: NDArray[np.int64] = cell * versions + spans["version"][rows]
        return found

    def add_snapshots(self) -> None:
        """Copies of weights that are being averaged: from each snapshot to its merge."""
        spans, blocks = self.trace.spans, self.trace.header.blocks
        rows = rows_of(self.trace, "snapshot", "merge")
        place = spans["worker"][rows] * blocks + spans["block"][rows]
        rows = rows[np.argsort(place, kind="stable")]
        taken = np.flatnonzero(spans["kind"][rows] == KIND["snapshot"])
        merged = np.append(rows, -1)[taken + 1]  # they alternate; only the last may lack its merge
        merged = np.where(spans["kind"][merged] == KIND["merge"], merged, -1)
        block, worker = spans["block"][rows[taken]], spans["worker"][rows[taken]]
        start, size = spans["start"][rows[taken]], self.parameters[block - 1]
        self.add("copies", worker, start, self.ends(merged), size)

    def add_messages(self) -> None:
        """What travels or waits, from when it departs until it has been received."""
        sizes, at = [], []
        for channel in self.schedule.channels:
            size = message_bytes(self.schedule, channel, self.workload)
            sizes.append(0 if self.schedule.is_local(channel) else ceil(size))
            at.append(min(self.schedule.receivers[channel], default=0))
        found = messages_of(self.trace)
        receiver = self.trace.spans["worker"][found.received]
        worker = np.where(found.received < 0, np.array(at, np.int64)[found.channel], receiver)
        carried = np.array(sizes, np.int64)[found.channel]
        self.add("messages", worker, found.since, found.until, carried)


def _owners(trace: Trace, schedule: Schedule) -> NDArray[np.int64]:
    """The lowest-numbered worker that updates each cell; if none does, that may compute with it."""
    none = len(schedule.workers)
    declared = np.full(cells(trace.header), none)
    for number, worker in reversed(list(enumerate(schedule.workers))):
        blocks = np.array(worker.blocks, np.int64)
        declared[cells_of(trace, np.full(len(blocks), number), blocks)] = number
    updates = trace.of_kind("update")
    owner = np.full(len(declared), none)
    np.minimum.at(owner, cells_of(trace, updates["worker"], updates["block"]), updates["worker"])
    return np.where(owner < none, owner, declared)
