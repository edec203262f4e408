"""The values along an axis of a sweep, as they are written: `1:16`, `1:3:0.25`, `1,2,4,8`."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Final

from simcore.errors import InputError
from simcore.ticks import exact

__all__ = ["MOST", "axis_texts", "decimal_text"]

MOST: Final = 1_000_000  # configurations of a sweep, and values of one axis
_RULE: Final = "must be START:STOP or START:STOP:STEP, with a step above 0 and both ends included"


def axis_texts(text: str, flag: str) -> tuple[str, ...]:
    """The values of an axis, each once, in the order in which they are written; exact decimals.

    >>> axis_texts("1:3:0.5", "--backward-ratio")
    ('1', '1.5', '2', '2.5', '3')
    >>> axis_texts("1,8:10", "--modules"), axis_texts("stash,mixed", "--weights")
    (('1', '8', '9', '10'), ('stash', 'mixed'))

    Raises `InputError` naming the flag.
    """
    found: dict[str, None] = {}
    for part in text.split(","):
        if not part.strip():
            remedy = "give values such as 1,2,4 or 1:16"
            raise InputError(flag, text, "must have a value before and after each comma", remedy)
        for value in _range(part.strip(), flag) if ":" in part else [part.strip()]:
            found[value] = None
    return tuple(found)


def _range(text: str, flag: str) -> Iterator[str]:
    remedy = "give one such as 1:16 or 1:3:0.25"
    try:
        numbers = [exact(part, flag) for part in text.split(":")]
    except (InputError, ValueError):
        raise InputError(flag, text, _RULE, remedy) from None
    if len(numbers) not in (2, 3):
        raise InputError(flag, text, _RULE, remedy)
    start, stop, step = *numbers[:2], (numbers[2] if len(numbers) == 3 else Fraction(1))
    if step <= 0:
        raise InputError(flag, text, _RULE, remedy)
    if stop < start:
        raise InputError(flag, text, "must not stop below its start", f"{remedy}, upwards")
    count = int((stop - start) / step) + 1
    if count > MOST:
        raise InputError(flag, text, f"must have at most {MOST} values", "give a larger step")
    return (decimal_text(start + place * step) for place in range(count))


def decimal_text(value: Fraction) -> str:
    """The number as a decimal, or as a ratio where no decimal is exact.

    >>> decimal_text(Fraction(5, 4)), decimal_text(Fraction(1, 3)), decimal_text(Fraction(-7))
    ('1.25', '1/3', '-7')
    """
    rest, digits = value.denominator, 0
    while rest % 10 == 0:
        rest, digits = rest // 10, digits + 1
    for factor in (2, 5):
        while rest % factor == 0:
            rest, digits = rest // factor, digits + 1
    if rest != 1:
        return str(value)
    if not digits:
        return str(value.numerator)
    whole = abs(value.numerator) * 10**digits // value.denominator
    text = f"{whole:0{digits + 1}d}"
    return f"{'-' if value < 0 else ''}{text[:-digits]}.{text[-digits:]}".rstrip("0")
