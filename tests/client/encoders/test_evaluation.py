"""What a site answers an evaluation with, against counts that are made another way."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.data.batch import pad
from partsong.client.data.encode import Encoded, Record
from partsong.client.dp.sampler import SystemRandomness
from partsong.client.encoders.encoder import LocalRound
from partsong.client.encoders.evaluation import Evaluation, learned_tokens
from partsong.client.encoders.evaluation_rows import Marked, rows_of
from partsong.client.model.host import ModelHost
from partsong.client.rules.consent import NotAgreed
from partsong.common.plan import Plan
from partsong.common.questions.question import Question, equal_parts
from partsong.common.questions.settings import EvaluationConfig

LABELS = ("heart", "lung", "skin")
GROUPS = EvaluationConfig(groups=("day", "night"))
ALL = Question(
    parts=equal_parts("units", "hits", "tokens", "token_loss", "confusion", "confidence", "groups"),
    most_units=1000,
    loss_clip=8.0,
    classes=3,
    groups=("day", "night"),
)


def answered(host: ModelHost, encoded: Encoded, plan: Plan, groups: tuple[str, ...] | None = None) -> Any:
    encoder = Evaluation(host=host, encoded=encoded, labels=LABELS, groups=groups)
    frozen_F, adapter_P = host.take(trained=False), host.take()
    update = encoder.encode(
        LocalRound(
            plan=plan,
            number=1,
            frozen_F=frozen_F,
            adapter_P=adapter_P,
            randomness=SystemRandomness(),
            on_step=lambda _: None,
        )
    )
    assert plan.question is not None
    parts = {
        part.name: update.update_P[place] / plan.question.scale_of(part, clip_norm=1.0)
        for part, place in plan.question.slices()
    }
    return update, parts


def test_a_classifier_is_counted_record_by_record(
    bert: ModelHost,
    make_records: Callable[..., tuple[Record, ...]],
    make_encoded: Callable[..., Encoded],
    make_site_plan: Callable[..., Plan],
) -> None:
    """Confusion, bins and groups are those of a loop that scores one record after the other."""
    records = make_records((5, 7, 4, 6, 3, 8, 5))
    groups = ("day", "night", "day", "", "dusk", "night", "day")
    plan = make_site_plan(bert, purpose="evaluate", evaluation=GROUPS)

    update, parts = answered(bert, make_encoded(records), plan, groups)

    alone = [bert.scores(pad([record], pad_id=bert.pad_id)) for record in records]
    cells = Counter((record.label, int(one.guess_N[0])) for record, one in zip(records, alone, strict=True))
    expected = [cells[true, guess] for true in range(3) for guess in range(3)]
    np.testing.assert_allclose(parts["confusion"], expected, atol=1e-5)
    assert parts["units"][0] == pytest.approx(7)
    assert parts["hits"][0] == pytest.approx(sum(one.hit_N[0] for one in alone))
    assert update.loss == pytest.approx(sum(one.loss_N[0] for one in alone), rel=1e-4)
    by_group = parts["groups"].reshape(3, 9).sum(axis=1)
    np.testing.assert_allclose(by_group, [3, 2, 2], atol=1e-5)
    bins_B3 = parts["confidence"].reshape(-1, 3)
    np.testing.assert_allclose(bins_B3.sum(axis=0), [7, parts["hits"][0], sum(o.confidence_N[0] for o in alone)], rtol=1e-4)  # fmt: skip


def test_a_language_model_is_counted_by_records_and_tokens(
    llama: ModelHost,
    make_records: Callable[..., tuple[Record, ...]],
    make_encoded: Callable[..., Encoded],
    make_site_plan: Callable[..., Plan],
) -> None:
    """Tokens and their loss, cut as the question says, against a loop."""
    records = make_records((9, 3, 6, 2, 12))
    plan = make_site_plan(llama, purpose="evaluate", evaluation=EvaluationConfig(most_tokens=4))

    _, parts = answered(llama, make_encoded(records), plan)

    tokens = [min(4, learned_tokens(record)) for record in records]
    losses = [float(llama.scores(pad([record], pad_id=llama.pad_id)).loss_N[0]) for record in records]
    lost = sum(t * min(loss, 8.0) for t, loss in zip(tokens, losses, strict=True))
    assert [learned_tokens(r) for r in records] == [8, 2, 5, 1, 11]
    assert parts["tokens"][0] * 4 == pytest.approx(sum(tokens), rel=1e-5)
    assert parts["token_loss"][0] * 4 * 8 == pytest.approx(lost, rel=1e-4)


def test_a_patient_gives_one_record_and_noise_is_accounted_for(
    bert: ModelHost,
    make_records: Callable[..., tuple[Record, ...]],
    make_encoded: Callable[..., Encoded],
    make_site_plan: Callable[..., Plan],
) -> None:
    """Twelve records of four patients count as four; what was released is what the plan was priced for."""
    records = tuple(dataclasses.replace(r, unit=f"p{i % 4}") for i, r in enumerate(make_records((5,) * 12)))
    terms = {"mode": "dp", "unit": "patient", "delta": 1e-3, "sampling_rate": 1.0}
    asked = EvaluationConfig(epsilon=20.0)
    plan = make_site_plan(bert, purpose="evaluate", evaluation=asked, privacy=terms)

    update, parts = answered(bert, make_encoded(records), plan)

    assert plan.dp is not None
    assert update.visits == 4
    assert update.events == (plan.events(steps=1),)
    assert abs(parts["units"][0] - 4) < 9 * plan.dp.noise_multiplier * math.sqrt(4)  # nine deviations


def test_groups_that_the_records_do_not_tell_are_refused_by_name(
    bert: ModelHost,
    make_records: Callable[..., tuple[Record, ...]],
    make_encoded: Callable[..., Encoded],
    make_site_plan: Callable[..., Plan],
) -> None:
    """Everything in the group for all else would be an answer, and a wrong one."""
    plan = make_site_plan(bert, purpose="evaluate", evaluation=GROUPS)

    with pytest.raises(NotAgreed, match=r"data\.group_field"):
        answered(bert, make_encoded(make_records((5, 5))), plan)


@settings(deadline=None, max_examples=80)
@given(
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(0, 1),
    st.integers(0, 10**6),
    st.integers(0, 2),
    st.integers(0, 2),
    st.floats(0, 1) | st.just(math.nan),
    st.integers(0, 2),
)
def test_a_row_is_never_longer_than_the_clip(
    loss: float, hit: int, tokens: int, label: int, guess: int, confidence: float, group: int
) -> None:
    """Every part at once, any values that a model can give; or it is not finite, and counts as zero later."""
    marked = Marked(
        loss_N=np.array([loss]),
        hit_N=np.array([bool(hit)]),
        tokens_N=np.array([tokens]),
        label_N=np.array([label]),
        guess_N=np.array([guess]),
        confidence_N=np.array([confidence]),
        rouge_N=np.array([0.0]),
        group_N=np.array([group]),
    )

    (row_Q,) = rows_of(ALL, marked, clip_norm=1.0)

    assert not np.isfinite(row_Q).all() or np.linalg.norm(row_Q) <= 1 + 1e-9


@settings(deadline=None, max_examples=80)
@given(st.floats(0, 100), st.integers(0, 1), st.integers(0, 10**6), st.floats(0, 1), st.integers(0, 2))
def test_a_row_of_a_language_model_is_never_longer_than_the_clip(
    loss: float, hit: int, tokens: int, rouge: float, group: int
) -> None:
    """The same with the parts that only a language model has."""
    parts = equal_parts("units", "hits", "tokens", "token_loss", "rouge_l", "groups")
    question = Question(parts=parts, most_units=1000, loss_clip=8.0, groups=("day", "night"))
    marked = Marked(
        loss_N=np.array([loss]), hit_N=np.array([bool(hit)]), tokens_N=np.array([tokens]), label_N=np.array([-1]),
        guess_N=np.array([-1]), confidence_N=np.array([0.0]), rouge_N=np.array([rouge]), group_N=np.array([group]),
    )  # fmt: skip

    (row_Q,) = rows_of(question, marked, clip_norm=1.0)

    assert np.linalg.norm(row_Q) <= 1 + 1e-9


def test_a_row_without_its_scale_would_be_longer() -> None:
    """The same counts as they are: the property above can fail."""
    part = {p.name: ALL.scale_of(p, clip_norm=1.0) for p in ALL.parts}
    marked = Marked(
        loss_N=np.array([9.0]), hit_N=np.array([True]), tokens_N=np.array([500]), label_N=np.array([1]),
        guess_N=np.array([1]), confidence_N=np.array([1.0]), rouge_N=np.array([0.0]),
        group_N=np.array([0]),
    )  # fmt: skip

    (row_Q,) = rows_of(ALL, marked, clip_norm=1.0)

    assert np.linalg.norm(row_Q) == pytest.approx(1.0)
    assert np.linalg.norm(row_Q) / max(part.values()) > 2
