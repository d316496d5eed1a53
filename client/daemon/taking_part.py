"""Whether this site takes new work: it runs or pauses. Kept on disk, through every restart.

Covers: a paused site answers no proposal and no query; what was begun before goes on to its end.
Does not cover: leaving a consortium (`partsong.client.membership.onboarding`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from partsong.client.rules.consent import NotAgreed
from partsong.common import wire
from partsong.common.build import build, to_tree
from partsong.common.errors import ConfigError, DataError
from partsong.common.files import write_json

NEW_WORK = (wire.Propose.kind, wire.Open.kind)
"""Kinds of message that begin something. All others end what was begun."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What was decided, and when."""

    state: Literal["running", "paused"] = "running"
    since_ms: int = 0


class TakingPart:
    """One site's decision."""

    def __init__(self, file: Path) -> None:
        """Use a file; without it the site runs."""
        self._file = file

    def now(self) -> Part:
        """Read the decision.

        Raises:
            DataError: the file is damaged; the site does nothing until somebody decides again.
        """
        try:
            return build(Part, json.loads(self._file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return Part()
        except (ValueError, ConfigError) as err:
            raise DataError(
                self._file.name,
                found="a damaged file",
                expected="whether this site takes part",
                remedy="pause or resume",
            ) from err

    def pause(self, *, now_ms: int) -> Part:
        """Take no new work; what was begun goes on to its end."""
        return self._write(Part(state="paused", since_ms=now_ms))

    def resume(self, *, now_ms: int) -> Part:
        """Take work again."""
        return self._write(Part(state="running", since_ms=now_ms))

    def require_running(self, kind: str) -> None:
        """Refuse new work while the site pauses.

        Raises:
            NotAgreed: `paused`; the coordinator may ask again later.
        """
        if kind in NEW_WORK and self.now().state == "paused":
            raise NotAgreed("state", "this site pauses", rule="paused")

    def _write(self, part: Part) -> Part:
        write_json(self._file, to_tree(part))
        return part
