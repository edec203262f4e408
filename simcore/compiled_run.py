"""Drives the compiled engine: builds its tables, gives it what it asks for, reads its trace."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

import simcore.compiled_layout as x
from simcore.cluster import Cluster
from simcore.compiled_build import CHUNK, first_tables, refuse_beyond
from simcore.compiled_code import Items, Places, encoded
from simcore.compiled_tables import Ints, packed
from simcore.costs import Costs
from simcore.faults import Loss
from simcore.interruptions import moment_s
from simcore.lowering import CLASSES, Lowering, Unliftable
from simcore.ops import Operation, Select
from simcore.randomness import uniform
from simcore.rules import shown
from simcore.schedule import Schedule
from simcore.timing import Timing
from simcore.trace import GRADIENT_COLUMNS as GRADIENTS
from simcore.trace import SPAN_COLUMNS as SPANS
from simcore.trace import Header, Trace

__all__ = ["simulate_compiled"]

_LARGEST: Final = 2**62
_MOST_EXPLORED: Final = 24  # times that a worker needs to know how its program goes on
_BUDGET: Final = 5_000_000  # operations between two looks at the clock of others


def simulate_compiled(
    schedule: Schedule,
    costs: Costs,
    cluster: Cluster,
    timing: Timing,
    *,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    about: Mapping[str, Any] | None = None,
    lowering: Lowering | None = None,
) -> Trace:
    """As `simcore.engine.simulate_timed`.

    Raises `Unliftable`, with the reason, for what has to be left to the reference: what cannot be
    done here, programs that break a rule, and deadlocks.
    """
    refuse_beyond(schedule, cluster)
    if lowering is not None and lowering.refused:
        raise Unliftable(lowering.refused)
    run = _Run(schedule, lowering or Lowering(schedule), costs, cluster, timing, seed)
    run.run(progress)
    lost = run.lost()
    about = {**(about or {}), **lost}
    return run.trace(Header.of(schedule, "simulated", costs.tick.seconds, seed, about))


class _Run:
    def __init__(
        self,
        schedule: Schedule,
        lowering: Lowering,
        costs: Costs,
        cluster: Cluster,
        timing: Timing,
        seed: int,
    ) -> None:
        self.schedule, self.lowering, self.costs = schedule, lowering, costs
        self.cluster, self.timing, self.seed = cluster, timing, seed
        self.explored = 0
        self.items: Items
        self.places: Places
        self.tables, self.items, self.places = first_tables(
            schedule, lowering, costs, cluster, timing, seed
        )
        varied = timing.variations
        self.variations = [*([varied.default] if varied.default else []), *varied.kinds.values()]
        if self.variations:
            shape = len(self.variations), len(schedule.workers), CHUNK
            self._set(factors=np.zeros(shape, np.int64))
            for worker in range(len(schedule.workers)):
                self._draw(worker)

    def run(self, progress: Callable[[int], None] | None) -> None:
        """Run to the end."""
        # Imported here, because compiled code takes long to load.
        from simcore.compiled import run

        told = 0
        while True:
            self.tables.state[x.S_BUDGET] = self.tables.state[x.S_OPERATIONS] + _BUDGET
            why = run(self.tables.memory)
            applied = int(self.tables.state[x.S_GRADIENTS])
            if progress and applied > told:
                progress(applied - told)
                told = applied
            match why:
                case x.X_FINISHED:
                    return
                case x.X_EXPLORE:
                    self._explore()
                case x.X_SPANS:
                    self._set(spans=_longer(self.tables.spans))
                case x.X_GRADIENTS:
                    self._set(gradients=_longer(self.tables.gradients))
                case x.X_MESSAGES:
                    self._more_messages()
                case x.X_FACTORS:
                    worker = int(self.tables.state[x.S_EXIT_WORKER])
                    self.tables.workers[worker, x.W_BASE] += CHUNK
                    self._draw(worker)
                case x.X_ILLEGAL:
                    raise Unliftable("a program breaks a rule")
                case x.X_LIMIT:
                    raise Unliftable("a time is too long")
                case x.X_TWICE:
                    raise Unliftable("a batch passes forward twice before its update")
                case x.X_EARLY:
                    raise Unliftable("a worker arrives for a round before it has joined the last")

    def _set(self, **changed: Any) -> None:
        self.tables = packed(**{**self.tables._asdict(), **changed})

    def _draw(self, worker: int) -> None:
        """The worker's next random factors."""
        base = int(self.tables.workers[worker, x.W_BASE])
        shares = [uniform(self.seed, worker, base + n) for n in range(1, CHUNK + 1)]
        for number, variation in enumerate(self.variations):
            factors = [variation.quantile(share) for share in shares]
            self.tables.factors[number, worker] = np.array(factors, np.float64).view(np.int64)

    def _explore(self) -> None:
        """Record how a program goes on, and let the worker go on there."""
        worker = int(self.tables.state[x.S_EXIT_WORKER])
        at, answer = (int(self.tables.workers[worker, n]) for n in (x.W_ASKED, x.W_ANSWER))
        self.explored += 1
        if self.explored > _MOST_EXPLORED * len(self.schedule.workers):
            raise Unliftable("the choices of its programs never repeat themselves")
        self.lowering.explore(at, None if answer < 0 else answer)
        before = self.items.table()[1]
        self.items.effects.clear()
        code, listens = encoded(self.schedule, self.lowering, self.timing, self.items, self.places)
        effects, first = self.items.table()
        held = np.zeros((first[-1], self.schedule.batches), np.int64)
        for old, new, end in zip(before, first, before[1:], strict=False):
            held[new : new + end - old] = self.tables.held[old:end]
        registers = np.zeros((len(self.schedule.workers), self.lowering.registers + 1), np.int64)
        registers[:, : self.tables.registers.shape[1]] = self.tables.registers
        counts = np.zeros(len(code), np.int64)
        counts[: len(self.tables.counts)] = self.tables.counts
        self._set(code=code, listens=listens, effects=effects, held=held)
        self._set(registers=registers, counts=counts)
        row = code[at]
        target = row[x.I_TARGET] if answer < 0 else listens[row[x.I_A] + answer, 1]
        self.tables.workers[worker, x.W_AT] = target

    def _more_messages(self) -> None:
        old = self.tables.messages
        new = np.zeros_like(old)
        new[:, x.Q_NEXT] = np.arange(len(old) + 1, 2 * len(old) + 1)
        new[-1, x.Q_NEXT] = self.tables.state[x.S_FREE]
        self.tables.state[x.S_FREE] = len(old)
        longer = ("times", "events", "due")
        self._set(
            messages=np.concatenate([old, new]),
            **{name: _longer(getattr(self.tables, name), len(old)) for name in longer},
        )

    def lost(self) -> dict[str, Any]:
        """What the header says of workers that were lost. Raises `Unliftable` for a deadlock."""
        workers = self.tables.workers
        waits = [n for n in range(len(workers)) if not workers[n, x.W_ENDED]]
        moments: dict[int, int] = {}
        for number, fault in enumerate(self.cluster.faults):
            if isinstance(fault, Loss) and fault.worker in waits:
                moment = self.costs.tick.ticks(moment_s(fault, number, self.seed))
                moments[fault.worker] = min(moment, moments.get(fault.worker, moment))
        if waits and not moments:
            raise Unliftable("workers wait for ever")
        if not moments:
            return {}
        names = [worker.name for worker in self.schedule.workers]
        lost = sorted(moments, key=lambda worker: moments[worker])
        return {
            "lost": {names[w]: self.costs.tick.to_seconds(moments[w]) for w in lost},
            "waiting": {names[w]: self._waits_for(w) for w in waits if w not in moments},
        }

    def _waits_for(self, worker: int) -> str:
        """The operation that a worker is at."""
        row = self.tables.code[self.tables.workers[worker, x.W_AT]]
        kind, a, b = CLASSES[row[x.I_CODE]], int(row[x.I_A]), int(row[x.I_B])
        channels, groups = self.schedule.channels, self.schedule.groups
        register = int(row[x.I_REGISTER])
        batch = int(self.tables.registers[worker, register]) if register >= 0 else -1 - register
        operation: Operation
        match int(row[x.I_ACTION]):
            case x.A_SEND:
                operation = kind(channels[a], batch)
            case x.A_RECEIVE:
                heard = tuple(channels[n] for n, _ in self.tables.listens[a : a + b])
                operation = kind(heard) if kind is Select else kind(heard[0])
            case x.A_ARRIVE | x.A_JOIN:
                operation = kind(groups[a], b)
            case x.A_LOAD:
                operation = kind(batch)
            case x.A_PASS:
                operation = kind(a, batch)
            case _:
                operation = kind(a)
        return shown(operation)

    def trace(self, header: Header) -> Trace:
        """What was recorded."""
        spans = self.tables.spans[: self.tables.state[x.S_SPANS]]
        gradients = self.tables.gradients[: self.tables.state[x.S_GRADIENTS]]
        return Trace(
            header,
            _table(np.take(spans, _order_of_spans(spans, len(self.schedule.workers)), 0), SPANS),
            _table(np.take(gradients, _order_of_gradients(gradients), 0), GRADIENTS),
        )


