"""What a daemon answers an evaluation with: its test records, paid from the holding of all its records."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partsong.client.budget.ledger import Ledger
from partsong.client.daemon.work import Workshop
from partsong.client.dp.sampler import SystemRandomness
from partsong.client.encoders.encoder import LocalRound
from partsong.client.encoders.resident import ResidentModel
from partsong.client.model.host import ModelHost
from partsong.client.rules.consent import NotAgreed, Rules, check_plan
from partsong.common.config import DataConfig, ModelConfig
from partsong.common.deployment import SiteConfig
from partsong.common.plan import Plan
from partsong.common.questions.settings import EvaluationConfig, VoteConfig

FIXTURES = Path(__file__).parents[2] / "fixtures"
RULES = Rules(allow_without_privacy=True, minimum_records=1)
SHORT = DataConfig(max_length=128)


@pytest.fixture
def work_at(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """A workshop with eight records, and with five or no test records."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.set_ceiling("records", epsilon=None, delta=1e-3)

    def make(*, tests: bool = True) -> Workshop:
        for name, count in (("records", 8), ("tests", 5)):
            rows = [{"prompt": f"code of {name} {n}", "completion": f"A{n}", "ward": f"w{n % 2}"} for n in range(count)]
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        model = ModelConfig(source=str(FIXTURES / "tiny-llama"), device="cpu")
        data = DataConfig(
            path=str(tmp_path / "records.jsonl"),
            held_out=str(tmp_path / "tests.jsonl") if tests else None,
            group_field="ward",
        )
        site = SiteConfig(name="north", coordinator="localhost:7443", model=model, data=data)
        return Workshop(site, rules=RULES, ledger=ledger, coordinator="c", resident=ResidentModel(model))

    yield make
    ledger.close()


@pytest.fixture
def plan(make_host: Callable[..., ModelHost], make_site_plan: Callable[..., Plan]) -> Plan:
    asked = EvaluationConfig(groups=("w0", "w1"))
    return make_site_plan(make_host(), data=SHORT, purpose="evaluate", evaluation=asked)


def test_an_evaluation_reads_the_test_records_and_no_others(work_at: Callable[..., Any], plan: Plan) -> None:
    """Five units of two wards are counted, which are the five of the second file."""
    work = work_at().work_of(plan)
    facts = work.encoder.facts(plan)
    check_plan(plan, RULES, facts)

    update = work.encoder.encode(
        LocalRound(
            plan=plan,
            number=1,
            frozen_F=np.zeros(plan.layout.size(trained=False), np.float32),
            adapter_P=np.zeros(plan.layout.size(trained=True), np.float32),
            randomness=SystemRandomness(),
            on_step=lambda _: None,
        )
    )

    assert plan.question is not None
    parts = {p.name: (p, update.update_P[place]) for p, place in plan.question.slices()}
    part, units = parts["units"]
    assert facts.records == update.visits == 5
    assert units[0] / plan.question.scale_of(part, clip_norm=1.0) == pytest.approx(5)
    part, cells = parts["groups"]
    by_ward = cells.reshape(3, 2)[:, 0] / plan.question.scale_of(part, clip_norm=1.0)
    assert by_ward.tolist() == pytest.approx([3, 2, 0], abs=1e-5)


def test_a_training_plan_reads_the_other_file(
    work_at: Callable[..., Any], make_host: Callable[..., ModelHost], make_site_plan: Callable[..., Plan]
) -> None:
    """Control: the same workshop has eight records to train on."""
    training = make_site_plan(make_host(), data=SHORT)

    assert work_at().work_of(training).encoder.facts(training).records == 8


def test_a_site_that_keeps_no_test_records_refuses_by_name(work_at: Callable[..., Any], plan: Plan) -> None:
    """It does not fall back on those that it trains on."""
    with pytest.raises(NotAgreed, match=r"rule data\.held_out"):
        work_at(tests=False).work_of(plan)


def test_changed_test_records_are_noticed(work_at: Callable[..., Any], plan: Plan, tmp_path: Path) -> None:
    """Every plan is then taken up anew, as it is when the others change."""
    workshop = work_at()
    workshop.work_of(plan)
    before = workshop.has_changed

    with (tmp_path / "tests.jsonl").open("a") as file:
        file.write('{"prompt": "one more", "completion": "A9", "ward": "w0"}\n')

    assert (before, workshop.has_changed) == (False, True)


def test_a_plan_with_votes_trains_on_one_file_and_votes_by_the_other(
    work_at: Callable[..., Any], make_host: Callable[..., ModelHost], make_site_plan: Callable[..., Plan]
) -> None:
    """Five test records are scored twice; the facts, which the ledger counts by, are those of training."""
    host = make_host()
    plan = make_site_plan(host, data=SHORT, vote=VoteConfig(mode="holdout"))
    work = work_at().work_of(plan)
    start_P = np.zeros(plan.layout.size(trained=True), np.float32)

    update = work.encoder.encode(
        LocalRound(
            plan=plan,
            number=2,
            frozen_F=np.zeros(plan.layout.size(trained=False), np.float32),
            adapter_P=np.concatenate([start_P, start_P]),
            randomness=SystemRandomness(),
            on_step=lambda _: None,
        )
    )

    assert work.encoder.facts(plan).records == 8
    assert update.visits == 2 * 5
    assert plan.vote is not None
    assert float(update.update_P[0]) == pytest.approx(5 * plan.vote.margin / plan.vote.scale, rel=1e-5)


def test_a_site_without_test_records_refuses_a_plan_with_votes(
    work_at: Callable[..., Any], make_host: Callable[..., ModelHost], make_site_plan: Callable[..., Plan]
) -> None:
    """Before it trains for it, not when the first vote comes."""
    plan = make_site_plan(make_host(), data=SHORT, vote=VoteConfig(mode="holdout"))

    with pytest.raises(NotAgreed, match=r"rule data\.held_out"):
        work_at(tests=False).work_of(plan)
