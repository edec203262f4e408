"""The F:B law: Async BP with any number of threads, in steady state.

F forward threads take T seconds a batch, B backward threads D = beta T + U; links are free and
every worker has a device of its own. Batch n is handed over at d(n) and its backward pass starts at
b(n); with a queue of capacity Q, or without bound,

    d(n) = max(d(n - F) + T, b(n - Q)),    b(n) = max(d(n), b(n - B) + D).

No cycle of this max-plus system has a mean above max(T / F, D / B), so that is the time of a batch
for *every* queue. By induction b(n) >= b(n - F) + T, so b(n - Q) + jT <= b(n - Q + jF): what a full
queue delays never delays a backward pass. A bound on the queue thus changes no landing of an
update; it only lets the forward passes read later, and saves memory and staleness.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, gcd
from typing import Literal

from simcore.workload import Layer

__all__ = [
    "Threads",
    "backward_threads_needed",
    "batch_s",
    "batches_in_flight",
    "growth_per_batch",
    "held_bytes",
    "mean_gap",
    "queue_length",
]


@dataclass(frozen=True, slots=True)
class Threads:
    """Async BP over so many `layers`. Times are those of the whole network for one batch.

    Layers are even, or as in `uneven`, whose times then add up to those of the network.
    `updates` says when a backward thread updates: each layer in its turn (LU), or all of them, the
    last first, behind its pass (BU). `queue_capacity` is None for an unbounded queue of losses.
    All times are positive, of each layer too, but for those of updates, which may be 0.
    """

    layers: int
    forward_threads: int
    backward_threads: int
    forward_s: Fraction
    backward_s: Fraction
    update_s: Fraction = Fraction(0)
    queue_capacity: int | None = None
    updates: Literal["layer", "block"] = "layer"
    uneven: tuple[Layer, ...] = ()

    @property
    def pass_s(self) -> Fraction:
        """Time of a backward pass with its updates, D."""
        return self.backward_s + self.update_s

    @property
    def outrun(self) -> bool:
        """Whether the forward threads are the faster ones: F / T > B / D."""
        return self.forward_threads * self.pass_s > self.backward_threads * self.forward_s

    def read_s(self, layer: int) -> Fraction:
        """Time from the start of a forward pass until it reads the weights of a layer."""
        return sum((forward_s for forward_s, _, _ in self._layers()[: layer - 1]), Fraction(0))

    def held_s(self, layer: int) -> Fraction:
        """Time from the start of a backward pass until it lets the graph of a layer go."""
        layers = self._layers()
        held_s = sum((backward_s for _, backward_s, _ in layers[layer - 1 :]), Fraction(0))
        between = layers[layer:] if self.updates == "layer" else ()
        return held_s + sum((update_s for _, _, update_s in between), Fraction(0))

    def landing_s(self, layer: int) -> Fraction:
        """Time from the start of a backward pass until its update of a layer lands."""
        layers = self._layers()
        passed = layers[layer - 1 :] if self.updates == "layer" else layers
        landing_s = sum((backward_s for _, backward_s, _ in passed), Fraction(0))
        return landing_s + sum((update_s for _, _, update_s in layers[layer - 1 :]), Fraction(0))

    def _layers(self) -> Sequence[tuple[Fraction, Fraction, Fraction]]:
        """Forward, backward and update time of each layer."""
        if self.uneven:
            return [(each.forward_s, each.backward_s, each.update_s) for each in self.uneven]
        layers = self.layers
        return [
            (self.forward_s / layers, self.backward_s / layers, self.update_s / layers)
        ] * layers


def batch_s(threads: Threads) -> Fraction:
    """Seconds per batch in steady state: max(T / F, D / B), for every queue and uneven layers too.

    >>> batch_s(Threads(4, 1, 2, Fraction(1), Fraction(3)))
    Fraction(3, 2)
    """
    forward = threads.forward_s / threads.forward_threads
    return max(forward, threads.pass_s / threads.backward_threads)


def growth_per_batch(threads: Threads) -> Fraction:
    """By how many batches an unbounded queue grows with each batch taken: 1 - B T / (F D), or 0.

    >>> growth_per_batch(Threads(4, 1, 1, Fraction(1), Fraction(2)))
    Fraction(1, 2)
    """
    if threads.queue_capacity is not None or not threads.outrun:
        return Fraction(0)
    return 1 - threads.forward_s / threads.forward_threads / batch_s(threads)


def backward_threads_needed(
    backward_ratio: Fraction, forward_threads: int = 1, update_ratio: Fraction = Fraction(0)
) -> tuple[int, int]:
    """Backward threads for the forward threads' throughput, and for no batch to wait at all.

    With D / T = beta + U / T they are ceil(F D / T) and F ceil(D / T). The paper's "no wait" (its
    section 3.3) needs the second; for F = 1 both are ceil(beta + U / T).

    >>> backward_threads_needed(Fraction(3, 2), forward_threads=2)
    (3, 4)
    """
    ratio = backward_ratio + update_ratio
    return ceil(forward_threads * ratio), forward_threads * ceil(ratio)


def queue_length(threads: Threads) -> Fraction | None:
    """Mean number of losses that wait; None if it grows for ever.

    A bounded queue of outrun backward threads is always full, also with several forward threads
    that hand over at the same moments.

    >>> queue_length(Threads(4, 2, 3, Fraction(1), Fraction(3, 2)))
    Fraction(1, 2)
    """
    pattern = _pattern(threads)
    return None if pattern is None else pattern.mean(pattern.begun, pattern.handed)


def batches_in_flight(threads: Threads, layer: int) -> Fraction | None:
    """Mean number of batches whose graph of a layer is held; None if it grows for ever.

    By Little's law: from the start of the forward pass of the layer to the end of its backward
    pass. That of layer 1 is the number of batches in flight.

    >>> batches_in_flight(Threads(1, 1, 2, Fraction(1), Fraction(2)), layer=1)
    Fraction(3, 1)
    """
    pattern = _pattern(threads)
    if pattern is None:
        return None
    graph_s = threads.held_s(layer) - threads.read_s(layer)
    return pattern.mean(pattern.begun, pattern.taken) + graph_s / batch_s(threads)


def held_bytes(threads: Threads, saved_bytes: Sequence[int]) -> Fraction | None:
    """Mean bytes that all batches in flight hold, of `saved_bytes` for each layer's graph.

    None if they grow for ever.
    """
    total = Fraction(0)
    for layer, size in enumerate(saved_bytes, 1):
        held = batches_in_flight(threads, layer)
        if held is None:
            return None
        total += held * size
    return total


def mean_gap(threads: Threads, layer: int) -> Fraction | None:
    """Mean gap of a layer's gradients, in updates; None if it grows for ever.

    Updates that land at the tick of a read are seen, as in the simulator; of updates that land
    together each is counted before half of the others, in whatever order they do.

    >>> mean_gap(Threads(4, 1, 2, Fraction(1), Fraction(2)), layer=1)
    Fraction(2, 1)
    """
    pattern = _pattern(threads)
    if pattern is None:
        return None
    return pattern.mean_gap(threads.read_s(layer), threads.landing_s(layer))


@dataclass(frozen=True, slots=True)
class _Pattern:
    """One period of the steady state: when its batches are taken, handed over, and begun backward.

    All other batches do the same, whole periods of `length` seconds earlier or later.
    """

    length: Fraction
    taken: tuple[Fraction, ...]
    handed: tuple[Fraction, ...]
    begun: tuple[Fraction, ...]

    def mean(self, later: Sequence[Fraction], earlier: Sequence[Fraction]) -> Fraction:
        """How many batches are between two of their moments, on average over time."""
        return (sum(later, Fraction(0)) - sum(earlier, Fraction(0))) / self.length

    def mean_gap(self, reads: Fraction, lands: Fraction) -> Fraction:
        """Mean number of landings between read and landing, so long after taken and begun."""
        total = Fraction(0)
        for number, begun in enumerate(self.begun):
            for other_number, other in enumerate(self.begun):
                since = (self.taken[number] + reads - other - lands) / self.length
                until = (begun - other) / self.length
                total += ceil(until) - floor(since) - 1
                if number != other_number and until.denominator == 1:  # both land at once
                    total += Fraction(1, 2)
        return total / len(self.begun)


def _pattern(threads: Threads) -> _Pattern | None:
    ahead, behind = threads.forward_threads, threads.backward_threads
    capacity, outrun = threads.queue_capacity, threads.outrun
    if outrun and capacity is None:
        return None
    begins = _outrun_begins(threads) if outrun else _waited_begins(threads)
    length = threads.pass_s if outrun else threads.forward_s
    many = behind if outrun else ahead

    def begun(batch: int) -> Fraction:
        return begins[batch % many] + batch // many * length

    def handed(batch: int) -> Fraction:
        unblocked = (1 + batch // ahead) * threads.forward_s
        if capacity is None:
            return unblocked
        room = begun(batch - capacity)
        return room if outrun else max(unblocked, room)

    period = range(many)
    return _Pattern(
        length,
        tuple(handed(batch - ahead) for batch in period),
        tuple(handed(batch) for batch in period),
        tuple(begun(batch) for batch in period),
    )


def _waited_begins(threads: Threads) -> list[Fraction]:
    """Starts of the backward passes of F batches handed over at T, the slower side being forward.

    The i-th batch before one, i = j B, had its thread: it waits max over j of
    j D - T ceil((j B - r) / F), r its place among those handed over with it. From j = F / gcd(F, B)
    on nothing new comes.
    """
    forward, ahead, behind = threads.forward_s, threads.forward_threads, threads.backward_threads
    return [
        forward
        + max(
            turn * threads.pass_s - forward * ceil(Fraction(turn * behind - place, ahead))
            for turn in range(ahead // gcd(ahead, behind))
        )
        for place in range(ahead)
    ]


def _outrun_begins(threads: Threads) -> list[Fraction]:
    """Starts of the backward passes of batches 0 .. B - 1, had no thread ever waited for a batch.

    Thread r's passes follow each other without a break behind the last that waited, its q-th:
    max over q of T (1 + floor((r + q B) / F)) - q D. From q = F / gcd(F, B) on nothing new comes.
    """
    forward, ahead, behind = threads.forward_s, threads.forward_threads, threads.backward_threads
    return [
        max(
            forward * (1 + (place + turn * behind) // ahead) - turn * threads.pass_s
            for turn in range(ahead // gcd(ahead, behind))
        )
        for place in range(behind)
    ]
