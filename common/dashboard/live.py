"""What happens, told to open pages as server-sent events: that something changed, and how far a round's steps are.

Covers: a page that does not read costs what one watcher of the feed costs; at most `MOST_PAGES` are told, whatever
    opens them; many events in a moment are one.
Does not cover: what changed. The page asks for itself again and gets what it may show.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Iterator

import anyio
from anyio.to_thread import run_sync
from markupsafe import escape

from partsong.common.control.feed import Feed, ProgressEvent, Watcher
from partsong.common.errors import TryAgain

MOST_PAGES = 6
"""Fewer than the feed's watchers, so that the log and the commands always find room."""
MEDIA_TYPE = "text/event-stream"
LATER_MS = 30_000
"""When a page that found no room asks again."""
_LOOK_S, _GATHER_S, _ALIVE_S = 0.5, 0.3, 15.0
STEP = "step"


class Live:
    """The open pages of one dashboard."""

    def __init__(self, feed: Feed) -> None:
        """Begin with none."""
        self._feed, self._lock, self._open = feed, threading.Lock(), 0
        self._closing = threading.Event()

    def close(self) -> None:
        """End every stream; each ends within a second."""
        self._closing.set()

    async def told(self) -> AsyncIterator[str]:
        """Give the stream of a page, until the page or the daemon goes; a short one where there is no room."""
        try:
            with self._room(), self._feed.watch() as watcher:
                yield "retry: 2000\n\n"
                async for message in self._heard(watcher):
                    yield message
        except TryAgain:
            yield f"retry: {LATER_MS}\n\n"

    async def _heard(self, watcher: Watcher) -> AsyncIterator[str]:
        """Give the messages of a watcher, and now and then a sign of life, by which a page that went is noticed."""
        quiet_s = 0.0
        while not (watcher.ended or self._closing.is_set()):
            first = await run_sync(lambda: watcher.next(timeout_s=_LOOK_S))
            if first is not None:
                await anyio.sleep(_GATHER_S)
                quiet_s = 0.0
                for message in messages([first, *_waiting(watcher)]):
                    yield message
            elif (quiet_s := quiet_s + _LOOK_S) >= _ALIVE_S:
                quiet_s = 0.0
                yield ": alive\n\n"

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        """Count a page while it is told.

        Raises:
            TryAgain: there are `MOST_PAGES` already.
        """
        with self._lock:
            if self._open >= MOST_PAGES:
                raise TryAgain(f"{MOST_PAGES} pages are told already")
            self._open += 1
        try:
            yield
        finally:
            with self._lock:
                self._open -= 1


def messages(events: list[ProgressEvent]) -> list[str]:
    """Make one moment's events messages: the newest step as words, and `changed` for anything else."""
    found = []
    steps = [event for event in events if event.event == STEP]
    if steps:
        found.append(f"event: {STEP}\ndata: {escape(step_words(steps[-1]))}\n\n")
    if len(steps) < len(events):
        found.append("event: changed\ndata:\n\n")
    return found


def step_words(event: ProgressEvent) -> str:
    """Say how far a round's steps are."""
    facts = event.facts
    return f"round {facts.get('round', '?')}: step {facts.get('step', '?')} of {facts.get('steps', '?')}"


def _waiting(watcher: Watcher) -> Iterator[ProgressEvent]:
    """Give what waits already."""
    while (event := watcher.next(timeout_s=0)) is not None:
        yield event
