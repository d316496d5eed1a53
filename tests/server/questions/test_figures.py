"""From an opened sum to figures: each against a second source."""

import math
from typing import Any

import numpy as np
import pytest

from partsong.common.adapters.adapter import AdapterLayout, TensorSpec
from partsong.common.config import DataConfig, ModelConfig, PrivacyConfig, SecureSumConfig, SimulationConfig
from partsong.common.errors import ConfigError
from partsong.common.plan import Plan
from partsong.common.questions.settings import EvaluationConfig
from partsong.common.secure_sum.opened import Opened
from partsong.server.planning import Base
from partsong.server.questions.figures import evaluation_figures
from partsong.server.questions.planning import plan_of_purpose

LABELS = ("heart", "lung", "skin")
CONFUSION = np.array([[30, 5, 0], [4, 50, 6], [1, 2, 40]], float)
SITES = 4


def planned(*, labels: tuple[str, ...] = LABELS, private: bool = False, **evaluation: Any) -> Plan:
    config = SimulationConfig(
        model=ModelConfig(source="x", task="classification" if labels else "causal_lm"),
        data=DataConfig(),
        privacy=PrivacyConfig(mode="dp" if private else "none", delta=1e-4),
        secure_sum=SecureSumConfig(mode="off"),
        purpose="evaluate",
        evaluation=EvaluationConfig(**evaluation),
    )
    layout = AdapterLayout(tensors=(TensorSpec(name="q.lora_B.weight", shape=(2, 2), trained=True),))
    return plan_of_purpose(
        config,
        run="run-1",
        max_sites=SITES,
        base=Base(sha256="b" * 64, lora={}, layout=layout),
        labels=labels,
        frozen_F=np.zeros(0, np.float32),
        start_P=np.zeros(4, np.float32),
    )


def opened(plan: Plan, *, loss: float = 0.0, **counts: Any) -> Opened:
    """The sum of sites whose counts are these."""
    assert plan.question is not None
    total_Q = np.zeros(plan.question.size)
    for part, place in plan.question.slices():
        scale = plan.question.scale_of(part, clip_norm=1.0)
        total_Q[place] = np.asarray(counts.get(part.name, 0.0), float).reshape(-1) * scale
    return Opened(mean_P=total_Q / SITES, loss=loss / SITES, sites=SITES)


def figures_of(plan: Plan, sums: Opened) -> dict[str, Any]:
    return {figure.name: figure for figure in evaluation_figures(sums, plan)[0]}


def test_accuracy_loss_and_macro_f1_are_those_of_the_confusion_matrix() -> None:
    """Against the definitions, class by class."""
    plan = planned(calibration=False)
    sums = opened(plan, loss=69.0, units=138, hits=120, confusion=CONFUSION)

    found = figures_of(plan, sums)

    f1 = [
        2 * CONFUSION[c, c] / (CONFUSION[c].sum() + CONFUSION[:, c].sum())  # 2TP / (2TP + FP + FN)
        for c in range(3)
    ]
    assert found["units"].value == pytest.approx(138)
    assert found["accuracy"].value == pytest.approx(120 / 138)
    assert found["loss"].value == pytest.approx(0.5)
    assert found["macro_f1"].value == pytest.approx(np.mean(f1))
    assert found["macro_f1"].low < np.mean(f1) < found["macro_f1"].high


def test_perplexity_is_that_of_the_tokens() -> None:
    """200 tokens that cost 300 nats, with at most 16 of a unit and 8 nats each."""
    plan = planned(labels=(), most_tokens=16)
    sums = opened(plan, units=20, hits=5, tokens=200 / 16, token_loss=300 / 16 / 8)

    found = figures_of(plan, sums)

    assert found["tokens"].value == pytest.approx(200)
    assert found["token_loss"].value == pytest.approx(1.5)
    assert found["perplexity"].value == pytest.approx(math.exp(1.5))
    assert found["exact_match"].value == pytest.approx(0.25)
    assert "accuracy" not in found


def test_rouge_is_the_mean_over_units() -> None:
    """30 units that have 12 between them; a question that does not ask has no such figure."""
    plan = planned(labels=(), rouge=True)

    found = figures_of(plan, opened(plan, units=30, rouge_l=12.0))["rouge_l"]

    assert found.value == pytest.approx(0.4)
    assert found.low < 0.4 < found.high
    assert "rouge_l" not in figures_of(planned(labels=()), opened(planned(labels=()), units=30))


def test_rouge_of_a_classifier_is_no_question() -> None:
    """It generates nothing."""
    with pytest.raises(ConfigError, match="rouge_l of a language model"):
        planned(rouge=True)


def test_calibration_compares_confidence_with_hits() -> None:
    """Two bins: 40 units at .9 of which 20 hit, 10 units at .5 of which 5 hit."""
    plan = planned(bins=2)
    bins = [[0, 0, 0], [50, 25, 41]]
    sums = opened(plan, units=50, hits=25, confusion=np.zeros(9), confidence=bins)

    found = figures_of(plan, sums)

    assert found["calibration_error"].value == pytest.approx(16 / 50)
    assert found["calibration_error"].low < 16 / 50 < found["calibration_error"].high
    assert found["overconfidence"].value == pytest.approx(16 / 50)
    assert found["overconfidence"].low < 16 / 50 < found["overconfidence"].high


def test_groups_are_told_apart() -> None:
    """Each group's accuracy is that of its own matrix; the one for all else is named."""
    plan = planned(calibration=False, groups=("day",))
    night = np.diag([3.0, 2.0, 1.0])
    sums = opened(plan, units=144, hits=126, confusion=CONFUSION + night, groups=[CONFUSION, night])

    found = figures_of(plan, sums)

    assert found["accuracy[day]"].value == pytest.approx(120 / 138)
    assert found["accuracy[(other)]"].value == pytest.approx(1.0)
    assert found["units[(other)]"].value == pytest.approx(6)


def test_every_part_has_the_noise_of_the_plan_in_its_own_unit() -> None:
    """Multiplier * sqrt(parts) on a count, sqrt(3) times that on a bin, sqrt(sites) for the sum."""
    plan = planned(private=True, bins=2)
    assert plan.dp is not None
    assert plan.question is not None

    sds = evaluation_figures(opened(plan), plan)[2]

    count_sd = plan.dp.noise_multiplier * math.sqrt(len(plan.question.parts)) * math.sqrt(SITES)
    assert sds["units"] == pytest.approx(count_sd)
    assert sds["confusion"] == pytest.approx(count_sd)
    assert sds["confidence"] == pytest.approx(count_sd * math.sqrt(3))


def test_macro_f1_is_covered_at_the_stated_rate() -> None:
    """Of 300 noised matrices drawn from one population at most 5 % miss: 40 or more have probability below 1e-6."""
    rng, plan = np.random.default_rng(2), planned(private=True, calibration=False, epsilon=4.0)
    assert plan.dp is not None
    share_CC = CONFUSION / CONFUSION.sum()
    true_f1 = np.mean([2 * share_CC[c, c] / (share_CC[c].sum() + share_CC[:, c].sum()) for c in range(3)])
    sd = evaluation_figures(opened(plan), plan)[2]["confusion"]

    missed = 0
    for _ in range(300):
        drawn = rng.multinomial(600, share_CC.reshape(-1)) + sd * rng.standard_normal(9)
        figure = figures_of(plan, opened(plan, units=600, hits=520, confusion=drawn))["macro_f1"]
        missed += not figure.low <= true_f1 <= figure.high

    assert missed < 40
