"""Votes on a round: what a record's vote is, how far it reaches, and what a sum of votes decides."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.questions.counting import count, is_kept
from partsong.common.questions.vote import Vote

VOTE = Vote(most_votes=3, margin=0.01, scale=0.1, noise_multiplier=None)
LOSSES = st.lists(st.tuples(st.floats(0, 20), st.floats(0, 20)), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("before", "after", "votes"),
    [
        ([1.0], [0.5], 1.0),  # better by far
        ([1.0], [2.0], -1.0),  # worse by far
        ([1.0], [1.0], 0.1),  # as good: the margin speaks for it
        ([1.0], [1.01], 0.0),  # worse by the margin
        ([1.0], [1.06], -0.5),
        ([1.0, 1.0, 1.0], [0.5, 2.0, 1.0], 0.1),
        ([5.0] * 9, [1.0] * 9, 3.0),  # no more than the most votes of a site
        ([1.0] * 9, [5.0] * 9, -3.0),
        ([1.0, 1.0], [np.nan, 0.5], 0.0),  # a broken adapter has every record against it
        ([np.inf, 1.0], [1.0, 0.5], 1.0),  # a broken old one has no say
    ],
)
def test_votes_by_hand(before: list[float], after: list[float], votes: float) -> None:
    """Each record's vote is its fall in loss plus the margin, over the scale, cut to a whole vote."""
    assert count(VOTE, np.array(before), np.array(after)) == pytest.approx(votes, abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(LOSSES, st.integers(0, 11))
def test_one_record_moves_the_votes_by_one_at_most(losses: list[tuple[float, float]], place: int) -> None:
    """Whatever the others say and whether the site is at its most votes or not: that is what the noise is made for."""
    before_N, after_N = np.array(losses).T
    gone = place % len(losses)

    moved = count(VOTE, before_N, after_N) - count(VOTE, np.delete(before_N, gone), np.delete(after_N, gone))

    assert abs(moved) <= 1 + 1e-9


def test_without_the_cut_a_record_would_move_them_by_more() -> None:
    """Control: the same records on a scale that makes no difference of them a whole vote."""
    wide = Vote(most_votes=1000, margin=0.0, scale=1.0, noise_multiplier=None)
    raw = np.array([20.0, 1.0]) - np.array([1.0, 1.0])

    assert abs(raw.sum() - raw[1:].sum()) > 1 >= count(wide, np.array([20.0, 1.0]), np.array([1.0, 1.0]))


def test_a_tie_is_kept_and_the_smallest_majority_against_is_not() -> None:
    """The side of the sum decides, not its size."""
    assert is_kept(np.array([0.0]))
    assert is_kept(np.array([1e-9]))
    assert not is_kept(np.array([-1e-9]))


@pytest.mark.parametrize(
    "field", [{"most_votes": 0}, {"margin": -1.0}, {"scale": 0.0}, {"noise_multiplier": 0.0}, {"margin": float("nan")}]
)
def test_a_vote_out_of_bounds_is_refused(field: dict[str, float]) -> None:
    """A plan from outside may say anything."""
    terms = {"most_votes": 3, "margin": 0.0, "scale": 0.1, "noise_multiplier": 1.0} | field

    with pytest.raises(ValueError, match=r"most_votes|margin|noise multiplier"):
        Vote(**terms)
