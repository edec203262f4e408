"""Integer simulated time.

Seconds exist only at the border, as exact fractions; inside, time is a number of ticks. Schedules
with integer ratios of times make exact ties all the time, and floating-point seconds would break
them one way or the other by chance.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from math import lcm

from simcore.errors import InputError

__all__ = ["Number", "Tick", "choose_tick", "exact", "total"]

Number = int | float | str | Decimal | Fraction

TICKS_LIMIT = 2**62  # one bit less than an int64 has, so that the sum of two times fits as well
NANOSECONDS = 10**9  # per second
LARGEST_EXPONENT = 330  # every float lies within; 10**999999999 would not fit in memory


def exact(value: Number, what: str = "number") -> Fraction:
    """The number that was written: a float stands for its shortest decimal.

    `what` names the value in errors. A string may be a decimal or a ratio of two.

    >>> exact(0.1), exact("2/3"), exact("1e-3")
    (Fraction(1, 10), Fraction(2, 3), Fraction(1, 1000))

    Raises:
        InputError: not a number, not finite, or beyond 1e-330 to 1e330 in size.
    """
    if isinstance(value, Fraction):
        return value
    if isinstance(value, str) and "/" in value:
        above, _, below = value.partition("/")
        divisor = exact(below, what)
        if not divisor:
            raise InputError(what, value, "must not divide by zero", "give another denominator")
        return exact(above, what) / divisor
    try:
        # A subclass of float, such as numpy's, may have a repr that is not a number.
        decimal = Decimal(float.__repr__(value) if isinstance(value, float) else value)
    except InvalidOperation:
        remedy = "give one such as 0.25, 1e-3 or 1/3"
        raise InputError(what, value, "must be a number", remedy) from None
    if not decimal.is_finite():
        raise InputError(what, value, "must be finite", "give a finite number")
    if decimal and abs(decimal.adjusted()) > LARGEST_EXPONENT:
        rule = "must be 0 or between 1e-330 and 1e330 in size"
        raise InputError(what, f"{decimal:.3g}", rule, "give a number within that range")
    return Fraction(decimal) if decimal else Fraction(0)


@dataclass(frozen=True, slots=True)
class Tick:
    """The unit of simulated time; `seconds` is its length."""

    seconds: Fraction

    def ticks(self, duration_s: Fraction) -> int:
        """The nearest number of ticks, of two the even one; at least 1 unless the duration is 0.

        >>> nanosecond = Tick(Fraction(1, 10**9))
        >>> nanosecond.ticks(Fraction(2)), nanosecond.ticks(exact("1e-12"))
        (2000000000, 1)
        """
        # An operation of zero duration happens on the spot, which is another thing than soon.
        if not duration_s:
            return 0
        if isinstance(duration_s, float):
            duration_s = Fraction(duration_s)
        # Integers first: a quotient of fractions takes as long as all the rest.
        above = duration_s.numerator * self.seconds.denominator
        below = duration_s.denominator * self.seconds.numerator
        whole, rest = divmod(above, below)
        return max(1, round(Fraction(above, below))) if rest else whole

    def to_seconds(self, ticks: int) -> float:
        """Seconds of so many ticks, correctly rounded."""
        return float(ticks * self.seconds)


def total(durations: Iterable[Fraction]) -> Fraction:
    """Their sum, by integers: one fraction after the other takes ten times as long."""
    listed = [each if isinstance(each, Fraction) else Fraction(each) for each in durations]
    denominator = lcm(*(duration.denominator for duration in listed))
    above = sum(each.numerator * (denominator // each.denominator) for each in listed)
    return Fraction(above, denominator)


def choose_tick(durations: Iterable[Fraction], longest: Fraction) -> Tick:
    """The tick for these durations, in a simulation of at most `longest` seconds.

    It is the longest tick that makes every duration a whole number of ticks and divides a second
    evenly, if `longest` then fits in 62 bits; otherwise 1 ns, to which durations are rounded.

    >>> choose_tick([Fraction(1, 3), Fraction(1, 4)], longest=Fraction(1000))
    Tick(seconds=Fraction(1, 12))
    >>> choose_tick([exact("1.23456789012345")], longest=Fraction(10**6))
    Tick(seconds=Fraction(1, 1000000000))

    Raises:
        InputError: `longest` has 62 bits or more even in nanoseconds.
    """
    denominator = lcm(*(duration.denominator for duration in durations))
    if longest * denominator < TICKS_LIMIT:
        return Tick(Fraction(1, denominator))
    if longest * NANOSECONDS >= TICKS_LIMIT:
        shown = f"{Decimal(longest.numerator) / longest.denominator:.3g} s"
        rule = "must be less than 2**62 ns (146 years)"
        raise InputError("makespan", shown, rule, "give shorter times or fewer batches")
    return Tick(Fraction(1, NANOSECONDS))
