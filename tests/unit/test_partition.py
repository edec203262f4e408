from fractions import Fraction
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcore.errors import InputError
from simcore.partition import Partition, blocks_of, partition
from simcore.workload import Layer, Workload

# Few distinct values make many ties, which is where the tie-breaking rule shows.
times = st.one_of(
    st.integers(0, 3).map(Fraction), st.fractions(0, 3, max_denominator=6), st.just(Fraction(0))
)


def workload_of(*times_s: float | Fraction) -> Workload:
    layers = (Layer(f"layer{n}", Fraction(time), Fraction(0)) for n, time in enumerate(times_s, 1))
    return Workload("test", tuple(layers))


def best_of_all(times_s: list[Fraction], modules: int) -> tuple[int, ...]:
    """By the definition: try every way of cutting."""
    if not any(times_s):
        times_s = [Fraction(1)] * len(times_s)

    def rank(bounds: tuple[int, ...]) -> tuple[Fraction, Fraction, tuple[int, ...]]:
        sums = [sum(times_s[first:end], Fraction(0)) for first, end in pairwise(bounds)]
        return max(sums), sum((s * s for s in sums), Fraction(0)), tuple(-cut for cut in bounds)

    inner = combinations(range(1, len(times_s)), modules - 1)
    return min(((0, *cuts, len(times_s)) for cuts in inner), key=rank)


@settings(deadline=None)
@given(st.data(), st.lists(times, min_size=1, max_size=10))
def test_it_is_the_best_of_all_partitions(data: st.DataObject, times_s: list[Fraction]) -> None:
    modules = data.draw(st.integers(1, len(times_s)))
    assert partition(workload_of(*times_s), modules).bounds == best_of_all(times_s, modules)


@given(st.lists(times, min_size=1, max_size=10), st.integers(1, 10**9))
def test_the_unit_of_time_does_not_matter(times_s: list[Fraction], scale: int) -> None:
    modules = (len(times_s) + 1) // 2
    scaled = workload_of(*(time / scale for time in times_s))
    assert partition(scaled, modules) == partition(workload_of(*times_s), modules)


@pytest.mark.parametrize(
    ("times_s", "modules", "bounds"),
    [
        ((1, 1, 1, 1, 1, 4), 3, (0, 3, 5, 6)),  # as even as the slow layer permits
        ((0, 0, 0, 0, 0), 2, (0, 3, 5)),  # no times: by count
        ((1, 0, 0, 1), 2, (0, 3, 4)),  # layers that take no time go with the earlier block
        ((0, 0, 1), 3, (0, 1, 2, 3)),
        ((5,), 1, (0, 1)),
        # The most even cuts of these have a block that takes longer than it must.
        ((3, 3, 7, 1), 3, (0, 2, 3, 4)),
        ((4, 4, 7, 2), 3, (0, 2, 3, 4)),
        ((2, 3, 3, 8, 1, 8, 5, 1, 1), 6, (0, 2, 3, 4, 5, 6, 9)),
    ],
)
def test_how_ties_are_broken(
    times_s: tuple[int, ...], modules: int, bounds: tuple[int, ...]
) -> None:
    assert partition(workload_of(*times_s), modules).bounds == bounds


@pytest.mark.parametrize("times_s", [(3, 0, 0), (0, 3, 0), (0, 0, 3), (1, 1, 1)])
def test_all_three_times_count(times_s: tuple[int, int, int]) -> None:
    forward, backward, update = map(Fraction, times_s)
    heavy = Layer("heavy", forward, backward, update)
    light = Layer("light", Fraction(1), Fraction(0))
    workload = Workload("test", (heavy, light, light, light))
    assert partition(workload, 2).bounds == (0, 1, 4)


def test_decisions_are_exact_where_floats_would_tie() -> None:
    tiny = Fraction(1, 10**30)
    assert partition(workload_of(1, 1, 1 - tiny), 2).bounds == (0, 1, 3)
    assert partition(workload_of(1, 1, 1 + tiny), 2).bounds == (0, 2, 3)


def test_a_thousand_layers_of_which_one_is_slow() -> None:
    # With one slow layer, all other cuts are free within wide windows: the worst case.
    sizes = [len(block) for block in partition(workload_of(*[1] * 999, 999), 64).blocks]
    assert sizes == [16] * 54 + [15] * 9 + [1]


@pytest.mark.parametrize("modules", [-1, 0, 4])
def test_there_is_at_least_a_layer_for_each_module(modules: int) -> None:
    with pytest.raises(InputError) as caught:
        partition(workload_of(1, 1, 1), modules)
    assert str(caught.value) == (
        f"modules is {modules}: must be between 1 and the number of layers, 3; "
        "give fewer modules or more layers"
    )


def test_blocks_cover_the_layers() -> None:
    assert Partition((0, 2, 3, 6)).blocks == (range(2), range(2, 3), range(3, 6))


def test_blocks_of_sums_costs_and_sends_the_last_output() -> None:
    layers = tuple(
        Layer(f"l{n}", Fraction(n), Fraction(n, 3), Fraction(n, 7), 10 * n, 100 * n, 1000 * n)
        for n in range(1, 5)
    )
    workload = Workload("net", layers, batch_size=8, input_bytes=5, note="why")
    assert blocks_of(workload, Partition((0, 3, 4))) == Workload(
        "net",
        (Layer("l1..l3", Fraction(6), Fraction(2), Fraction(6, 7), 30, 600, 6000), layers[3]),
        batch_size=8,
        input_bytes=5,
        note="why",
    )


@given(st.data(), st.lists(times, min_size=1, max_size=10))
def test_blocks_of_keeps_the_totals(data: st.DataObject, times_s: list[Fraction]) -> None:
    workload = workload_of(*times_s)
    blocks = blocks_of(workload, partition(workload, data.draw(st.integers(1, len(times_s)))))
    assert blocks.sequential_s(1) == workload.sequential_s(1)
