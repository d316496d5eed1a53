"""What a site answers a survey with, against counts that are made another way."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.data.encode import Encoded, Record
from partsong.client.dp.sampler import SystemRandomness
from partsong.client.encoders.encoder import LocalRound
from partsong.client.encoders.lora import LoraTraining
from partsong.client.encoders.survey import Survey, add_personal, cell_of, findings, survey_rows
from partsong.client.model.host import ModelHost
from partsong.common.plan import Plan
from partsong.common.questions.question import Question, equal_parts
from partsong.common.questions.settings import SurveyConfig

QUESTION = Question(
    parts=equal_parts("units", "table", "duplicates"), most_units=100, loss_clip=8.0, classes=2, groups=("a",), lengths=(4,)
)  # fmt: skip


def record(length: int, *, label: int = 0, first: int = 7) -> Record:
    ids_T = np.full(length, first, np.int32)
    return Record(input_ids=ids_T, labels=np.full_like(ids_T, -100), label=label, unit=None)


def summed(records: list[Record], group: int = 0) -> Any:
    """The exact sums, each part in its own unit."""
    rows = survey_rows(QUESTION, records, np.full(len(records), group), set(), clip_norm=1.0)
    assert (np.linalg.norm(rows, axis=1) <= 1 + 1e-9).all()
    total = rows.sum(axis=0)
    return {p.name: total[place] / QUESTION.scale_of(p, clip_norm=1.0) for p, place in QUESTION.slices()}


def test_cells_are_label_group_length_and_missing() -> None:
    """By hand: two labels, two groups, two classes of length, and whether only the frame is left."""
    records = [record(3), record(4, first=8), record(5, label=1), record(2, label=1, first=9)]

    found = summed(records)

    assert found["units"].tolist() == pytest.approx([4])
    table = found["table"].reshape(2, 2, 2, 2)
    assert table[0, 0, 0, 0] == pytest.approx(2)
    assert table[1, 0, 1, 0] == pytest.approx(1)
    assert table[1, 0, 0, 1] == pytest.approx(1)
    assert table.sum() == pytest.approx(4)
    assert summed(records, group=1)["table"].reshape(2, 2, 2, 2)[:, 1].sum() == pytest.approx(4)


def test_records_with_a_personal_detail_are_counted_within_the_clip() -> None:
    """The second and the fourth of five, each with one share of its clip; a question that does not ask has none."""
    asks = dataclasses.replace(QUESTION, parts=equal_parts("units", "table", "duplicates", "personal_details"))
    records, places = [record(3 + i) for i in range(5)], np.arange(5)
    rows = survey_rows(asks, records, np.zeros(5, np.int64), set(), clip_norm=1.0)

    add_personal(rows, asks, places, lambda place: place in (1, 3), clip_norm=1.0)

    (at,) = (slot for part, slot in asks.slices() if part.name == "personal_details")
    assert np.flatnonzero(rows[:, at.start]).tolist() == [1, 3]
    assert rows[:, at].sum() * 2 == pytest.approx(2)  # four equal parts: each has half of the clip
    assert (np.linalg.norm(rows, axis=1) <= 1 + 1e-9).all()
    plain = survey_rows(QUESTION, records, np.zeros(5, np.int64), set(), clip_norm=1.0)
    add_personal(plain, QUESTION, places, lambda _: pytest.fail("nobody asked"), clip_norm=1.0)


def test_findings_are_exact() -> None:
    """Duplicates count all but the first of equal ones."""
    found = findings([record(3), record(3), record(3), record(2, first=1), record(6)])

    assert (found.records, found.duplicates, found.missing, found.longest) == (5, 2, 1, 6)
    assert found.personal is None
    assert findings([record(3), record(4)], personal=lambda place: place == 1).personal == 1


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(st.integers(2, 6), st.integers(0, 1)), max_size=8), st.integers(0, 7))
def test_one_record_less_moves_the_sums_by_at_most_the_clip(shapes: list[tuple[int, int]], gone: int) -> None:
    """Also where it is the first of several equal ones, and another one stops being a duplicate."""
    records = [record(length, label=label) for length, label in shapes]
    fewer = [r for i, r in enumerate(records) if i != gone]

    with_it, without = (
        survey_rows(QUESTION, some, np.zeros(len(some), np.int64), set(), clip_norm=1.0).sum(axis=0)
        for some in (records, fewer)
    )

    assert np.linalg.norm(with_it - without) <= 1 + 1e-9


def test_counting_every_copy_would_move_them_further() -> None:
    """Were all records of a set of equal ones called duplicates, the second would change two: the bound can break."""
    one, two = [record(3)], [record(3), record(3)]
    doubled = [Counter(r.input_ids.tobytes() for r in some) for some in (one, two)]

    all_copies = [sum(n for n in found.values() if n > 1) for found in doubled]

    assert all_copies[1] - all_copies[0] == 2


def test_a_survey_asks_no_model(
    bert: ModelHost,
    make_records: Callable[..., tuple[Record, ...]],
    make_encoded: Callable[..., Encoded],
    make_site_plan: Callable[..., Plan],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The counts are those of the records, with one record of each patient where these are hidden."""
    records = tuple(dataclasses.replace(r, unit=f"p{i % 5}") for i, r in enumerate(make_records((5, 9, 4) * 5)))
    plan = make_site_plan(bert, purpose="survey", survey=SurveyConfig(lengths=(4, 8)))
    encoded = make_encoded(records)
    training = LoraTraining(host=bert, encoded=encoded, labels=("heart", "lung", "skin"))
    survey = Survey(facts=training.facts, records=lambda _: encoded, groups=None, personal=lambda _: False)
    monkeypatch.setattr(bert, "scores", None)

    update = survey.encode(
        LocalRound(
            plan=plan,
            number=1,
            frozen_F=bert.take(trained=False),
            adapter_P=bert.take(),
            randomness=SystemRandomness(),
            on_step=lambda _: None,
        )
    )

    assert plan.question is not None
    parts = {p.name: (p, update.update_P[place]) for p, place in plan.question.slices()}
    part, cells = parts["table"]
    expected = Counter(cell_of(plan.question, r, 0) for r in records)
    found = cells / plan.question.scale_of(part, clip_norm=1.0)
    np.testing.assert_allclose(found, [expected[i] for i in range(len(found))], atol=1e-5)
    assert survey.facts(plan).records == update.visits == 15
