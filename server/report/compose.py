"""A report from its facts: which sections there are, and in which order."""

from __future__ import annotations

from partsong.server.report import privacy_sections as privacy
from partsong.server.report import run_sections as run
from partsong.server.report.audit import AuditFacts
from partsong.server.report.page import Page
from partsong.server.report.signed import SignedFacts


def page_of(signed: SignedFacts, *, audit: AuditFacts | None) -> Page:
    """Lay out a report.

    Args:
        signed: the facts.
        audit: of the same settings; None: none was given.
    """
    facts = signed.facts
    return Page(
        title=f"Privacy report of run {facts.run}",
        lead="Laid out along NIST SP 800-226: the guarantee, the mechanism with its hazards and its trust model, and "
        "what the data is exposed to.",
        sections=(
            run.summary(signed),
            privacy.guarantee(facts),
            privacy.federation(facts),
            privacy.budget(facts),
            privacy.mechanism(facts),
            run.trust(facts),
            run.left(facts),
            run.rounds(facts),
            run.ledgers(facts),
            privacy.audit(audit),
            privacy.hazards(facts),
            run.evaluation(facts),
            privacy.not_protected(facts),
            run.origin(signed),
            run.signature(signed),
        ),
    )
