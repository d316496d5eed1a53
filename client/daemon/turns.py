"""Whose turn it is at a site: messages are answered one at a time, but who trains or waits lets other plans go on.

Covers: two messages of one plan are never worked on at once, and are taken up in the order in which they came; between
    two points at which a message steps aside nothing of the site changes under it.
Does not cover: what a plan shares with others after it stepped aside; whoever steps aside looks again.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator


class Turns:
    """Of one site. Any thread may ask for a turn."""

    def __init__(self) -> None:
        """Begin with nobody at work."""
        self._desk = threading.Lock()
        self._changed = threading.Condition()
        self._queues: dict[str, deque[object]] = {}
        """By plan, whoever works on a message of it or waits to; the first one works."""

    @contextlib.contextmanager
    def of(self, plan: str) -> Iterator[None]:
        """Wait for the plan's turn, and hold it for a block.

        Args:
            plan: whose messages keep their order; its hash, or any other word for what is of no plan.
        """
        with self._in_order(plan), self._desk:
            yield

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Let messages of other plans be answered during a block. Only within `of`, in the same thread."""
        self._desk.release()
        try:
            yield
        finally:
            self._desk.acquire()

    def waiting(self, plan: str) -> int:
        """Count the messages of a plan that are worked on or wait to be."""
        with self._changed:
            return len(self._queues.get(plan, ()))

    @contextlib.contextmanager
    def _in_order(self, plan: str) -> Iterator[None]:
        ticket = object()
        with self._changed:
            queue = self._queues.setdefault(plan, deque())
            queue.append(ticket)
            self._changed.wait_for(lambda: queue[0] is ticket)
        try:
            yield
        finally:
            with self._changed:
                queue.popleft()
                if not queue:
                    del self._queues[plan]
                self._changed.notify_all()
