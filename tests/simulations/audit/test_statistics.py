"""The audit's own distribution functions against scipy's."""

import math
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from partsong.simulations.audit.statistics import (
    Noise,
    binomial_tails,
    chance_at_least,
    chance_at_most,
    normal_below,
    normal_quantile,
)


@settings(deadline=None, max_examples=60)
@given(trials=st.integers(0, 3000), chance=st.floats(0, 1))
def test_binomial_tails_are_those_of_scipy(trials: int, chance: float) -> None:
    """Every tail relatively, down to 1e-100: below, scipy is the less exact of the two."""
    tails = binomial_tails(trials, chance)

    wanted = stats.binom.sf(np.arange(-1, trials + 1), trials, chance)
    assert np.allclose(tails, wanted, rtol=1e-8, atol=1e-100)


def test_a_tail_far_out_is_exact() -> None:
    """In whole numbers: 435 or more of 459 at a chance of 3 in 16."""
    exact = sum(comb(459, k) * Fraction(3, 16) ** k * Fraction(13, 16) ** (459 - k) for k in range(435, 460))

    assert binomial_tails(459, 3 / 16)[435] == pytest.approx(float(exact), rel=1e-11)
    assert float(exact) < 1e-270


@settings(deadline=None, max_examples=60)
@given(trials=st.integers(1, 2000), part=st.floats(0, 1), alpha=st.floats(1e-6, 0.4))
def test_the_bounds_of_a_chance_are_those_of_the_beta_distribution(trials: int, part: float, alpha: float) -> None:
    """Clopper and Pearson's interval, in its other form."""
    successes = round(part * trials)

    low = chance_at_least(successes=successes, trials=trials, alpha=alpha)
    high = chance_at_most(successes=successes, trials=trials, alpha=alpha)

    assert low == pytest.approx(0.0 if not successes else stats.beta.ppf(alpha, successes, trials - successes + 1))
    rest = trials - successes
    assert high == pytest.approx(1.0 if not rest else stats.beta.ppf(1 - alpha, successes + 1, rest), rel=1e-6)


def test_the_normal_distribution_is_that_of_scipy() -> None:
    """Far out on the left too, and at the ends."""
    for x in (-30.0, -8.0, -1.0, 0.0, 2.5):
        assert normal_below(x) == pytest.approx(stats.norm.cdf(x), rel=1e-12)
        assert x < -8 or normal_quantile(normal_below(x)) == pytest.approx(x, abs=1e-9)
    assert (normal_quantile(0.0), normal_quantile(1.0)) == (-math.inf, math.inf)


@pytest.mark.parametrize("alpha", [1e-4, 0.05])
@pytest.mark.parametrize("count", [1000, 100_000])
def test_the_bound_of_noise_is_that_of_the_chi_square_distribution(count: int, alpha: float) -> None:
    """Wilson and Hilferty's approximation is good to a thousandth."""
    bound = Noise(squares=float(count), count=count).at_most(alpha=alpha)

    assert bound == pytest.approx(math.sqrt(count / stats.chi2.ppf(alpha, count)), rel=1e-3)
    assert bound > 1


def test_noise_of_half_the_size_is_told_from_whole_noise() -> None:
    """The bound can fail an engine."""
    values = np.random.default_rng(0).normal(size=5000)

    half = Noise(squares=float((0.5 * values) @ (0.5 * values)), count=5000).at_most(alpha=1e-4)
    whole = Noise(squares=float(values @ values), count=5000).at_most(alpha=1e-4)

    assert half < 0.6
    assert whole > 1
