"""How much of requests that are still arriving lies in memory.

Covers: all connections together hold no more than so many bytes of bodies; where more comes, the body that has been
arriving for longest is cut off. A peer that lets a body drip so loses it to those that bring theirs.
Does not cover: what is in whole requests (`partsong.server.link.room`), and how long a body may take at most
(`partsong.server.link.gate`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

Grow = Callable[[int], None]
"""Told how many bytes more of a body are in memory."""


class Bodies:
    """Bodies on their way in. For one event loop."""

    def __init__(self, *, most_bytes: int) -> None:
        """Begin with none."""
        self._most_bytes = most_bytes
        self._sizes: dict[asyncio.Timeout, int] = {}
        """The oldest first."""

    @contextlib.contextmanager
    def arriving(self, limit: asyncio.Timeout) -> Iterator[Grow]:
        """Count one body while it arrives.

        Args:
            limit: ends the wait for it; brought forward where others need the room.
        """

        def grow(size: int) -> None:
            if limit in self._sizes:
                self._sizes[limit] += size
                self._cut_off()

        self._sizes[limit] = 0
        try:
            yield grow
        finally:
            self._sizes.pop(limit, None)

    def _cut_off(self) -> None:
        while sum(self._sizes.values()) > self._most_bytes:
            oldest = next(iter(self._sizes))
            del self._sizes[oldest]
            oldest.reschedule(asyncio.get_running_loop().time())
