from typing import Any

import pytest

from simcore.engine import simulate
from simcore.errors import InputError
from simcore.estimate import Estimate, estimate, parse_bytes, refuse_if_too_large
from simcore.schedules import SCHEDULES, build
from simcore.workload import Workload


def counted(name: str, **options: Any) -> tuple[int, int]:
    """Operations as the trace has them, and the blocks."""
    schedule = build(name, **options)
    return len(simulate(schedule, Workload.even(schedule.blocks)).spans), schedule.blocks


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("blocks", "batches"), [(1, 1), (1, 5), (2, 7), (5, 3)])
def test_the_operations_of_every_schedule(name: str, blocks: int, batches: int) -> None:
    options: dict[str, Any] = {SCHEDULES[name].blocks_option: blocks, "batches": batches}
    try:
        operations = counted(name, **options)[0]
    except InputError:  # too few batches for the replicas, say
        return
    assert_near(name, options, operations)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_operations_with_defaults(name: str) -> None:
    assert_near(name, {}, counted(name)[0])


def assert_near(name: str, options: dict[str, Any], operations: int) -> None:
    """Exact for the schedules that a comparison begins with; no more than twice for all."""
    found = estimate(name, options).operations
    if name in ("bp", "fdg", "adl", "async-lu", "async-bu"):
        assert found == operations
    assert operations <= found <= 2 * operations + 40


@pytest.mark.parametrize("accumulation", [2, 3, 7, 100])
@pytest.mark.parametrize("window", ["batch", "gradient"])
@pytest.mark.parametrize("order", ["forward-first", "update-first"])
def test_windows_of_accumulation_are_counted_one_too_many_at_most(
    accumulation: int, window: str, order: str
) -> None:
    for batches in (1, 6, 7, 20):
        options = {"accumulation": accumulation, "window": window, "order": order}
        operations, blocks = counted("adl", batches=batches, **options)
        found = estimate("adl", {"batches": batches, **options}).operations
        assert operations <= found <= operations + blocks


def test_the_memory_is_three_times_that_of_the_tables() -> None:
    schedule = build("fdg", modules=3, batches=500)
    trace = simulate(schedule, Workload.even(3))
    found = estimate("fdg", {"modules": 3, "batches": 500}).trace_bytes
    assert found == 3 * (trace.spans.nbytes + trace.gradients.nbytes) + 3 * 10_000


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("option", ["batches", "blocks", "forward_threads", "backward_threads"])
def test_the_largest_numbers_are_answered_at_once(name: str, option: str) -> None:
    option = SCHEDULES[name].blocks_option if option == "blocks" else option
    if option not in SCHEDULES[name].defaults:
        return
    huge = estimate(name, {option: 10**18})
    assert huge.trace_bytes >= 10**18
    with pytest.raises(InputError, match="estimated memory"):
        refuse_if_too_large(huge, 2**50)


def test_numbers_beyond_floating_point() -> None:
    options = {"modules": 10**200, "batches": 10**200}
    assert estimate("fdg", options).seconds == float("inf")
    with pytest.raises(InputError, match="inf years"):
        refuse_if_too_large(estimate("fdg", options), 2**30)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("gdf", {}, "schedule is 'gdf': must be one of"),
        ("fdg", {"modules": 0}, "modules is 0: must be a whole number of at least 1"),
        ("fdg", {"batches": 1.5}, "batches is 1.5: must be a whole number of at least 1"),
        ("adl", {"accumulation": -1}, "accumulation is -1: must be a whole number of at least 1"),
        ("async-lu", {"layers": "two"}, "layers is 'two': must be a whole number of at least 1"),
    ],
)
def test_bad_options_are_refused(name: str, options: dict[str, object], expected: str) -> None:
    with pytest.raises(InputError) as caught:
        estimate(name, options)
    assert str(caught.value).startswith(expected)


def test_a_refusal_says_what_is_too_large_and_what_helps() -> None:
    with pytest.raises(InputError) as caught:
        refuse_if_too_large(Estimate(27 * 10**8, 600 * 2**30, 40_000.0), 4 * 2**30)
    assert str(caught.value) == (
        "estimated memory is '600 GiB': must be at most 4 GiB, the memory limit "
        "(about 2.7e+9 operations, 11 hours); "
        "give fewer batches or modules, or a larger --memory-limit"
    )
    refuse_if_too_large(Estimate(1, 4 * 2**30, 1.0), 4 * 2**30)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GiB", 4 * 2**30),
        ("1000", 1000),
        ("1000B", 1000),
        ("500 MB", 500 * 10**6),
        (" 2kB ", 2000),
        ("0.5KiB", 512),
        ("1.0005kB", 1000),
        ("3TiB", 3 * 2**40),
        ("1EB", 10**18),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["", "GiB", "4 gib", "4Gi", "-1GiB", "0", "1e9", "0.1", "4 G B", "٣"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_bytes(text, "--limit")
    assert str(caught.value) == (
        f"--limit is '{text}': must be a positive number of bytes, with a unit such as MB or GiB, "
        "or without; give one such as 4GiB"
    )
