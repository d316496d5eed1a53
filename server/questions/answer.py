"""What a question was answered with: figures with intervals, and the noised counts behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from partsong.common.plan import Plan
from partsong.common.secure_sum.opened import Opened
from partsong.server.planning import epsilon_after
from partsong.server.questions.figures import Figure, evaluation_figures
from partsong.server.questions.intervals import LEVEL
from partsong.server.questions.survey import survey_figures


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Of one plan. Public like every opened sum."""

    study: str
    adapter_sha256: str
    """Of the adapter in question."""
    sites: tuple[str, ...]
    level: float
    """Of each interval by itself; the chance of the draw and the noise are both in it."""
    unit: str
    """Record or patient: what is counted, and what is hidden."""
    epsilon: float | None
    """Spent at each site by this question; None without differential privacy."""
    delta: float | None
    figures: tuple[Figure, ...]
    tables: Mapping[str, Any]
    """Noised counts: confusion matrix, bins, groups."""
    noise_sd: Mapping[str, float]
    """Of one number of each part, all sites' together."""


def answer_of(opened: Opened, plan: Plan, *, sites: tuple[str, ...]) -> Answer:
    """Read an opened sum. Whoever has plan and sum comes to the same answer.

    Args:
        opened: of the round.
        plan: that asked the question.
        sites: whose answers are in the sum.
    """
    read = evaluation_figures if plan.study == "evaluate" else survey_figures
    figures, tables, noise_sd = read(opened, plan)
    return Answer(
        study=plan.study,
        adapter_sha256=plan.start_sha256,
        sites=sites,
        level=LEVEL,
        unit="record" if plan.dp is None else plan.dp.unit,
        epsilon=epsilon_after(plan, plan.rounds),
        delta=None if plan.dp is None else plan.dp.delta,
        figures=figures,
        tables=tables,
        noise_sd=noise_sd,
    )
