"""When a site may train: times of day on its own clock on the wall.

A window is half open: `22:00-06:00` begins at 22:00 and is over at 06:00. One whose ends are equal is the whole day.
Where the clock is put forward, a time that does not exist is no time; where it is put back, a time that comes twice
counts twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

from partsong.common.errors import ConfigError

_MINUTE_S = 60
_LONGEST_WAIT_MIN = 3 * 24 * 60
"""A window comes every day, but for one that lies in an hour which the clock skips: then the next day."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A part of every day, in minutes after midnight; it may go past midnight."""

    begin: int
    end: int

    def holds(self, minute: int) -> bool:
        """Whether a minute of the day, 0 to 1439, lies in it."""
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end


def parse(texts: Sequence[str]) -> tuple[Window, ...]:
    """Read windows of the form `22:00-06:00`.

    Raises:
        ConfigError: one is of another form.
    """
    return tuple(map(_one, texts))


def is_open(windows: Sequence[Window], at_s: float, *, zone: tzinfo | None = None) -> bool:
    """Whether the site may train now; without windows it always may.

    Args:
        windows: of the site.
        at_s: seconds since 1970.
        zone: where the site is; None: as the machine is set.
    """
    wall = datetime.fromtimestamp(at_s, zone)
    return not windows or any(window.holds(wall.hour * 60 + wall.minute) for window in windows)


def next_opening(windows: Sequence[Window], at_s: float, *, zone: tzinfo | None = None) -> float:
    """Say when the site may train: now, or at the next full minute at which a window is open.

    Looks at one minute after the other, because a wall clock is no number that can be calculated with: a few
    thousand looks at most, and right on the days on which the clock is put forward or back.

    Args: as `is_open`.
    Returns:
        seconds since 1970.
    """
    if is_open(windows, at_s, zone=zone):
        return at_s
    first = int(at_s // _MINUTE_S) + 1
    for minute in range(first, first + _LONGEST_WAIT_MIN):
        if is_open(windows, minute * _MINUTE_S, zone=zone):
            return float(minute * _MINUTE_S)
    raise AssertionError("every window holds a minute of some of three days")


def _one(text: str) -> Window:
    begin, _, end = text.partition("-")
    try:
        return Window(begin=_minute(begin), end=_minute(end))
    except ValueError as err:
        raise ConfigError("training_windows", found=repr(text[:20]), expected="HH:MM-HH:MM") from err


def _minute(text: str) -> int:
    wall = datetime.strptime(text, "%H:%M")  # noqa: DTZ007 - a time of day of any day
    return wall.hour * 60 + wall.minute
