"""Sums in which each unit has a bounded share: clipped, noised, and never otherwise."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from partsong.client.dp.totals import Totals
from partsong.common.privacy.terms import DpPlan


def summed(rows: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, float]:
    totals = Totals(size=rows.shape[1], clip_norm=1.0, loss_clip=8.0)
    totals.add(rows, losses)
    return totals.exact()


def test_short_rows_add_up_as_they_are() -> None:
    """Nothing is changed that lies inside the clip; losses are cut to theirs."""
    found, loss = summed(np.array([[0.5, 0.0], [0.25, 0.5]]), np.array([3.0, 100.0]))

    np.testing.assert_array_equal(found, [0.75, 0.5])
    assert loss == 11.0


@settings(deadline=None, max_examples=60)
@given(
    arrays(np.float64, (4, 3), elements=st.floats(-1e6, 1e6)),
    arrays(np.float64, 3, elements=st.floats(allow_nan=True, allow_infinity=True)),
    st.floats(allow_nan=True, allow_infinity=True),
)
def test_one_more_unit_moves_the_sums_by_at_most_the_clips(others: np.ndarray, row: np.ndarray, loss: float) -> None:
    """Whatever the unit's row holds, NaN and infinity included."""
    losses = np.full(4, 2.0)
    without = Totals(size=3, clip_norm=1.0, loss_clip=8.0)
    with_it = Totals(size=3, clip_norm=1.0, loss_clip=8.0)

    without.add(others, losses)
    with_it.add(np.vstack([others, row]), np.append(losses, loss))

    moved = np.linalg.norm(with_it.exact()[0].astype(float) - without.exact()[0])
    assert moved <= 1 + 1e-5
    assert 0 <= with_it.exact()[1] - without.exact()[1] <= 8


def test_without_clipping_a_unit_would_move_them_further() -> None:
    """The plain sum of the same rows breaks the bound, so the test above can fail."""
    rows = np.array([[0.1, 0.0], [3.0, 4.0]])

    assert np.linalg.norm(rows.sum(axis=0) - rows[0]) > 1
    assert np.linalg.norm(summed(rows, np.zeros(2))[0] - rows[0]) <= 1 + 1e-6


@pytest.mark.parametrize("noise", ["gaussian", "discrete"])
def test_noise_has_the_deviation_of_the_plan(make_dp: Callable[..., DpPlan], noise: str) -> None:
    """Over 20,000 numbers the deviation is within 4 % (8 standard errors) of 3 clips; half or double of it is not."""
    dp = make_dp(noise_multiplier=3.0, loss_noise_multiplier=5.0, clip_norm=1.0, noise=noise)
    totals = Totals(size=20_000, clip_norm=1.0, loss_clip=8.0)

    found, _ = totals.release(dp)

    assert math.isclose(float(found.std()), 3.0, rel_tol=0.04)
    assert abs(float(found.mean())) < 8 * 3.0 / math.sqrt(20_000)


def test_the_loss_has_noise_of_its_own(make_dp: Callable[..., DpPlan]) -> None:
    """Five times its clip: 400 releases of a sum of zero have a deviation of 40 to within 30 % (8 standard errors)."""
    dp = make_dp(noise_multiplier=3.0, loss_noise_multiplier=5.0)

    found = [Totals(size=1, clip_norm=1.0, loss_clip=8.0).release(dp)[1] for _ in range(400)]

    assert math.isclose(float(np.std(found)), 40.0, rel_tol=0.3)


def test_other_clips_than_those_of_the_plan_are_not_noised(make_dp: Callable[..., DpPlan]) -> None:
    """Noise of one clip on sums of another would protect nobody."""
    totals = Totals(size=1, clip_norm=1.0, loss_clip=8.0)

    with pytest.raises(AssertionError, match="one clip"):
        totals.release(replace(make_dp(), clip_norm=0.5))
