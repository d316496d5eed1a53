"""Attack figures by hand, by a second source, and by their coverage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from partsong.simulations.audit.membership import attack, auc, caught_at, loss_attack, part, ratio_attack


def test_the_area_of_four_scores_by_hand() -> None:
    """Three of four pairs are in the right order; a tie counts half."""
    assert auc(np.array([3.0, 1.0]), np.array([2.0, 0.0])).value == 0.75
    assert auc(np.array([2.0, 1.0]), np.array([2.0, 0.0])).value == 0.625
    perfect = auc(np.array([3.0, 4.0]), np.array([2.0, 0.0]))
    assert (perfect.low, perfect.value, perfect.high) == (1.0, 1.0, 1.0)


@settings(deadline=None, max_examples=50)
@given(scores=arrays(np.float64, st.integers(4, 40), elements=st.integers(-5, 5)), data=st.data())
def test_the_area_is_the_rank_sum_statistic(scores: np.ndarray, data: st.DataObject) -> None:
    """Mann and Whitney's U over all pairs, in scipy's words."""
    cut = data.draw(st.integers(2, len(scores) - 2))
    members, others = scores[:cut], scores[cut:]

    found = auc(members, others)

    assert found.value == pytest.approx(stats.mannwhitneyu(members, others).statistic / (cut * len(others)))
    assert found.low <= found.value <= found.high


def test_the_interval_of_the_area_covers_the_truth_as_often_as_it_says() -> None:
    """Of 400 draws from known distributions 95 % hold the true area, 4 standard errors apart at most."""
    random, truth, held = np.random.default_rng(0), stats.norm.cdf(1 / np.sqrt(2)), 0
    for _ in range(400):
        found = auc(random.normal(1, 1, 60), random.normal(0, 1, 60))
        held += found.low <= truth <= found.high

    assert abs(held - 380) < 4 * np.sqrt(400 * 0.95 * 0.05)


def test_what_is_caught_at_a_rate_of_false_alarms_by_hand() -> None:
    """At 10 % of ten others one may be above the threshold."""
    others = np.arange(10.0)
    members = np.array([8.5, 8.2, 9.5, 3.0])

    assert caught_at(members, others, false_alarms=0.1).value == 0.75
    assert caught_at(members, others, false_alarms=0.01).value == 0.25
    assert part(3, 4).low == pytest.approx(stats.beta.ppf(0.025, 3, 2))


def test_the_scores_point_the_right_way() -> None:
    """Low loss, and a loss that fell, speak for a member; the ratio is not fooled by texts that are easy anyway."""
    included_M = np.array([True, True, True, False, False, False])
    before_M = np.array([5.0, 6.0, 7.0, 1.0, 2.0, 3.0])
    after_M = before_M - 0.5 * included_M

    by_loss = loss_attack(after_M, included_M)
    by_ratio = ratio_attack(before_M=before_M, after_M=after_M, tokens_M=np.full(6, 4.0), included_M=included_M)

    assert by_loss.auc.value == 0.0
    assert by_ratio.auc.value == 1.0
    assert (by_ratio.members, by_ratio.others) == (3, 3)


def test_one_member_is_not_enough() -> None:
    """Without a spread there is no interval."""
    with pytest.raises(ValueError, match="at least two members"):
        attack("any", np.arange(4.0), np.array([True, False, False, False]))
