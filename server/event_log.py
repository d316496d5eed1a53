"""What happened in a run, as lines of `events.jsonl`: names, counts and released numbers, nothing else.

Covers: only the fields listed here are written, of the events listed here; an event of another kind is left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from partsong.common import events
from partsong.common.build import to_tree
from partsong.common.files import append_line, read_lines

TOLD: Mapping[type[events.Event], tuple[str, tuple[str, ...]]] = {
    events.RunStarted: ("run_started", ("run", "sites", "rounds")),
    events.SiteRefused: ("site_refused", ("site", "code")),
    events.SitesAwaited: ("sites_awaited", ("sites", "missing")),
    events.RoundOpened: ("round_opened", ("round", "sites")),
    events.PhaseBegan: ("phase_began", ("round", "phase")),
    events.SiteReady: ("site_ready", ("round", "site")),
    events.SiteReported: ("site_reported", ("round", "site", "bytes_out")),
    events.SiteLost: ("site_lost", ("round", "site", "why")),
    events.SharesDisputed: ("shares_disputed", ("round", "disputes", "liars")),
    events.RoundSummed: ("round_summed", ("round", "sites", "loss", "epsilon", "update_norm")),
    events.RoundVoted: ("round_voted", ("round", "of", "kept", "votes")),
    events.RoundIncomplete: ("round_incomplete", ("round", "missing")),
    events.RoundAbandoned: ("round_abandoned", ("round", "reason")),
    events.ResultChecked: ("result_checked", ("sites", "of")),
    events.AdapterStored: ("adapter_stored", ("site",)),
}
"""For each event the name and the fields that are written. `SiteProgress` is a site's own and is not among them."""


class RunLog:
    """Appends the events of one run."""

    def __init__(self, file: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Use `file`, which need not exist yet."""
        self._file, self._clock = file, clock

    def __call__(self, event: events.Event) -> None:
        """Append an event, if it is one that is told.

        Raises:
            TryAgain: the disk is full.
        """
        found = TOLD.get(type(event))
        if found is not None:
            name, fields = found
            facts = {field: to_tree(getattr(event, field)) for field in fields}
            append_line(self._file, {"time_ms": int(self._clock() * 1000), "event": name, **facts})


def read_events(file: Path) -> list[dict[str, Any]]:
    """Read the events of a run, oldest first; those that are no events of this list are left out."""
    known = {name for name, _ in TOLD.values()}
    return [line for line in read_lines(file) if isinstance(line, dict) and line.get("event") in known]
