"""Keeps what is left of each failure at a site: in a capsule, and for who watches (and so in the log).

Covers: a failure that cannot be written down (a full disk) does not become a second failure.
Does not cover: telling the coordinator (`partsong.client.daemon.releasing`, where the site's settings allow it).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from partsong.common.capsule import Capsule, look_around, make_capsule
from partsong.common.capsule_shelf import CapsuleShelf
from partsong.common.control.feed import Feed
from partsong.common.errors import PartsongError

MOST_SHOWN = 10


class FailureBook:
    """The failures of one site."""

    def __init__(self, folder: Path, *, site: str, feed: Feed, clock: Callable[[], float]) -> None:
        """Use a folder for the capsules, `SiteHome.capsules`.

        Args:
            folder: made with the first capsule.
            site: that fails.
            feed: told of each failure.
            clock: seconds since 1970.
        """
        self._folder, self._site, self._feed, self._clock = folder, site, feed, clock
        self._shelf = CapsuleShelf(folder)

    def enter(self, error: BaseException, *, phase: str, run: str = "", round_id: int = 0) -> Capsule:
        """Take from an exception what may be told, keep it, and give it.

        Args:
            error: as it was caught.
            phase: of a round, or of the daemon's life.
            run: of the plan; empty: none.
            round_id: from 1; 0: none.
        """
        capsule = make_capsule(
            error,
            site=self._site,
            run=run,
            round_id=round_id,
            phase=phase,
            environment=look_around(self._folder.parent),
            clock=self._clock,
        )
        with contextlib.suppress(OSError, PartsongError):
            self._shelf.keep(capsule)
        told = {"rule": capsule.rule} if capsule.rule else {}
        told |= {"place": capsule.places[-1]} if capsule.places else {}
        self._feed.tell("failed", error=capsule.errors[0], phase=capsule.phase, capsule=capsule.id, **told)
        return capsule

    def newest(self) -> tuple[str, ...]:
        """Give the ids of the newest capsules, the newest first."""
        return self._shelf.ids()[:MOST_SHOWN]
