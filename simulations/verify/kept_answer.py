"""The signed answer of a run that asked a question, against the sum that it was read from.

Covers: an answer that the charter's coordinator did not sign; a figure, an interval, a count, a price or a site that
does not follow from plan and sum; a mark that the plan calls for and the answer leaves out.
Does not cover: the name of the base model, and marks beyond the plan's. Of an unmasked run nothing is signed, and no
sum is kept that the figures could be read from again.
"""

from __future__ import annotations

from pathlib import Path

from partsong.common.build import to_tree
from partsong.common.identity.charter import Charter
from partsong.common.plan import Plan
from partsong.common.secure_sum.opened import read_opened
from partsong.server.marks import marks_of
from partsong.server.questions.answer import answer_of
from partsong.server.questions.signed import ANSWER, SignedAnswer, read_answer
from partsong.simulations.verify.compare import difference
from partsong.simulations.verify.findings import Findings
from partsong.simulations.verify.kept_sums import Sums
from partsong.simulations.verify.published import Differs


def check_answer(path: Path, plan: Plan, charter: Charter | None, sums: Sums | None, findings: Findings) -> None:
    """Check `answer.json` of a run directory, or of a copy.

    Args:
        path: the directory; nothing in it is changed.
        plan: of the run, with a question.
        charter: whose coordinator has to have signed; None: an unmasked run.
        sums: that the figures have to follow from; None: there is none that holds.
        findings: takes up what is found.
    """
    if not (path / ANSWER).is_file():
        findings.not_checked(ANSWER, "not in this copy")
        return
    signed = findings.attempt(ANSWER, lambda: read_answer(path / ANSWER))
    if signed is None:
        return
    who = "an unmasked run: nobody signed it" if charter is None else "signed by the coordinator of the charter"
    if not findings.require(ANSWER, lambda: _require_signer(signed, charter), who):
        return
    findings.require(ANSWER, lambda: _require_plan(signed, plan), "run, plan and every mark that the plan calls for")
    if charter is None or sums is None:
        findings.not_checked(ANSWER, "the figures: no sum that they could be read from again")
        return
    followed = "every figure, interval and table follows from the plan and the sum"
    findings.require(ANSWER, lambda: _require_figures(signed, plan, charter, sums), followed)


def _require_signer(signed: SignedAnswer, charter: Charter | None) -> None:
    key = None if signed.signature is None else signed.signature.key
    named = (None, None) if charter is None else (charter.coordinator, charter.hash.hex())
    if (key, signed.charter_sha256) != named:
        raise Differs(found="another signer or charter", expected="the coordinator of the charter")


def _require_plan(signed: SignedAnswer, plan: Plan) -> None:
    if (signed.run, signed.plan_sha256) != (plan.run, plan.sha256):
        raise Differs(found="another run or plan", expected="those of plan.json")
    if forgotten := set(marks_of(plan)) - set(signed.marks):
        raise Differs(found=f"no word of {min(forgotten)!r}", expected="every mark that the plan calls for")


def _require_figures(signed: SignedAnswer, plan: Plan, charter: Charter, sums: Sums) -> None:
    """Read the sum again and compare."""
    number = max(sums.sites)
    opened = read_opened(sums.last, plan, charter, number=number)
    expected = answer_of(opened, plan, sites=sums.sites[number])
    place = difference(to_tree(signed.answer), to_tree(expected), "answer")
    if place is not None:
        raise Differs(found=f"another value at {place}", expected="what follows from the sum")
