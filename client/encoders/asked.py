"""What the answers to all questions have in common: which records are taken, and which group each is of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from partsong.client.dp.sampler import PatientSampler, Randomness, require_unpredictable
from partsong.client.rules.consent import NotAgreed
from partsong.common.privacy.terms import DpPlan
from partsong.common.questions.question import Question

Indices = NDArray[np.int64]


def chosen_records(unit_R: Sequence[str | None], dp: DpPlan | None, randomness: Randomness) -> Indices:
    """Take every record, or one of each patient where patients are hidden.

    Guarantees: each unit has exactly one record in the result, drawn from its own records alone.
    Args:
        unit_R: whose record each one is.
        dp: terms of the plan.
        randomness: of the choice.
    Raises:
        NotAgreed: `data`: the terms hide patients, and the records do not say whose they are.
        Refused: a repeatable choice under differential privacy.
    """
    if dp is None or dp.contribution_bound is None:
        return np.arange(len(unit_R), dtype=np.int64)
    known = [unit for unit in unit_R if unit is not None]
    if len(known) != len(unit_R):
        raise NotAgreed("data", "the data here does not say whose a record is", rule="privacy.units")
    sampler = PatientSampler(known, 1.0, contribution_bound=dp.contribution_bound, randomness=randomness)
    require_unpredictable(sampler)
    return sampler.sample().record_N


def places_of(question: Question, groups: Sequence[str] | None, *, count: int) -> Indices:
    """Find each record's place among the groups of a question; all 0 where it has none.

    Raises:
        NotAgreed: `data`: the question tells groups apart, and the records here do not.
    """
    if not question.groups:
        return np.zeros(count, np.int64)
    if groups is None or len(groups) != count:
        raise NotAgreed("data", "the data here does not say which group a record is of", rule="data.group_field")
    place = {name: i for i, name in enumerate(question.groups)}
    return np.array([place.get(group, len(question.groups)) for group in groups], np.int64)
