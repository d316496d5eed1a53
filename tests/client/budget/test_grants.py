"""What a grant may say, and which quarter a moment lies in."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.budget.books import Grant, quarter, quarter_start_ms

DELTA = 1e-5


@pytest.mark.parametrize(
    ("text", "name", "start"),
    [
        ("2026-01-01", "2026-Q1", "2026-01-01"),
        ("2026-03-31T23:59:59.999", "2026-Q1", "2026-01-01"),
        ("2026-04-01", "2026-Q2", "2026-04-01"),
        ("2028-02-29", "2028-Q1", "2028-01-01"),
        ("2026-12-31T23:59:59", "2026-Q4", "2026-10-01"),
    ],
)
def test_quarters_are_those_of_the_calendar(text: str, name: str, start: str) -> None:
    """UTC, to the millisecond."""

    def ms(day: str) -> int:
        return round(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)

    assert quarter(ms(text)) == name
    assert quarter_start_ms(ms(text)) == ms(start)


@settings(max_examples=200, deadline=None)
@given(time_ms=st.integers(0, 4_000_000_000_000))
def test_every_moment_lies_in_the_quarter_that_begins_before_it(time_ms: int) -> None:
    """The start has the same name and the moment before it another."""
    start = quarter_start_ms(time_ms)

    assert start <= time_ms
    assert quarter(start) == quarter(time_ms) != quarter(start - 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Grant(epsilon=-1.0, delta=DELTA),
        lambda: Grant(epsilon=1.0, delta=0.0),
        lambda: Grant(epsilon=1.0, delta=DELTA, per_quarter=float("nan")),
        lambda: Grant(epsilon=1.0, delta=DELTA, purposes={"train": float("inf")}),
        lambda: Grant(epsilon=1.0, delta=DELTA, unfinished_per_day=-1),
    ],
)
def test_a_grant_without_meaning_is_refused(make: Callable[[], Grant]) -> None:
    """Also where one comes out of a file that adds up."""
    with pytest.raises(ValueError, match=r"epsilon|delta|unfinished"):
        make()
