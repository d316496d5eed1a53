"""What a site asks of a plan that counts on other sites' noise, and what its ledger keeps of it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from partsong.client.budget.books import spend_alone
from partsong.client.budget.ledger import Ledger
from partsong.client.budget.ledger_export import to_tree
from partsong.client.budget.spending import Purse
from partsong.client.rules.consent import Facts, NotAgreed, Rules, check_plan
from partsong.client.rules.plan_words import differences, summary
from partsong.common.config import TrainingConfig
from partsong.common.plan import Plan
from partsong.common.privacy.accounting import epsilon
from partsong.common.privacy.terms import DpPlan, SumNoise

RECORDS = 50


@pytest.fixture
def plan(make_plan: Callable[..., Plan], make_dp: Callable[..., DpPlan]) -> Plan:
    """Three lockstep rounds whose noise three of four sites bring together."""
    noise = SumNoise(minimum_sum=4, colluders=1, expected_batch=20.0)
    training = TrainingConfig(steps_per_round=1, optim="sgd")
    return make_plan(masked=True, training=training, dp=make_dp(noise="discrete", on_sum=noise))


def alone_of(plan: Plan) -> float:
    events = plan.events_alone(steps=plan.steps).at_site(records=RECORDS)
    return epsilon([events], delta=1e-4).epsilon


def check(plan: Plan, **rules: Any) -> None:
    facts = Facts(records=RECORDS, base_sha256=plan.base_sha256, layout=plan.layout, lora=plan.lora)
    check_plan(plan, Rules(minimum_records=1, **rules), facts)


def test_noise_on_the_sum_has_to_be_allowed_by_a_ceiling(plan: Plan) -> None:
    """Silence refuses it; a ceiling above what the site's own share costs allows it, one below does not."""
    alone = alone_of(plan)

    with pytest.raises(NotAgreed, match=r"rule privacy\.max_epsilon_alone"):
        check(plan)
    with pytest.raises(NotAgreed, match="own share of the noise"):
        check(plan, max_epsilon_alone=alone * 0.999)
    check(plan, max_epsilon_alone=alone * 1.001)


def test_both_epsilons_can_be_capped(plan: Plan) -> None:
    """The ceiling on epsilon under tolerance holds as for every plan."""
    with pytest.raises(NotAgreed, match=r"rule privacy\.max_epsilon"):
        check(plan, max_epsilon_alone=math.inf, max_epsilon=plan.dp.epsilon / 2)


def test_the_ledger_keeps_both_and_charges_the_one_under_tolerance(tmp_path: Path, plan: Plan) -> None:
    """Three rounds: what is spent is the plan's; what a site's own share would cost stands beside it."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.set_ceiling("h", epsilon=8.0, delta=1e-4)
    units: dict[Any, int | None] = {"record": RECORDS, "patient": None}
    purse = Purse(ledger, holding="h", fingerprint="f", units=units, coordinator="c")

    for number in (1, 2, 3):
        purse.commit(purse.reserve(plan, number=number, attempt=1))

    (holding,) = to_tree(ledger)["holdings"]
    under = epsilon([plan.events(steps=3).at_site(records=RECORDS)], delta=1e-4).epsilon
    assert holding["epsilon"] == pytest.approx(under)
    assert holding["epsilon_alone"] == pytest.approx(alone_of(plan))
    assert holding["epsilon_alone"] > 1.5 * holding["epsilon"]
    claims = ledger.holding("h").claims.values()
    assert spend_alone(claims, delta=1e-4).epsilon == holding["epsilon_alone"]
    ledger.close()


def test_a_site_s_own_noise_is_the_same_in_both_columns(
    tmp_path: Path, make_plan: Callable[..., Plan], make_dp: Callable[..., DpPlan]
) -> None:
    """The control: nobody can take anything off it."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.set_ceiling("h", epsilon=8.0, delta=1e-4)
    units: dict[Any, int | None] = {"record": RECORDS, "patient": None}

    Purse(ledger, holding="h", fingerprint="f", units=units, coordinator="c").reserve(
        make_plan(dp=make_dp()), number=1, attempt=1
    )

    (holding,) = to_tree(ledger)["holdings"]
    assert holding["epsilon_alone"] == holding["epsilon"] > 0
    ledger.close()


def test_the_person_who_agrees_is_told_whose_noise_it_is(plan: Plan, make_plan: Callable[..., Plan]) -> None:
    """In the summary, and as a difference from a plan without it."""
    assert any("ON THE SUM of 4 sites or more, 1 of which may collude" in line for line in summary(plan))
    assert any("ON THE SUM" in line for line in differences(plan, make_plan()))
