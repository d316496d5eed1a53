"""Training windows: wall-clock times, over midnight, on days on which the clock is put forward or back."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.daemon.windows import Window, is_open, next_opening, parse
from partsong.common.errors import ConfigError

BERLIN = ZoneInfo("Europe/Berlin")
"""Put forward on 2026-03-29 from 02:00 to 03:00, put back on 2026-10-25 from 03:00 to 02:00."""
MINUTES = st.integers(0, 1439)
WINDOWS = st.lists(st.builds(Window, begin=MINUTES, end=MINUTES), min_size=1, max_size=3)


def at(text: str, *, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).timestamp()


def shown(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, BERLIN).isoformat(timespec="minutes")


@pytest.mark.parametrize(
    ("now", "is_in"),
    [("2026-11-22T21:59", False), ("2026-11-22T22:00", True), ("2026-11-23T05:59", True), ("2026-11-23T06:00", False)],
)
def test_a_window_over_midnight_is_half_open(now: str, *, is_in: bool) -> None:
    """By hand, at both ends."""
    assert is_open(parse(["22:00-06:00"]), at(now), zone=BERLIN) is is_in


def test_without_windows_a_site_may_always_train() -> None:
    """And next is now."""
    assert is_open((), 12.5, zone=BERLIN)
    assert next_opening((), 12.5, zone=BERLIN) == 12.5


def test_equal_ends_are_the_whole_day() -> None:
    """Not an empty window."""
    assert all(is_open(parse(["08:00-08:00"]), at(f"2026-11-22T{hour:02}:00"), zone=BERLIN) for hour in range(24))


@pytest.mark.parametrize(
    ("windows", "now", "opens"),
    [
        (["22:00-06:00"], "2026-11-22T12:00", "2026-11-22T22:00+01:00"),
        (["22:00-06:00", "12:30-13:00"], "2026-11-22T12:00", "2026-11-22T12:30+01:00"),
        (["02:30-03:00"], "2026-03-29T00:00", "2026-03-30T02:30+02:00"),
        (["02:30-04:00"], "2026-03-29T00:00", "2026-03-29T03:00+02:00"),
        (["02:30-02:40"], "2026-10-25T00:00", "2026-10-25T02:30+02:00"),
    ],
    ids=["tonight", "the first", "a skipped hour has no window", "a window begins late", "the first of two"],
)
def test_when_it_opens_next(windows: list[str], now: str, opens: str) -> None:
    """By hand, on plain days and on those of the change."""
    assert shown(next_opening(parse(windows), at(now), zone=BERLIN)) == opens


def test_an_hour_that_comes_twice_has_its_window_twice() -> None:
    """Between the two it is closed."""
    windows = parse(["02:30-02:40"])

    again = next_opening(windows, at("2026-10-25T02:45"), zone=BERLIN)

    assert shown(again) == "2026-10-25T02:30+01:00"


@settings(max_examples=40, deadline=None)
@given(windows=WINDOWS, minute=st.integers(0, 366 * 1440))
def test_the_next_opening_is_the_first_open_minute(windows: list[Window], minute: int) -> None:
    """A second source: look at every minute in UTC until one is open."""
    now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute)

    opens = next_opening(windows, now.timestamp(), zone=BERLIN)

    look = now
    while not any(w.holds(look.astimezone(BERLIN).hour * 60 + look.astimezone(BERLIN).minute) for w in windows):
        look += timedelta(minutes=1)
    assert opens == look.timestamp()
    assert is_open(windows, opens, zone=BERLIN)


@pytest.mark.parametrize("text", ["22-06", "25:00-06:00", "", "22:00", "22:00-06:00-07:00"])
def test_another_form_is_refused(text: str) -> None:
    """The text says what was expected."""
    with pytest.raises(ConfigError, match="HH:MM-HH:MM"):
        parse([text])
