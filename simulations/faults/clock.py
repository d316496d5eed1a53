"""The time of a simulated run: delays and time limits pass without anybody waiting for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


class VirtualClock:
    """A clock that can be put forward; sites may read it wrong."""

    def __init__(self, *, base: Callable[[], float] = time.time) -> None:
        """Start at what `base` says [Unix time, s]."""
        self._base, self._ahead_s = base, 0.0
        self._skew_s: dict[str, float] = {}

    def __call__(self) -> float:
        """Say what time it is, at the coordinator."""
        return self._base() + self._ahead_s

    def pass_to(self, moment_s: float) -> None:
        """Let time pass up to a moment; one that is over changes nothing."""
        self._ahead_s += max(0.0, moment_s - self())

    def skew(self, skew_s: Mapping[str, float]) -> None:
        """Let the clocks of these sites go ahead by so many seconds."""
        self._skew_s.update(skew_s)

    def of(self, site: str) -> Callable[[], float]:
        """Give the clock of a site."""
        return lambda: self() + self._skew_s.get(site, 0.0)
