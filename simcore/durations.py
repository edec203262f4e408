"""Random durations: distributions of a factor on the times that a workload states.

A distribution is its quantile function, so that a number in (0, 1) that belongs to an operation
(`simcore.randomness.uniform`) gives the factor of that operation, whatever else happens.

>>> written = read_variations("gamma:0.3,load=exponential")
>>> written.of("forward").text, written.of("load").text
('gamma:0.3', 'exponential')
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from statistics import NormalDist
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from simcore.border import FileModel, Seconds, json_schema_of, read_model
from simcore.errors import InputError
from simcore.ops import KINDS, Arrive, Join, Receive, Send, kind_of
from simcore.ticks import exact

__all__ = [
    "Variation",
    "Variations",
    "chosen",
    "empirical",
    "exponential",
    "frozen",
    "gamma",
    "lognormal",
    "read_variation",
    "read_variations",
    "samples_json_schema",
]

_FORMS: Final = "lognormal:CV, gamma:CV, exponential, scipy.stats.NAME:SHAPE..., samples:FILE"
_SCIPY: Final = "scipy.stats."
_MOST_CV: Final = 10
_COMPUTED: Final = tuple(
    kind_of(kind) for kind in KINDS if kind not in (Send, Receive, Arrive, Join)
)


_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Variation:
    """The distribution of a factor on durations, dimensionless.

    `quantile` turns a number in (0, 1) into a factor of at least 0; `text` is how the distribution
    is written, see `read_variation`. `quantiles` is the same for arrays, but for rounding.
    """

    text: str
    quantile: Callable[[float], float] = field(repr=False, compare=False)
    quantiles: Callable[[_Array], _Array] | None = field(default=None, repr=False, compare=False)

    def factors(self, shares: _Array) -> _Array:
        """The factors of many numbers in (0, 1), of the same shape."""
        if self.quantiles is not None:
            return self.quantiles(shares)
        each = map(self.quantile, shares.ravel().tolist())
        return np.fromiter(each, np.float64, shares.size).reshape(shares.shape)


@dataclass(frozen=True, slots=True)
class Variations:
    """The distributions by kind of operation, in the words of traces; `default` is of all others.

    None: durations are as the workload states them.
    """

    default: Variation | None = None
    kinds: Mapping[str, Variation] = field(default_factory=dict)

    @property
    def random(self) -> bool:
        """Whether any duration is random."""
        return bool(self.default or self.kinds)

    def of(self, kind: str) -> Variation | None:
        """The distribution for operations of this kind."""
        return self.kinds.get(kind, self.default)

    def __str__(self) -> str:
        default = [self.default.text] if self.default else []
        return ",".join([*default, *(f"{kind}={each.text}" for kind, each in self.kinds.items())])


def lognormal(cv: float) -> Variation:
    """A lognormal factor with mean 1 and this coefficient of variation (dimensionless)."""
    variance = math.log1p(cv * cv)

    def quantile(share: float) -> float:
        normal = NormalDist().inv_cdf(share)
        return math.exp(math.sqrt(variance) * normal - variance / 2)

    def quantiles(shares: _Array) -> _Array:
        # Imported here, because the command line starts without it.
        from scipy.special import ndtri

        factors: _Array = np.exp(math.sqrt(variance) * ndtri(shares) - variance / 2)
        return factors

    return Variation(f"lognormal:{cv}", quantile, quantiles)


def gamma(cv: float) -> Variation:
    """A gamma factor with mean 1 and this coefficient of variation (dimensionless)."""
    # Imported here, because the command line starts without it.
    from scipy.special import gammaincinv

    shape = 1 / cv**2
    return Variation(
        f"gamma:{cv}",
        lambda share: float(gammaincinv(shape, share)) / shape,
        lambda shares: gammaincinv(shape, shares) / shape,
    )


def exponential() -> Variation:
    """An exponentially distributed factor with mean 1."""
    return Variation(
        "exponential", lambda share: -math.log1p(-share), lambda shares: -np.log1p(-shares)
    )


def chosen(jitter: float, variation: Variations | None) -> Variations:
    """The variation, or lognormal factors with this coefficient of variation on everything.

    Raises:
        InputError: both are given.
    """
    if jitter and variation:
        rule = "must not be given together with jitter"
        raise InputError("variation", f"{variation}", rule, "write lognormal:CV for jitter")
    return variation or Variations(lognormal(jitter) if jitter else None)


def empirical(samples: Sequence[Fraction], text: str) -> Variation:
    """What was measured, over its mean: each of the samples is as likely as the others.

    >>> measured = empirical([Fraction(1), Fraction(1), Fraction(4)], "samples:net.json")
    >>> [measured.quantile(share) for share in (0.1, 0.5, 0.9)]
    [0.5, 0.5, 2.0]
    """
    mean = sum(samples, Fraction(0)) / len(samples)
    factors = sorted(float(sample / mean) for sample in samples)
    ends = [(place + 1) / len(factors) for place in range(len(factors) - 1)]
    array = np.array(factors)
    return Variation(
        text,
        lambda share: factors[bisect_right(ends, share)],
        lambda shares: array[np.searchsorted(ends, shares, side="right")],
    )


def frozen(distribution: Any, what: str = "variation") -> Variation:
    """A frozen distribution of `scipy.stats` as it is: its mean need not be 1.

    >>> from scipy.stats import uniform
    >>> slower = frozen(uniform(1, 2))
    >>> slower.text, slower.quantile(0.5)
    ('scipy.stats.uniform:1:2', 2.0)

    Raises:
        InputError: parameters that make no distribution, negative factors, or a mean that is not
            positive and finite; `what` names the value.
    """
    named = [f"{name}={value}" for name, value in distribution.kwds.items()]
    parameters = [str(value) for value in distribution.args]
    text = ":".join([f"{_SCIPY}{distribution.dist.name}", *parameters, *named])
    if math.isnan(distribution.ppf(0.5)):
        rule = "must have parameters that scipy takes for this distribution"
        raise InputError(what, text, rule, "correct them: first its shapes, then loc and scale")
    if distribution.support()[0] < 0:
        rule = "must not have negative values, for they are factors on durations"
        raise InputError(what, text, rule, "give a distribution on 0 and above")
    if not 0 < distribution.mean() < math.inf:
        rule = "must have a mean that is positive and finite"
        raise InputError(what, text, rule, "give other parameters")
    return Variation(
        text,
        lambda share: float(distribution.ppf(share)),
        lambda shares: np.asarray(distribution.ppf(shares), np.float64),
    )


class SamplesFile(FileModel):
    """Measured durations of one and the same operation, in seconds."""

    schema_: Literal["gradlag.samples/1"] = Field(alias="schema")
    samples_s: Annotated[tuple[Seconds, ...], Field(min_length=1)]
    note: Annotated[str, Field(strict=True)] = ""


def read_variation(text: str, what: str = "variation") -> Variation:
    """A distribution as it is written.

    * `lognormal:CV`, `gamma:CV`: mean 1, with this coefficient of variation;
    * `exponential`: mean 1;
    * `scipy.stats.NAME:SHAPE...`: any distribution of scipy, its parameters in scipy's order;
    * `samples:FILE`: durations from a TOML or JSON file, over their mean.

    >>> read_variation("scipy.stats.weibull_min:1.5").quantile(0.5)  # doctest: +ELLIPSIS
    0.783...

    Raises:
        InputError: names the value, the rule and the remedy; `what` is where it stands.
    """
    name, _, rest = text.partition(":")
    if name in ("lognormal", "gamma"):
        cv = _coefficient(rest, text, what)
        return lognormal(cv) if name == "lognormal" else gamma(cv)
    if text == "exponential":
        return exponential()
    if name == "samples":
        return empirical(_samples(rest), text)
    if name.startswith(_SCIPY):
        return _scipy(name.removeprefix(_SCIPY), rest, text, what)
    raise InputError(what, text, f"must be one of {_FORMS}", "choose one")


def read_variations(text: str, what: str = "variation") -> Variations:
    """Distributions for all operations and for kinds of them: `gamma:0.3,load=exponential`.

    Raises:
        InputError: names the value, the rule and the remedy; `what` is where it stands.
    """
    default, kinds = None, {}
    for part in text.split(","):
        kind, equals, rest = part.partition("=")
        if not equals or ":" in kind:
            if default is not None:
                rule = "must not be the second distribution for all operations"
                raise InputError(what, part, rule, "write KIND=DISTRIBUTION for one kind of them")
            default = read_variation(part, what)
        elif kind not in _COMPUTED or kind in kinds:
            rule = f"must be one of {', '.join(_COMPUTED)}, each once"
            raise InputError(f"kind of operation in {what}", kind, rule, "correct it")
        else:
            kinds[kind] = read_variation(rest, what)
    return Variations(default, kinds)


def _coefficient(number: str, text: str, what: str) -> float:
    rule = f"must have a coefficient of variation above 0 and at most {_MOST_CV}"
    try:
        cv = exact(number)
    except InputError:
        raise InputError(what, text, rule, "give one such as gamma:0.5") from None
    if not 0 < cv <= _MOST_CV:
        raise InputError(what, text, rule, "give one such as gamma:0.5")
    return float(cv)


def _samples(path: str) -> tuple[Fraction, ...]:
    samples = read_model(path, SamplesFile).samples_s
    if not any(samples):
        rule = "must not all be 0"
        raise InputError(f"{path}: samples_s", "only zeros", rule, "give measured times")
    return samples


def _scipy(name: str, parameters: str, text: str, what: str) -> Variation:
    # Imported here, because the command line starts without it.
    from scipy import stats

    family = getattr(stats, name, None)
    if not isinstance(family, stats.rv_continuous | stats.rv_discrete):
        rule = f"must name a distribution of scipy.stats, and {name} is none"
        raise InputError(what, text, rule, "see scipy's list of distributions")
    try:
        values = [float(exact(part)) for part in parameters.split(":") if parameters]
        distribution = family(*values)
    except (InputError, TypeError):
        shapes = family.shapes or "no shapes"
        rule = f"must have numbers for {shapes}, then loc and scale if need be"
        raise InputError(what, text, rule, "correct the parameters") from None
    return frozen(distribution, what)


def samples_json_schema() -> dict[str, Any]:
    """The JSON Schema of files of samples."""
    return json_schema_of(SamplesFile)
