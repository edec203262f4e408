"""Distributions of factors on durations: quantiles, moments, and how they are written."""

import math
import statistics
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from simcore.durations import (
    Variation,
    Variations,
    empirical,
    exponential,
    frozen,
    gamma,
    lognormal,
    read_variation,
    read_variations,
)
from simcore.errors import InputError
from simcore.randomness import uniform

shares = st.floats(1e-9, 1 - 1e-9)


def refusal(text: str) -> str:
    with pytest.raises(InputError) as caught:
        read_variations(text, "--variation")
    return str(caught.value)


@given(shares, st.sampled_from([0.05, 0.3, 1.0, 2.5]))
def test_quantiles_are_those_of_scipy(share: float, cv: float) -> None:
    spread = math.sqrt(math.log1p(cv**2))
    expected = stats.lognorm(spread, scale=math.exp(-(spread**2) / 2)).ppf(share)
    assert lognormal(cv).quantile(share) == pytest.approx(expected, rel=1e-9)
    expected = stats.gamma(1 / cv**2, scale=cv**2).ppf(share)
    assert gamma(cv).quantile(share) == pytest.approx(expected, rel=1e-9, abs=1e-300)
    assert exponential().quantile(share) == pytest.approx(stats.expon.ppf(share), rel=1e-12)


