"""Waiting before the same request is sent again."""

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from partsong.client.link.backoff import FIRST_S, LONGEST_S, delays_s


def test_waits_double_up_to_twenty_seconds_and_never_end() -> None:
    """With the largest draw."""
    waits = list(islice(delays_s(lambda: 1.0), 1000))

    assert waits[:8] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0]
    assert set(waits[6:]) == {20.0}


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=50))
def test_each_wait_is_its_draw_of_the_whole_range(draws: list[float]) -> None:
    """Full jitter: also nearly nothing."""
    left = iter(draws)

    waits = list(islice(delays_s(lambda: next(left)), len(draws)))

    assert waits == [draw * min(FIRST_S * 2**n, LONGEST_S) for n, draw in enumerate(draws)]