def _table(rows: Ints, columns: tuple[str, ...]) -> Any:
    return rows.view(np.dtype([(name, np.int64) for name in columns])).reshape(-1)


def _order_of_spans(rows: Ints, workers: int) -> Ints:
    """The order of (start, worker, index): rows of a worker are in the order of their index."""
    if not len(rows):
        return np.zeros(0, np.int64)
    starts = rows[:, SPANS.index("start")].copy()
    last = int(starts.max()) + 1
    starts *= workers
    starts += rows[:, SPANS.index("worker")]
    if last * workers * len(rows) >= _LARGEST:
        return np.argsort(starts, kind="stable")
    # With its place in it each number is another one, which sorts faster.
    starts *= len(rows)
    starts += np.arange(len(rows))
    return np.argsort(starts)


def _order_of_gradients(rows: Ints) -> Ints:
    """The order of (time, block, version); they are in the order of time."""
    by = (rows[:, GRADIENTS.index(name)] for name in ("version_applied", "block", "time"))
    version, block, time = (each.copy() for each in by)
    later = (np.diff(time) > 0) | (np.diff(block) > 0)
    if later.all():
        return np.arange(len(rows))
    return np.lexsort((version, block, time))


def _longer(rows: Ints, by: int | None = None) -> Ints:
    more = np.empty((len(rows) * 3 if by is None else by, *rows.shape[1:]), np.int64)
    return np.concatenate([rows, more])
