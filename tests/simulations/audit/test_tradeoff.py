"""Trade-off curves against their closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from partsong.common.privacy.accounting import StepEvents, epsilon
from partsong.simulations.audit.tradeoff import approximate, gaussian, of_events

LEVELS = (0.0, 1e-4, 0.01, 0.1, 0.5, 0.9, 1.0)


def closed(mu: float, level: float) -> float:
    return float(norm.cdf(norm.isf(level) - mu))


@pytest.mark.parametrize("mu", [0.1, 1.0, 3.0])
def test_the_gaussian_curve_is_its_closed_form(mu: float) -> None:
    """Never above it, and close to it."""
    for level in LEVELS:
        assert -2e-3 < gaussian(mu).misses(level) - closed(mu, level) <= 1e-12


def test_one_step_without_sampling_is_the_gaussian_curve() -> None:
    """The accountant's distribution, turned into a curve, is that of the mechanism it accounts for."""
    curve = of_events([StepEvents(sampling_rate=1.0, noise_multiplier=0.8, steps=1)])

    for level in LEVELS:
        assert -3e-3 < curve.misses(level) - closed(1 / 0.8, level) <= 1e-9
    control = of_events([StepEvents(sampling_rate=1.0, noise_multiplier=0.7, steps=1)])
    assert control.misses(0.1) < closed(1 / 0.8, 0.1) - 0.02


def test_a_pair_bounds_power_by_two_lines() -> None:
    """Epsilon 0 and no delta leave guessing; with a delta a bit more."""
    assert approximate(0.0, 0.0).power(0.3) == pytest.approx(0.3)
    assert approximate(0.0, 0.1).power(0.3) == pytest.approx(0.4)
    assert approximate(math.log(2), 0.0).power(0.3) == pytest.approx(0.6)
    assert approximate(math.log(2), 0.0).power(0.9) == pytest.approx(0.95)


@settings(deadline=None, max_examples=4)
@given(
    rate=st.floats(0.01, 0.9), noise=st.floats(0.7, 5), steps=st.integers(1, 20), delta=st.sampled_from([1e-3, 1e-5])
)
def test_the_curve_of_events_contains_the_accountants_epsilon(
    rate: float, noise: float, steps: int, delta: float
) -> None:
    """The pair that is printed allows as much power as the curve everywhere, and touches it somewhere."""
    events = [StepEvents(sampling_rate=rate, noise_multiplier=noise, steps=steps)]
    printed = approximate(epsilon(events, delta=delta).epsilon + 2e-3, delta)

    curve = of_events(events)

    gaps = [printed.power(level) - curve.power(level) for level in np.logspace(-7, -0.01, 60)]
    assert min(gaps) > -1e-3
    assert min(gaps) < 0.01


def test_the_cheapest_level_undoes_the_power() -> None:
    """For a symmetric curve the inverse is the curve itself, mirrored."""
    curve = gaussian(1.5)

    assert curve.cheapest(curve.power(0.2)) == pytest.approx(0.2, abs=5e-3)
    assert curve.cheapest(0.0) == 0.0
