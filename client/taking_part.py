"""Whether this site takes part: it runs, pauses, or has left its consortium. Kept on disk, through every restart.

Covers: a site that has left answers nothing under the charter that it left; a paused one takes no new work.
Does not cover: the consortium's charter, from which the others strike a site that left.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from partsong.client.rules.consent import NotAgreed
from partsong.common import wire
from partsong.common.build import build, to_tree
from partsong.common.errors import ConfigError, DataError, Refused
from partsong.common.files import write_json

NEW_WORK = (wire.Propose.kind, wire.Open.kind)
"""Kinds of message that begin something. All others end what was begun."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What was decided, and when."""

    state: Literal["running", "paused", "left"] = "running"
    since_ms: int = 0
    charter: str = ""
    """Hash of the charter that was left."""


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
                remedy="remove it, then pause again if that is what was meant",
            ) from err

    def pause(self, *, now_ms: int) -> Part:
        """Take no new work; what was begun goes on to its end."""
        return self._change("paused", now_ms=now_ms)

    def resume(self, *, now_ms: int) -> Part:
        """Take work again."""
        return self._change("running", now_ms=now_ms)

    def leave(self, charter_sha256: str, *, now_ms: int) -> Part:
        """Answer nothing more under this charter. Only a later charter takes that back."""
        return self._write(Part(state="left", since_ms=now_ms, charter=charter_sha256))

    def enter(self, charter_sha256: str, *, now_ms: int) -> Part:
        """Begin to work under a charter; a later one than that which was left takes the leaving back.

        Raises:
            Refused: `left`: it is the charter that was left.
        """
        part = self.now()
        if part.state != "left":
            return part
        if part.charter == charter_sha256:
            raise _gone()
        return self._write(Part(state="running", since_ms=now_ms))

    def require_running(self, kind: str) -> None:
        """Refuse new work while the site pauses.

        Raises:
            NotAgreed: `paused`; the coordinator may ask again later.
        """
        if kind in NEW_WORK and self.now().state == "paused":
            raise NotAgreed("state", "this site pauses", rule="paused")

    def _change(self, state: Literal["running", "paused"], *, now_ms: int) -> Part:
        part = self.now()
        if part.state == "left":
            raise _gone()
        return part if part.state == state else self._write(Part(state=state, since_ms=now_ms))

    def _write(self, part: Part) -> Part:
        write_json(self._file, to_tree(part))
        return part


def _gone() -> Refused:
    return Refused(
        "left",
        reason="this site has left its consortium",
        remedy="join again with a charter version that lists it",
    )
