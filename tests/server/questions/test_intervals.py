"""Intervals that cover the truth as often as they say, with noise and few units."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from partsong.server.questions.intervals import LEVEL, Noised, count, mean_distance, proportion


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


def test_a_mean_distance_is_that_of_the_bins() -> None:
    """40 units whose confidence is 16 too high in one bin, 4 too low in another: 20 of 40."""
    found = mean_distance([noised(16.0), noised(-4.0), noised(0.0)], noised(40))

    assert found.value == 0.5
    assert found.low < 0.5 < found.high


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=8), st.integers(1, 10**6), st.floats(0, 30))
def test_a_mean_distance_lies_in_its_interval(gaps: list[float], units: int, sd: float) -> None:
    """Ends are in order and in [0, 1]; where there is a value, it lies between them."""
    found = mean_distance([noised(gap, sd) for gap in gaps], noised(units, sd))

    assert 0 <= found.low <= found.high <= 1
    assert found.value is None or found.low - 1e-9 <= found.value <= found.high + 1e-9


def misses_of_calibration(*, gap_B: list[float], units: int, sd: float, told_sd: float, trials: int = 1000) -> int:
    """How often the interval misses: confidence .5 in each bin, hits of .5 less the bin's gap, bins equally likely."""
    rng, bins = np.random.default_rng(12), len(gap_B)
    true = float(np.abs(gap_B).mean())
    count_TB = rng.multinomial(units, [1 / bins] * bins, trials)
    gap_TB = 0.5 * count_TB - rng.binomial(count_TB, 0.5 - np.array(gap_B)) + sd * rng.standard_normal((trials, bins))
    units_T = units + sd * rng.standard_normal(trials)
    found = [
        mean_distance([noised(g, told_sd) for g in gap_B], noised(n, told_sd))
        for gap_B, n in zip(gap_TB, units_T, strict=True)
    ]
    return sum(not one.low <= true <= one.high for one in found)


@pytest.mark.parametrize("gap_B", [[0.0] * 5, [0.1, -0.1, 0.2, 0.0, 0.3], [0.4, -0.4]])
@pytest.mark.parametrize(("units", "sd"), [(2000, 0.0), (300, 0.0), (2000, 8.0), (40, 3.0)])
def test_a_calibration_error_is_covered_at_the_stated_rate(gap_B: list[float], units: int, sd: float) -> None:
    """At most 5 % of 1000 miss: 90 or more have probability below 1e-7."""
    assert misses_of_calibration(gap_B=gap_B, units=units, sd=sd, told_sd=sd) < 90


def test_a_calibration_error_whose_noise_is_not_told_is_missed() -> None:
    """The same counts with noise that the interval does not know of: the test above can fail."""
    assert misses_of_calibration(gap_B=[0.0] * 5, units=2000, sd=200.0, told_sd=0.0) > 500


def test_units_narrow_a_calibration_error_down() -> None:
    """With 20,000 units the interval is a tenth wide, and tells a badly calibrated model from a good one."""
    bad = mean_distance([noised(3000.0, 10.0)] * 2 + [noised(0.0, 10.0)] * 3, noised(20_000, 10.0))

    assert bad.high - bad.low < 0.1
    assert bad.low > 0.2
