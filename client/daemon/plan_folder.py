"""What a site keeps of each plan that it accepted: the proposal itself, the journal of queries, the adapter's copy.

    PLANS/HASH/proposal.json      the header of the proposal, as it came
    PLANS/HASH/proposal.f32       the adapter's start, as it came
    PLANS/HASH/journal.jsonl      queries that were accepted
    PLANS/HASH/copy.safetensors   the adapter as it follows from the sums
    PLANS/HASH/life.json          when it was accepted and last asked about, and whether it has ended

Covers: a proposal is whole on disk or not there; a folder's name is a hash, never a path.
Does not cover: whether the plan is still allowed. It is checked anew whenever it is taken up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from partsong.common.build import build, to_tree
from partsong.common.errors import ConfigError, DataError, WireError
from partsong.common.files import write_bytes, write_json

_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Life:
    """How long a plan has been here. Times are for people and for purging, never for order."""

    run: str
    study: str
    accepted_ms: int
    asked_ms: int
    """Of the last query."""
    ended_ms: int | None = None
    """When its last adapter was found right; None: the coordinator has not said so."""
    purged_ms: int | None = None
    """When all else was erased. A plan that was purged is never taken up again."""


class PlanFolder:
    """The folder of one plan."""

    def __init__(self, plans: Path, plan_sha256: str) -> None:
        """Name a folder, which need not exist.

        Raises:
            WireError: not the hash of a plan.
        """
        if not _HASH.fullmatch(plan_sha256):
            raise WireError("message header: a plan is named by 64 lower-case hex digits", rule="plan.name")
        self.plan_sha256, self.path = plan_sha256, plans / plan_sha256
        self._header, self._start, self.note = (
            self.path / name for name in ("proposal.json", "proposal.f32", "life.json")
        )
        self.journal, self.copy = self.path / "journal.jsonl", self.path / "copy.safetensors"

    def keep(self, header: bytes, vector: bytes, *, run: str, study: str, now_ms: int) -> None:
        """Keep a proposal that was accepted, before anybody hears that it was.

        Raises:
            TryAgain: the disk is full.
        """
        if self._header.exists():
            return
        write_bytes(self._start, vector)
        write_json(self.note, to_tree(Life(run=run, study=study, accepted_ms=now_ms, asked_ms=now_ms)))
        write_bytes(self._header, header)

    def proposal(self) -> tuple[bytes, bytes] | None:
        """Give header and vector of the proposal; None: it was never accepted here, or was purged."""
        try:
            return self._header.read_bytes(), self._start.read_bytes()
        except FileNotFoundError:
            return None

    def life(self) -> Life | None:
        """Say what became of the plan; None: it was never accepted here.

        Raises:
            DataError: the file is damaged.
        """
        try:
            return build(Life, json.loads(self.note.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, ConfigError) as err:
            raise DataError(
                f"plans/{self.plan_sha256[:12]}/life.json", found="a damaged file", expected="as it was written"
            ) from err

    def asked(self, *, now_ms: int) -> None:
        """Note that the plan is in use."""
        self._note(asked_ms=now_ms, ended_ms=None)

    def ended(self, *, now_ms: int) -> None:
        """Note that its last adapter was checked."""
        self._note(ended_ms=now_ms)

    def purged(self, *, now_ms: int) -> None:
        """Note that all else of it is gone."""
        self._note(purged_ms=now_ms)

    def _note(self, **changes: int | None) -> None:
        life = self.life()
        if life is not None:
            write_json(self.note, to_tree(replace(life, **changes)))  # type: ignore[arg-type]  # times, by name


def all_plans(plans: Path) -> Iterator[PlanFolder]:
    """Give the folder of every plan that was accepted here, in order of their hashes."""
    if plans.is_dir():
        for path in sorted(plans.iterdir()):
            if _HASH.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                yield PlanFolder(plans, path.name)
