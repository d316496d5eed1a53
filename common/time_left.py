"""Says now and then how far a long command is, and how long it may still take, in lines that a log can keep."""

from __future__ import annotations

import time
from collections.abc import Callable

PAUSE_S = 10.0
"""Between two lines: short commands say nothing, and an hour gives no more lines than a terminal can scroll back."""


class TimeLeft:
    """Counts the steps of one piece of work."""

    def __init__(
        self, what: str, *, of: int, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin now.

        Args:
            what: is done, for people.
            of: steps in all, >= 1.
            say: takes a line.
            clock: gives seconds that never run backwards.
        """
        self._what, self._of, self._say, self._clock = what, of, say, clock
        self._began_s = self._said_s = clock()
        self._done = 0

    def step(self) -> None:
        """Count one step more; the time left is the mean of those before it times those to come."""
        self._done += 1
        now_s = self._clock()
        if now_s - self._said_s < PAUSE_S or self._done >= self._of:
            return
        self._said_s = now_s
        left_s = (now_s - self._began_s) / self._done * (self._of - self._done)
        self._say(f"{self._what}: {self._done} of {self._of}, about {words_of(left_s)} left")


def words_of(seconds: float) -> str:
    """Round a time as one says it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
