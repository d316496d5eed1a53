"""Where each plan stands at this site, for people to look at. Nothing is decided by it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from partsong.common import wire
from partsong.common.control.surfaces import Standing
from partsong.common.errors import DataError
from partsong.common.files import read_lines
from partsong.common.plan import Plan

_DURING = {"open": "training", "roster": "sealing", "confirm": "confirm", "unmask": "unmask"}
_AFTER = {"open": "roster", "roster": "confirm", "confirm": "unmask", "unmask": ""}
"""What happens while a message is answered, and what is waited for afterwards."""
Round = wire.Open | wire.Roster | wire.Confirm | wire.Unmask


class Board:
    """Any thread may look while another one writes."""

    def __init__(self) -> None:
        """Begin empty."""
        self._lock = threading.Lock()
        self._standing: dict[str, Standing] = {}

    @contextlib.contextmanager
    def showing(self, plan: Plan, message: object) -> Iterator[None]:
        """Show what happens while a message is answered, and what is waited for afterwards.

        Args:
            plan: that it is about.
            message: of the coordinator; one that is of no round shows nothing.
        """
        if not isinstance(message, Round):
            yield
            return
        self._write(plan, message, _DURING[message.kind])
        try:
            yield
        finally:
            self._write(plan, message, _AFTER[message.kind])

    def waits(self, plan: Plan, query: wire.Open) -> None:
        """Show that a query waits for its training window."""
        self._write(plan, query, "window")

    def standing(self, plan_sha256: str, *, rounds: int, journal: Path) -> Standing | None:
        """Say where a plan stands; after a restart, what its journal says.

        Args:
            plan_sha256: of the plan.
            rounds: of the plan.
            journal: of its queries; need not exist.
        """
        with self._lock:
            found = self._standing.get(plan_sha256)
        if found is not None:
            return found
        try:
            last = max((int(line["round"]) for line in read_lines(journal)), default=0)
        except (DataError, KeyError, TypeError, ValueError):
            return None  # the next query says what is wrong with the journal; a look at it does not
        return Standing(round=last, rounds=rounds, phase="") if last else None

    def _write(self, plan: Plan, message: Round, phase: str) -> None:
        with self._lock:
            self._standing[message.plan_sha256] = Standing(round=message.round, rounds=plan.rounds, phase=phase)
