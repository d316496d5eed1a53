"""Drafts of three papers that a hospital has to write, filled with what the run knows; the rest is marked as a gap.

Nobody is relieved of writing them: a draft says what this software did, not whether it was lawful, needed or wise.
"""

from __future__ import annotations

from partsong.server.report.facts import Facts
from partsong.server.report.render import fill

DRAFTS = ("dpia.md", "eu-ai-act-annex-iv.md", "security-questions.md")


def drafts_of(facts: Facts) -> dict[str, str]:
    """Give each draft by its file name."""
    return {name: fill(f"{name}.j2", facts=facts, privacy=facts.privacy, sums=facts.secure_sum) for name in DRAFTS}
