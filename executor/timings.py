"""Reading a timing run: what each operation and message cost, alone and beside others."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from executor.isolated import Isolated
from simcore.cluster import Link
from simcore.ops import Channel, Group
from simcore.trace import KIND, Trace

__all__ = ["Timings"]

_WARM_UP: Final = 0.2  # the first part of each phase, which is not counted
_MESSAGES: Final = [KIND[kind] for kind in ("send", "receive", "arrive", "join")]
_COMPUTED: Final = [code for code in KIND.values() if code not in _MESSAGES]


@dataclass(frozen=True, slots=True, eq=False)
class _Stretch:
    """What one worker did in one phase: its rows, and what each cost in ns."""

    worker: int
    phase: int
    rows: NDArray[np.void]
    cost: NDArray[np.int64]

    def of(self, kind: int, block: int) -> NDArray[np.int64]:
        """Costs of one operation, after the warm-up."""
        chosen = (self.rows["kind"] == kind) & (self.rows["block"] == block)
        chosen[: int(len(chosen) * _WARM_UP)] = False
        costs: NDArray[np.int64] = self.cost[chosen]
        return costs


class Timings:
    """The costs that a timing run measured."""

    def __init__(self, isolated: Isolated, trace: Trace) -> None:
        self.isolated = isolated
        self.numbers = {name: number for number, name in enumerate(trace.header.channels)}
        self.groups = {name: number for number, name in enumerate(trace.header.groups)}
        self.stretches = [
            stretch
            for worker in range(len(trace.header.workers))
            for stretch in self._stretches(worker, trace.spans[trace.spans["worker"] == worker])
        ]

    def seconds(self, block: int, *kinds: str) -> Fraction | None:
        """Mean cost of computations of these kinds while their worker is alone; None if none."""
        costs = [
            stretch.of(KIND[kind], block) for stretch in self._alone().values() for kind in kinds
        ]
        found = np.concatenate(costs)
        return _mean_s(found) if len(found) else None

    def loading(self, source: Channel) -> Fraction:
        """Mean cost of taking what a source of the schedule holds."""
        costs = [
            stretch.of(KIND["receive"], self.numbers[channel.name])
            for stretch in self._alone().values()
            for channel in self.isolated.loads[source]
        ]
        found = np.concatenate(costs)
        return _mean_s(found) if len(found) else Fraction(0)

    def speeds(self) -> tuple[Fraction, ...]:
        """Speed of each of 1, 2, ... active workers, relative to one alone."""
        found = [Fraction(1)]
        for phase, active in enumerate(self.isolated.active):
            if len(active) > 1:
                found.append(self._speed(phase))
        return tuple(found)

    def link(self, channel: Channel) -> Link:
        """What a message of a channel costs: the sender, the way, the receiver."""
        number = self.numbers[self.isolated.probes[channel].name]
        phase = len(self.isolated.active) + list(self.isolated.probes).index(channel)
        of_phase = [stretch for stretch in self.stretches if stretch.phase == phase]
        [sent] = [s for s in of_phase if len(s.of(KIND["send"], number))]
        [received] = [s for s in of_phase if len(s.of(KIND["receive"], number))]
        departed = sent.rows["end"][_is(sent.rows, "send", number)]
        arrivals = _is(received.rows, "receive", number)
        arrived = received.rows["start"][arrivals]
        # Only a receiver that was waiting already shows how long the way is.
        waiting_since = np.concatenate(([0], received.rows["end"][:-1]))[arrivals]
        messages = min(len(departed), len(arrived))
        way = (arrived[:messages] - departed[:messages])[
            waiting_since[:messages] < departed[:messages]
        ]
        return Link(
            latency_s=_mean_s(np.maximum(way, 0)) if len(way) else Fraction(0),
            send_s=_mean_s(sent.of(KIND["send"], number)),
            receive_s=_mean_s(received.of(KIND["receive"], number)),
        )

    def round(self, group: Group) -> Fraction:
        """Mean time of a round, from the last member's arrival to the end in the last one."""
        number = self.groups[self.isolated.rounds[group][0].name]
        first = len(self.isolated.active) + len(self.isolated.probes)
        phase = first + list(self.isolated.rounds).index(group)
        of_phase = [each.rows for each in self.stretches if each.phase == phase]
        joins = [rows[_is(rows, "join", number)] for rows in of_phase]
        copies = [rows[rows["kind"] == KIND["snapshot"]] for rows in of_phase]
        rounds = min(map(len, joins))
        ends = np.stack([rows["end"][:rounds] for rows in joins]).max(axis=0)
        begun = np.stack([rows["end"][:rounds] for rows in copies]).max(axis=0)
        counted = slice(int(rounds * _WARM_UP), rounds)
        return _mean_s((ends - begun)[counted])

    def _alone(self) -> dict[int, _Stretch]:
        active = self.isolated.active
        return {
            s.worker: s for s in self.stretches if active[s.phase : s.phase + 1] == ((s.worker,),)
        }

    def _speed(self, phase: int) -> Fraction:
        together = [stretch for stretch in self.stretches if stretch.phase == phase]
        # Who has ended leaves the machine to the others: only the time common to all counts.
        begin = max(int(stretch.rows["start"][0]) for stretch in together)
        end = min(int(stretch.rows["start"][-1]) for stretch in together)
        alone, needed, took = self._alone(), 0.0, 0.0
        for stretch in together:
            common = (stretch.rows["start"] >= begin) & (
                stretch.rows["start"] + stretch.cost <= end
            )
            for kind in _COMPUTED:
                for block in np.unique(stretch.rows["block"][stretch.rows["kind"] == kind]):
                    chosen = common & _is(stretch.rows, kind, block)
                    usual = alone[stretch.worker].of(kind, block)
                    if len(usual):
                        took += float(stretch.cost[chosen].sum())
                        needed += chosen.sum() * usual.mean()
        if not took:  # phases so short that they did not coincide: nothing is known
            return Fraction(1)
        # In thousandths, so that the simulator's integers stay small.
        return max(Fraction(1, 1000), Fraction(round(1000 * needed / took), 1000))

    def _stretches(self, worker: int, rows: NDArray[np.void]) -> Iterator[_Stretch]:
        rows = rows[np.argsort(rows["index"])]
        meeting = [self.numbers[c.name] for c in self.isolated.begin if c.name in self.numbers]
        meeting += [self.numbers["arrived"]] if "arrived" in self.numbers else []
        message = np.isin(rows["kind"], (KIND["send"], KIND["receive"]))
        meets = message & np.isin(rows["block"], meeting)
        # The batch of a meeting's messages is the phase that begins.
        places = np.flatnonzero(np.concatenate((meets, [True])))
        begin, phase = 0, 0
        for place in places.tolist():
            if place - begin > 1:
                stretch = rows[begin:place]
                # The last row's cost is unknown: after it the worker waited for the others.
                yield _Stretch(worker, phase, stretch[:-1], np.diff(stretch["start"]))
            if place < len(rows):
                begin, phase = place + 1, int(rows["batch"][place])


def _is(rows: NDArray[np.void], kind: str | int, block: int) -> NDArray[np.bool_]:
    code = KIND[kind] if isinstance(kind, str) else kind
    chosen: NDArray[np.bool_] = (rows["kind"] == code) & (rows["block"] == block)
    return chosen


def _mean_s(costs_ns: NDArray[np.int64]) -> Fraction:
    return Fraction(round(float(costs_ns.mean())), 10**9)
