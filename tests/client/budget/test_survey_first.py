"""Training waits for a survey of the very records that are there, where the policy says so."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from partsong.client.budget.ledger import Ledger
from partsong.client.budget.spending import Purse
from partsong.client.rules.consent import public_refusal
from partsong.client.rules.policy import DataFloor, Policy
from partsong.common.config import TrainingConfig
from partsong.common.errors import Refused
from partsong.common.plan import Plan
from partsong.common.privacy.terms import DpPlan
from partsong.common.questions.question import Question, equal_parts


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.sqlite")
    opened.set_ceiling("h", epsilon=50.0, delta=1e-4)
    yield opened
    opened.close()


@pytest.fixture
def training(make_plan: Callable[..., Plan], make_dp: Callable[..., DpPlan]) -> Plan:
    return make_plan(dp=make_dp())


@pytest.fixture
def survey(make_plan: Callable[..., Plan], make_dp: Callable[..., DpPlan]) -> Plan:
    return make_plan(
        study="survey",
        question=Question(parts=equal_parts("units"), most_units=100, loss_clip=8.0),
        sampling_rate=1.0,
        training=TrainingConfig(steps_per_round=1),
        rounds=1,
        dp=make_dp(sampling_rate=1.0, noise_multiplier=4.0),
    )


def purse(ledger: Ledger, fingerprint: str = "now", *, survey_first: bool = True) -> Purse:
    units = {"record": 40, "patient": None}
    return Purse(
        ledger, holding="h", fingerprint=fingerprint, units=units, coordinator="c", survey_first=survey_first
    )  # fmt: skip


def test_training_is_refused_by_name_before_a_survey(ledger: Ledger, training: Plan) -> None:
    """Neither the plan nor a round of it is accepted; the coordinator learns `policy`."""
    for ask in (purse(ledger).afford, lambda plan: purse(ledger).reserve(plan, number=1, attempt=1)):
        with pytest.raises(Refused) as refused:
            ask(training)
        assert refused.value.rule == "no_survey"
        assert public_refusal(refused.value).code == "policy"
    assert ledger.outstanding() == ()


def test_a_survey_that_was_answered_opens_the_way(ledger: Ledger, training: Plan, survey: Plan) -> None:
    """Reserved is not answered; committed is."""
    context = purse(ledger).reserve(survey, number=1, attempt=1)
    with pytest.raises(Refused, match="never surveyed"):
        purse(ledger).afford(training)

    purse(ledger).commit(context)

    purse(ledger).reserve(training, number=1, attempt=1)
    assert len(ledger.outstanding()) == 1


def test_other_records_need_a_survey_of_their_own(ledger: Ledger, training: Plan, survey: Plan) -> None:
    """One record more, and what was surveyed is no longer what is there."""
    purse(ledger).commit(purse(ledger).reserve(survey, number=1, attempt=1))

    with pytest.raises(Refused, match="never surveyed"):
        purse(ledger, "changed").afford(training)


def test_without_the_rule_training_waits_for_nothing(ledger: Ledger, training: Plan) -> None:
    """Control; and the rule is what the policy says."""
    purse(ledger, survey_first=False).afford(training)

    policy = Policy(data=DataFloor(survey_first=True))
    assert policy.rules.survey_first
    assert not replace(policy, data=DataFloor()).rules.survey_first
