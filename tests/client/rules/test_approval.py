"""A plan is agreed to once, as a whole, and the decision survives."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partsong.client.rules import approval as module
from partsong.client.rules.approval import Approvals, Decision, consider, require_approved
from partsong.client.rules.consent import Facts, NotAgreed, public_refusal
from partsong.client.rules.policy import Policy, PurposePolicy
from partsong.common.build import build
from partsong.common.errors import DataError, InputError, Refused, TryAgain
from partsong.common.plan import Plan

MakePlan = Callable[..., Plan]

POLICY: dict[str, Any] = {
    "purposes": {"train": {"approval": "manual"}},
    "adapter": {"bases": ["b" * 64], "target_modules": ["q"]},
    "privacy": {"allow_without_privacy": True, "allow_secure_sum_off": True},
    "data": {"minimum_records": 10, "minimum_patients": None},
}
MANUAL = build(Policy, POLICY)
AUTO = dataclasses.replace(MANUAL, purposes={"train": PurposePolicy(approval="auto")})


@pytest.fixture
def approvals(tmp_path: Path) -> Approvals:
    return Approvals(tmp_path / "approvals", clock=lambda: 1000.0)


def propose(plan: Plan, approvals: Approvals, *, policy: Policy = MANUAL, coordinator: str = "c0", **how: Any) -> str:
    """The code that a proposal is refused with, or nothing."""
    facts = Facts(
        records=1000,
        base_sha256=plan.base_sha256,
        layout=plan.layout,
        lora=plan.lora,
        labels=plan.labels,
    )
    try:
        consider(plan, coordinator=coordinator, policy=policy, facts=facts, approvals=approvals, **how)
    except NotAgreed as no:
        return no.code
    return ""


def state(approvals: Approvals, plan: Plan) -> str:
    """What is known of a plan."""
    known = approvals.get(plan.sha256)
    return "unknown" if known is None else known.state


def test_a_plan_waits_for_a_person_and_then_passes(make_plan: MakePlan, approvals: Approvals) -> None:
    """`state` says: ask again later."""
    plan = make_plan()

    assert [propose(plan, approvals) for _ in range(3)] == ["state"] * 3
    assert state(approvals, plan) == "pending"
    approvals.decide(plan.sha256, "approved")
    assert propose(plan, approvals) == ""


def test_an_automatic_approval_needs_no_person_and_breaks_no_rule(make_plan: MakePlan, approvals: Approvals) -> None:
    """`auto` accepts what keeps every rule, and nothing else."""
    assert propose(make_plan(), approvals, policy=AUTO) == ""
    few = make_plan(minimum_cohort=2)

    assert propose(few, approvals, policy=AUTO) == "policy"
    assert approvals.get(few.sha256).rule == "data.minimum_cohort"


def test_an_approval_is_for_one_plan_to_the_last_byte(make_plan: MakePlan, approvals: Approvals) -> None:
    """The attack: get a harmless job approved, then run it again, or a little more of it, under the same name."""
    plan = make_plan()
    propose(plan, approvals)
    approvals.decide(plan.sha256, "approved")
    assert propose(plan, approvals) == ""

    for change in ({"run": "run-2"}, {"rounds": 4}, {"max_length": 65}, {"frozen_sha256": "e" * 64}):
        assert propose(make_plan(**change), approvals) == "state", change


def test_another_coordinator_cannot_use_an_approval_nor_undo_it(make_plan: MakePlan, approvals: Approvals) -> None:
    """The same bytes from another key are refused, and the first coordinator's decision stands."""
    plan = make_plan()
    propose(plan, approvals)
    approvals.decide(plan.sha256, "approved")

    assert propose(plan, approvals, coordinator="c1") == "state"
    strict = build(Policy, {**POLICY, "data": {"minimum_records": 10**6, "minimum_patients": None}})
    assert propose(plan, approvals, coordinator="c1", policy=strict) == "data"

    assert state(approvals, plan) == "approved"
    assert propose(plan, approvals) == ""


