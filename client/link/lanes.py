"""Work in lanes: what is in one lane is done in its order, and lanes do not wait for each other."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

MOST_AT_ONCE = 32
"""Lanes that are worked on at once. A site has a few plans; whoever asks for more waits for its own."""


class Lanes:
    """Threads, one for each lane that has work. They end with the process, whatever they are at."""

    def __init__(self, *, failed: Callable[[BaseException], None]) -> None:
        """Begin without work.

        Args:
            failed: told what a piece of work raised; the lane goes on with its next one.
        """
        self._failed = failed
        self._changed = threading.Condition()
        self._work: dict[int, deque[Callable[[], None]]] = {}
        """By lane, what is to be done; an empty lane that is here is at its last piece."""
        self._waiting: deque[int] = deque()
        self._running = 0
        self._is_closed = False

    def put(self, lane: int, work: Callable[[], None]) -> None:
        """Have work done after all that was put into this lane before; nothing where the lanes are closed."""
        with self._changed:
            if self._is_closed:
                return
            if lane in self._work:
                self._work[lane].append(work)
                return
            self._work[lane] = deque([work])
            self._waiting.append(lane)
            self._start()

    def close(self, *, timeout_s: float) -> bool:
        """Begin no more work, and wait for what is under way.

        Returns:
            whether all of it is done.
        """
        with self._changed:
            self._is_closed = True
            return self._changed.wait_for(lambda: self._running == 0, timeout_s)

    def _start(self) -> None:
        while self._waiting and self._running < MOST_AT_ONCE:
            lane = self._waiting.popleft()
            self._running += 1
            threading.Thread(target=self._drain, args=(lane,), name=f"lane {lane}", daemon=True).start()

    def _drain(self, lane: int) -> None:
        """Do what is in a lane until it is empty."""
        while (work := self._next(lane)) is not None:
            try:
                work()
            except BaseException as err:  # noqa: BLE001 - also the one that stops a daemon; whoever runs the lanes decides
                self._failed(err)

    def _next(self, lane: int) -> Callable[[], None] | None:
        with self._changed:
            if self._work[lane] and not self._is_closed:
                return self._work[lane].popleft()
            del self._work[lane]
            self._running -= 1
            self._start()
            self._changed.notify_all()
            return None
