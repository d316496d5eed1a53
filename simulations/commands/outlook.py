"""What a command that waits for a run says meanwhile: what it waits for, the round, and how long it may still take."""

from __future__ import annotations

from collections.abc import Callable

from partsong.common.control.surfaces import RunStatus


class Outlook:
    """Looks at one run again and again, and has something to say whenever that changes."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        """Begin; `clock` gives seconds that never run backwards."""
        self._clock, self._said = clock, ""
        self._first: tuple[int, float] | None = None
        """Round that was seen to begin first, and when: the one under way at the first look had begun before."""
        self._seen: int | None = None

    def line(self, run: RunStatus) -> str:
        """Say what is new; empty: nothing is.

        The time left is the mean length of the rounds that were seen whole, times those to come; none before one was.
        """
        text = run.reason if run.state == "waiting" else self._round(run)
        if text in {"", self._said}:
            return ""
        self._said = text
        return f"{run.run}: {text}"

    def _round(self, run: RunStatus) -> str:
        number, rounds = run.standing.round, run.standing.rounds
        if number < 1:
            return ""
        if number == self._seen:
            return self._said
        if self._seen is not None and self._first is None:
            self._first = (number, self._clock())
        self._seen = number
        text = f"round {number} of {rounds}"
        if self._first is None or number == self._first[0]:
            return text
        mean_s = (self._clock() - self._first[1]) / (number - self._first[0])
        return f"{text}, about {mean_s * (rounds - number + 1):.0f} s left"
