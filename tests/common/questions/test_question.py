"""What a plan may ask: shapes and bounds follow from names, and a plan carries nothing else."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from partsong.common.build import build, to_tree
from partsong.common.config import TrainingConfig
from partsong.common.plan import Plan
from partsong.common.privacy.terms import DpPlan
from partsong.common.questions.question import OTHER, Part, Question, equal_parts
from partsong.common.secure_sum.fixed_point import Block, Encoding


def question(*names: Any, **changes: Any) -> Question:
    values: dict[str, Any] = {"parts": equal_parts("units", *names), "most_units": 1000, "loss_clip": 8.0}
    return Question(**values | changes)


def asking(make_plan: Callable[..., Plan], asked: Question, **changes: Any) -> Plan:
    blocks = (
        Block(name="update", size=asked.size, clip=10.0, norm="linf", rotate=False),
        Block(name="loss", size=1, clip=10.0, norm="linf", rotate=False),
    )
    values: dict[str, Any] = {
        "study": "evaluate",
        "question": asked,
        "rounds": 1,
        "sampling_rate": 1.0,
        "training": TrainingConfig(steps_per_round=1),
        "encoding": Encoding(blocks=blocks, field_bits=32, max_sites=5),
    }
    return make_plan(**values | changes)


def test_sizes_follow_from_names_and_public_constants() -> None:
    """Three classes and two named groups: nine cells, nine for each of three groups, three numbers for each bin."""
    asked = question("confusion", "confidence", "groups", classes=3, groups=("a", "b"), bins=4)

    assert asked.size == 1 + 9 + 12 + 27
    assert asked.all_groups == ("a", "b", OTHER)
    assert [place.stop - place.start for _, place in asked.slices()] == [1, 9, 12, 27]


def test_scaled_rows_of_full_reach_have_the_norm_of_the_clip() -> None:
    """The squares of weight * clip over all parts add up to the square of the clip: no unit moves the sum further."""
    asked = question("confusion", "confidence", classes=2)

    moved = [asked.scale_of(p, clip_norm=3.0) * asked.reach_of(p.name) for p in asked.parts]

    assert math.hypot(*moved) == pytest.approx(3.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"parts": equal_parts("hits")},
        {"parts": (Part(name="units", weight=1.0), Part(name="hits", weight=0.1))},
        {"parts": equal_parts("units", "confusion")},
        {"parts": equal_parts("units", "units")},
        {"groups": ("a", "a")},
        {"groups": (OTHER,)},
        {"groups": ("a\n",)},
        {"classes": 1025, "parts": equal_parts("units", "confusion")},
        {"loss_clip": 0.0},
        {"lengths": (5, 5)},
    ],
)
def test_questions_that_say_nothing_or_too_much_are_refused(wrong: dict[str, Any]) -> None:
    """Weights above one would let a unit move the sum further than the clip."""
    with pytest.raises(ValueError, match=r"."):
        question(**wrong)


def test_a_plan_carries_a_question_and_counts_its_numbers(
    make_plan: Callable[..., Plan], make_dp: Callable[..., DpPlan]
) -> None:
    """The vector has the question's size whatever the adapter's; the plan survives the way through JSON."""
    asked = question("hits")
    dp = make_dp(sampling_rate=1.0)
    plan = asking(make_plan, asked, dp=dp)

    assert (plan.vector_size, plan.update_size(1)) == (2, 2)
    assert plan.events(steps=1) == dp.events(steps=1, size=2)
    assert build(Plan, to_tree(plan)) == plan
    assert plan.sha256 != replace(plan, question=replace(asked, most_units=999)).sha256


@pytest.mark.parametrize(
    "wrong",
    [
        {"study": "train"},
        {"study": "canary"},
        {"study": "survey"},
        {"question": None},
        {"sampling_rate": 0.5},
        {"training": TrainingConfig(steps_per_round=2)},
        {"labels": ("a", "b"), "task": "classification"},
    ],
)
def test_a_plan_asks_only_what_its_study_may(make_plan: Callable[..., Plan], wrong: dict[str, Any]) -> None:
    """A question in a training plan, an evaluation without one, or one asked twice of a unit: no such plan exists."""
    with pytest.raises(ValueError, match=r"question|classes|step"):
        asking(make_plan, question("hits"), **wrong)


def test_a_patient_gives_one_record(make_plan: Callable[..., Plan], make_dp: Callable[..., DpPlan]) -> None:
    """With more, a count would be no count of patients."""
    dp = make_dp(sampling_rate=1.0, unit="patient", contribution_bound=2)

    with pytest.raises(ValueError, match="one record of each patient"):
        asking(make_plan, question("hits"), dp=dp)
