import math
from decimal import Decimal
from fractions import Fraction

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcore.errors import InputError
from simcore.ticks import Number, Tick, choose_tick, exact

NANOSECOND = Tick(Fraction(1, 10**9))
short_decimals = st.builds(
    lambda n, places: Fraction(n, 10**places), st.integers(0, 999), st.integers(0, 4)
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.1, Fraction(1, 10)),
        (numpy.float64(0.1), Fraction(1, 10)),
        (5e-324, Fraction(5, 10**324)),
        (-0.0, Fraction(0)),
        (7, Fraction(7)),
        ("0.1", Fraction(1, 10)),
        ("1e-3", Fraction(1, 1000)),
        ("2/6", Fraction(1, 3)),
        ("-0.5/2", Fraction(-1, 4)),
        ("0e999999999", Fraction(0)),
        (Decimal("0.12345678901234567890"), Fraction(12345678901234567890, 10**20)),
        (Fraction(1, 3), Fraction(1, 3)),
    ],
)
def test_exact_reads_what_is_written(value: Number, expected: Fraction) -> None:
    assert exact(value) == expected


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_exact_takes_every_finite_float_and_loses_nothing(value: float) -> None:
    assert float(exact(value)) == value


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (math.nan, "delay is nan: must be finite; give a finite number"),
        (math.inf, "delay is inf: must be finite; give a finite number"),
        ("-inf", "delay is '-inf': must be finite; give a finite number"),
        (Decimal("sNaN"), "delay is 'sNaN': must be finite; give a finite number"),
        ("soon", "delay is 'soon': must be a number; give one such as 0.25, 1e-3 or 1/3"),
        ("1/x", "delay is 'x': must be a number; give one such as 0.25, 1e-3 or 1/3"),
        ("1/0", "delay is '1/0': must not divide by zero; give another denominator"),
        (
            "1e999999999",
            "delay is '1e+999999999': must be 0 or between 1e-330 and 1e330 in size; "
            "give a number within that range",
        ),
        (
            "1e-331",
            "delay is '1e-331': must be 0 or between 1e-330 and 1e330 in size; "
            "give a number within that range",
        ),
    ],
)
def test_exact_refuses(value: Number, line: str) -> None:
    with pytest.raises(InputError) as caught:
        exact(value, "delay")
    assert str(caught.value) == line


@given(st.lists(short_decimals), st.integers(0, 10**6))
def test_short_decimals_are_exact(durations: list[Fraction], longest: int) -> None:
    tick = choose_tick(durations, Fraction(longest))
    for duration in durations:
        assert tick.ticks(duration) * tick.seconds == duration
        assert tick.to_seconds(tick.ticks(duration)) == float(duration)


@settings(deadline=None)
@given(st.lists(st.fractions(0, 10, max_denominator=1000), min_size=1, max_size=5))
def test_the_tick_is_the_longest_that_divides_a_second_and_all_durations(
    durations: list[Fraction],
) -> None:
    per_second = 1 / choose_tick(durations, Fraction(1)).seconds
    assert per_second.denominator == 1
    assert all((duration * per_second).denominator == 1 for duration in durations)
    for prime in (p for p in range(2, 1001) if per_second % p == 0):
        assert any((duration * per_second / prime).denominator > 1 for duration in durations)


@pytest.mark.parametrize(
    ("durations", "longest", "expected"),
    [
        ([], Fraction(1), Tick(Fraction(1))),
        ([Fraction(1, 3)], Fraction(2**62 - 1, 3), Tick(Fraction(1, 3))),
        ([Fraction(1, 3)], Fraction(2**62, 3 * 10**9), Tick(Fraction(1, 3))),
        ([Fraction(1, 10**12)], Fraction(2**62 - 1, 10**12), Tick(Fraction(1, 10**12))),
        ([Fraction(1, 10**12)], Fraction(2**62, 10**12), NANOSECOND),
        ([Fraction(1, 10**12)], Fraction(2**62 - 1, 10**9), NANOSECOND),
    ],
)
def test_the_tick_is_exact_up_to_62_bits(
    durations: list[Fraction], longest: Fraction, expected: Tick
) -> None:
    assert choose_tick(durations, longest) == expected


@pytest.mark.parametrize(
    ("longest", "shown"),
    [(Fraction(2**62, 10**9), "4.61e+9 s"), (Fraction(10**320), "1.00e+320 s")],
)
def test_a_makespan_beyond_62_bits_of_nanoseconds_is_refused(longest: Fraction, shown: str) -> None:
    with pytest.raises(InputError) as caught:
        choose_tick([Fraction(1, 10**12)], longest)
    assert str(caught.value) == (
        f"makespan is '{shown}': must be less than 2**62 ns (146 years); "
        "give shorter times or fewer batches"
    )


@pytest.mark.parametrize(
    ("duration", "ticks"),
    [
        ("0", 0),
        ("1e-12", 1),
        ("1.4e-9", 1),
        ("1.5e-9", 2),
        ("1.6e-9", 2),
        ("2.5e-9", 2),
        ("1", 10**9),
    ],
)
def test_durations_are_rounded_to_the_nearest_tick_but_never_to_none(
    duration: str, ticks: int
) -> None:
    assert NANOSECOND.ticks(exact(duration)) == ticks
