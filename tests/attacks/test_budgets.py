"""What a coordinator may try to get more out of a site than its policy allows."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from partsong.client.budget.ledger import Claim, Ledger
from partsong.client.rules.approval import Approvals, consider
from partsong.client.rules.consent import Facts, NotAgreed, public_refusal
from partsong.client.rules.policy import Policy
from partsong.common.build import build
from partsong.common.errors import Refused
from partsong.common.plan import Plan
from partsong.common.privacy.accounting import StepEvents, epsilon, joint_multiplier
from partsong.common.privacy.terms import DpPlan

MakePlan = Callable[..., Plan]
MakeDp = Callable[..., DpPlan]

RECORDS = 2000
POLICY: dict[str, Any] = {
    "holdings": {
        "ward": {
            "epsilon": 4.6,
            "delta": 1e-4,
            "purposes": {"train": 4.55},
            "per_quarter": 4.5,
            "unfinished_per_day": 5,
        }
    },
    "purposes": {"train": {"approval": "auto"}},
    "adapter": {"bases": ["b" * 64], "target_modules": ["q"]},
    "privacy": {"max_epsilon": 4.0, "max_delta": 2e-4, "allow_secure_sum_off": True},
    "data": {"minimum_records": 100, "minimum_patients": None},
}


TERMS = {"epsilon": 3.9, "delta": 1e-4, "sampling_rate": 0.01, "noise_multiplier": 0.45}


class Hospital:
    """A site as far as consent goes: policy, approvals and ledger, wired as the site wires them."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.policy = build(Policy, POLICY | changes)
        self.approvals = Approvals(folder / "approvals")
        self.ledger = Ledger(folder / "ledger.sqlite", clock=lambda: 1_795_305_600.0)  # 22 November 2026
        self.ledger.adopt(self.policy.grants)

    def claim(self, plan: Plan, *, rounds: int, context: str, coordinator: str, fingerprint: str) -> Claim:
        assert plan.dp is not None
        sigma = joint_multiplier(plan.dp.noise_multiplier, plan.dp.loss_noise_multiplier)
        event = StepEvents(
            sampling_rate=plan.dp.sampling_rate,
            noise_multiplier=sigma,
            steps=rounds * plan.training.steps_per_round,
        ).at_site(records=RECORDS)
        return Claim(
            holding="ward",
            context=context,
            purpose=plan.study,
            run=plan.run,
            coordinator=coordinator,
            fingerprint=fingerprint,
            events=(event,),
        )

    def agree(self, plan: Plan, *, coordinator: str = "c0") -> str:
        """Answer a proposal: the code of the refusal, or nothing."""

        def affordable(whole: Plan) -> None:
            try:
                self.ledger.quote(
                    self.claim(whole, rounds=whole.rounds, context="quote", coordinator=coordinator, fingerprint="f")
                )
            except Refused as no:
                raise public_refusal(no) from no

        facts = Facts(records=RECORDS, base_sha256="b" * 64, layout=plan.layout, lora=plan.lora, labels=())
        try:
            consider(
                plan,
                coordinator=coordinator,
                policy=self.policy,
                facts=facts,
                approvals=self.approvals,
                affordable=affordable,
            )
        except NotAgreed as no:
            return no.code
        return ""

    def answer(
        self, plan: Plan, number: int, *, coordinator: str = "c0", fingerprint: str = "f", seal: bool = True
    ) -> str:
        """Reserve, train, commit and seal one round; the rule that refuses it, or nothing."""
        context = f"{plan.sha256}/{number}"
        try:
            self.ledger.reserve(
                self.claim(plan, rounds=1, context=context, coordinator=coordinator, fingerprint=fingerprint)
            )
        except Refused as no:
            return no.rule
        if seal:
            self.ledger.commit(context)
        else:
            self.ledger.release(context)
        return ""

    def spent(self) -> float:
        return self.ledger.spent("ward").epsilon


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path)


@pytest.fixture
def job(make_plan: MakePlan, make_dp: MakeDp) -> Callable[..., Plan]:
    """A job of three rounds that costs 3.89 and says 3.9."""

    def make(run: str, **changes: Any) -> Plan:
        dp = make_dp(**TERMS | changes)
        return make_plan(run=run, dp=dp, sampling_rate=dp.sampling_rate)

    return make


def rounds_of(hospital: Hospital, plan: Plan, **who: Any) -> list[str]:
    """Answers to all rounds of a plan."""
    return [hospital.answer(plan, number, **who) for number in range(1, plan.rounds + 1)]


def test_one_job_inside_the_rules_is_agreed_to_and_answered(hospital: Hospital, job: Callable[..., Plan]) -> None:
    """Control: everything below starts from a site that does its work."""
    plan = job("run-1")

    assert hospital.agree(plan) == ""
    assert rounds_of(hospital, plan) == ["", "", ""]
    assert 3.8 < hospital.spent() < 3.9


def test_the_same_job_under_new_names_ends_with_the_budget(hospital: Hospital, job: Callable[..., Plan]) -> None:
    """Each run is a new plan hash with new contexts; the holding remembers what all of them took."""
    agreed = [hospital.agree(job(f"run-{i}")) == "" and rounds_of(hospital, job(f"run-{i}")) for i in range(5)]

    assert agreed[0] == ["", "", ""]
    assert agreed[-1] is False
    assert hospital.spent() <= 4.5


