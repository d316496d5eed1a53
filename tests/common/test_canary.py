"""What a canary carries follows from public values, and its plan holds nothing else."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.budget.ledger import Ledger
from partsong.client.budget.spending import FreePurse
from partsong.client.dp.sampler import SystemRandomness
from partsong.client.encoders.canary import CanaryEncoder
from partsong.client.encoders.encoder import LocalRound, Progress
from partsong.client.rules.consent import NotAgreed, check_plan
from partsong.client.rules.policy import Policy, PurposePolicy
from partsong.common import canary
from partsong.common.canary import LARGEST_MARK, NO_MODEL, canary_update
from partsong.common.plan import Plan
from partsong.common.privacy.terms import DpPlan
from partsong.server.daemon.canary import make_canary


def plan_of(*, size: int = 12, seed: int | None = 1, run: str = "c") -> Plan:
    return make_canary(run=run, size=size, rounds=2, max_sites=5, minimum_cohort=3, seed=seed)


def test_without_a_seed_all_is_zero() -> None:
    """Nothing travels but the fact that the site takes part."""
    assert not canary_update(plan_of(seed=None), number=1, site="a").any()


@settings(max_examples=50, deadline=None)
@given(size=st.integers(1, 300), number=st.integers(1, 9), site=st.sampled_from(["a", "b"]))
def test_marks_are_small_whole_numbers_that_everybody_computes_alike(size: int, number: int, site: str) -> None:
    """They fit the plan's clip, so a sum of them is exact."""
    plan = plan_of(size=size)

    marks = canary_update(plan, number=number, site=site)

    assert marks.shape == (size,)
    assert (marks == np.rint(marks)).all()
    assert np.abs(marks).max() <= LARGEST_MARK < plan.encoding.blocks[0].clip
    assert (marks == canary_update(plan, number=number, site=site)).all()


def test_sites_rounds_and_plans_differ() -> None:
    """A sum that lacks a site, or is of another round, is therefore another one."""
    marks = {
        canary_update(plan, number=number, site=site).tobytes()
        for plan in (plan_of(), plan_of(run="d"))
        for number in (1, 2)
        for site in ("a", "b")
    }

    assert len(marks) == 8


def test_the_encoder_answers_from_plan_round_and_name_alone() -> None:
    """Whatever adapter it is sent."""
    plan, told = plan_of(), list[Progress]()
    encoder = CanaryEncoder(site="a")

    answers = {
        encoder.encode(LocalRound(
            plan=plan, number=1, frozen_F=np.zeros(0, np.float32), adapter_P=np.full(12, value, np.float32),
            randomness=SystemRandomness(), on_step=told.append,
        )).update_P.tobytes()
        for value in (0.0, 5.0)
    }  # fmt: skip

    assert answers == {canary_update(plan, number=1, site="a").tobytes()}
    assert len(told) == 2


def test_a_policy_that_allows_nothing_allows_a_canary() -> None:
    """Without a person; unless the policy asks for one."""
    plan = plan_of()

    check_plan(plan, Policy().rules, CanaryEncoder(site="a").facts(plan))

    assert Policy().approval("canary") == "auto"
    assert Policy().approval("train") == "manual"
    assert Policy(purposes={"canary": PurposePolicy()}).approval("canary") == "manual"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"base_sha256": "b" * 64}, "canary"),
        ({"lora": {"r": 2}}, "canary"),
        ({"minimum_cohort": 2}, "data.minimum_cohort"),
        ({"masked": False}, "privacy.allow_secure_sum_off"),
        ({"rounds": 1_000_000}, "adapter.max_bytes_out"),
    ],
    ids=["model", "lora", "cohort", "unmasked", "bytes"],
)
def test_a_canary_keeps_the_floors_of_the_site(change: dict[str, object], rule: str) -> None:
    """And looks like no training plan."""
    plan = dataclasses.replace(plan_of(size=100), **change)  # type: ignore[arg-type]

    with pytest.raises(NotAgreed) as refused:
        check_plan(plan, Policy().rules, CanaryEncoder(site="a").facts(plan))

    assert refused.value.rule == rule


def test_a_canary_with_privacy_terms_is_none(make_dp: Callable[..., DpPlan]) -> None:
    """There is nothing to protect."""
    plan = dataclasses.replace(plan_of(seed=None), dp=make_dp(sampling_rate=1.0))

    with pytest.raises(NotAgreed, match="canary"):
        check_plan(plan, Policy().rules, CanaryEncoder(site="a").facts(plan))


def test_a_canary_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above what a large adapter takes."""
    monkeypatch.setattr("partsong.client.rules.consent.MOST_NUMBERS", 11)
    plan = plan_of()

    with pytest.raises(NotAgreed, match=r"canary\.size"):
        check_plan(plan, Policy().rules, CanaryEncoder(site="a").facts(plan))


def test_a_training_plan_cannot_name_the_model_that_is_none(make_plan: Callable[..., Plan]) -> None:
    """The digest of no model is of no model."""
    assert canary.STUDY == "canary"
    assert make_plan().base_sha256 != NO_MODEL
    with pytest.raises(NotAgreed, match="purposes"):
        check_plan(make_plan(base_sha256=NO_MODEL), Policy().rules, CanaryEncoder(site="a").facts(make_plan()))


def test_a_free_purse_never_writes(tmp_path: object) -> None:
    """The ledger's head travels, and stays."""
    ledger = Ledger(tmp_path / "l.sqlite")  # type: ignore[operator]
    purse, plan = FreePurse(ledger, holding="none", fingerprint="", units={}, coordinator="k"), plan_of()
    before = purse.head

    purse.afford(plan)
    context = purse.reserve(plan, number=1, attempt=1)
    purse.commit(context)
    purse.release(context)
    purse.settle()

    assert (purse.head, purse.queries(plan), purse.outstanding()) == (before, 0, ())
    assert len(ledger.entries()) == 1
    ledger.close()
