"""The sum of a round that asked a question, part by part, in the unit of each part.

Q numbers of the question.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partsong.common.plan import LOSS, UPDATE, Plan
from partsong.common.questions.question import PartName
from partsong.common.secure_sum.opened import Opened
from partsong.server.questions.intervals import Noised

Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Block:
    """The numbers of one part; all have the same noise."""

    values: Numbers
    sd: float
    """Of each number's noise, all sites' together."""
    slack: float

    def at(self, place: int) -> Noised:
        """Give one number."""
        return Noised(value=float(self.values[place]), sd=self.sd, slack=self.slack)

    def total(self, places: NDArray[np.bool_] | None = None) -> Noised:
        """Add numbers up; their noises are independent."""
        chosen = self.values if places is None else self.values[places]
        size = max(1, chosen.size)
        return Noised(value=float(chosen.sum()), sd=self.sd * math.sqrt(size), slack=self.slack * size)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sums:
    """All parts of an answer, and the loss."""

    parts: Mapping[PartName, Block]
    loss: Noised
    """Sum over the units, in units of the question's clip."""
    sites: int


def sums_of(opened: Opened, plan: Plan) -> Sums:
    """Take the scale of each part off.

    Args:
        opened: of a round of the plan.
        plan: with a question.
    """
    if plan.question is None:
        raise ValueError("a plan that asks a question")
    question, dp, sites = plan.question, plan.dp, opened.sites
    clip_norm, noise, loss_noise = (
        (1.0, 0.0, 0.0) if dp is None else (dp.clip_norm, dp.noise_multiplier * dp.clip_norm, dp.loss_noise_multiplier)
    )
    step = {block.name: plan.encoding.step(block) for block in plan.encoding.blocks}
    sum_Q = opened.mean_P * sites
    parts: dict[PartName, Block] = {}
    for part, place in question.slices():
        scale = question.scale_of(part, clip_norm=clip_norm)
        parts[part.name] = Block(
            values=sum_Q[place] / scale, sd=noise * math.sqrt(sites) / scale, slack=sites * step[UPDATE] / scale
        )
    loss = Noised(
        value=opened.loss * sites / question.loss_clip,
        sd=loss_noise * math.sqrt(sites),
        slack=sites * step[LOSS] / question.loss_clip,
    )
    return Sums(parts=parts, loss=loss, sites=sites)
