"""The signed facts of a run against its files: signature, published files, and everything that the facts follow from.

Covers: facts that the charter's coordinator did not sign; another adapter than they were signed for; a number, name or
word that does not follow from plan, charter, sums and journals.
Does not cover: bytes, losses and refusals beyond what the coordinator wrote into its own journals; a copy without the
journals, where the rounds are compared with the sums alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from partsong.common.adapters.adapter import digest
from partsong.common.build import to_tree
from partsong.common.errors import DataError
from partsong.common.identity.charter import Charter
from partsong.common.plan import Plan
from partsong.server.adapter_file import read_end
from partsong.server.marks import marks_of
from partsong.server.report.facts import Facts
from partsong.server.report.gather import facts_of
from partsong.server.report.signed import FACTS, SignedFacts, digests, read_facts
from partsong.server.report.sources import JOURNALS, Ending, Sources, read_sources
from partsong.server.run_files import RunFiles
from partsong.simulations.verify.compare import difference
from partsong.simulations.verify.findings import Findings
from partsong.simulations.verify.kept_ledgers import ledger_heads
from partsong.simulations.verify.kept_sums import Sums
from partsong.simulations.verify.published import ORIGIN, Differs

_ADAPTER = "adapter"


def check_facts(path: Path, plan: Plan, charter: Charter | None, sums: Sums | None, findings: Findings) -> None:
    """Check `facts.json` of a run directory, or of a copy.

    Args:
        path: the directory; nothing in it is changed.
        plan: of the run.
        charter: whose coordinator has to have signed; None: an unmasked run.
        sums: that the rounds have to be those of; None: nobody signed any.
        findings: takes up what is found.
    """
    if not (path / FACTS).is_file():
        findings.not_checked(FACTS, "not in this copy")
        return
    signed = findings.attempt(FACTS, lambda: read_facts(path / FACTS))
    if signed is None or not findings.require(FACTS, lambda: _require_signer(signed, charter), _who(charter)):
        return
    missing = [name for name in JOURNALS if not (path / name).is_file()]
    if missing:
        findings.not_checked(FACTS, f"bytes, losses and refusals: {', '.join(missing)} not in this copy")

    def follows() -> None:
        _require_facts(path, plan, charter, sums, signed.facts, journals=not missing)

    findings.require(FACTS, follows, "every fact follows from the plan, the charter and the files of the run")
    findings.require(FACTS, lambda: _require_published(path, signed, sums), "adapter files and contributors")


def _who(charter: Charter | None) -> str:
    return "an unmasked run: nobody signed it" if charter is None else "signed by the coordinator of the charter"


def _require_signer(signed: SignedFacts, charter: Charter | None) -> None:
    found = None if signed.signature is None else signed.signature.key
    if found != (None if charter is None else charter.coordinator):
        raise Differs(found="another signer", expected="the coordinator of the charter")


def _require_facts(
    path: Path, plan: Plan, charter: Charter | None, sums: Sums | None, facts: Facts, *, journals: bool
) -> None:
    """Gather the facts again and compare."""
    if forgotten := set(marks_of(plan)) - set(facts.marks):
        raise Differs(found=f"no word of {min(forgotten)!r}", expected="every mark that the plan calls for")
    ending = _ending(path, plan, sums, facts)
    if journals:
        sources = read_sources(RunFiles(path), ending)
    else:
        sources = Sources(
            plan=plan,
            charter=charter,
            rounds=facts.rounds,
            opened_rounds=facts.opened_rounds,
            versions=facts.versions,
            refused={entry.site: entry.refused for entry in facts.sites if entry.refused is not None},
            simulated=facts.simulated,
            ending=ending,
            rolled_back_to=facts.adapter.rolled_back_to,
        )
    place = difference(to_tree(facts), to_tree(facts_of(sources)), "facts")
    if place is not None:
        raise Differs(found=f"another value at {place}", expected="what follows from the files")


def _ending(path: Path, plan: Plan, sums: Sums | None, facts: Facts) -> Ending:
    """Take what no journal holds from sums and published files; other marks and unknown heads are the signer's word."""
    origin = _origin(path / _ADAPTER / ORIGIN)
    trained_P = read_end(RunFiles(path), plan.layout)[0] if sums is None else sums.adapter_P
    told = {entry.site: entry.ledger_head for entry in facts.sites if entry.ledger_head is not None}
    try:
        checked = origin["secure_sum"]["checked_by"] if origin["secure_sum"] else ()
        return Ending(
            base_name=str(origin["base"]["name"]),
            config_sha256=str(origin["config_sha256"]),
            marks=facts.marks,
            checked_by=tuple(checked),
            adapter_sha256=digest(trained_P),
            ledger_heads=told | ledger_heads(path),
        )
    except (KeyError, TypeError) as err:
        raise DataError(ORIGIN, found="no base, configuration and secure sum", expected="all three") from err


def _origin(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as err:
        raise DataError(file.name, found="no JSON that can be read", expected="what the run published") from err
    if not isinstance(found, dict):
        raise DataError(file.name, found="no JSON object", expected="what the run published")
    return found


def _require_published(path: Path, signed: SignedFacts, sums: Sums | None) -> None:
    if dict(signed.files) != digests(path / _ADAPTER):
        raise Differs(found="other files in adapter/", expected="those that were signed")
    named = {entry.round: entry.sites for entry in signed.facts.rounds if entry.sites}
    if sums is not None and named != sums.sites:
        raise Differs(found="other contributors", expected="the sites that signed their part in each sum")
