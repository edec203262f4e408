"""The rounds of groups in a static schedule: who arrives, when a round is held, who joins it."""

from collections import Counter
from dataclasses import dataclass, field

from simcore.costs import Costs
from simcore.event_lanes import After, Lanes, NotStaticError
from simcore.schedule import Schedule

__all__ = ["GroupRounds"]


@dataclass(slots=True)
class _Rounds:
    """Rounds of a group over a block: arrivals of each member, and what has come of them."""

    lane: int
    arrivals: dict[int, list[After]]
    contributes: dict[int, list[bool]]
    joined: Counter[int] = field(default_factory=Counter)
    results: list[bool] = field(default_factory=list)


class GroupRounds:
    """All rounds of a schedule; `ended` says which workers have ended."""

    def __init__(self, schedule: Schedule, costs: Costs, lanes: Lanes, ended: list[bool]) -> None:
        self.schedule, self.costs, self.lanes, self.ended = schedule, costs, lanes, ended
        self.members = [
            [w for w, worker in enumerate(schedule.workers) if group in worker.joins]
            for group in schedule.groups
        ]
        self.timed = [any(each.values()) for each in costs.rounds]
        self.rounds: dict[tuple[int, int], _Rounds] = {}
        self.turns: list[list[int]] = [[] for _ in schedule.groups]
        self.turn: Counter[tuple[int, int]] = Counter()
        self.last_round: dict[int, After] = {}

    def has_arrived(self, worker: int, number: int, block: int) -> bool:
        """Whether a worker has arrived for a round over the block that it has not joined."""
        rounds = self._of(number, block)
        return len(rounds.arrivals[worker]) > rounds.joined[worker]

    def arrive(self, worker: int, number: int, block: int, contributes: bool) -> None:
        """A member arrives, with something to contribute or without."""
        rounds = self._of(number, block)
        event = "arrive", number, -1, (block, contributes)
        arrived = self.lanes.add(worker, event, 0, self.lanes.before(worker, 0))
        rounds.arrivals[worker].append(arrived)
        rounds.contributes[worker].append(contributes)
        self._take_turn(worker, number, block)
        self._hold(number, block)

    def join(self, worker: int, number: int, block: int) -> bool | None:
        """Whether anybody contributed to the round that a member joins; None if it has to wait."""
        rounds = self._of(number, block)
        turn = rounds.joined[worker]
        if len(rounds.results) <= turn:
            return None
        rounds.joined[worker] += 1
        result = rounds.results[turn]
        after = (*self.lanes.before(worker, 0), (rounds.lane, turn, 0))
        self.lanes.add(worker, ("join", number, -1, (block, result)), 0, after)
        return result

    def leave(self, worker: int) -> None:
        """A worker has ended, and no round waits for it any more."""
        for number, block in list(self.rounds):
            if worker in self.members[number]:
                self._hold(number, block)

    def _of(self, number: int, block: int) -> _Rounds:
        found = self.rounds.get((number, block))
        if found is None:
            members, name = self.members[number], self.schedule.groups[number].name
            arrivals: dict[int, list[After]] = {member: [] for member in members}
            lane = self.lanes.new(f"{name}, block {block}" if block else name)
            found = _Rounds(lane, arrivals, {member: [] for member in members})
            self.rounds[number, block] = found
        return found

    def _take_turn(self, worker: int, number: int, block: int) -> None:
        """Rounds of a group that take time follow each other in the order of the arrivals."""
        turn, turns = self.turn[worker, number], self.turns[number]
        self.turn[worker, number] += 1
        if turn == len(turns):
            turns.append(block)
        elif self.timed[number] and turns[turn] != block:
            rule = "has members that arrive for its blocks in different orders"
            name = self.schedule.groups[number].name
            raise NotStaticError("group", name, rule, "simulate this schedule")

    def _hold(self, number: int, block: int) -> None:
        """Hold all rounds for which every member that goes on has arrived."""
        rounds, members = self.rounds[number, block], self.members[number]
        while True:
            turn = len(rounds.results)
            there = [member for member in members if len(rounds.arrivals[member]) > turn]
            gone = [member for member in members if member not in there]
            if not there or not all(self.ended[member] for member in gone):
                return
            result = any(rounds.contributes[member][turn] for member in there)
            ticks = self.costs.rounds[number][block] if result else 0
            after = [(*rounds.arrivals[member][turn][:2], ticks) for member in there]
            for member in gone:
                after += self.lanes.before(member, ticks)
            if self.timed[number] and number in self.last_round:
                after.append((*self.last_round[number][:2], ticks))
            event = "round", number, -1, (block, result)
            self.last_round[number] = self.lanes.add(rounds.lane, event, ticks, tuple(after))
            rounds.results.append(result)