def test_a_job_split_into_many_small_ones_passes_each_and_not_all(
    hospital: Hospital, make_plan: MakePlan, make_dp: MakeDp
) -> None:
    """Every part is far below the ceiling of one plan; together they stop where one large job would."""
    dp = make_dp(**TERMS)
    whole = make_plan(run="whole", rounds=200, dp=dp, sampling_rate=0.01)
    assert hospital.agree(whole) == "policy"  # its noise gives more than it says

    answers = []
    for part in range(16):
        plan = make_plan(run=f"part-{part}", rounds=1, dp=dp, sampling_rate=0.01)
        answers.append(hospital.agree(plan) or hospital.answer(plan, 1))

    sealed = answers.count("")
    assert 1 < sealed < 16
    assert set(answers[sealed:]) == {"budget"}
    assert hospital.spent() <= 4.5
    more = hospital.claim(plan, rounds=sealed + 1, context="", coordinator="", fingerprint="").events
    assert epsilon(more, delta=1e-4).epsilon > 4.5  # control: not one part too few


@pytest.mark.parametrize(
    "who", [{"coordinator": "c1"}, {"fingerprint": "other records"}, {"coordinator": "c1", "fingerprint": "f1"}]
)
def test_another_coordinator_or_changed_records_find_the_budget_spent(
    hospital: Hospital, job: Callable[..., Plan], who: dict[str, str]
) -> None:
    """Two coordinators that share what they learn, or a holding that was reordered, get no second budget."""
    for index in range(4):
        rounds_of(hospital, job(f"mine-{index}"))
    left = hospital.spent()

    assert set(rounds_of(hospital, job("theirs"), **who)) == {"over_ration"}
    assert hospital.spent() == left


def test_calling_training_by_another_purpose_does_not_reach_past_the_lifetime(
    hospital: Hospital, job: Callable[..., Plan]
) -> None:
    """A purpose without a ration of its own is still held by quarter and lifetime."""
    for index in range(4):
        rounds_of(hospital, job(f"mine-{index}"))
    claim = hospital.claim(job("x"), rounds=1, context="x", coordinator="c0", fingerprint="f")

    with pytest.raises(Refused, match=r"over_ration.*quarter 2026-Q4"):
        hospital.ledger.reserve(dataclasses.replace(claim, purpose="survey"))


def test_opening_rounds_and_dropping_them_gains_nothing(hospital: Hospital, job: Callable[..., Plan]) -> None:
    """No budget goes, and after the day's cap no record is read; a sealed round costs the coordinator its budget."""
    plan = job("run-1")

    answers = [hospital.answer(plan, number, seal=False) for number in range(1, 50)]

    assert answers == [""] * 5 + ["too_many_unfinished"] * 44
    assert hospital.spent() == 0.0


def test_a_plan_that_claims_less_than_its_noise_gives_is_refused(hospital: Hospital, job: Callable[..., Plan]) -> None:
    """The site computes the epsilon itself."""
    assert hospital.agree(job("honest")) == ""
    assert hospital.agree(job("liar", epsilon=0.5)) == "policy"


def test_a_larger_delta_than_one_over_n_is_refused(job: Callable[..., Plan], tmp_path: Path) -> None:
    """delta = 1 / 2000 with 2000 records would allow one of them in the open, whatever the policy says."""
    loose = Hospital(tmp_path / "loose", privacy={"max_epsilon": 4.0, "max_delta": 0.1, "allow_secure_sum_off": True})

    assert loose.agree(job("loose", delta=1 / RECORDS)) == "policy"
    assert loose.agree(job("tight", delta=0.9 / RECORDS)) == ""


def test_a_costly_plan_that_looks_cheap_at_a_large_delta_is_refused(
    hospital: Hospital, job: Callable[..., Plan]
) -> None:
    """The same noise, its epsilon stated at a delta where it is small enough."""
    cheap = job("cheap", delta=4e-4, epsilon=3.2)

    assert (
        epsilon(hospital.claim(cheap, rounds=3, context="", coordinator="", fingerprint="").events, delta=4e-4).epsilon
        < 3.2
    )
    assert hospital.agree(cheap) == "policy"
    assert hospital.agree(job("the same")) == ""


def test_a_plan_with_nothing_to_hide_behind_is_refused(hospital: Hospital, make_plan: MakePlan) -> None:
    """No privacy at all, a cohort of two, another base model, a layer or a rank that was never allowed."""
    odd = make_plan()
    odd = dataclasses.replace(odd, lora={**odd.lora, "rank_pattern": {"q": 999}})

    assert hospital.agree(make_plan()) == "policy"
    assert hospital.agree(make_plan(minimum_cohort=2)) == "policy"
    assert hospital.agree(make_plan(base_sha256="c" * 64)) == "policy"
    assert hospital.agree(odd) == "policy"


def test_what_a_coordinator_learns_is_the_same_however_much_is_missing(
    hospital: Hospital, job: Callable[..., Plan]
) -> None:
    """A budget that is short by a little or by much, by purpose, quarter or lifetime: one word."""
    for index in range(4):
        rounds_of(hospital, job(f"mine-{index}"))

    assert {hospital.agree(job("next", epsilon=e)) for e in (3.9, 3.95, 4.0)} == {"budget"}


def test_the_ledger_says_what_was_sealed_and_nothing_less(hospital: Hospital, job: Callable[..., Plan]) -> None:
    """After all tricks of this file on one site, its epsilon is the composition of all sealed rounds."""
    plans = [job(f"run-{i}") for i in range(5)]
    sealed = sum(answer == "" for plan in plans for answer in rounds_of(hospital, plan))
    hospital.answer(plans[0], 9, seal=False)
    event = hospital.claim(plans[0], rounds=sealed, context="", coordinator="", fingerprint="").events

    assert hospital.spent() == epsilon(event, delta=1e-4).epsilon
