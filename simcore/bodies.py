"""The repeating bodies of a static schedule, and the graph of what in them comes after what.

The same schedule is recorded for n and n + P mini-batches. It repeats if every lane of the longer
recording is that of the shorter one with one body put in, batches counted on, behind at least one
that is the same. That is compared event by event. It then holds for every n + j P, by the rule of
`simcore.steps`: a program does nothing with its counters but to compare them with constants and
with the number of batches, and to take them modulo constants, so that nothing in the middle of a
run can tell how far it is from either end; n must be above the constants, those that are options
among them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import lcm
from typing import Final

from simcore.cluster import Cluster
from simcore.costs import Costs
from simcore.errors import InputError
from simcore.estimate import estimate
from simcore.event_lanes import Event, Lane, NotStaticError, Recording
from simcore.precedence import record
from simcore.schedule import Schedule
from simcore.schedules import rebuild
from simcore.workload import Workload

__all__ = [
    "MOST_EVENTS",
    "Body",
    "Edge",
    "Recorded",
    "Repeating",
    "UnrepeatedError",
    "least_batches",
    "repeating",
    "repeatings",
    "unit_of",
]

MOST_EVENTS: Final = 400_000  # that a recording or a simulation may have
# The period is taken for so many times what options count to, at most.
_MULTIPLES: Final = (1, 2, 3, 4)

# Options that say how much there is, not what is done at which batch.
_SIZES: Final = ("batches", "prefetch", "queue_capacity", "tangents")
_PARTS: Final = ("modules", "layers", "micro_batches")


@dataclass(frozen=True, slots=True)
class Body:
    """The body of a lane: `length` events from `first` on, which repeat up to before `until`."""

    first: int
    length: int
    until: int

    def iteration(self, place: int) -> int:
        """The iteration of a place in the lane."""
        return (place - self.first) // self.length

    def place(self, iteration: int, position: int) -> int:
        """The place in the lane of a position in the body."""
        return self.first + iteration * self.length + position


@dataclass(frozen=True, slots=True)
class Edge:
    """A node ends at least `ticks` after another one, of `lag` iterations before."""

    before: int
    after: int
    ticks: int
    lag: int


@dataclass(frozen=True, slots=True)
class Repeating:
    """A schedule that repeats: `bodies` of lanes, and `nodes`, the lane and position of each.

    `recording` is that of n + P mini-batches, of which there are `batches`; an iteration is of P,
    the `period`. Iterations before `iterations` are whole in all lanes.
    """

    recording: Recording
    batches: int
    period: int
    bodies: dict[int, Body]
    nodes: list[tuple[int, int]]
    edges: list[Edge]
    iterations: int

    @property
    def deepest(self) -> int:
        """The largest lag, at least 1."""
        return max((edge.lag for edge in self.edges), default=1) or 1

    def event(self, node: int) -> Event:
        """What a node is, in the first iteration."""
        lane, position = self.nodes[node]
        return self.recording.lanes[lane].events[self.bodies[lane].first + position]


class UnrepeatedError(NotStaticError):
    """A schedule that was not seen to repeat itself."""


class Recorded:
    """Recordings of a schedule for any number of mini-batches, each made once.

    `costs` are those of a run of `batches` mini-batches, by default those of the schedule: so the
    ticks are those that its simulation would have, where it can be run.
    """

    def __init__(
        self,
        schedule: Schedule,
        blocks: Workload,
        cluster: Cluster,
        batches: int | None = None,
    ) -> None:
        if "batches" not in schedule.options:
            rule = "was not built by its name, so that it cannot be made longer"
            raise NotStaticError("schedule", schedule.name, rule, "register it, or simulate it")
        self.schedule, self.cluster = schedule, cluster
        self.costs = costs_of(schedule, blocks, cluster, batches)
        self.made: dict[int, Recording] = {}

    def __call__(self, batches: int) -> Recording:
        """The recording for so many mini-batches."""
        if batches not in self.made:
            schedule = rebuild(self.schedule, batches=batches)
            self.made[batches] = record(schedule, self.cluster, self.costs)
        return self.made[batches]


def costs_of(schedule: Schedule, blocks: Workload, cluster: Cluster, batches: int | None) -> Costs:
    """What a run of so many mini-batches costs, in its ticks.

    Where these do not fit 62 bits for so many, in those of the schedule as it is: nothing here
    needs them to fit.
    """
    if batches is not None:
        longer = replace(schedule, batches=batches * schedule.micro_batches)
        try:
            return Costs.of(longer, blocks, cluster)
        except InputError as error:
            if error.what != "makespan":
                raise
    return Costs.of(schedule, blocks, cluster)


def unit_of(schedule: Schedule) -> int:
    """Mini-batches after which a program may do the same again: a multiple of what it counts to."""
    replicas, loaders = (schedule.options.get(each, 1) for each in ("replicas", "loaders"))
    # Each replica has its own loaders, who take turns.
    around = replicas * max(1, loaders) if type(replicas) is type(loaders) is int else 1
    return lcm(around, *_constants(schedule))


def least_batches(schedule: Schedule) -> int:
    """So many mini-batches are above every constant that a program may compare with.

    Those that come of the number of blocks are compared with passes, of which a mini-batch has
    several where it has micro-batches.
    """
    passes = -(-(8 + 2 * schedule.blocks) // schedule.micro_batches)
    return max(3, passes) + 3 * max([1, *_constants(schedule)])


def _constants(schedule: Schedule) -> Iterator[int]:
    for name, value in schedule.options.items():
        if type(value) is int and value > 1 and name not in (*_SIZES, *_PARTS):
            yield value
        if isinstance(value, tuple):
            yield max(value)


def repeating(
    recorded: Callable[[int], Recording], batches: int, period: int, shift: int
) -> Repeating:
    """The bodies of a schedule of which `recorded` gives the recording for so many mini-batches.

    `shift` is by how much a period counts on what passes through the network.

    Raises `NotStaticError` if the schedule does not repeat within so many batches.
    """
    short, longer = recorded(batches), recorded(batches + period)
    if len(short.lanes) != len(longer.lanes):
        raise _unrepeated(period, "lanes appear late")
    bodies: dict[int, Body] = {}
    for number, lanes in enumerate(zip(short.lanes, longer.lanes, strict=True)):
        body = _body(*lanes, shift)
        if body.length:
            bodies[number] = body
    if not bodies:
        raise _unrepeated(batches, "nothing in it is done more often with more batches")
    bodies = _cut(longer, bodies)
    iterations = min((body.until - body.first) // body.length for body in bodies.values())
    nodes = [(lane, position) for lane, body in bodies.items() for position in range(body.length)]
    edges = _edges(longer, bodies, nodes, iterations)
    return Repeating(longer, batches + period, period, bodies, nodes, edges, iterations)


def repeatings(
    recorded: Recorded, like: int = 0, most_events: int = MOST_EVENTS
) -> Iterator[Repeating]:
    """The schedule's bodies, of longer and longer recordings of at most so many events.

    Their numbers of mini-batches are `like` but for whole periods.

    Raises `NotStaticError` at once for a schedule that is not static, and `UnrepeatedError` if no
    recording shows that it repeats.
    """
    schedule = recorded.schedule
    unit, least = unit_of(schedule), least_batches(schedule)
    refused = _unrepeated(least, f"more than {most_events} events would be needed to see")
    shown = False
    while True:
        for multiple in _MULTIPLES:
            period = unit * multiple
            batches = least + (like - least) % period
            longest = {**schedule.options, "batches": batches + period}
            if estimate(schedule.name, longest).operations > most_events:
                if shown:
                    return
                raise refused
            try:
                yield repeating(recorded, batches, period, period * schedule.micro_batches)
            except UnrepeatedError as error:
                refused = error
            else:
                shown = True
                break
        least *= 2


def _unrepeated(value: int, reason: str) -> UnrepeatedError:
    rule = f"does not show a program that repeats itself, for {reason}"
    return UnrepeatedError("number of batches tried", value, rule, "simulate this schedule")


def _body(short: Lane, longer: Lane, shift: int) -> Body:
    """Where in a lane the body is; raises unless one more fits, behind one that is the same.

    Up to `same` the lanes are alike, and from `first` on if the body is left out: in between each
    event of the longer lane comes again a body later.
    """
    a, b = short.events, longer.events
    length = len(b) - len(a)
    same = next((at for at, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]), None)
    same = len(a) if same is None else same
    tail = 0
    while tail < len(a) and _moved(a[-1 - tail], shift) == b[-1 - tail]:
        tail += 1
    first = len(a) - tail
    if length < 0 or first + length > same:
        raise _unrepeated(len(b), f"{short.name} does something else with more batches")
    return Body(first, length, same + length)


def _moved(event: Event, shift: int) -> Event:
    kind, place, batch, detail = event
    return (kind, place, batch + shift, detail) if batch >= 0 else event


def _cut(recording: Recording, bodies: dict[int, Body]) -> dict[int, Body]:
    """The bodies, begun where nothing that comes before a beginning is behind another one.

    Then nothing comes after something of a later iteration. It is the first such cut.
    """
    begins = {lane: body.first for lane, body in bodies.items()}
    looked = dict.fromkeys(bodies, 0)
    open_lanes = set(bodies)
    while open_lanes:
        lane = open_lanes.pop()
        for place in range(looked[lane], begins[lane]):
            for other, before, _ in recording.lanes[lane].after[place]:
                if other in bodies and before >= begins[other]:
                    begins[other] = before + 1
                    open_lanes.add(other)
        looked[lane] = begins[lane]
    return {
        lane: replace(body, first=max(begins[lane], body.first)) for lane, body in bodies.items()
    }


def _edges(
    recording: Recording,
    bodies: dict[int, Body],
    nodes: list[tuple[int, int]],
    iterations: int,
) -> list[Edge]:
    """What comes after what, the same in the last two whole iterations."""
    number = {node: n for n, node in enumerate(nodes)}

    def of(iteration: int) -> list[Edge]:
        found = []
        for node, (lane, position) in enumerate(nodes):
            place = bodies[lane].place(iteration, position)
            for other, before, ticks in recording.lanes[lane].after[place]:
                body = bodies.get(other)
                if body is None or before < body.first:
                    raise _unrepeated(iteration, "something in it comes after the very start")
                was = number[other, (before - body.first) % body.length]
                found.append(Edge(was, node, ticks, iteration - body.iteration(before)))
        return found

    if iterations < 2:
        raise _unrepeated(iterations, "too few batches show it")
    last = of(iterations - 1)
    if of(iterations - 2) != last or any(edge.lag < 0 for edge in last):
        raise _unrepeated(iterations, "what comes after what changes on the way")
    return last
