"""Random durations of many replicas at once: the very ones that `simcore.timing.Timing` draws.

The n-th computation of a worker takes a duration that is fixed by seed, worker and n alone, so all
replicas' can be computed as one array. Functions on arrays may differ from those on single numbers
in the last bit: wherever that could change the rounding to ticks, the single number is computed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simcore.cluster import Cluster
from simcore.costs import Costs
from simcore.durations import Variation, Variations
from simcore.ops import kind_of
from simcore.passes import rows_of
from simcore.randomness import uniform
from simcore.rules import RULES
from simcore.trace import KIND, Trace

__all__ = ["Computations", "computations", "drawn", "uniforms"]

_MASK: Final = 2**64 - 1
_ELEMENTS: Final = 2**17  # of one array: its temporaries fit into a core's cache
# Relative error that a factor may have, far above that of any of the functions.
_DOUBT: Final = 1e-12
# A sum of so many ticks still fits into an int64.
_MOST_TICKS: Final = 2**62
_COMPUTED: Final = tuple({kind_of(each): None for each, rule in RULES.items() if rule.timed})

Ticks = int | NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Computations:
    """What a worker computes, one after the other, in every replica.

    `ticks` are the durations without randomness, shape (computations,), and `kind` the codes of
    `simcore.trace.KIND`.
    """

    worker: int
    ticks: NDArray[np.int64]
    kind: NDArray[np.int64]


def computations(trace: Trace, costs: Costs, cluster: Cluster) -> list[Computations]:
    """What each worker computed in a run, in its order."""
    rows = rows_of(trace, *_COMPUTED)
    spans = trace.spans[rows]
    spans = spans[np.lexsort((spans["index"], spans["worker"]))]
    most = max(max(map(len, costs.compute.values())), trace.header.blocks + 1)
    table = np.zeros((len(KIND), most), np.int64)
    for kind, ticks in costs.compute.items():
        table[KIND[kind], : len(ticks)] = ticks
    block = np.maximum(spans["block"], 0)
    found = []
    for worker in range(len(trace.header.workers)):
        own, slowdown = spans["worker"] == worker, cluster.slowdown(worker)
        slow = table
        if slowdown != 1:
            each_slower = [max(1, round(t * slowdown)) if t else 0 for t in table.ravel().tolist()]
            slow = np.array(each_slower, np.int64).reshape(table.shape)
        kind = spans["kind"][own]
        found.append(Computations(worker, slow[kind, block[own]], kind))
    return found


def uniforms(seeds: Sequence[int], worker: int, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """`simcore.randomness.uniform` of each count and seed, shape (counts, seeds).

    >>> found = uniforms([3, 4], 1, np.array([7]))
    >>> found.tolist() == [[uniform(3, 1, 7), uniform(4, 1, 7)]]
    True
    """
    base = np.array([seed & _MASK for seed in seeds], np.uint64)
    base = _mixed(_mixed(base) ^ np.uint64(worker))
    mixed = _mixed(base[None, :] ^ counts.astype(np.uint64)[:, None])
    mixed >>= np.uint64(12)
    shares = mixed.astype(np.float64)
    shares += 0.5
    shares *= 2.0**-52
    return shares


def _mixed(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # As in simcore.randomness; products and sums of unsigned integers drop what is above 64 bits.
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value ^= value >> np.uint64(30)
    value *= np.uint64(0xBF58476D1CE4E5B9)
    value ^= value >> np.uint64(27)
    value *= np.uint64(0x94D049BB133111EB)
    value ^= value >> np.uint64(31)
    return value


def drawn(
    computed: Computations, variations: Variations, seeds: Sequence[int], operations: int
) -> Iterator[Ticks]:
    """The duration of each computation in the replicas of these seeds, in ticks.

    One number where it is the same in all of them, else an array of shape (seeds,). `operations`
    is how many computations all workers do: if the sum of as many might not fit into 62 bits,
    raises `OverflowError`.
    """
    step = max(1, _ELEMENTS // len(seeds))
    names = {code: name for name, code in KIND.items()}
    chosen = {code: variations.of(names[code]) for code in set(computed.kind.tolist())}
    for begin in range(0, len(computed.ticks), step):
        ticks, kinds = computed.ticks[begin : begin + step], computed.kind[begin : begin + step]
        yield from _part(computed.worker, begin + 1, ticks, kinds, chosen, seeds, operations)


def _part(
    worker: int,
    first: int,
    ticks: NDArray[np.int64],
    kinds: NDArray[np.int64],
    chosen: Mapping[int, Variation | None],
    seeds: Sequence[int],
    operations: int,
) -> list[Ticks]:
    """The durations of the computations that count from `first` on."""
    found: list[Ticks] = ticks.tolist()
    by_variation: dict[int, list[int]] = {}
    for place, kind in enumerate(kinds.tolist()):
        if found[place] and chosen[kind] is not None:
            by_variation.setdefault(id(chosen[kind]), []).append(place)
    for places in by_variation.values():
        variation = chosen[int(kinds[places[0]])]
        assert variation is not None
        rows = _random(worker, first + np.array(places), ticks[places], variation, seeds)
        if int(rows.max()) * operations >= _MOST_TICKS:
            raise OverflowError("durations that add up to more ticks than 62 bits hold")
        for place, row in zip(places, rows, strict=True):
            found[place] = row
    return found


def _random(
    worker: int,
    counts: NDArray[np.int64],
    ticks: NDArray[np.int64],
    variation: Variation,
    seeds: Sequence[int],
) -> NDArray[np.int64]:
    products = variation.factors(uniforms(seeds, worker, counts))
    products *= ticks[:, None]
    if not products.max(initial=0.0) < _MOST_TICKS:
        raise OverflowError("a duration of more ticks than 62 bits hold")
    found = np.maximum(np.rint(products), 1.0).astype(np.int64)
    distance = products - np.floor(products)
    distance -= 0.5
    np.abs(distance, out=distance)
    products *= _DOUBT
    for row, column in np.argwhere(distance <= products).tolist():
        factor = variation.quantile(uniform(seeds[column], worker, int(counts[row])))
        found[row, column] = max(1, round(int(ticks[row]) * factor))
    return found