@pytest.mark.parametrize(
    ("variation", "cv"),
    [
        (lognormal(0.2), 0.2),
        (lognormal(1.0), 1.0),
        (gamma(0.5), 0.5),
        (gamma(1.5), 1.5),
        (exponential(), 1.0),
        (frozen(stats.uniform(0.5, 1)), 12**-0.5),
        (empirical([Fraction(1), Fraction(3)], ""), 0.5),
    ],
)
def test_factors_have_mean_one_and_their_variation(variation: Variation, cv: float) -> None:
    """20,000 draws with seed 3: the mean within 4 standard errors, the variation within 10 %."""
    factors = [variation.quantile(uniform(3, n % 7, n // 7)) for n in range(20_000)]
    assert statistics.fmean(factors) == pytest.approx(1, abs=4 * cv / len(factors) ** 0.5)
    assert statistics.stdev(factors) == pytest.approx(cv, rel=0.1)
    assert min(factors) >= 0


@given(st.lists(st.fractions(0, 9), min_size=1, max_size=6).filter(any), shares)
def test_samples_are_equally_likely(samples: list[Fraction], share: float) -> None:
    mean = sum(samples) / len(samples)
    expected = sorted(samples)[int(Fraction(share) * len(samples))] / mean
    if share * len(samples) % 1 > 1e-6:
        assert empirical(samples, "").quantile(share) == pytest.approx(float(expected))


@pytest.mark.parametrize(
    ("text", "distribution"),
    [
        ("scipy.stats.weibull_min:1.5", stats.weibull_min(1.5)),
        ("scipy.stats.uniform:1/2:1", stats.uniform(0.5, 1)),
        ("scipy.stats.expon", stats.expon()),
        ("scipy.stats.poisson:3", stats.poisson(3)),
    ],
)
def test_distributions_of_scipy_are_taken_as_they_are(
    text: str, distribution: stats.distributions.rv_frozen
) -> None:
    variation = read_variation(text)
    for share in (0.01, 0.4, 0.99):
        assert variation.quantile(share) == distribution.ppf(share)
        assert frozen(distribution).quantile(share) == distribution.ppf(share)


def test_a_frozen_distribution_says_its_parameters() -> None:
    assert frozen(stats.gamma(2, scale=0.5)).text == "scipy.stats.gamma:2:scale=0.5"


@pytest.mark.parametrize("text", ["lognormal:0.2", "gamma:0.5", "exponential"])
def test_what_is_read_says_how_it_was_written(text: str) -> None:
    assert read_variation(text).text == text


def test_samples_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "samples.toml"
    path.write_text('schema = "gradlag.samples/1"\nsamples_s = [0.1, "1/10", 0.4]\n')
    variation = read_variation(f"samples:{path}")
    assert variation.text == f"samples:{path}"
    assert [variation.quantile(share) for share in (0.01, 0.5, 0.9)] == [0.5, 0.5, 2.0]


def test_kinds_of_operations_vary_apart() -> None:
    variations = read_variations("load=exponential,gamma:0.5,update=lognormal:1")
    assert variations == Variations(gamma(0.5), {"load": exponential(), "update": lognormal(1.0)})
    assert variations.of("forward") == gamma(0.5)
    assert str(variations) == "gamma:0.5,load=exponential,update=lognormal:1.0"
    only = read_variations("load=exponential")
    assert (only.of("load"), only.of("forward")) == (exponential(), None)


FORMS = "lognormal:CV, gamma:CV, exponential, scipy.stats.NAME:SHAPE..., samples:FILE"
CV = "must have a coefficient of variation above 0 and at most 10; give one such as gamma:0.5"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", f"--variation is '': must be one of {FORMS}; choose one"),
        ("gama:0.5", f"--variation is 'gama:0.5': must be one of {FORMS}; choose one"),
        ("exponential:2", f"--variation is 'exponential:2': must be one of {FORMS}; choose one"),
        ("gamma:0", f"--variation is 'gamma:0': {CV}"),
        ("gamma:11", f"--variation is 'gamma:11': {CV}"),
        ("lognormal:", f"--variation is 'lognormal:': {CV}"),
        ("lognormal:nan", f"--variation is 'lognormal:nan': {CV}"),
        (
            "scipy.stats.describe",
            "--variation is 'scipy.stats.describe': must name a distribution of scipy.stats, and "
            "describe is none; see scipy's list of distributions",
        ),
        (
            "scipy.stats.gamma",
            "--variation is 'scipy.stats.gamma': must have numbers for a, then loc and scale if "
            "need be; correct the parameters",
        ),
        (
            "scipy.stats.gamma:x",
            "--variation is 'scipy.stats.gamma:x': must have numbers for a, then loc and scale if "
            "need be; correct the parameters",
        ),
        (
            "scipy.stats.gamma:-1",
            "--variation is 'scipy.stats.gamma:-1.0': must have parameters that scipy takes for "
            "this distribution; correct them: first its shapes, then loc and scale",
        ),
        (
            "scipy.stats.norm:1:0.1",
            "--variation is 'scipy.stats.norm:1.0:0.1': must not have negative values, for they "
            "are factors on durations; give a distribution on 0 and above",
        ),
        (
            "scipy.stats.pareto:1",
            "--variation is 'scipy.stats.pareto:1.0': must have a mean that is positive and "
            "finite; give other parameters",
        ),
        (
            "samples:/none.json",
            "file is '/none.json': must be readable (No such file or directory); check the path",
        ),
        (
            "gamma:1,exponential",
            "--variation is 'exponential': must not be the second distribution for all "
            "operations; write KIND=DISTRIBUTION for one kind of them",
        ),
    ],
)
def test_a_bad_text_is_one_clear_line(text: str, line: str) -> None:
    assert refusal(text) == line


@pytest.mark.parametrize("text", ["send=exponential", "load=exponential,load=gamma:1", "=gamma:1"])
def test_only_what_is_computed_varies_and_each_kind_once(text: str) -> None:
    assert "must be one of forward, backward, update, " in refusal(text)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (
            '{"schema": "gradlag.samples/1", "samples_s": []}',
            "samples_s is '[]': must not be empty; give at least one entry",
        ),
        (
            '{"schema": "gradlag.samples/1", "samples_s": [1, -1]}',
            "samples_s[1] is -1: must not be negative; give 0 or more",
        ),
        (
            '{"schema": "gradlag.samples/1", "samples_s": [0]}',
            "samples_s is 'only zeros': must not all be 0; give measured times",
        ),
    ],
)
def test_a_bad_file_of_samples_is_one_clear_line(tmp_path: Path, content: str, line: str) -> None:
    path = tmp_path / "samples.json"
    path.write_text(content)
    assert refusal(f"samples:{path}") == f"{path}: {line}"


def test_scipy_is_imported_only_where_it_is_needed() -> None:
    code = (
        "import sys; from simcore.durations import read_variations; "
        "read_variations('lognormal:0.2,load=exponential'); "
        "assert not any(name.startswith('scipy') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