def test_a_refusal_stands_until_the_person_says_otherwise(make_plan: MakePlan, approvals: Approvals) -> None:
    """Proposing again changes nothing, not even under an automatic policy."""
    plan = make_plan()
    propose(plan, approvals)
    approvals.decide(plan.sha256, "refused", reason="too soon")

    assert [propose(plan, approvals, policy=p) for p in (MANUAL, AUTO)] == ["policy", "policy"]
    assert approvals.get(plan.sha256).reason == "too soon"
    approvals.decide(plan.sha256, "approved")
    assert propose(plan, approvals) == ""


def test_an_approval_that_is_taken_back_stops_the_next_query(make_plan: MakePlan, approvals: Approvals) -> None:
    """What each query asks before it reads a record."""
    plan = make_plan()
    propose(plan, approvals)
    approvals.decide(plan.sha256, "approved")
    require_approved(approvals.get(plan.sha256))

    approvals.decide(plan.sha256, "refused")

    with pytest.raises(NotAgreed) as no:
        require_approved(approvals.get(plan.sha256))
    assert no.value.code == "policy"
    with pytest.raises(NotAgreed):
        require_approved(None)


def test_a_stricter_policy_stops_what_was_approved_before(make_plan: MakePlan, approvals: Approvals) -> None:
    """Also by a person: rules come first. Made automatic once, a plan waits again when persons are asked."""
    plan, other = make_plan(), make_plan(run="run-2")
    propose(plan, approvals)
    approvals.decide(plan.sha256, "approved")
    strict = build(Policy, {**POLICY, "data": {"minimum_cohort": 5, "minimum_patients": None}})
    assert propose(other, approvals, policy=AUTO) == ""

    assert propose(plan, approvals, policy=strict) == "policy"
    assert propose(other, approvals, policy=MANUAL) == "state"
    assert state(approvals, other) == "pending"


def test_what_breaks_a_rule_cannot_be_approved(make_plan: MakePlan, approvals: Approvals) -> None:
    """The person is told the rule; with the rule changed the plan passes."""
    few = make_plan(minimum_cohort=2)
    propose(few, approvals)

    with pytest.raises(Refused, match=r"rule_stands.*data\.minimum_cohort"):
        approvals.decide(few.sha256, "approved")

    loose = build(Policy, {**POLICY, "data": {"minimum_cohort": 2, "minimum_patients": None}})
    assert propose(few, approvals, policy=loose) == "state"
    approvals.decide(few.sha256, "approved")
    assert propose(few, approvals, policy=loose) == ""


def test_a_plan_beyond_the_budget_is_refused_before_a_person_is_asked(
    make_plan: MakePlan, approvals: Approvals
) -> None:
    """By `budget`; a run that was approved goes on to be checked query by query instead."""
    plan = make_plan()

    def broke(_: Plan) -> None:
        raise public_refusal(Refused("over_budget", reason="nothing left", remedy="wait"))

    assert propose(plan, approvals, affordable=broke) == "budget"
    assert (approvals.get(plan.sha256).state, approvals.get(plan.sha256).rule) == ("refused", "over_budget")
    assert propose(plan, approvals) == "state"
    approvals.decide(plan.sha256, "approved")
    assert propose(plan, approvals, affordable=broke) == ""


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ("over_budget", "budget"),
        ("over_ration", "budget"),
        ("too_many_unfinished", "budget"),
        ("unknown_holding", "policy"),
        ("delta_too_large", "policy"),
        ("context_used", "state"),
        ("ledger_damaged", "state"),
        ("anything_else", "state"),
    ],
)
def test_a_coordinator_learns_a_code_and_no_number(rule: str, code: str) -> None:
    """What the ledger says stays in the text for the operator."""
    no = public_refusal(Refused(rule, reason="7 of 9 spent", remedy="wait"))

    assert (no.code, no.rule, no.reason) == (code, rule, "7 of 9 spent")


