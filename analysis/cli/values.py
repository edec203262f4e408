"""What is written behind a flag, read exactly: `0.1` is one tenth, `1e5` a whole number."""

import math
from fractions import Fraction

from simcore.errors import InputError
from simcore.options import Option, Value
from simcore.ticks import exact

__all__ = ["MOST_SEED", "number", "one_of", "option_value", "whole"]

# The data's order mixes the seed with the epoch in the 64 bits that torch takes.
MOST_SEED = 2**32 - 1
_LARGEST = 10**300  # well within what a float can be
_SHOWN = 60  # characters of a bad value that an error line repeats


def whole(text: str, flag: str, *, least: int = 1, most: int | None = None) -> int:
    """A whole number, from `least` to `most`.

    >>> whole("1e3", "--batches")
    1000

    Raises `InputError` naming the flag.
    """
    limits = f"of at least {least}" if most is None else f"from {least} to {most}"
    rule, remedy = f"must be a whole number {limits}", f"give one such as {max(least, 1)}"
    value = _exact(text, flag, rule, remedy)
    if value.denominator != 1:
        raise InputError(flag, _short(text), rule, remedy)
    if value < least or (most is not None and value > most):
        raise InputError(flag, _number_as_written(text, value), rule, remedy)
    return int(value)


def number(
    text: str, flag: str, *, least: float = 0, most: float = math.inf, above: bool = False
) -> float:
    """A number from `least` (or `above` it) to `most`, as the nearest float.

    >>> number("1/4", "--decay")
    0.25

    Raises `InputError` naming the flag.
    """
    rule = f"must be a number {'above' if above else 'of at least'} {least:g}"
    rule += "" if most == math.inf else f" and at most {most:g}"
    remedy = "give one such as 0.5"
    value = _exact(text, flag, rule, remedy)
    if value < least or (above and value == least) or value > min(most, _LARGEST):
        raise InputError(flag, _short(text), rule, remedy)
    return float(value)


def one_of(text: str, flag: str, choices: tuple[str, ...]) -> str:
    """One of several words. Raises `InputError` naming the flag."""
    if text in choices:
        return text
    raise InputError(flag, _short(text), f"must be one of {', '.join(choices)}", "choose one")


def option_value(option: Option, text: str, flag: str) -> Value:
    """The value of a schedule's option, checked by the option's own rule.

    >>> from simcore.options import OPTIONS
    >>> option_value(OPTIONS["shrink"], "1/2", "--shrink")
    0.5
    >>> option_value(OPTIONS["in_flight"], "4,3,2,1", "--in-flight")
    (4, 3, 2, 1)

    Raises `InputError` naming the flag.
    """
    if option.absent and text == option.absent:
        return None
    if option.kind is str:
        return option.read(flag, text)
    if option.kind is bool:
        return option.read(flag, {"true": True, "false": False}.get(text.lower(), text))
    if option.kind is tuple:
        parts = tuple(_whole(part, flag, option) for part in text.split(","))
        return option.read(flag, parts if len(parts) > 1 else parts[0])
    if option.kind is int:
        return option.read(flag, _whole(text, flag, option))
    value = _exact(text, flag, option.rule, option.remedy)
    return option.read(flag, float(value))


def _whole(text: str, flag: str, option: Option) -> int:
    value = _exact(text, flag, option.rule, option.remedy)
    if value.denominator != 1:
        raise InputError(flag, _short(text), option.rule, option.remedy)
    return int(value)


def _exact(text: str, flag: str, rule: str, remedy: str) -> Fraction:
    try:
        return exact(text, flag)
    except (InputError, ValueError):
        raise InputError(flag, _short(text), rule, remedy) from None


def _number_as_written(text: str, value: Fraction) -> object:
    return int(value) if text == str(value) else _short(text)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
