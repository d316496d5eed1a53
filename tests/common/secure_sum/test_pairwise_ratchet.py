"""Pair keys move forward with the rounds, never back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partsong.common.derive import derive
from partsong.common.errors import RoundAborted
from partsong.common.secure_sum.pairwise import advance


@given(st.integers(0, 64), st.integers(0, 64))
def test_rounds_can_be_skipped_and_end_at_the_same_key(one: int, two: int) -> None:
    """A site that missed rounds meets the others again."""
    keys = {1: b"a" * 32, 5: b"b" * 32}

    if one + two <= 64:
        assert advance(advance(keys, rounds=one), rounds=two) == advance(keys, rounds=one + two)
    assert advance(keys, rounds=0) == keys
    assert advance(keys, rounds=1)[5] == derive(b"b" * 32, "ratchet")


@pytest.mark.parametrize("rounds", [-1, 65, 10**9])
def test_steps_back_and_leaps_are_refused(rounds: int) -> None:
    """At most 64 rounds at once, never backwards."""
    with pytest.raises(RoundAborted, match="the keys stay"):
        advance({1: b"a" * 32}, rounds=rounds)