def test_decisions_survive_the_process(make_plan: MakePlan, approvals: Approvals, tmp_path: Path) -> None:
    """Another process reads the same decisions, in their order."""
    plans = [make_plan(run=f"run-{i}") for i in range(3)]
    for plan in plans:
        propose(plan, approvals)
    approvals.decide(plans[0].sha256, "approved")

    script = (
        "import sys; from pathlib import Path; from partsong.client.rules.approval import Approvals;"
        "print([(d.run, d.state, d.number) for d in Approvals(Path(sys.argv[1])).all()])"
    )
    command = [sys.executable, "-P", "-c", script, str(tmp_path / "approvals")]
    seen = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert seen == "[('run-1', 'pending', 2), ('run-2', 'pending', 3), ('run-0', 'approved', 4)]"


def test_the_operator_sees_what_is_new_against_the_last_approved_job(make_plan: MakePlan, approvals: Approvals) -> None:
    """Not against what was only proposed, and another coordinator is the first thing to know."""
    first, second, third = make_plan(), make_plan(run="run-2", rounds=5), make_plan(run="run-3", rounds=9)
    propose(first, approvals)
    assert approvals.changes(approvals.get(first.sha256))[0] == "the first job of this purpose"
    approvals.decide(first.sha256, "approved")
    propose(second, approvals)
    propose(third, approvals, coordinator="c1")

    assert "rounds 3 -> 5" in approvals.changes(approvals.get(second.sha256))
    changes = approvals.changes(approvals.get(third.sha256))
    assert changes[0] == "another coordinator: c0 -> c1"
    assert "rounds 3 -> 9" in changes


def test_an_edited_decision_is_refused(make_plan: MakePlan, approvals: Approvals, tmp_path: Path) -> None:
    """The decision is about the plan that its name says; nothing else is read as an approval."""
    plan, larger = make_plan(), make_plan(rounds=4)
    propose(plan, approvals)
    approvals.decide(plan.sha256, "approved")
    file = tmp_path / "approvals" / f"{plan.sha256}.json"
    text = file.read_text()

    for wrong in (text.replace('"approved"', '"yes"'), text[:-20], "[]", text.replace('"number"', '"nombre"')):
        assert wrong != text
        file.write_text(wrong)
        with pytest.raises(DataError, match="a decision that does not hold together"):
            approvals.get(plan.sha256)
    file.write_text(text)
    file.rename(file.with_name(f"{larger.sha256}.json"))
    with pytest.raises(DataError):
        propose(larger, approvals)


def test_an_edited_plan_is_neither_shown_nor_approved(
    make_plan: MakePlan, approvals: Approvals, tmp_path: Path
) -> None:
    """A person sees the plan that the hash names, to the last byte, or none."""
    plan = make_plan()
    propose(plan, approvals)
    file = tmp_path / "approvals" / f"{plan.sha256}.plan"
    text = file.read_text()
    assert approvals.plan(plan.sha256) == plan  # control

    for wrong in (text.replace('"rounds": 3', '"rounds": 4'), text[:-20], "[]"):
        assert wrong != text
        file.write_text(wrong)
        with pytest.raises(DataError, match="does not hold together"):
            approvals.changes(approvals.get(plan.sha256))
        with pytest.raises(DataError, match="does not hold together"):
            approvals.decide(plan.sha256, "approved")
    file.unlink()
    with pytest.raises(DataError):
        approvals.decide(plan.sha256, "approved")
    assert state(approvals, plan) == "pending"


