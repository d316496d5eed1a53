"""Progress, told to whoever watches, without ever waiting for them.

Covers: the daemon's work never waits for a watcher; a watcher that does not read costs a bounded memory; what a
    watcher has missed is counted.
Does not cover: events before the watcher came. They are in the log.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from partsong.common.errors import TryAgain
from partsong.common.facts import Scalar, checked

LONGEST_QUEUE = 1000
"""Events that wait for one watcher; about a quarter of a megabyte."""
MOST_WATCHERS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgressEvent:
    """Something that happened, in facts that may be told."""

    event: str
    """Such as `round_opened`; a word as in `partsong.common.facts`."""
    time_ms: int
    """Since 1970."""
    facts: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked({"state": self.event})
        object.__setattr__(self, "facts", checked(self.facts))


class Feed:
    """Where the daemon tells what happens; any number of threads may tell and watch."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        """Begin with no watcher."""
        self._clock, self._lock = clock, threading.Lock()
        self._watchers: set[Watcher] = set()
        self._closed = False

    def tell(self, event: str, **facts: Scalar) -> None:
        """Tell all watchers; returns at once.

        Raises:
            InputError: a fact that may not be told; nobody was told.
        """
        progress = ProgressEvent(event=event, time_ms=int(self._clock() * 1000), facts=facts)
        with self._lock:
            watchers = tuple(self._watchers)
        for watcher in watchers:
            watcher.put(progress)

    def watch(self) -> Watcher:
        """Come to watch; use as a context manager.

        Raises:
            TryAgain: `MOST_WATCHERS` watch already.
        """
        with self._lock:
            if len(self._watchers) >= MOST_WATCHERS:
                raise TryAgain(f"{MOST_WATCHERS} programs watch this daemon already; end one and try again")
            watcher = Watcher(self)
            self._watchers.add(watcher)
            if self._closed:
                watcher.end()
        return watcher

    @property
    def watched(self) -> bool:
        """Whether anybody watches."""
        with self._lock:
            return bool(self._watchers)

    def close(self) -> None:
        """End every watcher: each still gets what waits for it. Later watchers end at once."""
        with self._lock:
            self._closed = True
            watchers = tuple(self._watchers)
        for watcher in watchers:
            watcher.end()

    def leave(self, watcher: Watcher) -> None:
        """Forget a watcher."""
        with self._lock:
            self._watchers.discard(watcher)


class Watcher:
    """One watcher's queue. When it is full, the oldest event goes and is counted."""

    def __init__(self, feed: Feed) -> None:
        """Wait for events of `feed`."""
        self._feed, self._ready = feed, threading.Condition()
        self._queue: collections.deque[ProgressEvent] = collections.deque()
        self._ended, self.lost = False, 0

    def put(self, progress: ProgressEvent) -> None:
        """Take an event; never waits."""
        with self._ready:
            if len(self._queue) >= LONGEST_QUEUE:
                self._queue.popleft()
                self.lost += 1
            self._queue.append(progress)
            self._ready.notify()

    def end(self) -> None:
        """Say that nothing more comes."""
        with self._ready:
            self._ended = True
            self._ready.notify_all()

    def next(self, *, timeout_s: float) -> ProgressEvent | None:
        """Give the next event; None: none came in this time, or none will come, see `ended`."""
        with self._ready:
            self._ready.wait_for(lambda: self._queue or self._ended, timeout_s)
            return self._queue.popleft() if self._queue else None

    @property
    def ended(self) -> bool:
        """Whether all was given and nothing more comes."""
        with self._ready:
            return self._ended and not self._queue

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        self._feed.leave(self)
