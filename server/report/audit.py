"""An audit beside a report: read from the file that `partsong audit` wrote, if it is about the same settings.

Covers: an audit of other settings; one over private records, which stays at its site.
Does not cover: who wrote the file. It is no part of what the coordinator signs.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from partsong.common.build import build
from partsong.common.errors import ConfigError, DataError, Refused
from partsong.server.report.facts import PrivacyFacts

_LARGEST = 1 << 24
_SAME = 1e-9
"""Relative difference of settings that count as the same: the noise is found by bisection."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditBound:
    """A lower bound on epsilon."""

    name: str
    epsilon: float
    claim: float
    delta: float
    failed: bool
    assumes: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditCheck:
    """An ingredient of the claim, measured."""

    name: str
    promised: float
    bound: float
    failed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditFacts:
    """What a report says of an audit."""

    sha256: str
    """Of the file."""
    passed: bool
    confidence: float
    records_are: Literal["public", "synthetic"]
    bounds: tuple[AuditBound, ...]
    checks: tuple[AuditCheck, ...]
    not_shown: tuple[str, ...]


def read_audit(file: Path, privacy: PrivacyFacts | None, *, steps: int) -> AuditFacts:
    """Read an audit of the settings of a run.

    Args:
        file: that `partsong audit` wrote.
        privacy: of the run.
        steps: that the run has planned.
    Raises:
        DataError: no rehearsal that can be read.
        ConfigError: of other settings than the run's.
        Refused: `private_audit_in_report`; nothing was written.
    """
    try:
        data = file.read_bytes() if file.stat().st_size <= _LARGEST else b""
        tree = json.loads(data)
        about, claim = tree["rehearsed"], tree["claim"]
        _require_public(about["records_are"])
        found = build(AuditFacts, _picked(tree) | {"sha256": hashlib.sha256(data).hexdigest()}, where="audit")
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ConfigError) as err:
        raise DataError(
            file.name, found="no rehearsal that can be read", expected="what `partsong audit` wrote without --adapter"
        ) from err
    _require_same(file.name, about, claim, privacy, steps=steps)
    return found


def _picked(tree: Mapping[str, Any]) -> dict[str, Any]:
    bound, check = AuditBound.__dataclass_fields__, AuditCheck.__dataclass_fields__
    return {
        "passed": tree["passed"],
        "confidence": tree["confidence"],
        "records_are": tree["rehearsed"]["records_are"],
        "bounds": [{name: line[name] for name in bound} for line in tree["bounds"]],
        "checks": [{name: line[name] for name in check} for line in tree["checks"]],
        "not_shown": tree["not_shown"],
    }


def _require_public(records_are: object) -> None:
    if records_are == "private":
        raise Refused(
            "private_audit_in_report",
            reason="an audit over a site's own records says things about them, and stays at the site",
            remedy="rehearse the same settings on public records: partsong audit",
        )


def _require_same(
    place: str, about: Mapping[str, Any], claim: Mapping[str, Any], privacy: PrivacyFacts | None, *, steps: int
) -> None:
    if privacy is None:
        raise ConfigError("--audit", found="an audit of a run without differential privacy", expected="none")
    numbers = {
        "steps": (about.get("steps"), steps),
        "noise_multiplier": (about.get("noise_multiplier"), privacy.noise_multiplier),
        "sampling_rate": (about.get("sampling_rate"), privacy.sampling_rate),
        "delta": (claim.get("delta"), privacy.delta),
    }
    for name, (found, expected) in numbers.items():
        if not isinstance(found, (int, float)) or not math.isclose(found, expected, rel_tol=_SAME):
            raise ConfigError(
                "--audit", found=f"{place}, of another {name} than the run's", expected=f"{name} {expected:g}"
            )
    if claim.get("unit") != privacy.unit:
        raise ConfigError("--audit", found=f"{place}, of another unit", expected=privacy.unit)
