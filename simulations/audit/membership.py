"""Who was in the training data: attacks on an adapter by the losses of records, with their uncertainty.

Covers: an attacker who has the base model, the adapter and candidate records.
Does not cover: an attacker with shadow models of his own, who does better; records that differ from those scored.

Higher scores mean "in". M records.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partsong.simulations.audit.statistics import chance_at_least, chance_at_most

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

FALSE_ALARMS = (0.01, 0.1)
TWO_SIDED = 0.05
"""Error of the intervals that are shown."""
_NORMAL_95 = 1.959964
"""Two-sided 95 % point of the normal distribution."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """An estimate and its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Attack:
    """How well one score tells members from others."""

    name: str
    members: int
    others: int
    auc: Interval
    """Chance that a member scores above a non-member; 0.5 is guessing."""
    caught: dict[float, Interval]
    """False-alarm rate -> part of the members found, at the lowest threshold that keeps it. The threshold comes from
    the same records, which favours the attacker."""


def loss_attack(loss_M: Floats, included_M: Flags) -> Attack:
    """Guess that records of low loss were in.

    Source: Yeom et al. 2018 (arXiv 1709.01604).
    """
    return attack("loss", -loss_M, included_M)


def ratio_attack(*, before_M: Floats, after_M: Floats, tokens_M: Floats, included_M: Flags) -> Attack:
    """Guess by the log-likelihood ratio of adapter and base: how much likelier the text has become.

    The base stands for the models without the record that a likelihood-ratio attack would train.

    Args:
        before_M: (M,) mean loss of the base on each record.
        after_M: (M,) mean loss with the adapter.
        tokens_M: (M,) learned tokens of each record.
        included_M: (M,) truth.
    Source: Carlini et al. 2022 (arXiv 2112.03570), with the base as the one reference: Mireshghallah et al. 2022
        (arXiv 2203.03929).
    """
    return attack("ratio to base", (before_M - after_M) * tokens_M, included_M)


def attack(name: str, score_M: Floats, included_M: Flags) -> Attack:
    """Judge a score.

    Args:
        name: for the report.
        score_M: (M,) higher for members.
        included_M: (M,) truth; at least two members and two others.
    """
    members, others = score_M[included_M], score_M[~included_M]
    if min(len(members), len(others)) < 2:
        raise ValueError(f"at least two members and two others, not {len(members)} and {len(others)}")
    return Attack(
        name=name,
        members=len(members),
        others=len(others),
        auc=auc(members, others),
        caught={rate: caught_at(members, others, false_alarms=rate) for rate in FALSE_ALARMS},
    )


def auc(members: Floats, others: Floats) -> Interval:
    """Area under the ROC curve; ties count half.

    Source: DeLong, DeLong & Clarke-Pearson 1988 for the variance.
    """
    below_M = np.array([((others < s).sum() + 0.5 * (others == s).sum()) / len(others) for s in members])
    above_O = np.array([((members > s).sum() + 0.5 * (members == s).sum()) / len(members) for s in others])
    value = float(below_M.mean())
    spread = math.sqrt(below_M.var(ddof=1) / len(members) + above_O.var(ddof=1) / len(others))
    low, high = value - _NORMAL_95 * spread, value + _NORMAL_95 * spread
    return Interval(value=value, low=max(0.0, low), high=min(1.0, high))


def caught_at(members: Floats, others: Floats, *, false_alarms: float) -> Interval:
    """Part of the members above the lowest threshold that at most this part of the others exceeds."""
    allowed = math.floor(false_alarms * len(others))
    threshold = np.sort(others)[::-1][allowed]
    return part(int((members > threshold).sum()), len(members))


def part(found: int, of: int) -> Interval:
    """A frequency with its Clopper-Pearson interval."""
    return Interval(
        value=found / of,
        low=chance_at_least(successes=found, trials=of, alpha=TWO_SIDED / 2),
        high=chance_at_most(successes=found, trials=of, alpha=TWO_SIDED / 2),
    )