def test_a_full_disk_leaves_the_decision_that_was(
    make_plan: MakePlan, approvals: Approvals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The approval is not given, the person is told to try again, and with space it is."""
    plan = make_plan()
    propose(plan, approvals)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(TryAgain, match="no space left"):
            approvals.decide(plan.sha256, "approved")

    assert state(approvals, plan) == "pending"
    approvals.decide(plan.sha256, "approved")
    assert state(approvals, plan) == "approved"


def test_what_a_killed_write_leaves_behind_is_no_decision(
    make_plan: MakePlan, approvals: Approvals, tmp_path: Path
) -> None:
    """Half a file beside the whole one is not looked at."""
    plan = make_plan()
    propose(plan, approvals)
    (tmp_path / "approvals" / f".{plan.sha256}.json.part").write_text('{"state": "approved"')

    assert state(approvals, plan) == "pending"
    assert len(approvals.all()) == 1


def test_an_unknown_or_ambiguous_hash_is_the_users_error(make_plan: MakePlan, approvals: Approvals) -> None:
    """The known ones are named; a beginning is enough where it fits one plan only."""
    with pytest.raises(InputError, match="no plan was proposed"):
        approvals.find("abc")
    plans = [make_plan(run=f"run-{i}") for i in range(20)]
    for plan in plans:
        propose(plan, approvals)

    assert approvals.find(plans[3].sha256[:16]).plan_sha256 == plans[3].sha256
    first_digits = [p.sha256[0] for p in plans]
    shared = next(digit for digit in first_digits if first_digits.count(digit) > 1)  # 20 plans, 16 digits
    for start in ("", "zzz", shared):
        with pytest.raises(InputError, match=r"exactly one; there are [0-9a-f]{12}, "):
            approvals.find(start)
    with pytest.raises(InputError, match="a plan that was proposed"):
        approvals.decide("0" * 64, "approved")


def test_a_flood_of_proposals_is_bounded_and_loses_no_word_of_a_person(
    make_plan: MakePlan, approvals: Approvals, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So many may wait and no more; old decisions of the policy go, those of people stay."""
    monkeypatch.setattr(module, "MOST_PENDING", 3)
    monkeypatch.setattr(module, "MOST_KEPT", 4)
    mine = make_plan(run="mine")
    propose(mine, approvals)
    approvals.decide(mine.sha256, "approved")

    codes = [propose(make_plan(run=f"wait-{i}"), approvals) for i in range(5)]
    refused = [propose(make_plan(run=f"bad-{i}", minimum_cohort=2), approvals) for i in range(12)]

    kept = [d.run for d in approvals.all()]
    assert len(list((tmp_path / "approvals").glob("*.plan"))) == len(kept)
    assert codes == ["state"] * 5
    assert refused == ["policy"] * 12
    assert kept[:4] == ["mine", "wait-0", "wait-1", "wait-2"]
    assert kept[4:] == [f"bad-{i}" for i in range(7, 12)]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    moves=st.lists(
        st.tuples(st.sampled_from(["propose", "auto", "approve", "refuse", "other"]), st.integers(0, 2)), max_size=14
    )
)
def test_no_order_of_moves_lets_a_plan_pass_that_no_one_agreed_to(
    make_plan: MakePlan, tmp_path_factory: pytest.TempPathFactory, moves: list
) -> None:
    """A plan passes under a manual policy only after a person's approval of it that was not taken back."""
    approvals = Approvals(tmp_path_factory.mktemp("approvals"))
    agreed: dict[int, bool] = {}
    known: set[int] = set()
    for move, number in moves:
        plan = make_plan(run=f"run-{number}")
        if move == "propose":
            assert (propose(plan, approvals) == "") == agreed.get(number, False)
            known.add(number)
        elif move == "auto":
            assert (propose(plan, approvals, policy=AUTO) == "") == agreed.get(number, True)
            known.add(number)
        elif move == "other" and number in known:
            assert propose(plan, approvals, coordinator="c9") == "state"
        elif number in known:
            approvals.decide(plan.sha256, "approved" if move == "approve" else "refused")
            agreed[number] = move == "approve"


def test_a_decision_holds_the_plan_and_no_more_of_the_site(make_plan: MakePlan, approvals: Approvals) -> None:
    """No count of records is in the file of an approval."""
    plan = make_plan()
    propose(plan, approvals)

    (file,) = approvals._folder.glob("*.json")
    tree = json.loads(file.read_text())

    assert set(tree) == {f.name for f in dataclasses.fields(Decision)}
    assert (tree["time_ms"], tree["by"], tree["reason"]) == (1_000_000, "policy", "")
