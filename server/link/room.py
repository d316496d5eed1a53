"""How much the answers of all sites together may take while they arrive.

Covers: whatever the sites send, their answers never take more than so many bytes; an answer that takes room without
ever becoming whole gives way to others, and whoever was thrown out lets those go first that were not, so that sites
that hold room keep nobody from a round for longer than a few leases.
Does not cover: the one body that a connection is just bringing (`partsong.server.link.bodies`), and a site that is too
slow to bring its answer within a lease while others need the room: it begins anew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

_WAITS_S = 45.0
"""How long a site that was sent away is taken to be coming back: twice its longest pause, and a little."""


class NoRoom(Exception):
    """Nothing more fits now; nothing was taken. The same request may succeed later."""


class Holder(Protocol):
    """Whose answers take room: one site's box."""

    def sweep(self) -> None:
        """Give back the room of what nobody waits for any longer."""
        ...

    def oldest_unfinished_s(self) -> float | None:
        """When the oldest of its answers that are not whole began to take room; None: there is none."""
        ...

    def throw_out(self) -> None:
        """Give back the room of that answer; its site may begin it anew."""
        ...


class Room:
    """Room for the answers of all sites. Every box takes its lock, so one box may make another give way."""

    def __init__(self, *, most_bytes: int, lease_s: float, clock: Callable[[], float]) -> None:
        """Open an empty room.

        Args:
            most_bytes: for all answers together.
            lease_s: how long an answer may take to become whole before it gives way to others.
            clock: seconds, never going back.
        """
        self.lock = threading.RLock()
        self._most_bytes, self._lease_s, self._clock = most_bytes, lease_s, clock
        self._used = 0
        self._holders: list[Holder] = []
        self._thrown_out: dict[Holder, int] = {}
        """How often, since a whole answer of the holder was taken."""
        self._waiting_s: dict[Holder, float] = {}
        """Who was sent away and has not brought a whole answer since: when it last came."""

    @property
    def used(self) -> int:
        """Bytes that are taken."""
        with self.lock:
            return self._used

    def enter(self, holder: Holder) -> None:
        """Let a holder take room."""
        with self.lock:
            self._holders.append(holder)

    def leave(self, holder: Holder) -> None:
        """Forget a holder that has given back all it took."""
        with self.lock:
            self._holders.remove(holder)
            self._thrown_out.pop(holder, None)
            self._waiting_s.pop(holder, None)

    def take(self, holder: Holder, size: int) -> None:
        """Take room.

        Raises:
            NoRoom: there is none, or others go first.
        """
        with self.lock:
            now_s = self._clock()
            goes_after = self._goes_after_others(holder, now_s=now_s)
            if self._used + size > self._most_bytes and not goes_after:
                self._make(size, holder, now_s=now_s)
            if self._used + size > self._most_bytes or goes_after:
                self._waiting_s[holder] = now_s
                raise NoRoom
            self._used += size
            if holder in self._waiting_s:  # until its answer is whole: what is begun must not be kept from its end
                self._waiting_s[holder] = now_s

    def give(self, size: int) -> None:
        """Give room back."""
        with self.lock:
            self._used -= size

    def was_whole(self, holder: Holder) -> None:
        """Note that an answer of a holder became whole and was taken: it is like everybody else again."""
        with self.lock:
            self._thrown_out.pop(holder, None)
            self._waiting_s.pop(holder, None)

    def _make(self, size: int, holder: Holder, *, now_s: float) -> None:
        """Make others give way: first what nobody waits for, then what has had its time, the oldest first."""
        for other in self._holders:
            other.sweep()
        began = {other: other.oldest_unfinished_s() for other in self._holders if other is not holder}
        late = sorted(
            (began_s, place)
            for place, other in enumerate(self._holders)
            if (began_s := began.get(other)) is not None and now_s - began_s >= self._lease_s
        )
        for _, place in late:
            if self._used + size <= self._most_bytes:
                return
            other = self._holders[place]
            other.throw_out()
            self._thrown_out[other] = self._thrown_out.get(other, 0) + 1

    def _goes_after_others(self, holder: Holder, *, now_s: float) -> bool:
        mine = self._thrown_out.get(holder, 0)
        self._waiting_s = {other: at_s for other, at_s in self._waiting_s.items() if now_s - at_s < _WAITS_S}
        return mine > 0 and any(
            other is not holder and self._thrown_out.get(other, 0) < mine for other in self._waiting_s
        )
