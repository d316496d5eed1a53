"""What may stand beside a report: answers of evaluations and surveys, and what sites found out for themselves.

Covers: an evaluation of another adapter, an answer of sites that are not the run's or that another coordinator than a
deployed run's has signed, and a site that the run does not know are refused.
Does not cover: who wrote a comparison: nobody signs it. It is exact, and no epsilon covers it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from partsong.common.build import build, to_tree
from partsong.common.errors import ConfigError, DataError
from partsong.server.questions.figures import Figure
from partsong.server.questions.signed import ANSWER, SignedAnswer
from partsong.server.questions.signed import read_answer as read_signed
from partsong.server.report.audit import AuditFacts
from partsong.server.report.facts import Facts

_LARGEST = 1 << 24
ARMS: Mapping[str, str] = {
    "base": "base model",
    "alone": "alone, without privacy",
    "alone_private": "alone, with the plan's privacy",
    "joint": "joint adapter",
}
"""What a site compares, in the order in which it is shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerFacts:
    """What a report says of an evaluation or a survey."""

    sha256: str
    """Of the file."""
    run: str
    study: Literal["evaluate", "survey"]
    sites: tuple[str, ...]
    level: float
    """Of each interval by itself."""
    unit: str
    epsilon: float | None
    """Spent at each site by the question; None: without differential privacy."""
    delta: float | None
    figures: tuple[Figure, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One model on a site's own test records."""

    name: Literal["base", "joint", "alone", "alone_private"]
    loss: float
    right: float
    """Share of records."""

    def __post_init__(self) -> None:
        if self.loss < 0 or not 0 <= self.right <= 1:
            raise ValueError("a loss of 0 or more, and a share of 0 to 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Benefit:
    """What one site got out of taking part, as it says itself."""

    site: str
    sha256: str
    """Of the file."""
    arms: tuple[Arm, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Beside:
    """All that stands beside the signed facts."""

    audit: AuditFacts | None = None
    answers: tuple[AnswerFacts, ...] = ()
    benefits: tuple[Benefit, ...] = ()


def read_answer(file: Path, facts: Facts) -> AnswerFacts:
    """Read the answer to a question.

    Args:
        file: `answer.json`, or the directory of the run that asked.
        facts: of the run that is reported.
    Raises:
        DataError: no answer that can be read, or not what was signed.
        ConfigError: of another coordinator than a deployed run's, about another adapter, or of sites that are not in
            this run.
    """
    place = file / ANSWER if file.is_dir() else file
    signed = read_signed(place)
    tree = {**to_tree(signed.answer), "run": signed.run, "sha256": hashlib.sha256(signed.to_bytes()).hexdigest()}
    try:
        found = build(AnswerFacts, {name: tree[name] for name in AnswerFacts.__dataclass_fields__}, where="answer")
    except ConfigError as err:
        raise DataError(
            place.name, found="no answer that can be read", expected="what a run that asks a question writes"
        ) from err
    _require_same_coordinator(signed, facts)
    if found.study == "evaluate" and signed.answer.adapter_sha256 != facts.adapter.sha256:
        raise ConfigError(
            "--answer",
            found=f"{found.run}, about another adapter",
            expected="one about this run's",
            remedy=f"evaluate it: purpose=evaluate evaluation.run={facts.run}",
        )
    if strange := sorted(set(found.sites) - {entry.site for entry in facts.sites}):
        raise ConfigError("--answer", found=f"{found.run}, answered by {strange[0]!r}", expected="sites of this run")
    return found


def _require_same_coordinator(signed: SignedAnswer, facts: Facts) -> None:
    """Compare who signed. Each simulated run makes keys of its own, so that theirs differ."""
    if facts.simulated or facts.charter is None:
        return
    if signed.signature is None or signed.signature.key != facts.charter.coordinator:
        raise ConfigError(
            "--answer", found=f"{signed.run}, not signed by this run's coordinator", expected="one that it signed"
        )


def read_benefit(pair: str, facts: Facts) -> Benefit:
    """Read what a site found out for itself.

    Args:
        pair: `SITE=FILE`, the file being what `partsong site compare --json` prints there.
        facts: of the run that is reported.
    Raises:
        DataError: no comparison that can be read.
        ConfigError: it names no file, or no site of the run.
    """
    site, sign, name = pair.partition("=")
    if not sign or site not in {entry.site for entry in facts.sites}:
        raise ConfigError("--compared", found=repr(site[:64]), expected="SITE=FILE, of a site of this run")
    file = Path(name)
    data, tree = _read(file, "what `partsong site compare --json` prints")
    try:
        picked = {"site": site, "arms": tree["arms"], "sha256": hashlib.sha256(data).hexdigest()}
        found = build(Benefit, picked, where="comparison")
    except (KeyError, TypeError, ConfigError) as err:
        raise DataError(
            file.name, found="no comparison that can be read", expected="what `partsong site compare --json` prints"
        ) from err
    if len({arm.name for arm in found.arms}) != len(found.arms) or not {"base", "joint"} <= {
        a.name for a in found.arms
    }:
        raise DataError(file.name, found="models twice or missing", expected="base and joint, each once")
    return found


def _read(file: Path, expected: str) -> tuple[bytes, Any]:
    try:
        data = file.read_bytes() if file.stat().st_size <= _LARGEST else b""
        return data, json.loads(data)
    except (OSError, ValueError, RecursionError) as err:
        raise DataError(file.name, found="nothing that can be read", expected=expected) from err
