"""A finished run's directory gets what people and programs read: the adapter, the facts and the report.

Nothing here needs torch: PEFT's own options come with the job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from partsong.common.adapters.adapter import digest
from partsong.common.files import write_bytes
from partsong.common.identity.keys import Signer
from partsong.server.adapter_file import keep_end
from partsong.server.questions.publication import publish_answer
from partsong.server.report.card import model_card
from partsong.server.report.claims import privacy_tree, provenance_tree
from partsong.server.report.gather import facts_of
from partsong.server.report.signed import FACTS, sign_facts
from partsong.server.report.sources import Ending, read_sources
from partsong.server.report.text import text_report
from partsong.server.run import Result
from partsong.server.run_files import ROLLBACK, Rollback, RunFiles
from partsong.server.studies.publish import publish

_NO_HEADS: Mapping[str, str] = {}


def publish_run(
    files: RunFiles,
    result: Result,
    *,
    base_name: str,
    peft: Mapping[str, Any],
    config_sha256: str,
    marks: Sequence[str],
    signer: Signer | None,
    ledger_heads: Mapping[str, str] = _NO_HEADS,
) -> None:
    """Write `adapter/`, `facts.json` and `report.txt`, or the answer to a question; what was there is replaced.

    Args:
        files: of the run.
        result: what it ended with.
        base_name: of the base model, for people.
        peft: what `adapter_config.json` says; see `partsong.server.studies.peft_options`.
        config_sha256: digest of the configuration that the run was asked with.
        marks: what the run does not protect.
        signer: with the coordinator's key of the charter; None for a run that has none.
        ledger_heads: of the sites' ledgers, where they are known.
    Raises:
        TryAgain: the disk is full; the run can be published again.
    """
    plan, rollback = result.plan, _rollback(files, result)
    if plan.question is not None:
        publish_answer(files, result, base_name=base_name, marks=marks, signer=signer)
        return
    keep_end(files, plan.layout, trained_P=result.trained_P, frozen_F=result.frozen_F)
    ending = Ending(
        base_name=base_name,
        config_sha256=config_sha256,
        marks=tuple(marks) if rollback is None else (rollback.mark, *marks),
        checked_by=() if result.secure_sum is None else result.secure_sum.checked_by,
        adapter_sha256=digest(result.trained_P),
        ledger_heads=ledger_heads,
    )
    facts = facts_of(read_sources(files, ending))
    publish(
        files.adapter,
        plan=plan,
        trained_P=result.trained_P,
        frozen_F=result.frozen_F,
        peft=peft,
        privacy=privacy_tree(facts),
        provenance=provenance_tree(facts),
        card=model_card(facts, labels=plan.labels),
    )
    signed = sign_facts(facts, adapter=files.adapter, signer=signer)
    write_bytes(files.path / FACTS, signed.to_bytes())
    write_bytes(files.report, text_report(facts).encode())


def _rollback(files: RunFiles, result: Result) -> Rollback | None:
    """Read which round is published; what speaks of another adapter than this one is over."""
    rollback = files.rollback()
    if rollback is not None and rollback.adapter_sha256 != digest(result.trained_P):
        (files.path / ROLLBACK).unlink()
        return None
    return rollback
