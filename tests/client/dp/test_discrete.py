"""Integer noise has exactly the law it claims, at small and at large scales."""

import math

import numpy as np
import pytest
from scipy import stats

from partsong.client.dp import discrete
from partsong.client.dp.discrete import discrete_gaussian


def law(scale: float, values: np.ndarray) -> np.ndarray:
    """The probabilities by their definition, summed over everything that counts."""
    reach = np.arange(-60 * math.ceil(scale), 60 * math.ceil(scale) + 1)
    weights = np.exp(-(reach**2) / (2 * scale**2))
    return np.exp(-(values**2) / (2 * scale**2)) / weights.sum()


@pytest.mark.parametrize("scale", [1, 2, 7])
def test_small_scales_follow_the_definition(scale: int) -> None:
    """Chi-square over every value that occurs, once in 10**6 runs wrong; a scale 3 % off fails it."""
    count = 200_000
    drawn = discrete_gaussian(count, scale=scale)
    values = np.arange(-3 * scale, 3 * scale + 1)
    seen = np.array([(drawn == v).sum() for v in values])

    def statistic(assumed: float) -> float:
        expected = count * law(assumed, values)
        return float((((seen - expected) ** 2) / expected).sum())

    bound = stats.chi2.ppf(1 - 1e-6, len(values))
    assert statistic(scale) < bound
    assert statistic(1.03 * scale) > bound


def test_a_large_scale_looks_gaussian() -> None:
    """At 2**20 the deviation is the scale (2 % off is seen) and the shape is normal."""
    count = 200_000
    drawn = discrete_gaussian(count, scale=1 << 20) / (1 << 20)

    low, high = stats.chi2.ppf([5e-7, 1 - 5e-7], count)
    assert low < (drawn**2).sum() < high
    assert not low < ((1.02 * drawn) ** 2).sum() < high
    assert stats.kstest(drawn, "norm").pvalue > 1e-6


def test_no_digit_is_preferred() -> None:
    """The last eight bits of large noise are uniform: nothing of a rounding shows."""
    drawn = discrete_gaussian(200_000, scale=1 << 20)

    counts = np.bincount(drawn & 255, minlength=256)

    assert stats.chisquare(counts).pvalue > 1e-6


@pytest.mark.parametrize(("numerator", "denominator"), [(0, 5), (1, 5), (5, 5), (17, 5)])
def test_coins_fall_with_the_probability_of_the_exponential(numerator: int, denominator: int) -> None:
    """Binomial test against exp(-n/d), also above one."""
    words = discrete._Words(b"\x01" * 32)
    count = 100_000

    fell = discrete._exp_minus(words, np.full(count, numerator), np.int64(denominator))

    probability = math.exp(-numerator / denominator)
    assert stats.binomtest(int(fell.sum()), count, probability).pvalue > 1e-4
    assert fell.all() if numerator == 0 else not fell.all()


@pytest.mark.parametrize("bound", [1, 3, 2**62, 3 * 2**61])
def test_uniform_integers_are_in_range_and_even(bound: int) -> None:
    """Thirds of the range are hit alike; without rejection 3 * 2**61 would favour the lower part."""
    words = discrete._Words(b"\x02" * 32)

    drawn = words.below(np.full(60_000, bound, dtype=np.int64))

    assert drawn.min() >= 0
    assert drawn.max() < bound
    if bound > 1:
        thirds = np.bincount(np.minimum(drawn // max(1, bound // 3), 2), minlength=3)
        assert stats.chisquare(thirds).pvalue > 1e-4


def test_two_calls_share_nothing() -> None:
    """Each has a key of its own."""
    assert not np.array_equal(discrete_gaussian(100, scale=1000), discrete_gaussian(100, scale=1000))


@pytest.mark.parametrize("scale", [0, -1, 2**20 + 1])
def test_scales_beyond_the_integers_at_hand_are_refused(scale: int) -> None:
    """A product that overflows would be silently wrong."""
    with pytest.raises(ValueError, match="scale between"):
        discrete_gaussian(1, scale=scale)


def test_the_largest_product_fits_into_an_integer() -> None:
    """By hand: the largest distance squared, and the largest bound that coins are drawn below."""
    largest = (discrete.MOST_TAIL + 1) * discrete.LARGEST_SCALE

    assert largest**2 < 2**63
    assert 2 * discrete.LARGEST_SCALE**2 * 1000 < 2**63


def test_no_values_are_none() -> None:
    """An empty request is answered."""
    assert len(discrete_gaussian(0, scale=5)) == 0
