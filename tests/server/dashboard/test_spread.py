"""The interval around a released loss: by hand, against a second source, and honest about trends and few rounds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.server.dashboard.spread import FEWEST, margin_of


def test_the_margin_by_hand() -> None:
    """Differences of 1 throughout: half their mean square is 1/2, two deviations are the root of 2."""

    margin = margin_of([1.0, 2.0] * (FEWEST // 2))

    assert margin == pytest.approx(2**0.5)


@pytest.mark.parametrize("count", range(FEWEST))
def test_few_rounds_have_no_margin(count: int) -> None:
    """One less than enough says nothing."""

    assert margin_of([1.0] * count) is None
    assert margin_of([1.0] * FEWEST) == 0.0


def test_for_a_level_loss_it_is_two_standard_deviations() -> None:
    """As numpy's, over so many rounds that both are within a twentieth (deviation of the ratio: 0.009)."""
    losses = np.random.default_rng(5).normal(3.0, 0.7, size=10_000)

    margin = margin_of(losses.tolist())

    assert margin == pytest.approx(2 * losses.std(ddof=1), rel=0.05)
    assert margin != pytest.approx(2 * 1.2 * losses.std(ddof=1), rel=0.05)


@settings(max_examples=60, deadline=None)
@given(
    noise=st.lists(st.floats(-1, 1), min_size=FEWEST, max_size=60),
    level=st.floats(-10, 10),
    factor=st.floats(0.01, 100),
)
def test_it_follows_the_unit_and_not_the_level(noise: list[float], level: float, factor: float) -> None:
    """A shift changes nothing, a factor goes through."""
    margin = margin_of(noise)
    assert margin is not None

    moved = margin_of([level + factor * value for value in noise])

    assert moved == pytest.approx(factor * margin, rel=1e-6, abs=1e-9)


def test_a_trend_widens_it() -> None:
    """A loss that falls steadily by more than its noise is told with too wide an interval, never with too narrow a one."""
    noise = np.random.default_rng(6).normal(0.0, 0.1, size=200)

    margins = [margin_of((noise - fall * np.arange(200)).tolist()) for fall in (0.0, 0.1, 0.5)]

    assert margins == sorted(margins, key=lambda margin: margin or 0.0)
