"""A report from its facts: which sections there are, and in which order."""

from __future__ import annotations

from partsong.server.report import privacy_sections as privacy
from partsong.server.report import run_sections as run
from partsong.server.report import score_sections as scores
from partsong.server.report.beside import Beside
from partsong.server.report.page import Page
from partsong.server.report.signed import SignedFacts


def page_of(signed: SignedFacts, *, beside: Beside) -> Page:
    """Lay out a report.

    Args:
        signed: the facts.
        beside: what else was given.
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
            privacy.audit(beside.audit),
            privacy.hazards(facts),
            scores.evaluation(facts, beside.answers),
            scores.benefit(beside.benefits),
            scores.survey(beside.answers),
            privacy.not_protected(facts),
            run.origin(signed),
            run.signature(signed),
        ),
    )
