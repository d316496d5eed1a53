"""Whether a plan and the question or the votes that it carries fit: each unit is asked once, and nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from partsong.common.questions.question import EVALUATION, SURVEY, PartName

if TYPE_CHECKING:  # a plan checks itself with this module
    from partsong.common.plan import Plan

_ASKING: Mapping[str, frozenset[PartName]] = {"evaluate": EVALUATION, "survey": SURVEY}
"""Studies that ask a question, with the parts that it may have."""


def check_question(plan: Plan) -> None:
    """Accept a plan by returning.

    Raises:
        ValueError: a question in a plan that trains, none in one that asks, or one that is asked of a unit twice.
    """
    question, allowed, dp = plan.question, _ASKING.get(plan.study), plan.dp
    if question is None and allowed is None:
        return
    if question is None or allowed is None or not {part.name for part in question.parts} <= allowed:
        raise ValueError("a question with parts of its study, for evaluate and survey and no other")
    if question.classes != len(plan.labels):
        raise ValueError("as many classes in the question as there are labels")
    if (plan.training.steps_per_round, plan.sampling_rate) != (1, 1.0) or plan.turns or plan.rotation:
        raise ValueError("one step over all units in a round that asks a question")
    if dp is not None and (dp.loss_clip != question.loss_clip or dp.on_sum is not None):
        raise ValueError("one loss_clip, and each site's own noise, in a plan that asks a question")
    if dp is not None and dp.contribution_bound not in {None, 1}:
        raise ValueError("one record of each patient where a plan asks a question")


def check_vote(plan: Plan) -> None:
    """Accept a plan by returning.

    Raises:
        ValueError: votes in a plan that does not train, on rounds that nothing votes on, or without their noise.
    """
    vote, dp = plan.vote, plan.dp
    if vote is None:
        return
    if plan.study != "train" or plan.rounds % 2:
        raise ValueError("votes in a plan that trains, on each of its rounds")
    if (vote.noise_multiplier is None) != (dp is None):
        raise ValueError("noise on votes under differential privacy, and none without")
    if dp is not None and dp.on_sum is not None:
        raise ValueError("each site's own noise in a plan with votes")
