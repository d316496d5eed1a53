"""Intervals that cover the truth as often as they say, with noise and few units."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from partsong.server.questions.intervals import LEVEL, Noised, count, proportion


def noised(value: float, sd: float = 0.0) -> Noised:
    return Noised(value=value, sd=sd, slack=0.0)


def test_without_noise_a_share_is_what_it_is() -> None:
    """30 of 40, and an interval around it that is somewhat wider than the exact one."""
    found = proportion(noised(30), noised(40))

    exact = stats.binomtest(30, 40).proportion_ci(LEVEL)
    assert found.value == 0.75
    assert found.low < exact.low < 0.75 < exact.high < found.high
    assert found.high - found.low < 1.8 * (exact.high - exact.low)


def test_noise_widens_and_units_narrow() -> None:
    """Each by itself."""
    plain, loud = proportion(noised(30), noised(40)), proportion(noised(30, 3.0), noised(40, 3.0))
    many = proportion(noised(300, 3.0), noised(400, 3.0))

    assert loud.low < plain.low < plain.high < loud.high
    assert many.high - many.low < loud.high - loud.low


@pytest.mark.parametrize(("hits", "units"), [(0.0, 0.0), (-5.0, 2.0), (3.0, -8.0), (1.0, 0.4)])
def test_few_units_say_nothing(hits: float, units: float) -> None:
    """Counts that are lost in their noise give no value, and an interval from end to end."""
    found = proportion(noised(hits, 9.0), noised(units, 9.0))

    assert (found.value, found.low, found.high) == (None, 0.0, 1.0)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 500), st.floats(0, 1), st.floats(0, 30))
def test_an_interval_holds_its_own_estimate(units: int, share: float, sd: float) -> None:
    """Ends are in order, in [0, 1], and the value lies between them."""
    found = proportion(noised(units * share, sd), noised(units, sd))

    assert 0 <= found.low <= found.high <= 1
    assert found.value is None or found.low - 1e-9 <= found.value <= found.high + 1e-9


def missed(*, units: int, share: float, sd: float, told_sd: float, trials: int = 2000) -> int:
    """How often the interval misses, with noise of `sd` that it believes to be `told_sd`."""
    rng = np.random.default_rng(11)
    hits_T = rng.binomial(units, share, trials) + sd * rng.standard_normal(trials)
    units_T = units + sd * rng.standard_normal(trials)
    pairs = zip(hits_T, units_T, strict=True)
    found = [proportion(noised(float(h), told_sd), noised(float(n), told_sd)) for h, n in pairs]
    return sum(not one.low <= share <= one.high for one in found)


@pytest.mark.parametrize(("units", "share", "sd"), [(5, 0.5, 0.0), (60, 0.9, 4.0), (400, 0.25, 20.0), (30, 0.02, 1.0)])
def test_intervals_cover_the_truth_at_the_stated_rate(units: int, share: float, sd: float) -> None:
    """Of 2,000 at most 5 % miss: a rate of 5 % itself would exceed 170 with probability below 1e-6."""
    assert missed(units=units, share=share, sd=sd, told_sd=sd) <= 170


def test_an_interval_that_forgets_the_noise_misses_more_often() -> None:
    """Told a tenth of the noise it fails the test above, so that test can fail."""
    assert missed(units=400, share=0.25, sd=60.0, told_sd=6.0) > 170


def test_a_count_has_noise_alone() -> None:
    """Two-sided normal interval; never below zero."""
    found = count(noised(100.0, 10.0))

    assert found.low == pytest.approx(100 - 10 * stats.norm.ppf(0.975))
    assert found.high == pytest.approx(100 + 10 * stats.norm.ppf(0.975))
    assert count(noised(-3.0, 1.0)).low == 0.0
    assert count(noised(-3.0, 1.0)).value == 0.0


def test_the_mean_of_values_that_are_no_coins_is_covered_too() -> None:
    """Uniform losses on [0, 8]: at most 5 % of 2,000 intervals miss 4."""
    rng = np.random.default_rng(5)
    sums = rng.uniform(0, 8, (2000, 50)).sum(axis=1) / 8 + 2.0 * rng.standard_normal(2000)

    found = [proportion(noised(float(s), 2.0), noised(50.0, 2.0), scale=8.0) for s in sums]

    assert sum(not one.low <= 4.0 <= one.high for one in found) <= 170
    assert all(math.isfinite(one.high) for one in found)
