"""Where the facts of a run come from: its plan, its charter and the journals that its coordinator kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from partsong.common.errors import DataError
from partsong.common.files import read_lines
from partsong.common.identity.charter import Charter
from partsong.common.identity.charter import read as read_charter
from partsong.common.plan import Plan
from partsong.server.ballots import Ballot
from partsong.server.checkpoint import Checkpoints
from partsong.server.event_log import read_events
from partsong.server.report.facts import RoundFacts
from partsong.server.run_files import RunFiles

JOURNALS = ("metrics.jsonl", "opened.jsonl", "run.json")
"""What a run keeps beside what `partsong verify` recomputes; a copy for others may lack them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """What is known once the last round is done."""

    base_name: str
    config_sha256: str
    marks: tuple[str, ...]
    checked_by: tuple[str, ...]
    """Sites that signed that the last sum and the adapter are right."""
    adapter_sha256: str
    ledger_heads: Mapping[str, str] = field(default_factory=dict)
    """By site, where they are known: a deployed coordinator knows none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """All that the facts follow from."""

    plan: Plan
    charter: Charter | None
    """None: the plan is unmasked."""
    rounds: tuple[RoundFacts, ...]
    opened_rounds: int
    versions: Mapping[str, str]
    refused: Mapping[str, str]
    """By site the code of its last refusal."""
    simulated: bool
    ending: Ending
    rolled_back_to: int | None = None
    """Round whose adapter is published; None: the last."""


def read_sources(files: RunFiles, ending: Ending) -> Sources:
    """Read what the facts of a run follow from.

    Args:
        files: of the run; nothing is written.
        ending: what no journal holds.
    Raises:
        InputError: a file is missing or damaged.
    """
    plan = files.read_plan()
    refused = {line["site"]: line["code"] for line in read_events(files.events) if line["event"] == "site_refused"}
    return Sources(
        plan=plan,
        charter=read_charter(_bytes(files.charter)).charter if plan.masked else None,
        rounds=read_rounds(files.metrics),
        opened_rounds=max(Checkpoints(files.path).attempts(), default=0),
        versions=_versions(files.path / "run.json"),
        refused=refused,
        simulated=not (files.path / "job").is_dir(),
        ending=ending,
        rolled_back_to=files.rolled_back_to(),
    )


def read_rounds(file: Path) -> tuple[RoundFacts, ...]:
    """Read the rounds that are finished; there may be none yet.

    Raises:
        DataError: the file is damaged.
    """
    try:
        return tuple(map(_round, read_lines(file)))
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise DataError(file.name, found="a line that is no round's", expected="what the run wrote") from err


def _round(line: Mapping[str, Any]) -> RoundFacts:
    held = line.get("held_out") or {}
    return RoundFacts(
        round=int(line["round"]),
        sites=tuple(line["sites"]),
        lost=dict(line["lost"]),
        reason=str(line["reason"]),
        loss=_number(line["loss"]),
        epsilon=_number(line["epsilon"]),
        bytes_out={site: int(size) for site, size in line["bytes_out"].items()},
        held_out_loss=_number(held.get("loss")),
        held_out_exact=_number(held.get("exact")),
        vote=None if line.get("vote") is None else _ballot(line["vote"]),
    )


def _ballot(line: Mapping[str, Any]) -> Ballot:
    return Ballot(
        of=int(line["of"]),
        kept=bool(line["kept"]),
        votes=_number(line["votes"]),
        noise_sd=float(line["noise_sd"]),
    )


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _versions(file: Path) -> dict[str, str]:
    try:
        found = json.loads(_bytes(file))["versions"]
        return {str(name): str(version) for name, version in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise DataError(file.name, found="no versions in it", expected="what the run wrote") from err


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as err:
        raise DataError(file.name, found="no file that can be read", expected="a file of the run") from err
